"""OpenVINO: GenAI's continuous batching to serve, the same paged-attention model to score.

Opens an OpenVINO directory (openvino_model.xml with its tokenizer models), or a GGUF file through GenAI's own reader. That reader may
change weights without a word (it re-quantises Q4_1); what it made is what is served and scored here, so that it can be measured.
Every property that may change outputs is set explicitly and alike for both purposes.
"""

import importlib.metadata
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from trimtab.core.deployment import EngineBuild, Settings
from trimtab.core.errors import EngineRefused, MissingError
from trimtab.core.files import json_object
from trimtab.core.model import ModelHeader, Snapshot
from trimtab.engines.affinity import refused_affinity
from trimtab.engines.base import (
    DEFAULT_DRAFT_TOKENS,
    DEFAULT_NGRAM_TOKENS,
    PROMPT_LOOKUP,
    EngineInfo,
    Purpose,
    refused_speculation,
    speculation_of,
)
from trimtab.engines.openvino_paged import PagedScorer
from trimtab.engines.openvino_serve import Server
from trimtab.engines.openvino_text import TextModels, last_sentence
from trimtab.engines.scorer_and_server import ScorerAndServer

KV_TYPES = ("f32", "f16", "bf16", "u8", "u4")
LOAD_MODES = ("mmap", "read")
READER_ARCHITECTURES = ("llama", "qwen2", "qwen3")
SPECULATIONS = ("none", PROMPT_LOOKUP)
CANNOT = {
    # Measured with GenAI 2026.4: sampled tokens that a draft model proposed came with log-probabilities up to 8 nats off the model's.
    "draft": "OpenVINO GenAI reports wrong log-probabilities for sampled answers beside a draft model, so that they cannot be checked",
    # Measured with OpenVINO 2026.4: it writes the blob at every start, and its import fails for want of `k_head_size` and `num_k_heads`.
    "compile_cache": "OpenVINO does not read a compiled model with paged attention back, so that no start would be faster",
    "flash_attention": "OpenVINO has one attention kernel",
    "microbatch_tokens": "OpenVINO computes a whole batch at once",
    "device_layers": "this engine runs on the processor only",
    "tensor_split": "this engine runs on the processor only",
}
CANNOT_SERVE = {
    "top_logprobs": "OpenVINO GenAI reports the chosen token only",
    # GenAI 2026.4: requests that are added one by one take no adapters of their own, only those that the pipeline was made with.
    "adapter": "OpenVINO GenAI sets adapters for a whole pipeline, not for one request of many",
}
BLOCK_TOKENS = 32
SCORE_BATCH_TOKENS = 512
MODEL_FILE = "openvino_model.xml"
TOKENIZER_FILE = "openvino_tokenizer.xml"


