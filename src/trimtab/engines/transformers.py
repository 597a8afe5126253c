"""Hugging Face directories in transformers: any causal language model that it knows, in the number format that a recipe names.

No code of a repository runs, and weights are read from safetensors alone. Nothing here imports torch before a model is opened, so that a
process that only asks what the engine may do stays quick.
"""

import importlib.metadata
import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from trimtab.core.deployment import EngineBuild, Settings
from trimtab.core.errors import EngineRefused, InputError, MissingError
from trimtab.core.model import ModelHeader, Snapshot
from trimtab.core.number_format import NumberFormat, read_format
from trimtab.describe.packing import packing_of
from trimtab.engines.affinity import refused_affinity
from trimtab.engines.base import (
    EngineInfo,
    Purpose,
    refused_speculation,
)
from trimtab.engines.checkpoint import Checkpoint
from trimtab.engines.schemas import Schemas
from trimtab.engines.scorer_and_server import ScorerAndServer

if TYPE_CHECKING:
    from trimtab.engines.transformers_model import Model
    from trimtab.engines.transformers_score import Scorer
    from trimtab.engines.transformers_serve import Server
    from trimtab.engines.transformers_text import TextModels

LIBRARIES = ("torch", "transformers", "torchao", "safetensors", "tokenizers")
DEFAULT_SLOTS = 8
DEFAULT_BATCH_TOKENS = 2048
CANNOT = {
    "kv_type": "keys and values have the type that the model computes in; a recipe chooses it",
    "microbatch_tokens": "transformers computes a whole batch at once",
    "load_mode": "safetensors files are always mapped",
    "prefix_cache": "it keeps no keys and values of earlier prompts",
    "tensor_split": "it places a model on one device as a whole",
    "compile_cache": "it compiles nothing from a model",
    "speculation": "transformers proposes tokens for a lone request only, not for many that run together",
    "draft": "transformers proposes tokens for a lone request only, not for many that run together",
    "draft_tokens": "transformers proposes tokens for a lone request only, not for many that run together",
    "ngram_tokens": "transformers proposes tokens for a lone request only, not for many that run together",
}
CANNOT_SERVE = {"adapter": "adapters are GGUF files here, which transformers does not apply"}
UNPACKED_ON_LOADING = ("fp8", "mxfp4")
"""Methods of quantised checkpoints that transformers turns into floats by itself, on any device."""


