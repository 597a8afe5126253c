"""What a gateway tells its watch: each request that ended, without its texts. The event loop notes it; a thread looks at texts and writes.

Looking at texts may take TEXT_SHARE of one core: under load the texts of some requests are not looked at, which is counted, and no
request ever waits for it.
"""

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.core.files import write_atomic
from trimtab.core.watching import Late, Observed
from trimtab.record.spool import SpoolWriter
from trimtab.watch.bodies import Exchange, answer_of, answer_of_events, asked, expects_json
from trimtab.watch.features import Vocabulary
from trimtab.watch.observing import facts_of_record, observed_of
from trimtab.watch.retries import Retries, signature
from trimtab.watch.signals import signals

if TYPE_CHECKING:
    from trimtab.serve.journey import Journey, Texts

TEXT_SHARE = 0.02
BURST_S = 0.5
"""So much time of a core may be spent at once after a quiet while."""
MOST_WAITING = 64
LONGEST_BYTES = 256 * 2**10
"""Answers that take more as they were sent are not looked at."""
ENERGY_EVERY_S = 5.0

log = logging.getLogger("trimtab.serve")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """One request as the event loop leaves it. texts: None = they are not looked at."""

    record: Mapping[str, Any]
    at_s: float
    queue_ms: float | None
    groups: Mapping[str, str]
    texts: "Texts | None"
    is_stream: bool


@dataclass(kw_only=True)
class Budget:
    """Time that looking at texts may take. `gain` is of the event loop, `spend` of the thread: neither writes what the other does."""

    share: float = TEXT_SHARE
    gained_s: float = BURST_S
    spent_s: float = 0.0
    last_s: float = field(default_factory=time.monotonic)

    def gain(self, now_s: float) -> bool:
        """Whether there is time for one more text."""
        self.gained_s = min(self.gained_s + (now_s - self.last_s) * self.share, self.spent_s + BURST_S)
        self.last_s = now_s
        return self.gained_s > self.spent_s

    def spend(self, seconds: float) -> None:
        self.spent_s += seconds


class Observer:
    """Made with the folder of the site's watch. folder: of its spool; pct: share of requests whose texts are looked at

    n_unread: requests of that share whose texts there was no time for
    Raises InputError: another gateway of the same site writes there.
    """

    def __init__(
        self, folder: Path, pct: float, *, refused: Callable[[str], bool], read_joules: Callable[[], float | None] | None = None
    ) -> None:
        self.pct = pct
        self.n_unread = 0
        self._refused, self._read_joules = refused, read_joules
        self._energy_s, self._tokens = time.monotonic(), 0
        self._budget = Budget()
        self._n_put = self._n_taken = 0
        self._retries = Retries()
        self.folder = folder / "observed"
        self._vocabulary_path = folder / "vocabulary.bin"
        self._vocabulary = _vocabulary(self._vocabulary_path)
        self._spool: SpoolWriter[_Seen | Late] = SpoolWriter(self.folder, self._items)

    # Of the event loop

    def wants(self, request: str) -> bool:
        """Whether a request's texts will be looked at. Asked once a request, at its beginning."""
        if self.pct <= 0.0 or (self.pct < 100.0 and not _drawn(request, self.pct)):
            return False
        if self._n_put - self._n_taken < MOST_WAITING and self._budget.gain(time.monotonic()):
            return True
        self.n_unread += 1
        return False

    def ended(self, record: Mapping[str, Any], journey: "Journey") -> None:
        """Note how a request of a model ended."""
        if not journey.model:
            return
        texts = journey.texts if self.pct > 0.0 and journey.texts is not None and journey.texts.is_for_watch else None
        self._n_put += texts is not None
        queue_ms = None if journey.queue_s is None else 1e3 * journey.queue_s
        self._spool.append(
            _Seen(record=record, at_s=time.time(), queue_ms=queue_ms, groups=journey.groups, texts=texts, is_stream=journey.is_stream)
        )

    def late(self, item: Late) -> bool:
        """Note feedback or an outcome."""
        return self._spool.append(item)

    def close(self) -> None:
        """Write what waits. Blocks."""
        self._spool.close()
        if self.n_unread:
            log.info("the texts of %d requests were not looked at: there was no time for it", self.n_unread)

    # Of the thread

    def _items(self, seen: "_Seen | Late") -> Iterator[Observed | Late]:
        if isinstance(seen, Late):
            yield seen
            return
        texts = seen.texts
        joules = self._joules(seen.record)
        facts = facts_of_record(seen.record, at_s=seen.at_s, queue_ms=seen.queue_ms, groups=seen.groups, joules_per_token=joules)
        if texts is None:
            yield observed_of(facts)
            return
        began_s = time.thread_time()
        exchange = _exchange(texts, is_stream=seen.is_stream)
        was_open = not self._vocabulary.is_closed
        yield observed_of(facts, exchange, refused=self._refused, vocabulary=self._vocabulary)
        if exchange is not None:
            yield from self._retries.take(facts.key, facts.request, signature(exchange.prompt), facts.at_s)
        if was_open and self._vocabulary.is_closed:
            self._keep_vocabulary()
        self._n_taken += 1
        self._budget.spend(time.thread_time() - began_s)
        time.sleep(0)  # lets the event loop have the interpreter: unasked it would wait 5 ms for it

    def _joules(self, record: Mapping[str, Any]) -> float | None:
        """The machine's energy a token since this was last known; None in between, and where there is no counter."""
        if self._read_joules is None:
            return None
        self._tokens += record.get("completion_tokens") or 0
        now_s = time.monotonic()
        if now_s - self._energy_s < ENERGY_EVERY_S or not self._tokens:
            return None
        joules, tokens = self._read_joules(), self._tokens
        self._energy_s, self._tokens = now_s, 0
        return None if joules is None else joules / tokens

    def _keep_vocabulary(self) -> None:
        with contextlib.suppress(OSError):  # it is learnt anew then
            write_atomic(self._vocabulary_path, self._vocabulary.data(), mode=0o600)


def refuses(name: str, value: float) -> str:
    """Why a client cannot tell this, empty where it can: signals that are measured here are not theirs, a yes or no is 0 or 1."""
    signal = signals().get(name)
    if signal is not None and (signal.about != "people" or name == "retried"):
        return f"{name!r} is measured by the server; give it another name."
    if signal is not None and signal.kind == "rate" and value not in (0.0, 1.0):
        return f"{name!r} takes true or false."
    return "" if 0.0 <= value <= 1.0 else f"{name!r} takes true, false, or a number from 0 to 1."


def _exchange(texts: "Texts", *, is_stream: bool) -> Exchange | None:
    import msgspec

    raw = b"".join(texts.sent)
    if len(raw) > LONGEST_BYTES:
        return None
    body = texts.parsed.request if texts.parsed.kind == "response" else texts.parsed.body
    if texts.parsed.kind == "embedding":
        return None
    try:
        answer = answer_of_events(raw) if is_stream else answer_of(msgspec.json.decode(raw))
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, AttributeError):
        return None  # a server behind may answer whatever it likes
    return Exchange(prompt=asked(texts.parsed.body), answer=answer, expects_json=expects_json(body))


def _vocabulary(path: Path) -> Vocabulary:
    try:
        return Vocabulary(path.read_bytes(), Vocabulary.LEARN_WORDS)
    except OSError:
        return Vocabulary()


def _drawn(request: str, pct: float) -> bool:
    """The same request always is in the sample, or is not."""
    return int.from_bytes(hashlib.sha256(request.encode()).digest()[:8]) < pct / 100.0 * 2**64
