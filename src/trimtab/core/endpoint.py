"""A model behind an HTTP address: where it is, what it can do, what it answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Messages = Sequence[Mapping[str, str]]
"""A conversation: `role` and `content` of each message."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server that speaks the OpenAI API, and one model on it.

    url: its base, as a rule with /v1 at the end and never with a slash there
    model: the id it is asked for; empty = the only one it has
    key_env: the environment variable that holds the key. The key itself is kept nowhere
    concurrency: requests in flight at most
    """

    url: str
    model: str = ""
    key_env: str = "OPENAI_API_KEY"
    concurrency: int = 4


@dataclass(frozen=True, kw_only=True)
class Capability:
    """One thing that a server was tried for. reason: what was seen, in words."""

    name: str
    can: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one request got. A request without an answer has an `error` and no text; it stays in every count.

    finish: as the server says: `stop`, `length` ...
    n_tokens: of the answer, as the server counts them, else the pieces it came in; is_counted: which of the two
    submit_ns, piece_ns: `time.monotonic_ns()` of the try that succeeded and of each piece; one piece = it was not streamed
    model, fingerprint: what the server says answered
    n_tries: 1 = at the first try
    """

    text: str = ""
    finish: str = ""
    n_tokens: int = 0
    is_counted: bool = False
    submit_ns: int = 0
    piece_ns: tuple[int, ...] = ()
    model: str = ""
    fingerprint: str = ""
    n_tries: int = 1
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class TextScore:
    """Log-probability (nats) that a model gives to a text after what came before; None = not known, `error` says why."""

    nats: float | None
    n_bytes: int
    error: str = ""

    @property
    def nats_per_byte(self) -> float | None:
        """Whatever the tokens, so that two tokenizers can be put side by side."""
        return None if self.nats is None or not self.n_bytes else self.nats / self.n_bytes
