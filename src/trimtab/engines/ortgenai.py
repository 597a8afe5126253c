"""ONNX Runtime GenAI: directories that its model builder makes of Hugging Face directories and GGUF files (see compress/ortgenai.py).

Texts are cut and rendered by the tokenizer and the template that came with the weights, as in every other engine, and tokens are chosen
here from all logits. Nothing here imports the library before a model is opened, so that a process that only asks stays quick; torch and
transformers are needed to make a directory, not to run it.
"""

import contextlib
import importlib.metadata
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from trimtab.core.deployment import EngineBuild, Settings
from trimtab.core.errors import EngineRefused, MissingError
from trimtab.core.model import ModelHeader, Snapshot
from trimtab.engines.affinity import refused_affinity
from trimtab.engines.base import (
    EngineInfo,
    Purpose,
    refused_speculation,
)
from trimtab.engines.schemas import Schemas
from trimtab.engines.scorer_and_server import ScorerAndServer
from trimtab.engines.tokenizer_json import TokenizerJson

if TYPE_CHECKING:
    from trimtab.engines.ortgenai_model import Model
    from trimtab.engines.ortgenai_score import Scorer
    from trimtab.engines.ortgenai_serve import Server

LIBRARIES = ("onnxruntime-genai", "onnxruntime", "tokenizers")
FIX = "pip install 'trimtab[ortgenai]'"
CONFIG = "genai_config.json"
DEFAULT_SLOTS = 8
DEFAULT_BATCH_TOKENS = 512
_SPECULATION = "requests that run together each have a generator of their own, which takes no proposals"
CANNOT = {
    "kv_type": "keys and values are float32 in directories made for processors",
    "microbatch_tokens": "it computes what batch_tokens names at once",
    "flash_attention": "the attention kernel is part of the directory",
    "load_mode": "ONNX Runtime decides how it reads weights",
    "prefix_cache": "it keeps no keys and values of earlier prompts",
    "device_layers": "only processors are supported here; a directory is made for one kind of device",
    "tensor_split": "only processors are supported here; a directory is made for one kind of device",
    "compile_cache": "it compiles nothing that could be kept",
    "speculation": _SPECULATION,
    "draft": _SPECULATION,
    "draft_tokens": _SPECULATION,
    "ngram_tokens": _SPECULATION,
}
CANNOT_SERVE = {"adapter": "adapters are GGUF files here, which ONNX Runtime GenAI does not apply"}


