"""Keys and their limits, counted together with other gateways through one database (record/shared_state.py).

Most requests wait for nobody: this gateway holds a lease of each busy key's tokens and a few of its requests, and uses them by itself.
Exchanges with the database settle what was used and fetch more. One is under way at a time, for all keys at once; it begins when a request
has to wait for it, and otherwise every LOOK_S. It is numbered: one whose answer was lost is asked again and done once.

Tokens. A request is let in once its most tokens (quota.py) are reserved for it, so no day goes over its budget by more than the one
request that crosses it. What breaks that: a gateway that is killed, or cut off from the database for longer than LEASE_S. Its lease is
then lent again, though it had used some of it: at most the lease itself, which is what its running requests may take and its spare.

Requests. The bucket is the database's; those fetched ahead are used within AHEAD_S or given back. So in any T seconds at most
rpm + rpm * (T + AHEAD_S) / 60 get in.

Keys. Each exchange brings what changed of them. After LEASE_S - MARGIN_S without one, nothing is let in: no revoked key is good for longer.
"""

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from trimtab.core.errors import TrimtabError
from trimtab.core.files import to_plain
from trimtab.record.checkpoints import SCHEMA as CHECKPOINT_SCHEMA
from trimtab.record.checkpoints import Checkpoint
from trimtab.record.identities import Key, SharedKeyring
from trimtab.serve.base import Refusal
from trimtab.serve.limits import DAY_S, limit_headers, too_many, used_up
from trimtab.serve.quota import Hold

LOOK_S = 0.25
LEASE_S = 10.0
MARGIN_S = 2.0
AHEAD_S = 1.0
WAIT_S = 3.0
"""So long does a request wait for the database before it is refused."""
_SPARE_SHARE = 200  # of a day's tokens, one in so many is fetched ahead; the database gives a sixteenth of what is left at most
_IDLE_S = 1.0
_AGAIN_S = 0.2

log = logging.getLogger("trimtab.serve")


class State(Protocol):
    """What `record.shared_state.SharedState` has."""

    where: str

    def exchange(self, asked: Mapping[str, Any], *, seen_revision: int) -> tuple[dict[str, Any], list[tuple[int, dict[str, Any]]]]: ...


@dataclass(slots=True, eq=False)
class _Waiter:
    """A request that waits for an exchange. tokens: at most, None = without a limit; is_counted: its key has a rate"""

    key: Key
    tokens: int | None
    is_counted: bool
    done: "asyncio.Future[Hold | None]"


@dataclass(slots=True)
class _Account:
    """A key's day. lease: tokens lent, those held and those used and not settled included; spent: of all gateways, as last heard"""

    limit: int | None = None
    lease: int = 0
    held: int = 0
    tokens: int = 0
    requests: int = 0
    spent: int = 0
    used_s: float = float("-inf")

    @property
    def room(self) -> int:
        return self.lease - self.held - self.tokens


@dataclass(slots=True)
class _Rate:
    """A key's requests. ready: fetched and not used; until_s: when they are given back; left: in the bucket, as last heard"""

    rpm: int
    ready: int = 0
    until_s: float = float("-inf")
    left: float = 0.0


@dataclass(kw_only=True)
class _Exchange:
    """One that is under way. rows, rates: whose they are, in order"""

    asked: dict[str, Any]
    rows: list[tuple[str, int]]
    rates: list[str]
    waiting: dict[tuple[str, int], list[_Waiter]]
    sent_s: float


