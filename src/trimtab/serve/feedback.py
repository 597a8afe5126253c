"""What clients tell of answers later: feedback and outcomes, taken from the key that made the request and from nobody else."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from trimtab.core.groups import MOST_GROUPS, NAME, is_group
from trimtab.core.watching import Late, Observed
from trimtab.record.identities import Key
from trimtab.serve.base import Refusal
from trimtab.serve.bodies import Body
from trimtab.serve.limits import Bucket

REMEMBERED = 100_000
OPEN_DAYS = 30.0
"""Feedback on an older request is not taken, even where it is remembered."""
A_MINUTE = 600
MOST_NAMES = 32
"""So many names a gateway takes: each is watched for itself."""
MOST_BYTES = 16 * 2**10

FeedbackKind = Literal["feedback", "outcome"]
FEEDBACK_PATHS: dict[str, FeedbackKind] = {"/v1/feedback": "feedback", "/v1/outcomes": "outcome"}
RequestId = Annotated[str, Meta(min_length=1, max_length=128)]
SignalName = Annotated[str, Meta(pattern=f"^{NAME.pattern}$")]


class Feedback(Body):
    """request_id: of the answer's header `x-request-id`; group: what the person says of themselves, e.g. {"age": "60+"}"""

    request_id: RequestId
    name: SignalName
    value: bool | float
    group: Annotated[dict[str, str], Meta(max_length=MOST_GROUPS)] | None = None


class Outcome(Body):
    """request_id: of the answer's header `x-request-id`; value: true or false, or a number from 0 to 1"""

    request_id: RequestId
    name: SignalName
    value: bool | float


@dataclass(slots=True)
class _Ended:
    """A request that may be told about. names: of what was told"""

    key_id: str
    at_s: float
    names: frozenset[str] = frozenset()


class FeedbackDesk:
    """The last REMEMBERED requests with what was told of each: about 30 MB.

    tell: takes what counts; False = it cannot now; refuses: a sentence about a name and value that cannot be, empty where they can
    """

    def __init__(self, tell: Callable[[Late], bool], refuses: Callable[[str, float], str], *, most: int = REMEMBERED) -> None:
        self._tell, self._refuses, self._most = tell, refuses, most
        self._ended: OrderedDict[str, _Ended] = OrderedDict()
        self._buckets: dict[str, Bucket] = {}
        self._names: set[str] = set()

    def load(self, items: Iterable[Observed | Late]) -> None:
        """Know what was before this gateway's start, oldest first."""
        for item in items:
            if isinstance(item, Observed):
                self.remember(item.request, item.key, item.at_s)
            elif item.kind in ("feedback", "outcome") and (known := self._ended.get(item.request)) is not None:
                known.names |= {item.name}
                self._names.add(item.name)

    def remember(self, request: str, key_id: str, at_s: float) -> None:
        """Note that a request ended."""
        self._ended[request] = _Ended(key_id, at_s)
        if len(self._ended) > self._most:
            self._ended.popitem(last=False)

    def take(self, path: str, key: Key | None, raw: bytes, now_s: float | None = None) -> dict[str, Any]:
        """The answer to what was posted to a path of FEEDBACK_PATHS. The same name of a request counts once.

        Raises Refusal: 400 for the body, 404 for a request that this key did not make or that is forgotten, 409 for an old one, 429.
        """
        now_s = time.time() if now_s is None else now_s
        key_id = key.id if key is not None else ""
        self._admit(key_id, now_s)
        kind = FEEDBACK_PATHS[path]
        read = _read(kind, raw)
        known = self._ended.get(read.request_id)
        if known is None or known.key_id != key_id:
            why = f"No request {read.request_id!r} of this key has ended here, or it is too long ago to be remembered."
            raise Refusal(404, why, code="request_not_found", param="request_id")
        if known.at_s < now_s - OPEN_DAYS * 86_400.0:
            raise Refusal(409, f"The request is older than {OPEN_DAYS:g} days.", code="request_too_old", param="request_id")
        self._check(read)
        counts = read.name not in known.names
        if counts:
            groups = (getattr(read, "group", None) or {}) if isinstance(read, Feedback) else {}
            late = Late(request=read.request_id, at_s=now_s, kind=kind, name=read.name, value=float(read.value), groups=groups)
            if not self._tell(late):
                raise Refusal(503, "Feedback cannot be kept now.", code="feedback_unavailable", retry_after_s=5)
            known.names |= {read.name}
            self._names.add(read.name)
        return {"object": kind, "request_id": read.request_id, "name": read.name, "counted": counts}

    def _check(self, read: Feedback | Outcome) -> None:
        if why := self._refuses(read.name, float(read.value)):
            raise Refusal(400, why, code="invalid_value", param="value")
        if read.name not in self._names and len(self._names) >= MOST_NAMES:
            raise Refusal(400, f"This server takes {MOST_NAMES} names; {read.name!r} is one more.", code="too_many_names", param="name")
        for name, group in (read.group or {}).items() if isinstance(read, Feedback) else ():
            if not is_group(name, group):
                raise Refusal(
                    400, f"Invalid value for 'group': {name!r} must be a short lower-case word, and its group short.", param="group"
                )

    def _admit(self, key_id: str, now_s: float) -> None:
        bucket = self._buckets.setdefault(key_id, Bucket(float(A_MINUTE), now_s))
        bucket.refill(A_MINUTE, now_s)
        if bucket.left < 1.0:
            wait_s = (1.0 - bucket.left) * 60.0 / A_MINUTE
            raise Refusal(
                429, f"A key may send {A_MINUTE} of these a minute.", kind="requests", code="rate_limit_exceeded", retry_after_s=wait_s
            )
        bucket.left -= 1.0


def _read(kind: FeedbackKind, raw: bytes) -> Feedback | Outcome:
    try:
        return msgspec.json.decode(raw, type=Feedback) if kind == "feedback" else msgspec.json.decode(raw, type=Outcome)
    except msgspec.ValidationError as error:
        raise Refusal(400, f"{error}.", code="invalid_value") from error
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"The body is not valid JSON ({error}).", code="invalid_json") from error