class TransformersEngine(ScorerAndServer):
    """Hugging Face directories. See Engine for the contract.

    Numeric settings: `threads`, `slots` and `batch_tokens` choose how sums are split and how many rows are multiplied together, which moves
    log-probabilities within the rounding noise of the number format; `flash_attention` chooses between torch's fused attention and the
    formula as it is written, `device_layers` between processor and accelerator.
    """

    name: ClassVar[str] = "transformers"
    title: ClassVar[str] = "transformers"
    numeric_settings: ClassVar[frozenset[str]] = frozenset({"threads", "slots", "batch_tokens", "flash_attention", "device_layers"})
    speed_settings: ClassVar[frozenset[str]] = frozenset({"context_tokens", "cpu_affinity"})
    formats: ClassVar[frozenset[str]] = frozenset({"safetensors"})
    abilities: ClassVar[frozenset[str]] = frozenset({"top_logprobs", "json_schema"})

    def __init__(self, snapshot: Snapshot, settings: Settings) -> None:
        why = self.refuses(snapshot, None, settings)
        if why:
            raise EngineRefused(f"transformers cannot open {snapshot.source}: {why}.")
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
            raise MissingError(f"The Transformers engine is not installed ({error}).", "pip install 'trimtab[transformers]'") from error
        details = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "transformers")
        return EngineBuild(engine=cls.name, version=versions["transformers"], details=details)

    @classmethod
    def refuses(cls, snapshot: Snapshot, header: ModelHeader | None, settings: Settings) -> str:
        if snapshot.format not in cls.formats:
            return f"it reads Hugging Face directories with safetensors, not {snapshot.format}"
        if snapshot.adapters:
            return f"it takes no adapters, {CANNOT_SERVE['adapter']}"
        packing = packing_of(header.metadata) if header is not None else None
        if packing is not None and (packing.why_not or packing.method not in UNPACKED_ON_LOADING):
            return (
                f"transformers does not open its weights without further packages ({packing.text}); recipe huggingface-fp32 unpacks them "
                "first"
            )
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
        return ""

    def load(self, purpose: Purpose) -> None:
        if purpose == self._purpose:
            return
        if self.n_running:
            raise EngineRefused("transformers cannot change its purpose while requests run.")
        self._scorer = self._server = self._purpose = None
        model = self._opened
        batch_tokens = self.settings.batch_tokens or DEFAULT_BATCH_TOKENS
        if purpose == "score":
            from trimtab.engines.transformers_score import Scorer

            self._scorer = Scorer(model, batch_tokens=batch_tokens)
        else:
            from trimtab.engines.transformers_serve import Server

            self._server = Server(
                model,
                end_ids=self.end_ids,
                schemas=self._schemas,
                slots=self.settings.slots or DEFAULT_SLOTS,
                batch_tokens=batch_tokens,
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
            settings=self._in_force(),
            chat_template=self._texts.template,
            cannot={**CANNOT, **CANNOT_SERVE},
        )

    def close(self) -> None:
        self._scorer = self._server = self._purpose = self._model = None
        for name in ("_checkpoint", "_schemas", "number_format"):
            self.__dict__.pop(name, None)

    # The model

    @property
    def _opened(self) -> "Model":
        if self._model is None:
            _import_torch()
            from trimtab.engines.transformers_model import Model

            flash = self.settings.flash_attention
            self._model = Model(
                self.snapshot.path,
                self.snapshot.source,
                self.number_format,
                attention=None if flash is None else "sdpa" if flash else "eager",
                threads=self.settings.threads,
                device_layers=self.settings.device_layers,
            )
        return self._model

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        _import_torch()
        return Checkpoint(self.snapshot.path, self.snapshot.source, engine="transformers")

    @property
    def _texts(self) -> "TextModels":
        return self._checkpoint.texts

    @cached_property
    def _schemas(self) -> Schemas:
        return Schemas(lambda: self._texts.json_tokens(self.vocab_size, self.end_ids), self.vocab_size, title="transformers")

    @cached_property
    def number_format(self) -> NumberFormat:
        """What the recipe asks for; the format of the checkpoint where there is none."""
        try:
            return read_format(self.snapshot.path)
        except InputError as error:
            raise EngineRefused(str(error)) from error

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self._checkpoint.vocab_size

    @property
    def context_tokens(self) -> int:
        """Tokens one sequence may hold: as set, else what the model's files say."""
        if self.settings.context_tokens is not None:
            return self.settings.context_tokens
        return self._checkpoint.context_tokens

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a turn: as generation_config.json says, else config.json, else the tokenizer."""
        return self._checkpoint.end_ids

    def _in_force(self) -> dict[str, Any]:
        """The settings in force; `compute_type` and `weights` come with the recipe."""
        flash = self.settings.flash_attention
        model, config = self._model, self._checkpoint.config
        return {
            "threads": self.settings.threads or "auto",
            "slots": self.settings.slots or DEFAULT_SLOTS,
            "batch_tokens": self.settings.batch_tokens or DEFAULT_BATCH_TOKENS,
            "context_tokens": self.context_tokens,
            "flash_attention": (flash if flash is not None else "auto") if model is None else model.attention == "sdpa",
            "device_layers": ("auto" if self.settings.device_layers is None else self.settings.device_layers)
            if model is None
            else (0 if model.device.type == "cpu" else config.get("num_hidden_layers", 0)),
            "cpu_affinity": self.settings.cpu_affinity or "all",
            "compute_type": self.number_format.dtype or str(config.get("dtype") or config.get("torch_dtype") or "float32"),
            "weights": self.number_format.weights or "as computed",
        }


def _import_torch() -> None:
    """torch and torchao, without what they log of parts that this machine cannot use. Raises MissingError."""
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingError(f"The Transformers engine is not installed ({error}).", "pip install 'trimtab[transformers]'") from error
