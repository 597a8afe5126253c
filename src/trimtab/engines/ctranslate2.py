"""CTranslate2: directories that its converter makes of Hugging Face directories and GGUF files (see compress/ctranslate2.py).

The library generates for a batch of prompts in one call and cannot let a request join or wait; `ctranslate2_serve.py` tells what is made of
that. Nothing here imports the library before a model is opened, and opening one needs neither torch nor transformers.
"""

import importlib.metadata
import json
import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from trimtab.core.ctranslate2_files import COMPUTE_TYPE, TEXT_FOLDER
from trimtab.core.deployment import EngineBuild, Settings
from trimtab.core.errors import EngineRefused, MissingError
from trimtab.core.model import ModelHeader, Snapshot
from trimtab.engines.affinity import refused_affinity
from trimtab.engines.base import (
    EngineInfo,
    Purpose,
    refused_speculation,
)
from trimtab.engines.scorer_and_server import ScorerAndServer
from trimtab.engines.tokenizer_json import TokenizerJson

if TYPE_CHECKING:
    from trimtab.engines.ctranslate2_model import Model
    from trimtab.engines.ctranslate2_score import Scorer
    from trimtab.engines.ctranslate2_serve import Server

LIBRARIES = ("ctranslate2", "tokenizers")
FIX = "pip install 'trimtab[ctranslate2]'"
DEFAULT_SLOTS = 8
DEFAULT_BATCH_TOKENS = 2048
_SPECULATION = "CTranslate2 takes no proposed tokens"
CANNOT = {
    "kv_type": "keys and values have the type that the model computes in; a recipe chooses it",
    "microbatch_tokens": "CTranslate2 computes a whole batch at once",
    "load_mode": "CTranslate2 always reads its file into memory",
    "flash_attention": "CTranslate2 has one attention kernel for processors",
    "prefix_cache": "CTranslate2 keeps whole prompts that it is told to keep, not the beginnings that prompts share",
    "device_layers": "this engine runs on the processor only",
    "tensor_split": "this engine runs on the processor only",
    "compile_cache": "CTranslate2 compiles nothing from a model",
    "speculation": _SPECULATION,
    "draft": _SPECULATION,
    "draft_tokens": _SPECULATION,
    "ngram_tokens": _SPECULATION,
}
CANNOT_SERVE = {
    "continuous_batching": "requests that begin together are computed together; one that comes later is not put beside them",
    "shared_prefix": "a prefix is computed again for each continuation of two tokens and more that is scored",
    "json_schema": "CTranslate2 chooses tokens itself and takes no list of those that may come next",
    "adapter": "adapters are GGUF files here, which CTranslate2 does not apply",
}


