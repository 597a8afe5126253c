"""llama.cpp through llama-cpp-python's low-level API: one model, one context to score or one to serve.

Defaults are llama-server's: four slots that share one unified cache, batches of 2,048 tokens computed 512 at a time, an F16 cache, flash
attention where the backend has it, a thread a physical core. With `slots` given each slot has its own part of the cache, as
`llama-server --parallel N` does, unless earlier prompts are kept: these can be shared in one cache only.
"""

import ctypes
import importlib.metadata
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import llama_cpp.llama_cpp as native
import numpy as np
import numpy.typing as npt

from trimtab.core.deployment import EngineBuild, Settings
from trimtab.core.errors import EngineRefused, InputError
from trimtab.core.model import ModelHeader, Snapshot
from trimtab.describe.template import render_chat
from trimtab.engines.affinity import refused_affinity
from trimtab.engines.base import (
    DEFAULT_DRAFT_TOKENS,
    DEFAULT_NGRAM_TOKENS,
    DRAFT_MODEL,
    PROMPT_LOOKUP,
    EngineInfo,
    Purpose,
    ScoreRequest,
    ScoreResult,
    refused_speculation,
    speculation_of,
)
from trimtab.engines.least_tokens import byte_weights, least_tokens
from trimtab.engines.llamacpp_adapters import open_adapters
from trimtab.engines.llamacpp_draft import Drafter, check_vocabulary
from trimtab.engines.llamacpp_json import json_tokens
from trimtab.engines.llamacpp_native import KV_TYPES, LOAD_MODES, MAX_SEQUENCES, forget_log, last_words, physical_cores, spellings, start
from trimtab.engines.llamacpp_score import Scorer, path_tokens
from trimtab.engines.llamacpp_serve import Server
from trimtab.engines.schemas import Schemas
from trimtab.engines.scorer_and_server import WithServer
from trimtab.engines.tally import check

DEFAULT_SLOTS = 4
DEFAULT_BATCH_TOKENS = 2048
DEFAULT_MICROBATCH_TOKENS = 512
SCORE_SEQUENCES = 128
LOGITS_BYTES = 2**28
"""At most this much memory for the logits of one scoring call."""
NO_DEVICES = "this build of llama.cpp has no accelerator backend, so device_layers must be 0 and tensor_split unset"
NOT_TAKEN_BACK = "its state cannot be taken back to an earlier token"
KEPT_SEQUENCES = 16
"""Sequences that a prefix cache keeps at most, in the cells that running requests do not need."""
SPECULATIONS = ("none", PROMPT_LOOKUP, DRAFT_MODEL)
CANNOT = {"compile_cache": "llama.cpp compiles nothing from a model"}