class OrtGenAiEngine(ScorerAndServer):
    """Directories of ONNX Runtime GenAI. See Engine for the contract.

    Numeric settings: `threads` and `batch_tokens` choose how sums are split, which moves log-probabilities by rounding. Each request is
    computed by itself, in the same parts whatever runs beside it, so `slots` changes nothing.
    """

    name: ClassVar[str] = "ortgenai"
    title: ClassVar[str] = "ONNX Runtime GenAI"
    numeric_settings: ClassVar[frozenset[str]] = frozenset({"threads", "batch_tokens"})
    speed_settings: ClassVar[frozenset[str]] = frozenset({"slots", "context_tokens", "cpu_affinity"})
    formats: ClassVar[frozenset[str]] = frozenset({"onnx"})
    abilities: ClassVar[frozenset[str]] = frozenset({"top_logprobs", "json_schema"})

    def __init__(self, snapshot: Snapshot, settings: Settings) -> None:
        why = self.refuses(snapshot, None, settings)
        if why:
            raise EngineRefused(f"ONNX Runtime GenAI cannot open {snapshot.source}: {why}.")
        self.snapshot = snapshot
        self.settings = settings
        self._purpose: Purpose | None = None
        self._model: Model | None = None
        self._scorer: Scorer | None = None
        self._server: Server | None = None

    @classmethod
    def build(cls) -> EngineBuild:
        try:
            versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
        except importlib.metadata.PackageNotFoundError as error:
            raise MissingError(f"ONNX Runtime GenAI is not installed ({error}).", FIX) from error
        details = ", ".join(f"{name} {version}" for name, version in versions.items() if name != LIBRARIES[0])
        return EngineBuild(engine=cls.name, version=versions[LIBRARIES[0]], details=details)

    @classmethod
    def refuses(cls, snapshot: Snapshot, header: ModelHeader | None, settings: Settings) -> str:
        if snapshot.format not in cls.formats:
            return f"it reads directories of its own model builder, not {snapshot.format}; name a recipe, such as ortgenai-int4"
        if snapshot.adapters:
            return f"it takes no adapters, {CANNOT_SERVE['adapter']}"
        for key, reason in CANNOT.items():
            if getattr(settings, key) not in (None, "none") or getattr(settings, key) is False:
                return f"{key} has no meaning here, {reason}"
        if why := refused_speculation(snapshot, settings, ("none",)) or refused_affinity(settings):
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
            raise EngineRefused("ONNX Runtime GenAI cannot change its purpose while requests run.")
        self._scorer = self._server = self._purpose = None
        model = self._opened
        if purpose == "score":
            from trimtab.engines.ortgenai_score import Scorer

            self._scorer = Scorer(model)
        else:
            from trimtab.engines.ortgenai_serve import Server

            self._server = Server(
                model,
                end_ids=self.end_ids,
                schemas=self._schemas,
                slots=self.settings.slots or DEFAULT_SLOTS,
                batch_tokens=self._batch_tokens,
                context_tokens=self.context_tokens,
            )
        self._purpose = purpose

    def info(self) -> EngineInfo:
        return EngineInfo(
            build=self.build(),
            vocab_size=self.vocab_size,
            context_tokens=self.context_tokens,
            bos_id=self._texts.bos_id,
            end_ids=self.end_ids,
            settings={
                "threads": self.settings.threads or "auto",
                "slots": self.settings.slots or DEFAULT_SLOTS,
                "batch_tokens": self._batch_tokens,
                "context_tokens": self.context_tokens,
                "cpu_affinity": self.settings.cpu_affinity or "all",
            },
            chat_template=self._texts.template,
            cannot={**CANNOT, **CANNOT_SERVE},
        )

    def close(self) -> None:
        self._scorer = self._server = self._purpose = self._model = None
        for name in ("_config", "_schemas", "_texts"):
            self.__dict__.pop(name, None)

    # The model

    @property
    def _opened(self) -> "Model":
        if self._model is None:
            try:
                from trimtab.engines.ortgenai_model import Model
            except ImportError as error:
                raise MissingError(f"ONNX Runtime GenAI is not installed ({error}).", FIX) from error
            self._model = Model(
                self.snapshot.path,
                self.snapshot.source,
                vocab_size=self.vocab_size,
                threads=self.settings.threads,
                batch_tokens=self._batch_tokens,
                pinned=self.settings.cpu_affinity is not None,
            )
        return self._model

    @cached_property
    def _texts(self) -> TokenizerJson:
        folder = self.snapshot.path
        config = _read_json(folder / "tokenizer_config.json")
        for key in ("bos_token", "eos_token"):
            if isinstance(config.get(key), dict):
                config[key] = config[key].get("content")
        with contextlib.suppress(FileNotFoundError):
            config["chat_template"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        return TokenizerJson(folder, self.snapshot.source, config)

    @cached_property
    def _schemas(self) -> Schemas:
        return Schemas(self._json_tokens, self.vocab_size, title="ONNX Runtime GenAI")

    def _json_tokens(self) -> Any:
        """llguidance's tokenizer of this vocabulary. Raises ImportError, ValueError."""
        from llguidance import LLTokenizer

        text = (self.snapshot.path / "tokenizer.json").read_text(encoding="utf-8")
        return LLTokenizer(text, n_vocab=self.vocab_size, eos_token=list(self.end_ids))

    @cached_property
    def _config(self) -> Mapping[str, Any]:
        """`model` of genai_config.json. Raises EngineRefused."""
        path = self.snapshot.path / CONFIG
        found = _read_json(path).get("model")
        if not isinstance(found, dict) or not all(isinstance(found.get(key), int) for key in ("vocab_size", "context_length")):
            raise EngineRefused(f"{path} tells no vocab_size and context_length; make the directory anew.")
        return found

    @property
    def _batch_tokens(self) -> int:
        return self.settings.batch_tokens or DEFAULT_BATCH_TOKENS

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return int(self._config["vocab_size"])

    @property
    def context_tokens(self) -> int:
        """Tokens one sequence may hold: as set, else what the directory says."""
        return self.settings.context_tokens or int(self._config["context_length"])

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a turn."""
        found = self._config.get("eos_token_id")
        return tuple(map(int, found)) if isinstance(found, list) else () if found is None else (int(found),)


def _read_json(path: Path) -> dict[str, Any]:
    """Raises EngineRefused for a file that is no JSON object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict):
            return values
        told = "it is no JSON object"
    except (OSError, ValueError) as error:
        told = str(error)
    raise EngineRefused(f"{path} cannot be read ({told}); make the directory anew.")
