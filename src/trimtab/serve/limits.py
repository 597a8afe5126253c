"""How much a key may ask: requests by a token bucket, tokens by a budget for each day in UTC. Pure, but for `SpendFile`.

A bucket holds `rpm` requests and gains `rpm / 60` a second: in any T seconds at most rpm + rpm * T / 60 get in. The day's budget is looked
at before a request and charged after it, as nobody knows before how long an answer will be: the request that crosses it is answered whole.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from trimtab.core.errors import TrimtabError
from trimtab.core.files import canonical_json, write_atomic
from trimtab.record.disk import append_record, read_records, sentences
from trimtab.record.identities import Key
from trimtab.serve.base import Refusal

log = logging.getLogger("trimtab.serve")

DAY_S = 86400.0
FLUSH_S = 2.0
_DAYS_KEPT = 3  # a clock that is set back over midnight finds its day again


@dataclass(slots=True)
class Bucket:
    """Requests that may still come at once. left: at `at_s`."""

    left: float
    at_s: float

    def refill(self, rpm: int, now_s: float) -> None:
        """Gains what the time has brought. A clock that goes back brings nothing, and takes nothing."""
        self.left = min(float(rpm), self.left + max(0.0, now_s - self.at_s) * rpm / 60.0)
        self.at_s = now_s


@dataclass(slots=True)
class Spent:
    """What a key has used on one day."""

    requests: int = 0
    tokens: int = 0


@dataclass(kw_only=True)
class Limits:
    """The state of all keys' limits. Times are UNIX seconds, passed in.

    pending: spent since it was last taken by `take_pending`, by day and key
    """

    buckets: dict[str, Bucket] = field(default_factory=dict)
    days: dict[int, dict[str, Spent]] = field(default_factory=dict)
    pending: dict[tuple[int, str], Spent] = field(default_factory=dict)

    def admit(self, key: Key | None, now_s: float) -> None:
        """Count a request in. Raises Refusal (429) where the key's limits do not allow it now; it is not counted then."""
        if key is None:
            return
        if key.tokens_per_day is not None and self.spent(key.id, now_s).tokens >= key.tokens_per_day:
            raise used_up(key.tokens_per_day, now_s)
        if key.rpm is not None:
            bucket = self._bucket(key.id, key.rpm, now_s)
            if bucket.left < 1.0:
                raise too_many(key.rpm, bucket.left)
            bucket.left -= 1.0
        self._add(key.id, now_s, Spent(requests=1))

    def spend(self, key: Key | None, tokens: int, now_s: float) -> None:
        """Charge the tokens of a request that has ended."""
        if key is not None and tokens:
            self._add(key.id, now_s, Spent(tokens=tokens))

    def spent(self, key_id: str, now_s: float) -> Spent:
        """What a key has used today."""
        return self.days.get(int(now_s // DAY_S), {}).get(key_id) or Spent()

    def headers(self, key: Key | None, now_s: float) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*` headers for a key: what it may, what is left, when it is all there again."""
        found: dict[str, str] = {}
        if key is not None and key.rpm is not None:
            left = self._bucket(key.id, key.rpm, now_s).left
            found |= limit_headers("requests", key.rpm, int(left), (key.rpm - left) * 60.0 / key.rpm)
        if key is not None and key.tokens_per_day is not None:
            left_tokens = max(0, key.tokens_per_day - self.spent(key.id, now_s).tokens)
            found |= limit_headers("tokens", key.tokens_per_day, left_tokens, DAY_S - now_s % DAY_S)
        return found

    def take_pending(self) -> dict[tuple[int, str], Spent]:
        """What was spent since the last call."""
        taken, self.pending = self.pending, {}
        return taken

    def give_back(self, taken: Mapping[tuple[int, str], Spent]) -> None:
        """What was taken and could not be kept is pending again."""
        for (day, key_id), spent in taken.items():
            _grow(self.pending.setdefault((day, key_id), Spent()), spent)

    def remember(self, day: int, key_id: str, spent: Spent) -> None:
        """What a key had spent on a day before this process began."""
        _grow(self.days.setdefault(day, {}).setdefault(key_id, Spent()), spent)

    def _bucket(self, key_id: str, rpm: int, now_s: float) -> Bucket:
        bucket = self.buckets.get(key_id)
        if bucket is None:
            bucket = self.buckets[key_id] = Bucket(float(rpm), now_s)
        bucket.refill(rpm, now_s)
        return bucket

    def _add(self, key_id: str, now_s: float, more: Spent) -> None:
        day = int(now_s // DAY_S)
        if day not in self.days:
            self.days[day] = {}
            for old in list(self.days)[:-_DAYS_KEPT]:
                del self.days[old]
        _grow(self.days[day].setdefault(key_id, Spent()), more)
        _grow(self.pending.setdefault((day, key_id), Spent()), more)


class SpendFile:
    """What keys have spent, a file a day under TRIMTAB_HOME/access/spend: lines are appended in batches, summed up once the day is over.

    A gateway that is killed forgets what was spent in its last FLUSH_S seconds.
    problem: why the last batch could not be written, empty if it was; it is tried again with the next
    """

    def __init__(self, home: Path) -> None:
        self.folder = home / "access" / "spend"
        self.problem = ""

    def load(self, limits: Limits, now_s: float) -> None:
        """Tell the limits what was spent today, and sum up the days before. Raises InputError, MissingError."""
        today = int(now_s // DAY_S)
        for key_id, spent in self.of_day(today, mend=True).items():
            limits.remember(today, key_id, spent)
        if self.folder.is_dir():
            for path in sorted(self.folder.glob("????-??-??.jsonl")):
                if path.stem < _date(today):
                    self._sum_up(path)

    def of_day(self, day: int, *, mend: bool = False) -> dict[str, Spent]:
        """What each key has spent on a day (days since 1970, UTC). Raises InputError, MissingError."""
        return _totals(self.folder / f"{_date(day)}.jsonl", mend=mend)

    def write(self, spent: Mapping[tuple[int, str], Spent]) -> dict[tuple[int, str], Spent]:
        """Append a batch; returns what could not be written. Blocks for a sync of the disk, never raises for its sake."""
        left: dict[tuple[int, str], Spent] = {}
        before, self.problem = self.problem, ""
        for day in sorted({day for day, _ in spent}):
            of_day = {key_id: [one.requests, one.tokens] for (on, key_id), one in spent.items() if on == day}
            try:
                append_record(self.folder / f"{_date(day)}.jsonl", {"spent": of_day})
            except TrimtabError as error:
                self.problem = str(error)
                left |= {at: one for at, one in spent.items() if at[0] == day}
        if self.problem and not before:
            log.error("what keys spend is not written down, and would be forgotten at the next start: %s", self.problem)
        return left

    async def keep(self, limits: Limits) -> None:
        """Write what is pending every FLUSH_S until cancelled, and once more then."""
        try:
            while True:
                await asyncio.sleep(FLUSH_S)
                if limits.pending:
                    # Taken here and not in the thread: requests go on adding meanwhile.
                    limits.give_back(await asyncio.shield(asyncio.to_thread(self.write, limits.take_pending())))
        finally:
            self.write(limits.take_pending())

    @classmethod
    @contextlib.asynccontextmanager
    async def kept(cls, home: Path) -> AsyncIterator[Limits]:
        """Limits that know what was spent before, and whose spending is kept until the block ends. Raises InputError, MissingError."""
        file, limits = cls(home), Limits()
        file.load(limits, time.time())
        task = asyncio.create_task(file.keep(limits))
        try:
            yield limits
        finally:
            task.cancel()
            await asyncio.wait([task])

    def _sum_up(self, path: Path) -> None:
        with contextlib.suppress(TrimtabError):
            totals = {key_id: [spent.requests, spent.tokens] for key_id, spent in _totals(path, mend=False).items()}
            line = canonical_json({"spent": totals}) + "\n"
            if os.stat(path).st_size != len(line.encode()):
                with sentences(path, "write"):
                    write_atomic(path, line)


def _totals(path: Path, *, mend: bool) -> dict[str, Spent]:
    totals: dict[str, Spent] = {}
    for record in read_records(path, mend=mend)[0]:
        for key_id, (requests, tokens) in record.get("spent", {}).items():
            _grow(totals.setdefault(key_id, Spent()), Spent(requests=requests, tokens=tokens))
    return totals


def _grow(spent: Spent, more: Spent) -> None:
    spent.requests += more.requests
    spent.tokens += more.tokens


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_S, UTC).date().isoformat()


def used_up(tokens_per_day: int, now_s: float) -> Refusal:
    """A day's tokens are used up."""
    return Refusal(
        429,
        f"The key's {tokens_per_day:,} tokens of this day are used up; the next day begins at 00:00 UTC.",
        kind="insufficient_quota",
        code="insufficient_quota",
        retry_after_s=DAY_S - now_s % DAY_S,
    )


def too_many(rpm: int, left: float) -> Refusal:
    """More requests than the key's bucket holds. left: what it holds, below 1."""
    return Refusal(
        429,
        f"The key may send {rpm} requests a minute, and has.",
        kind="requests",
        code="rate_limit_exceeded",
        retry_after_s=(1.0 - left) * 60.0 / rpm,
    )


def limit_headers(what: str, limit: int, left: int, reset_s: float) -> dict[str, str]:
    """The three headers of one limit."""
    return {
        f"x-ratelimit-limit-{what}": str(limit),
        f"x-ratelimit-remaining-{what}": str(left),
        f"x-ratelimit-reset-{what}": f"{reset_s:.3f}s",
    }