class LlamaCppEngine(WithServer):
    """GGUF files on llama.cpp. See Engine for the contract.

    Numeric settings: `threads` and `slots` leave scores as they are, bit by bit, but may move served log-probabilities within the
    rounding noise: beside 512 and more cached tokens a lone decoded token's attention is split between threads, and the number of
    tokens decoded together chooses the matrix kernels. With flash attention llama.cpp rounds an f32 cache to f16 before it is used.
    The same holds for `speculation` with its numbers and `prefix_cache`, which change how many tokens are computed together.
    """

    name: ClassVar[str] = "llamacpp"
    title: ClassVar[str] = "llama.cpp"
    numeric_settings: ClassVar[frozenset[str]] = frozenset(
        {"kv_type", "flash_attention", "batch_tokens", "microbatch_tokens", "slots", "threads", "device_layers", "tensor_split"}
        | {"prefix_cache", "speculation", "draft", "draft_tokens", "ngram_tokens"}
    )
    speed_settings: ClassVar[frozenset[str]] = frozenset({"context_tokens", "load_mode", "cpu_affinity"})
    formats: ClassVar[frozenset[str]] = frozenset({"gguf"})
    abilities: ClassVar[frozenset[str]] = frozenset({"top_logprobs", "json_schema", "adapter"})

    def __init__(self, snapshot: Snapshot, settings: Settings) -> None:
        why = self.refuses(snapshot, None, settings)
        if why:
            raise EngineRefused(f"llama.cpp cannot open {snapshot.source}: {why}.")
        self.snapshot = snapshot
        self.settings = settings
        self._model_pointer: int | None = None
        self._context: int | None = None
        self._draft_pointer: int | None = None
        self._draft_context: int | None = None
        self._purpose: Purpose | None = None
        self._score_cells = 0
        self._scorer: Scorer | None = None
        self._server: Server | None = None

    @classmethod
    def build(cls) -> EngineBuild:
        version = importlib.metadata.version("llama-cpp-python")
        core = native.llama_version().decode()
        flags = native.llama_print_system_info().decode().strip(" |")
        return EngineBuild(engine=cls.name, version=f"{version} (llama.cpp {core})", details=flags)

    @classmethod
    def refuses(cls, snapshot: Snapshot, header: ModelHeader | None, settings: Settings) -> str:
        if snapshot.format not in cls.formats:
            return f"it reads GGUF, not {snapshot.format}"
        if settings.kv_type is not None and settings.kv_type not in KV_TYPES:
            return f"it has no cache type {settings.kv_type!r}, only {', '.join(KV_TYPES)}"
        if settings.flash_attention is False and settings.kv_type not in (None, "f32", "f16", "bf16"):
            return f"a {settings.kv_type} cache needs flash attention"
        if settings.load_mode is not None and settings.load_mode not in LOAD_MODES:
            return f"it has no load mode {settings.load_mode!r}, only {', '.join(LOAD_MODES)}"
        most_slots = MAX_SEQUENCES - KEPT_SEQUENCES if settings.prefix_cache else MAX_SEQUENCES
        if settings.slots is not None and settings.slots > most_slots:
            return f"it runs at most {most_slots} slots{' beside a prefix cache' if settings.prefix_cache else ''}"
        if settings.compile_cache is not None:
            return f"compile_cache has no meaning here, {CANNOT['compile_cache']}"
        if snapshot.draft is not None and snapshot.draft.format not in cls.formats:
            return f"its draft must be a GGUF file too, not {snapshot.draft.format}"
        if why := refused_speculation(snapshot, settings, SPECULATIONS) or refused_affinity(settings):
            return why
        for key in ("threads", "slots", "batch_tokens", "microbatch_tokens", "context_tokens"):
            value = getattr(settings, key)
            if value is not None and value < 1:
                return f"{key} must be at least 1"
        if ((settings.device_layers or 0) > 0 or settings.tensor_split) and not native.llama_supports_gpu_offload():
            return NO_DEVICES
        return ""

    def load(self, purpose: Purpose) -> None:
        if purpose == self._purpose:
            return
        if self.n_running:
            raise EngineRefused("llama.cpp cannot change its purpose while requests run.")
        self._free_context()
        if purpose == "serve":
            self._open_server()
        else:
            self._open_scorer(min(self.context_tokens, 1024))
        self._purpose = purpose

    def info(self) -> EngineInfo:
        template = native.llama_model_chat_template(self._model, None)
        return EngineInfo(
            build=self.build(),
            vocab_size=self.vocab_size,
            context_tokens=self.context_tokens,
            bos_id=self._token_or_none("bos") if native.llama_vocab_get_add_bos(self._vocab) else None,
            end_ids=self.end_ids,
            settings=self._in_force(),
            chat_template=template.decode("utf-8", "replace") if template else "",
            cannot=CANNOT if native.llama_supports_gpu_offload() else {**CANNOT, "device_layers": NO_DEVICES},
        )

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        raw = text.encode()
        room = len(raw) + 2
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = native.llama_tokenize(self._vocab, raw, len(raw), buffer, room, False, parse_special)
            if count >= 0:
                return list(buffer[:count])
            if -count <= room:
                raise EngineRefused(f"llama.cpp could not tokenize a text of {len(raw)} bytes.")
            room = -count

    def least_tokens(self, text: str) -> int:
        return least_tokens(text.encode(), self._byte_weights)

    def detokenize(self, ids: Sequence[int]) -> str:
        if any(not 0 <= token < self.vocab_size for token in ids):
            raise EngineRefused(f"A token id lies outside the vocabulary of {self.vocab_size}.")
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        room = 8 * len(ids) + 16
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = native.llama_detokenize(self._vocab, tokens, len(ids), buffer, room, False, False)
            if count >= 0:
                return buffer.raw[:count].decode("utf-8", "replace")
            room = -count

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        template = self.info().chat_template
        if not template:
            raise EngineRefused(f"{self.snapshot.source} has no chat template.")
        try:
            return render_chat(template, messages, tools=tools, bos=self._token_text("bos"), eos=self._token_text("eos"))
        except InputError as error:
            raise EngineRefused(f"The chat template of {self.snapshot.source} cannot render these messages: {error}") from error

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        if self._purpose != "score":
            raise EngineRefused("llama.cpp was not loaded to score.")
        for request in requests:
            check(request, self.vocab_size, self.context_tokens)
        needed = max(map(path_tokens, requests), default=0)
        if needed > self._score_cells:
            self._free_context()
            self._open_scorer(min(self.context_tokens, max(needed, 2 * self._score_cells)))
        assert self._scorer is not None
        return self._scorer.score(requests)

    def close(self) -> None:
        self._free_context()
        if self._draft_pointer is not None:
            native.llama_model_free(self._draft_pointer)
            self._draft_pointer = None
        if self._model_pointer is not None:
            native.llama_model_free(self._model_pointer)
            self._model_pointer = None
            for name in ("_vocab", "vocab_size", "context_tokens", "end_ids", "_schemas", "_adapters", "_byte_weights"):
                self.__dict__.pop(name, None)

    # The model

    @property
    def _model(self) -> int:
        if self._model_pointer is None:
            self._model_pointer = self._open_model(self.snapshot)
        return self._model_pointer

    def _open_model(self, snapshot: Snapshot) -> int:
        start()
        forget_log()
        params = native.llama_model_default_params()
        params.load_mode = LOAD_MODES.get(self.settings.load_mode or "", params.load_mode)
        params.n_gpu_layers = self.settings.device_layers if self.settings.device_layers is not None else params.n_gpu_layers
        if self.settings.tensor_split:
            shares = (ctypes.c_float * native.LLAMA_MAX_DEVICES)(*self.settings.tensor_split[: native.LLAMA_MAX_DEVICES])
            params.tensor_split = ctypes.cast(shares, ctypes.POINTER(ctypes.c_float))
        path = snapshot.path
        if not path.is_file():
            raise EngineRefused(f"llama.cpp cannot open {path}: there is no such file.")
        pointer = native.llama_model_load_from_file(str(path).encode(), params)
        if not pointer:
            raise EngineRefused(f"llama.cpp cannot open {path}: {last_words() or 'it gave no reason'}.")
        if native.llama_model_has_encoder(pointer) or not native.llama_model_has_decoder(pointer):
            native.llama_model_free(pointer)
            raise EngineRefused(f"llama.cpp opens {path}, but it is not a decoder-only language model.")
        return int(pointer)

    @cached_property
    def _vocab(self) -> int:
        return int(native.llama_model_get_vocab(self._model))

    @cached_property
    def vocab_size(self) -> int:
        """Number of logits."""
        return int(native.llama_vocab_n_tokens(self._vocab))

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that llama.cpp takes for the end of generation."""
        return tuple(token for token in range(self.vocab_size) if native.llama_vocab_is_eog(self._vocab, token))

    @cached_property
    def _byte_weights(self) -> npt.NDArray[np.float64]:
        return byte_weights(spellings(self._vocab, self.vocab_size))

    @cached_property
    def context_tokens(self) -> int:
        """Tokens one sequence may hold: as set, else what the model was trained on, shared out when slots are given."""
        if self.settings.context_tokens is not None:
            return self.settings.context_tokens
        return max(1, int(native.llama_model_n_ctx_train(self._model)) // (self.settings.slots or 1))

    @cached_property
    def _schemas(self) -> Schemas:
        return Schemas(lambda: json_tokens(self._vocab, self.end_ids), self.vocab_size, title="llama.cpp")

    @cached_property
    def _adapters(self) -> dict[str, Any]:
        """Handles of the snapshot's adapters, by name."""
        return open_adapters(self._model, self.snapshot.adapters)

    def _token_or_none(self, which: str) -> int | None:
        token = int(getattr(native, f"llama_vocab_{which}")(self._vocab))
        return token if token >= 0 else None

    def _token_text(self, which: str) -> str:
        token = self._token_or_none(which)
        return "" if token is None else native.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")

    # Contexts

    def _in_force(self) -> dict[str, Any]:
        """The settings in force, llama-server's defaults filled in."""
        settings = self.settings
        batch = settings.batch_tokens or DEFAULT_BATCH_TOKENS
        kind = speculation_of(settings)
        return {
            "threads": settings.threads or physical_cores(),
            "slots": settings.slots or DEFAULT_SLOTS,
            "batch_tokens": batch,
            "microbatch_tokens": min(batch, settings.microbatch_tokens or DEFAULT_MICROBATCH_TOKENS),
            "context_tokens": self.context_tokens,
            "kv_type": settings.kv_type or "f16",
            "flash_attention": "auto" if settings.flash_attention is None else settings.flash_attention,
            "device_layers": settings.device_layers or 0,
            "prefix_cache": bool(settings.prefix_cache),
            "load_mode": settings.load_mode or "auto",
            "speculation": kind,
            "draft": settings.draft or "",
            "draft_tokens": (settings.draft_tokens or DEFAULT_DRAFT_TOKENS) if kind != "none" else 0,
            "ngram_tokens": (settings.ngram_tokens or DEFAULT_NGRAM_TOKENS) if kind == PROMPT_LOOKUP else 0,
            "cpu_affinity": settings.cpu_affinity or "all",
        }

    def _context_params(self) -> Any:
        force = self._in_force()
        params = native.llama_context_default_params()
        params.n_threads = params.n_threads_batch = force["threads"]
        params.n_batch = force["batch_tokens"]
        params.n_ubatch = force["microbatch_tokens"]
        params.type_k = params.type_v = KV_TYPES[force["kv_type"]]
        if self.settings.flash_attention is not None:
            params.flash_attn_type = int(self.settings.flash_attention)
        return params

    def _open_context(self, params: Any) -> int:
        self._context = _context_of(self._model, params)
        return self._context

    def _open_drafter(self, like: Any) -> Drafter:
        """The draft model with a context of the server's size, so that what the server has room for it has too. Its cache is in f16."""
        draft = self.snapshot.draft
        assert draft is not None
        if self._draft_pointer is None:
            self._draft_pointer = self._open_model(draft)
            check_vocabulary(self._model, self._draft_pointer, (self.snapshot.source, draft.source))
        if _state_is_fixed(self._draft_pointer):
            raise EngineRefused(f"llama.cpp cannot draft with {draft.source}: {NOT_TAKEN_BACK}.")
        params = self._context_params()
        params.type_k = params.type_v = KV_TYPES["f16"]
        params.n_ctx, params.n_seq_max, params.n_batch = like.n_ctx, like.n_seq_max, like.n_batch
        params.n_outputs_max = like.n_seq_max
        params.kv_unified = True
        self._draft_context = _context_of(self._draft_pointer, params)
        return Drafter(self._draft_context, self.vocab_size, batch_tokens=int(native.llama_n_batch(self._draft_context)))

    def _open_scorer(self, cells: int) -> None:
        params = self._context_params()
        params.n_batch = params.n_ubatch = params.n_ubatch
        shared = not _state_is_fixed(self._model)
        sequences = SCORE_SEQUENCES if shared else 1
        cells = max(cells, params.n_batch)
        outputs = max(sequences, min(params.n_batch, LOGITS_BYTES // (4 * self.vocab_size)))
        params.n_ctx = cells
        params.n_seq_max = sequences
        params.kv_unified = True
        params.n_outputs_max = outputs
        context = self._open_context(params)
        self._score_cells = cells
        self._scorer = Scorer(
            context,
            self.vocab_size,
            batch_tokens=params.n_batch,
            max_outputs=outputs,
            max_cells=cells,
            max_sequences=sequences,
            shared=shared,
        )

    def _open_server(self) -> None:
        force = self._in_force()
        slots, drafts = force["slots"], force["draft_tokens"]
        kept = KEPT_SEQUENCES if force["prefix_cache"] else 0
        if (drafts or kept) and _state_is_fixed(self._model):
            raise EngineRefused(f"llama.cpp cannot serve {self.snapshot.source} with a prefix cache or speculation: {NOT_TAKEN_BACK}.")
        unified = self.settings.slots is None or kept > 0
        params = self._context_params()
        if self.settings.slots is None and self.settings.context_tokens is None:
            params.n_ctx = self.context_tokens  # llama-server shares the model's context between its slots
        else:
            params.n_ctx = slots * (-(-self.context_tokens // 256) * 256)
        params.n_seq_max = slots + kept
        params.kv_unified = unified
        params.n_batch = max(params.n_batch, params.n_seq_max)
        # llama.cpp wants room for an output of each sequence, also of those that are only kept.
        params.n_outputs_max = max(params.n_seq_max, min(params.n_batch, slots * (1 + drafts)))
        adapters = self._adapters  # before the context, which has room for what they add
        context = self._open_context(params)
        self._server = Server(
            context,
            self.vocab_size,
            end_ids=self.end_ids,
            schemas=self._schemas,
            slots=slots,
            batch_tokens=int(native.llama_n_batch(context)),
            context_tokens=self.context_tokens,
            pool_tokens=int(native.llama_n_ctx(context)) if unified else None,
            draft_tokens=drafts,
            drafter=self._open_drafter(params) if self.snapshot.draft is not None else None,
            ngram_tokens=force["ngram_tokens"],
            n_kept=kept,
            adapters=adapters,
        )

    def _free_context(self) -> None:
        self._scorer = self._server = self._purpose = None
        for context in (self._context, self._draft_context):
            if context is not None:
                native.llama_free(context)
        self._context = self._draft_context = None


def _context_of(model: int, params: Any) -> int:
    forget_log()
    pointer = native.llama_init_from_model(model, params)
    if not pointer:
        raise EngineRefused(f"llama.cpp cannot make a context of {params.n_ctx} tokens: {last_words() or 'it gave no reason'}.")
    return int(pointer)


def _state_is_fixed(model: int) -> bool:
    """Whether a model keeps a state instead of a token's keys and values, in some of its layers at least."""
    return bool(native.llama_model_is_recurrent(model) or native.llama_model_is_hybrid(model))