def import_openvino() -> Any:
    """The openvino module. Its telemetry package, which would report every import over the network, is kept out of the process."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
        import openvino_genai  # noqa: F401
    except ImportError as error:
        raise MissingError(f"The OpenVINO engine is not installed ({error}).", "pip install 'trimtab[openvino]'") from error
    return openvino


def read_gguf(path: Path, folder: Path) -> None:
    """Let GenAI's reader turn a GGUF file into an OpenVINO directory, exactly as `LLMPipeline(path)` would serve it.

    The reader writes beside the file it is given, so it gets a link in `folder`. Raises EngineRefused with the reader's sentence.
    """
    import openvino_genai

    link = folder / "model.gguf"
    link.symlink_to(path.resolve())
    try:
        openvino_genai.LLMPipeline(str(link), "CPU", enable_save_ov_model=True)
    except RuntimeError as error:
        raise EngineRefused(f"OpenVINO GenAI cannot read {path}: {last_sentence(error)}.") from error
    finally:
        link.unlink()
    if not (folder / MODEL_FILE).is_file():
        raise EngineRefused(f"OpenVINO GenAI read {path} but saved no model.")


def gguf_context_tokens(path: Path) -> int | None:
    """The context that a GGUF file's metadata names. The reader drops it."""
    import gguf

    metadata = gguf.GGUFReader(path).fields
    architecture = metadata["general.architecture"].contents() if "general.architecture" in metadata else ""
    length = metadata.get(f"{architecture}.context_length")
    return None if length is None else int(length.contents())


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the directory says before anything is compiled."""

    vocab_size: int
    context_tokens: int | None
    end_ids: tuple[int, ...]
    options: Mapping[str, str]


def read_facts(folder: Path, source: str) -> Facts:
    """Facts of an OpenVINO directory. Raises EngineRefused for one that is not a language model with paged attention."""
    openvino = import_openvino()
    try:
        model = openvino.Core().read_model(str(folder / MODEL_FILE))
    except RuntimeError as error:
        raise EngineRefused(f"OpenVINO cannot read {source}: {last_sentence(error)}.") from error
    names = {name for port in model.inputs for name in port.get_names()}
    shape = model.outputs[0].partial_shape if len(model.outputs) == 1 else None
    width = shape[-1] if shape is not None and shape.rank.is_static and len(shape) == 3 else None
    if width is None or width.is_dynamic or not {"input_ids", "beam_idx"} <= names:
        raise EngineRefused(f"{source} is not a stateful language model of OpenVINO: it lacks the inputs or the logits of one.")
    options = {}
    for key in ("KV_CACHE_PRECISION", "INFERENCE_PRECISION_HINT", "DYNAMIC_QUANTIZATION_GROUP_SIZE"):
        if model.has_rt_info(["runtime_options", key]):
            options[key] = str(model.get_rt_info(["runtime_options", key]).value)
    config = json_object(folder / "config.json")
    ends = json_object(folder / "generation_config.json").get("eos_token_id", config.get("eos_token_id"))
    return Facts(
        vocab_size=width.get_length(),
        context_tokens=config.get("max_position_embeddings"),
        end_ids=tuple(ends) if isinstance(ends, list) else () if ends is None else (int(ends),),
        options=options,
    )


class OpenVinoEngine(ScorerAndServer):
    """OpenVINO directories, and GGUF files through GenAI's reader. See Engine for the contract."""

    name: ClassVar[str] = "openvino"
    title: ClassVar[str] = "OpenVINO"
    numeric_settings: ClassVar[frozenset[str]] = frozenset(
        {"kv_type", "batch_tokens", "slots", "prefix_cache", "speculation", "draft_tokens", "ngram_tokens"}
    )
    speed_settings: ClassVar[frozenset[str]] = frozenset({"threads", "context_tokens", "load_mode", "cpu_affinity"})
    formats: ClassVar[frozenset[str]] = frozenset({"gguf", "openvino"})
    abilities: ClassVar[frozenset[str]] = frozenset({"json_schema"})

    def __init__(self, snapshot: Snapshot, settings: Settings) -> None:
        why = self.refuses(snapshot, None, settings)
        if why:
            raise EngineRefused(f"OpenVINO cannot open {snapshot.source}: {why}.")
        self.snapshot = snapshot
        self.settings = settings
        self._purpose: Purpose | None = None
        self._own_folder: tempfile.TemporaryDirectory[str] | None = None
        self._text: TextModels | None = None
        self._facts: Facts | None = None
        self._scorer: PagedScorer | None = None
        self._server: Server | None = None

    @classmethod
    def build(cls) -> EngineBuild:
        try:
            versions = {name: importlib.metadata.version(name) for name in ("openvino", "openvino-genai", "openvino-tokenizers")}
        except importlib.metadata.PackageNotFoundError as error:
            raise MissingError(f"The OpenVINO engine is not installed ({error}).", "pip install 'trimtab[openvino]'") from error
        openvino = import_openvino()
        core = openvino.Core()
        abilities = " ".join(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        details = f"{openvino.get_version()}, tokenizers {versions['openvino-tokenizers']}, CPU: {abilities}"
        return EngineBuild(engine=cls.name, version=versions["openvino-genai"], details=details)

    @classmethod
    def refuses(cls, snapshot: Snapshot, header: ModelHeader | None, settings: Settings) -> str:
        if snapshot.format not in cls.formats:
            return f"it reads OpenVINO directories and GGUF, not {snapshot.format}"
        if snapshot.format == "gguf" and len(snapshot.files) > 1:
            return "GenAI's reader does not join the parts of a split GGUF"
        if snapshot.adapters:
            return f"it takes no adapters, {CANNOT_SERVE['adapter']}"
        if header is not None and header.format == "gguf" and header.architecture not in READER_ARCHITECTURES:
            return f"GenAI's GGUF reader knows {', '.join(READER_ARCHITECTURES)}, not {header.architecture}"
        if settings.kv_type is not None and settings.kv_type not in KV_TYPES:
            return f"it has no cache type {settings.kv_type!r}, only {', '.join(KV_TYPES)}"
        if settings.load_mode is not None and settings.load_mode not in LOAD_MODES:
            return f"it has no load mode {settings.load_mode!r}, only {', '.join(LOAD_MODES)}"
        for key, reason in CANNOT.items():
            if getattr(settings, key) not in (None, 0) or getattr(settings, key) is False:
                return f"{key} has no meaning here, {reason}"
        if why := refused_speculation(snapshot, settings, SPECULATIONS) or refused_affinity(settings):
            return why
        for key in ("threads", "slots", "batch_tokens", "context_tokens"):
            value = getattr(settings, key)
            if value is not None and value < 1:
                return f"{key} must be at least 1"
        return ""

    def load(self, purpose: Purpose) -> None:
        if purpose == self._purpose:
            return
        if self.n_running:
            raise EngineRefused("OpenVINO cannot change its purpose while requests run.")
        self._scorer = self._server = self._purpose = None
        if purpose == "score":
            path = self._folder / MODEL_FILE
            batch = self.settings.batch_tokens or SCORE_BATCH_TOKENS
            self._scorer = PagedScorer(path, self.snapshot.source, properties=self._properties(), batch_tokens=batch)
        else:
            self._server = Server(
                self._folder,
                self.snapshot.source,
                tokenizer=self._texts.genai,
                properties=self._properties(),
                scheduler=self._scheduler(),
                vocab_size=self._read.vocab_size,
                context_tokens=self.context_tokens,
                end_ids=self.end_ids,
                draft_tokens=self._draft_tokens,
                ngram_tokens=self.settings.ngram_tokens or DEFAULT_NGRAM_TOKENS,
                most_running=self._most_running(),
                schema_end_id=next(iter(self._texts.end_ids), None),
            )
        self._purpose = purpose

    def info(self) -> EngineInfo:
        return EngineInfo(
            build=self.build(),
            vocab_size=self._read.vocab_size,
            context_tokens=self.context_tokens,
            bos_id=self._texts.bos_id,
            end_ids=self.end_ids,
            settings=self._in_force(),
            chat_template=self._texts.genai.chat_template,
            cannot={**CANNOT, **CANNOT_SERVE},
        )

    def least_tokens(self, text: str) -> int:
        return self._texts.least_tokens(text)

    def close(self) -> None:
        self._scorer = self._server = self._purpose = self._text = self._facts = None
        if self._own_folder is not None:
            self._own_folder.cleanup()
            self._own_folder = None

    @property
    def vocab_size(self) -> int:
        return self._read.vocab_size

    @cached_property
    def context_tokens(self) -> int:
        """Tokens one sequence may hold: as set, else what the model's files say."""
        if self.settings.context_tokens is not None:
            return self.settings.context_tokens
        known = self._read.context_tokens if self.snapshot.format == "openvino" else gguf_context_tokens(self.snapshot.path)
        if known is None:
            raise EngineRefused(f"{self.snapshot.source} does not say how long its context is; set context_tokens.")
        return known

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a turn, as GenAI takes them from the directory."""
        return self._read.end_ids or self._texts.end_ids

    @property
    def _folder(self) -> Path:
        """The OpenVINO directory: the snapshot's, or the one that the reader made from its GGUF file."""
        if self.snapshot.format == "openvino":
            for name in (MODEL_FILE, TOKENIZER_FILE):
                if not (self.snapshot.path / name).is_file():
                    raise EngineRefused(f"OpenVINO cannot open {self.snapshot.path}: it holds no {name}.")
            return self.snapshot.path
        if self._own_folder is None:
            import_openvino()
            if not self.snapshot.path.is_file():
                raise EngineRefused(f"OpenVINO cannot open {self.snapshot.path}: there is no such file.")
            folder = tempfile.TemporaryDirectory(prefix="trimtab-openvino-")
            try:
                read_gguf(self.snapshot.path, Path(folder.name))
            except BaseException:
                folder.cleanup()
                raise
            self._own_folder = folder
        return Path(self._own_folder.name)

    @property
    def _read(self) -> Facts:
        if self._facts is None:
            self._facts = read_facts(self._folder, self.snapshot.source)
        return self._facts

    @property
    def _texts(self) -> TextModels:
        if self._text is None:
            import_openvino()
            self._text = TextModels(self._folder, self.snapshot.source)
        return self._text

    def _properties(self) -> dict[str, Any]:
        """CPU properties for both purposes: settings, else what the model's files ask for, else the plugin's default on this machine.

        A cache in f32 needs arithmetic in f32: the attention kernel keeps its cache in the type it computes in, or quantised.
        """
        core = import_openvino().Core()
        found: dict[str, Any] = {}
        for key in ("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION"):
            found[key] = self._read.options.get(key) or core.get_property("CPU", key).get_type_name()
        group = self._read.options.get("DYNAMIC_QUANTIZATION_GROUP_SIZE")
        found["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = int(group or core.get_property("CPU", "DYNAMIC_QUANTIZATION_GROUP_SIZE"))
        if self.settings.kv_type is not None:
            found["KV_CACHE_PRECISION"] = self.settings.kv_type
        if found["KV_CACHE_PRECISION"] == "f32":
            found["INFERENCE_PRECISION_HINT"] = "f32"
        if self.settings.threads is not None:
            found["INFERENCE_NUM_THREADS"] = self.settings.threads
        if self.settings.load_mode == "read":
            found["ENABLE_MMAP"] = False
        return found

    @property
    def _draft_tokens(self) -> int:
        """Tokens proposed in a step at most, 0 = no speculation."""
        return (self.settings.draft_tokens or DEFAULT_DRAFT_TOKENS) if speculation_of(self.settings) == PROMPT_LOOKUP else 0

    def _most_running(self) -> int | None:
        """Requests that one step has room for with all their proposals; None = as the pipeline likes. Raises EngineRefused."""
        drafts, scheduler = self._draft_tokens, self._scheduler()
        if not drafts:
            return None
        room = scheduler.max_num_batched_tokens // (1 + drafts)
        if room < (self.settings.slots or 1):
            raise EngineRefused(
                f"OpenVINO cannot serve {self.snapshot.source} with {self.settings.slots or 1} slots and {drafts} draft_tokens: a step of "
                f"{scheduler.max_num_batched_tokens} batch_tokens has no room for them."
            )
        return int(min(room, scheduler.max_num_seqs))

    def _scheduler(self) -> Any:
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = bool(self.settings.prefix_cache)
        scheduler.dynamic_split_fuse = True
        if self.settings.batch_tokens is not None:
            scheduler.max_num_batched_tokens = self.settings.batch_tokens
        if self.settings.slots is not None:
            scheduler.max_num_seqs = self.settings.slots
        if self.settings.context_tokens is not None and self.settings.slots is not None:
            # One block more a slot: the scheduler plans for the token after the last one. Left alone, the cache grows as needed.
            blocks = -(-(self.context_tokens + self._draft_tokens) // BLOCK_TOKENS) + 1
            scheduler.num_kv_blocks = scheduler.max_num_seqs * blocks
        return scheduler

    def _in_force(self) -> dict[str, Any]:
        """The settings in force; `kv_type` is what is stored, `compute_type` and `dynamic_quantization_group` come with the build."""
        properties = self._properties()
        scheduler = self._scheduler()
        compute, kv_type = properties["INFERENCE_PRECISION_HINT"], properties["KV_CACHE_PRECISION"]
        return {
            "threads": self.settings.threads or "auto",
            "slots": scheduler.max_num_seqs,
            "batch_tokens": scheduler.max_num_batched_tokens,
            "context_tokens": self.context_tokens,
            "kv_type": compute if kv_type in ("f16", "bf16", "f32") else kv_type,
            "prefix_cache": scheduler.enable_prefix_caching,
            "load_mode": self.settings.load_mode or "mmap",
            "speculation": speculation_of(self.settings),
            "draft_tokens": self._draft_tokens,
            "ngram_tokens": (self.settings.ngram_tokens or DEFAULT_NGRAM_TOKENS) if self._draft_tokens else 0,
            "cpu_affinity": self.settings.cpu_affinity or "all",
            "compute_type": compute,
            "dynamic_quantization_group": properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"],
        }
