"""The contract every engine meets: a plain synchronous class that one thread drives.

An engine is opened on a snapshot with settings, scores token ids and generates tokens for many requests at once. It runs in a
child process (`engines/worker.py`) or in this one; `testing/engine_contract.py` checks both ways.

Who may call what: one thread only. `submit` and `cancel` change the set of running requests; `step` advances all of them and is
the only call that produces tokens; `score` may be called while nothing runs. Nothing is retained of the lists passed in.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from trimtab.core.deployment import EngineBuild, Settings
from trimtab.core.model import ModelHeader, Snapshot

CONTRACT_VERSION = 1
Purpose = Literal["score", "serve"]
Done = Literal["", "stop", "length", "cancelled", "error"]


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """Continuations of one shared prefix, whose keys and values are computed once.

    prefix_ids: at least one token
    continuations: each at least one token
    watch: for each continuation, for each of its positions, ids whose log-probabilities are wanted there too (ragged); () = none
    top_k: report the k most likely ids and their log-probabilities at each position; 0 = none
    logit_bias: added to the logits of these ids at every scored position (a planted control needs it)
    """

    prefix_ids: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    watch: tuple[tuple[tuple[int, ...], ...], ...] = ()
    top_k: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class ScoreResult:
    """Natural-log probabilities for one ScoreRequest.

    logprobs: per continuation, per token, log P(token | prefix, earlier tokens)
    greedy: per continuation, per token, whether the token was the most likely one
    watched: like ScoreRequest.watch; top: per continuation, per position, (id, log-probability) pairs, most likely first
    """

    logprobs: tuple[tuple[float, ...], ...]
    greedy: tuple[tuple[bool, ...], ...]
    watched: tuple[tuple[tuple[float, ...], ...], ...] = ()
    top: tuple[tuple[tuple[tuple[int, float], ...], ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """One request for tokens. `temperature` 0 is greedy; above 0 samples from the whole distribution (top_p cuts it if below 1).

    ignore_end: go on past end-of-text tokens up to max_tokens (timing needs a fixed length)
    top_logprobs: report that many of the most likely tokens with each token; needs the ability `top_logprobs`
    json_schema: the answer is JSON of this schema (its JSON text), and nothing else; empty = any text; needs the ability `json_schema`
    adapter: name of one of the snapshot's adapters, under which the answer is computed; empty = none; needs the ability `adapter`
    """

    request_id: int
    prompt_ids: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    ignore_end: bool = False
    stop_ids: tuple[int, ...] = ()
    top_logprobs: int = 0
    json_schema: str = ""
    adapter: str = ""


@dataclass(frozen=True, kw_only=True)
class TokenEvent:
    """One generated token, or (token_id None) the end of a request without one.

    logprob: the engine's own natural-log probability of the token at temperature 1, under the full distribution
    time_ns: `time.monotonic_ns()` (system-wide on Linux) when the token was ready
    done: empty while the request goes on
    top: (id, log-probability) of the most likely tokens in its place, most likely first, under the same distribution as `logprob`
    text: what the answer grows by, in whole characters; the worker fills it in where text is asked for, engines leave it alone
    cached: in the first event of a request: how many of its prompt's tokens were in the cache and not computed, where the engine tells
    """

    request_id: int
    token_id: int | None
    logprob: float | None
    time_ns: int
    done: Done = ""
    error: str = ""
    top: tuple[tuple[int, float], ...] = ()
    text: str = ""
    cached: int = 0


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """What an opened engine says of itself.

    vocab_size: number of logits; end_ids: tokens that end a turn; bos_id: token put first, None if the model has none
    settings: the settings in force, engine defaults filled in where the engine tells them
    cannot: operations or settings it states it cannot do, with the reason
    """

    build: EngineBuild
    vocab_size: int
    context_tokens: int
    bos_id: int | None
    end_ids: tuple[int, ...]
    settings: Mapping[str, Any]
    chat_template: str = ""
    cannot: Mapping[str, str] = field(default_factory=dict)

    def first_id(self, *, chat: bool) -> int | None:
        """The token before a text to be scored: BOS. A plain text of a model without BOS begins after an end token, which parted texts
        in training (lm-eval's convention); a conversation does not, because serving puts none there."""
        return self.bos_id if chat or self.bos_id is not None else next(iter(self.end_ids), None)


def with_first(ids: Sequence[int], first: int | None) -> tuple[int, ...]:
    """Token ids that begin with `first`, unless it is None."""
    return tuple(ids) if first is None or list(ids[:1]) == [first] else (first, *ids)


class Engine(ABC):
    """A runtime opened on one snapshot. Every method raises EngineRefused for what it cannot do.

    numeric_settings may change outputs and so are re-certified; speed_settings may not. A test checks that.
        `cpu_affinity` is carried out by the worker that runs the engine: an engine that names it has nothing else to do.
    abilities: fields of GenerateRequest that it honours beyond the plain ones: `top_logprobs`, `json_schema`, `adapter`. A request that
        needs another is refused before it reaches the engine
    contract_version: an engine of another package states the CONTRACT_VERSION it was written for, as a number; `engines/registry.py`
        refuses one that is not this trimtab's
    """

    name: ClassVar[str]
    contract_version: ClassVar[int] = CONTRACT_VERSION
    abilities: ClassVar[frozenset[str]] = frozenset()
    numeric_settings: ClassVar[frozenset[str]]
    speed_settings: ClassVar[frozenset[str]]
    formats: ClassVar[frozenset[str]]

    @classmethod
    @abstractmethod
    def build(cls) -> EngineBuild:
        """The build at hand. Raises MissingError with the fix if it is not installed. Must be cheap: no model is loaded."""

    @classmethod
    @abstractmethod
    def refuses(cls, snapshot: Snapshot, header: ModelHeader | None, settings: Settings) -> str:
        """Why this engine cannot open this, from names and header alone; empty if it may."""

    @abstractmethod
    def __init__(self, snapshot: Snapshot, settings: Settings) -> None:
        """Open lazily: cheap until `load`. Raises EngineRefused."""

    @abstractmethod
    def load(self, purpose: Purpose) -> None:
        """Make ready to score or to serve. Idempotent. Only what the purpose needs is held in memory."""

    @abstractmethod
    def info(self) -> EngineInfo:
        """Facts of the opened model."""

    @abstractmethod
    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Token ids of a text, without a leading BOS. parse_special: markers such as <|im_start|> become their own token."""

    def tokenize_all(self, texts: Sequence[str], *, parse_special: bool) -> list[list[int]]:
        """`tokenize` of each text; an engine whose tokenizer takes many at once is asked once."""
        return [self.tokenize(text, parse_special=parse_special) for text in texts]

    def least_tokens(self, text: str) -> int:
        """So many tokens `tokenize` gives for a text at least, found much faster than by tokenizing it; 0 = nothing is known."""
        return 0

    @abstractmethod
    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""

    @abstractmethod
    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The chat template applied as this engine serves it, with the generation prompt added."""

    @abstractmethod
    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """Log-probabilities, one result a request, in order. Computed with float32 (or wider) log-softmax."""

    @abstractmethod
    def submit(self, request: GenerateRequest) -> None:
        """Queue a request. Never blocks on other requests. Raises EngineRefused if it cannot fit the context."""

    @abstractmethod
    def step(self) -> list[TokenEvent]:
        """Advance all requests by about one token each (continuous batching); [] when nothing runs."""

    @abstractmethod
    def cancel(self, request_id: int) -> None:
        """Stop a request; its last event has done=`cancelled`. Unknown ids are ignored."""

    @property
    @abstractmethod
    def n_running(self) -> int:
        """Requests submitted and not finished."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back. Idempotent."""


ABILITIES = {
    "top_logprobs": "it reports no other tokens than those it chose",
    "json_schema": "it does not hold an answer to a schema",
    "adapter": "it takes no adapters",
}
"""What an engine may be able to do, with what is said of one that is not and gives no reason in `EngineInfo.cannot`."""


def lacking_ability(abilities: Collection[str], request: GenerateRequest) -> str:
    """The ability that a request needs and an engine with these abilities lacks; empty if there is none."""
    return next((name for name in ABILITIES if getattr(request, name) and name not in abilities), "")


DRAFT_MODEL, PROMPT_LOOKUP = "draft-model", "prompt-lookup"
MAX_DRAFT_TOKENS = 64
DEFAULT_DRAFT_TOKENS = 5
DEFAULT_NGRAM_TOKENS = 3


def speculation_of(settings: Settings) -> str:
    """The kind of speculation in force: what is given, else a draft model where one is."""
    return settings.speculation or (DRAFT_MODEL if settings.draft else "none")


def refused_speculation(snapshot: Snapshot, settings: Settings, known: Collection[str]) -> str:
    """Why the settings of speculation make no sense for an engine that knows these kinds, or for this snapshot; empty if they do."""
    kind = speculation_of(settings)
    if kind not in known:
        return f"it has no speculation {kind!r}, only {', '.join(known)}"
    if settings.draft and kind != DRAFT_MODEL:
        return f"draft has no meaning with speculation {kind!r}"
    if kind == DRAFT_MODEL and snapshot.draft is None:
        return "draft names no opened model" if settings.draft else f"speculation {kind!r} needs a draft"
    if snapshot.draft is not None and not settings.draft:
        return "it comes with a draft that the settings do not name"
    for key, most, kinds in (
        ("draft_tokens", MAX_DRAFT_TOKENS, (PROMPT_LOOKUP, DRAFT_MODEL)),
        ("ngram_tokens", MAX_DRAFT_TOKENS, (PROMPT_LOOKUP,)),
    ):
        value = getattr(settings, key)
        if value is not None and kind not in kinds:
            return f"{key} has no meaning without speculation{' by prompt lookup' if key == 'ngram_tokens' else ''}"
        if value is not None and not 1 <= value <= most:
            return f"{key} must lie between 1 and {most}"
    return ""