class CTranslate2Engine(ScorerAndServer):
    """Directories of CTranslate2. See Engine for the contract.

    Numeric settings: `threads`, `slots` and `batch_tokens` choose how sums are split and how many rows are multiplied together, which moves
    log-probabilities within rounding.
    """

    name: ClassVar[str] = "ctranslate2"
    title: ClassVar[str] = "CTranslate2"
    numeric_settings: ClassVar[frozenset[str]] = frozenset({"threads", "slots", "batch_tokens"})
    speed_settings: ClassVar[frozenset[str]] = frozenset({"context_tokens", "cpu_affinity"})
    formats: ClassVar[frozenset[str]] = frozenset({"ctranslate2"})
    abilities: ClassVar[frozenset[str]] = frozenset({"top_logprobs"})

    def __init__(self, snapshot: Snapshot, settings: Settings) -> None:
        why = self.refuses(snapshot, None, settings)
        if why:
            raise EngineRefused(f"CTranslate2 cannot open {snapshot.source}: {why}.")
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
            raise MissingError(f"The CTranslate2 engine is not installed ({error}).", FIX) from error
        return EngineBuild(engine=cls.name, version=versions["ctranslate2"], details=f"tokenizers {versions['tokenizers']}")

    @classmethod
    def refuses(cls, snapshot: Snapshot, header: ModelHeader | None, settings: Settings) -> str:
        if snapshot.format not in cls.formats:
            return f"it reads directories that a recipe of this engine made, not {snapshot.format}"
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
            raise EngineRefused("CTranslate2 cannot change its purpose while requests run.")
        self._end_waves()
        self._scorer = self._server = self._purpose = None
        model = self._opened
        if purpose == "score":
            from trimtab.engines.ctranslate2_score import Scorer

            self._scorer = Scorer(model, batch_tokens=self.batch_tokens)
        else:
            from trimtab.engines.ctranslate2_serve import Server

            self._server = Server(
                model, end_ids=self.end_ids, slots=self.slots, batch_tokens=self.batch_tokens, context_tokens=self.context_tokens
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
                "threads": self.threads,
                "slots": self.slots,
                "batch_tokens": self.batch_tokens,
                "context_tokens": self.context_tokens,
                "cpu_affinity": self.settings.cpu_affinity or "all",
                "compute_type": self.compute_type,
            },
            chat_template=self._texts.template,
            cannot={**CANNOT, **CANNOT_SERVE},
        )

    def close(self) -> None:
        self._end_waves()
        if self._model is not None:
            self._model.close()
        self._scorer = self._server = self._purpose = self._model = None
        for name in ("_texts", "_config", "_library_config"):
            self.__dict__.pop(name, None)

    def _end_waves(self) -> None:
        if self._server is not None:
            self._server.close()

    # The settings in force

    @property
    def threads(self) -> int:
        """As set, else all usable cores; the library's own default stops at four."""
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.settings.threads or usable

    @property
    def slots(self) -> int:
        return self.settings.slots or DEFAULT_SLOTS

    @property
    def batch_tokens(self) -> int:
        return self.settings.batch_tokens or DEFAULT_BATCH_TOKENS

    @property
    def context_tokens(self) -> int:
        """Tokens one sequence may hold: as set, else what the model's files say; no more than a sliding window, past which the library
        fails or computes as if there were none."""
        known = self.settings.context_tokens or self._config.get("max_position_embeddings") or self._config.get("n_positions")
        if known is None:
            raise EngineRefused(f"{self.snapshot.source} does not say how long its context is; set context_tokens.")
        window = self._config.get("sliding_window") if self._config.get("use_sliding_window", True) else None
        if window and self.settings.context_tokens and known > window:
            raise EngineRefused(f"CTranslate2 does not slide the window of {self.snapshot.source}; set context_tokens to {window} at most.")
        return int(min(known, window or known))

    # The model

    @property
    def _opened(self) -> "Model":
        if self._model is None:
            compute_type = self.compute_type
            try:
                from trimtab.engines.ctranslate2_model import Model
            except ImportError as error:
                raise MissingError(f"The CTranslate2 engine is not installed ({error}).", FIX) from error
            self._model = Model(self.snapshot.path, self.snapshot.source, compute_type, threads=self.threads, workers=self.slots)
            if self._model.vocab_size != self.vocab_size:
                raise EngineRefused(
                    f"{self.snapshot.source} has a vocabulary of {self._model.vocab_size}, and its config.json tells of {self.vocab_size}."
                )
        return self._model

    @cached_property
    def _texts(self) -> TokenizerJson:
        folder = self.snapshot.path / TEXT_FOLDER
        return TokenizerJson(folder, self.snapshot.source, self._read(f"{TEXT_FOLDER}/tokenizer_config.json"))

    @cached_property
    def _config(self) -> Mapping[str, Any]:
        """config.json of the source."""
        return self._read(f"{TEXT_FOLDER}/config.json")

    @cached_property
    def compute_type(self) -> str:
        """The library's name of the number format, as the recipe noted it."""
        found = self._read("config.json").get(COMPUTE_TYPE)
        if not isinstance(found, str):
            raise EngineRefused(
                f"CTranslate2 cannot open {self.snapshot.source}: no recipe of this engine made it; give the original weights."
            )
        return found

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return int(self._config["vocab_size"])

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a turn, as generation_config.json says, else config.json."""
        for found in (self._read(f"{TEXT_FOLDER}/generation_config.json").get("eos_token_id"), self._config.get("eos_token_id")):
            if found is not None:
                return tuple(map(int, found)) if isinstance(found, list) else (int(found),)
        return ()

    def _read(self, name: str) -> dict[str, Any]:
        """A JSON file of the directory. Raises EngineRefused."""
        path = self.snapshot.path / name
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EngineRefused(f"CTranslate2 cannot open {self.snapshot.source}: {path} cannot be read ({error}).") from error
        if not isinstance(values, dict):
            raise EngineRefused(f"CTranslate2 cannot open {self.snapshot.source}: {path} is no JSON object.")
        return values