@dataclass(kw_only=True)
class SharedQuota:
    """One gateway's part. All methods are of one event loop; `running` must be entered before requests come.

    checkpoint: the newest of this gateway's audit log, which the others' database is told
    problem: why the last exchange failed, empty if it did not
    """

    state: State
    keyring: SharedKeyring = field(default_factory=SharedKeyring)
    checkpoint: Callable[[], Checkpoint | None] = lambda: None
    gateway: str = field(default_factory=lambda: f"{socket.gethostname()}-{secrets.token_hex(6)}")
    problem: str = ""
    n_exchanges: int = 0
    _accounts: dict[tuple[str, int], _Account] = field(default_factory=dict)
    _rates: dict[str, _Rate] = field(default_factory=dict)
    _waiting: list[_Waiter] = field(default_factory=list)
    _is_asked: asyncio.Event = field(default_factory=asyncio.Event)
    _good_until_s: float = float("-inf")
    _told_size: int = -1
    _under_way: _Exchange | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Exchanges go on until the block ends; then all is settled and given back. Raises InputError, MissingError if the first fails."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="state") as thread:
            await self._exchanged(thread, self._snapshot())
            keeping = asyncio.create_task(self._keep(thread))
            try:
                yield
            finally:
                keeping.cancel()
                await asyncio.wait({keeping})
                await self._leave(thread)

    # Requests

    def find(self, secret: str) -> Key | None:
        """The key of a secret. Raises Refusal (503) where the database has not been heard for too long."""
        if time.monotonic() > self._good_until_s:
            raise Refusal(
                503, "The gateways' shared state does not answer; no key can be checked.", code="state_unavailable", retry_after_s=2
            )
        return self.keyring.find(secret)

    async def admit(self, key: Key | None, most_tokens: int) -> Hold | None:
        if key is None:
            return None
        now_s, day = time.monotonic(), int(time.time() // DAY_S)
        account, rate = self._account(key, day), self._rate(key)
        tokens = None if key.tokens_per_day is None else most_tokens
        is_fresh = now_s <= self._good_until_s
        if is_fresh and (tokens is None or account.room >= tokens) and (rate is None or (rate.ready > 0 and now_s < rate.until_s)):
            if rate is not None:
                rate.ready -= 1
            return self._let_in(account, day, tokens)
        waiter = _Waiter(key, tokens, rate is not None, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._is_asked.set()
        try:
            async with asyncio.timeout(WAIT_S):
                return await waiter.done
        except TimeoutError:
            self._take_back(waiter)
            raise Refusal(503, "The gateways' shared state does not answer.", code="state_unavailable", retry_after_s=2) from None
        except asyncio.CancelledError:
            self._take_back(waiter)
            raise
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def ended(self, key: Key | None, hold: Hold | None, tokens: int) -> None:
        if key is None or (hold is None and not tokens):
            return
        account = self._account(key, hold.day if hold is not None else int(time.time() // DAY_S))
        account.held -= hold.tokens if hold is not None else 0
        account.tokens += tokens

    def headers(self, key: Key | None) -> dict[str, str]:
        found: dict[str, str] = {}
        now_s = time.time()
        if key is not None and (rate := self._rate(key)) is not None:
            left = min(float(rate.rpm), rate.left + rate.ready)
            found |= limit_headers("requests", rate.rpm, int(left), (rate.rpm - left) * 60.0 / rate.rpm)
        if key is not None and key.tokens_per_day is not None:
            account = self._account(key, int(now_s // DAY_S))
            left_tokens = max(0, key.tokens_per_day - account.spent - account.tokens)
            found |= limit_headers("tokens", key.tokens_per_day, left_tokens, DAY_S - now_s % DAY_S)
        return found

    def _take_back(self, waiter: _Waiter) -> None:
        """Whoever left in the moment in which it was let in holds nothing."""
        if waiter.done.done() and not waiter.done.cancelled() and waiter.done.exception() is None:
            self.ended(waiter.key, waiter.done.result(), 0)

    def _let_in(self, account: _Account, day: int, tokens: int | None) -> Hold | None:
        account.requests += 1
        account.used_s = time.monotonic()
        if tokens is None:
            return None
        account.held += tokens
        return Hold(day, tokens)

    def _account(self, key: Key, day: int) -> _Account:
        account = self._accounts.get((key.id, day))
        if account is None:
            account = self._accounts[key.id, day] = _Account()
        account.limit = key.tokens_per_day
        return account

    def _rate(self, key: Key) -> _Rate | None:
        if key.rpm is None:
            return None
        rate = self._rates.get(key.id)
        if rate is None or rate.rpm != key.rpm:
            rate = self._rates[key.id] = _Rate(key.rpm)
        return rate

    # Exchanges

    async def _keep(self, thread: ThreadPoolExecutor) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._is_asked.wait()
            self._is_asked.clear()
            while not await self._tried(thread):
                await asyncio.sleep(_AGAIN_S)

    async def _tried(self, thread: ThreadPoolExecutor, *, is_last: bool = False) -> bool:
        """The exchange that is under way, or a new one; False: it must be tried again."""
        if self._under_way is None:
            self._under_way = self._snapshot(is_last=is_last)
        try:
            await self._exchanged(thread, self._under_way)
        except TrimtabError as error:
            if not self.problem:
                log.error("%s Requests are let in by what is leased, for %.0f s at most.", error, LEASE_S - MARGIN_S)
            self.problem = str(error)
            return False
        if self.problem:
            log.warning("the shared state %s answers again", self.state.where)
        self.problem, self._under_way = "", None
        return True

    async def _exchanged(self, thread: ThreadPoolExecutor, under_way: _Exchange) -> None:
        """Raises InputError, MissingError: nobody knows then whether it was done, and it must be asked again as it is."""
        under_way.sent_s = time.monotonic()
        ask = asyncio.get_running_loop().run_in_executor(
            thread, lambda: self.state.exchange(under_way.asked, seen_revision=self.keyring.seen_revision)
        )
        answer, changed = await asyncio.shield(ask)
        self.keyring.take(changed)
        self._take(under_way, answer)

    def _snapshot(self, *, is_last: bool = False) -> _Exchange:
        """What is to be asked now. What it settles counts here as settled from now on, and is asked until it is."""
        self.n_exchanges += 1
        now_s = time.monotonic()
        waiting: dict[tuple[str, int], list[_Waiter]] = {}
        today = int(time.time() // DAY_S)
        for waiter in self._waiting:
            self._account(waiter.key, today)  # the day may have begun while it waited
            waiting.setdefault((waiter.key.id, today), []).append(waiter)
        self._waiting = []
        rows = sorted(at for at, account in self._accounts.items() if at in waiting or account.requests or account.tokens or account.lease)
        asked_rows = [self._asked_row(at, waiting.get(at, ()), now_s, is_last=is_last) for at in rows]
        n_wanted = {at[0]: sum(one.is_counted for one in found) for at, found in waiting.items()}
        rates = sorted(key for key, rate in self._rates.items() if n_wanted.get(key) or rate.ready)
        asked_rates = [one for key in rates if (one := self._asked_rate(key, n_wanted.get(key, 0), now_s, is_last=is_last)) is not None]
        asked = {
            "gateway": self.gateway,
            "number": self.n_exchanges,
            "host": socket.gethostname(),
            "lease_s": LEASE_S,
            "rows": asked_rows,
            "rates": asked_rates,
            "log": self._asked_log(),
        }
        return _Exchange(asked=asked, rows=rows, rates=[str(one["key"]) for one in asked_rates], waiting=waiting, sent_s=now_s)

    def _asked_row(self, at: tuple[str, int], waiting: Sequence[_Waiter], now_s: float, *, is_last: bool) -> dict[str, Any]:
        account = self._accounts[at]
        asking = [waiter.tokens for waiter in waiting if waiter.tokens is not None]
        row = {"key": at[0], "day": at[1], "requests": account.requests, "tokens": account.tokens, "limit": account.limit, "asking": asking}
        is_idle = is_last or now_s - account.used_s > _IDLE_S
        # Whoever asks puts its spare back first: it may be all that is left, and too little by itself.
        gives_spare = asking or is_idle or now_s > self._good_until_s
        account.lease = account.held if gives_spare else max(account.held, account.lease - account.tokens)
        account.spent += account.tokens
        account.requests = account.tokens = 0
        spare = (account.limit or 0) // _SPARE_SHARE if asking else 0
        return {**row, "keep": account.lease, "spare": spare}

    def _asked_rate(self, key: str, n_wanted: int, now_s: float, *, is_last: bool) -> dict[str, Any] | None:
        rate = self._rates[key]
        back = rate.ready if is_last or now_s >= rate.until_s else 0
        rate.ready -= back
        if not n_wanted and not back:
            return None
        ahead = int(rate.rpm * LOOK_S / 60) if n_wanted else 0
        return {"key": key, "rpm": rate.rpm, "back": back, "take": n_wanted + ahead}

    def _asked_log(self) -> dict[str, Any] | None:
        checkpoint = self.checkpoint()
        if checkpoint is None or (checkpoint.size == self._told_size and not checkpoint.is_closed):
            return None
        self._told_size = checkpoint.size
        return {"schema": CHECKPOINT_SCHEMA, **to_plain(checkpoint)}

    def _take(self, under_way: _Exchange, answer: Mapping[str, Any]) -> None:
        """What was granted; those who wait are let in or refused."""
        self._good_until_s = under_way.sent_s + LEASE_S - MARGIN_S
        for key, got in zip(under_way.rates, answer["rates"], strict=True):
            rate = self._rates.get(key)
            if rate is not None:
                rate.ready, rate.until_s, rate.left = rate.ready + int(got["taken"]), under_way.sent_s + AHEAD_S, float(got["left"])
        for at, row, got in zip(under_way.rows, under_way.asked["rows"], answer["rows"], strict=True):
            account = self._accounts[at]
            account.spent = int(got["spent"])
            account.lease += sum(row["asking"][: got["granted"]]) + int(got["spare"])
            n_granted, is_reserved = int(got["granted"]), int(got["spent"]) < (account.limit or 0)
            for waiter in under_way.waiting.get(at, ()):
                if waiter.tokens is not None and n_granted == 0:
                    _settle(waiter, _reserved() if is_reserved else used_up(account.limit or 0, time.time()))
                    continue
                n_granted -= waiter.tokens is not None
                self._decide(waiter, account, at[1])
            if at[1] < int(time.time() // DAY_S) and not (account.held or account.tokens or account.requests or account.lease):
                del self._accounts[at]

    def _decide(self, waiter: _Waiter, account: _Account, day: int) -> None:
        """Tokens are there; is there a request? Whoever has left meanwhile leaves them to others."""
        if waiter.done.done():
            return
        rate = self._rate(waiter.key) if waiter.is_counted else None
        if rate is not None and not rate.ready:
            _settle(waiter, too_many(rate.rpm, min(rate.left, 0.999)))
            return
        if rate is not None:
            rate.ready -= 1
        waiter.done.set_result(self._let_in(account, day, waiter.tokens))

    async def _leave(self, thread: ThreadPoolExecutor) -> None:
        """Settle and give back, as long as a request would wait for it."""
        ends_s = time.monotonic() + WAIT_S
        for _ in range(2):  # the second gives back what the first, which may have been under way, was granted
            while not await self._tried(thread, is_last=True) and time.monotonic() < ends_s:
                await asyncio.sleep(_AGAIN_S)


def _settle(waiter: _Waiter, refusal: Refusal) -> None:
    if not waiter.done.done():
        waiter.done.set_exception(refusal)


def _reserved() -> Refusal:
    return Refusal(
        429,
        "What is left of the key's tokens of this day is reserved for requests that run; some of it may be free again soon.",
        kind="tokens",
        code="tokens_reserved",
        retry_after_s=1.0,
    )
