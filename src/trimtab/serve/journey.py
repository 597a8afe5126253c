"""What is known of one request, and what the audit log is told of it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from trimtab.core.guarding import Verdict
from trimtab.core.model import Adapter
from trimtab.record.identities import Key
from trimtab.serve.base import Usage
from trimtab.serve.quota import Hold

if TYPE_CHECKING:
    from trimtab.serve.sampling import Begun
    from trimtab.serve.schema import Parsed

_IN_HEADERS = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


@dataclass(kw_only=True)
class Texts:
    """What was asked and what goes out, where somebody wants to read it: for review, for the watch. As guards have left it."""

    parsed: "Parsed"
    is_for_review: bool
    is_for_watch: bool
    sent: list[bytes] = field(default_factory=list)


@dataclass(kw_only=True)
class Journey:
    """What is known of one request so far; at its end, what the meter and the audit log are told.

    hold: of its key's tokens, while gateways count together; output: running digest of the answer's bytes; queue_s: its wait for a replica
    model: its own name, or that of the adapter; adapter: under which it is answered, None = none
    decision: sha256 of the decision that the version's lock rests on; empty without a lock, and under an adapter
    traceparent: the caller's trace, empty if it told none; texts: None where nobody wants to read them
    groups: of people, as the client states them
    sampled: what will be kept of it for the watch, None = nothing
    is_late: whether it has lasted for longer than it may
    """

    id: str
    path: str
    output: Any
    input_digest: str = ""
    is_stream: bool = False
    began_s: float = field(default_factory=time.monotonic)
    key: Key | None = None
    hold: Hold | None = None
    model: str = ""
    adapter: Adapter | None = None
    version: str = ""
    decision: str = ""
    verdicts: list[Verdict] = field(default_factory=list)
    usage: Usage | None = None
    n_tokens: int = 0
    first_token_s: float | None = None
    status: int = 200
    error: str = ""
    queue_s: float | None = None
    traceparent: str = ""
    texts: Texts | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    sampled: "Begun | None" = None
    is_over: bool = False
    is_late: Callable[[], bool] = lambda: False

    def sends(self, data: bytes) -> None:
        """Note what goes out."""
        self.output.update(data)
        if self.texts is not None:
            self.texts.sent.append(data)
        if self.sampled is not None:
            self.sampled.sends(data)

    @property
    def key_id(self) -> str:
        """Empty where nobody's key was given."""
        return self.key.id if self.key is not None else ""

    @property
    def provenance(self) -> dict[str, str]:
        """Headers that say what answered."""
        found = {"x-request-id": self.id, "x-trimtab-model": header_text(self.model), "x-trimtab-version": header_text(self.version)}
        return {**found, "x-trimtab-decision": self.decision} if self.decision else found


@lru_cache(maxsize=1024)
def header_text(name: str) -> str:
    """A site's name as the value of a header: what is not printable ASCII, and `%`, percent-encoded as UTF-8. Unquoted it is the name."""
    return quote(name, safe=_IN_HEADERS)


def began_record(journey: Journey) -> dict[str, Any]:
    """What the audit log holds of a request before any of its answer goes out. No text of anybody's."""
    return {
        "event": "began",
        "request": journey.id,
        "path": journey.path,
        "key": journey.key_id,
        "model": journey.model,
        "version": journey.version,
        **_adapter_note(journey),
        "input_digest": journey.input_digest,
        "verdicts": noted_verdicts(journey),
    }


def ended_record(journey: Journey, usage: Usage, seconds: float, first_token_s: float | None) -> dict[str, Any]:
    """How it ended. A request that was refused has only this record, so it names the key and the model again."""
    return {
        "event": "ended",
        "request": journey.id,
        "key": journey.key_id,
        "model": journey.model,
        "version": journey.version,
        **_adapter_note(journey),
        "status": journey.status,
        "error": journey.error,
        "output_digest": journey.output.hexdigest(),
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "first_token_ms": None if first_token_s is None else round(1e3 * first_token_s, 3),
        "total_ms": round(1e3 * seconds, 3),
        "verdicts": noted_verdicts(journey),
    }


def _adapter_note(journey: Journey) -> dict[str, str]:
    """Which adapter answered beside the version, by its digest: the version's lock says nothing of it."""
    return {} if journey.adapter is None else {"adapter": journey.adapter.name, "adapter_sha256": journey.adapter.sha256}


def noted_verdicts(journey: Journey) -> list[dict[str, Any]]:
    """Verdicts with findings or failures, without any of the text: rules and places only."""
    return [
        {
            "guard": verdict.guard,
            "side": verdict.side,
            "action": verdict.action,
            "findings": [{"rule": one.rule, "start": one.start, "end": one.end, "score": one.score} for one in verdict.findings],
            "error": verdict.error,
        }
        for verdict in journey.verdicts
        if verdict.action != "allow" or verdict.error
    ]
