"""Abuse that shows only across requests of one key: attempts again and again, scraping, frauds in series; and a case to review.

Pure: time is passed in, nothing is stored but counts, digests and sketches, and memory is bounded. Texts are never kept.
"""

import hashlib
import heapq
import re
import zlib
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from trimtab.core.guarding import Verdict

Kind = Literal["repeated-attempts", "scraping", "fraud-series"]
SKETCH = 64
NEAR = 0.5  # share of common hashes from which two texts are nearly the same: one word of a short sentence changed
MOST_CHARS = 8000
DIGITS = re.compile(r"\d+")
ATTEMPTS = ("injection.", "hazards.", "model.", "llm-guard.", "nemo.")
FRAUD = ("hazards.fraud", "model.s2")
CARDS = ("personal.card", "personal.iban")


@dataclass(frozen=True, kw_only=True)
class AbuseLimits:
    """What one key may do in `window_s` before it is called abuse.

    blocked: blocked requests. near: requests that nearly equal another one of the window, of at least `near_pct` of all; template filling,
        crawling by number. fraud: requests with findings of fraud. cards: different requests that carry card or account numbers
    throttle_s: how long the key should wait at the first case; each further case of the same key doubles it, to `throttle_most_s`
    n_keys, n_requests: how many keys are watched, and requests of each remembered; older ones are forgotten first
    """

    window_s: float = 600.0
    blocked: int = 5
    near: int = 40
    near_pct: float = 80.0
    fraud: int = 3
    cards: int = 10
    throttle_s: float = 60.0
    throttle_most_s: float = 3600.0
    n_keys: int = 10_000
    n_requests: int = 200


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a person can review: why a key was called abusive. It holds no text; evidence names requests by the digest of their texts.

    evidence: (time, digest of the request, rule or similarity), at most 20; score: how far over the limit, 1 at it
    """

    id: str
    key_id: str
    kind: Kind
    opened_s: float
    reason: str
    score: float
    evidence: tuple[tuple[float, str, str], ...]
    state: Literal["open", "confirmed", "dismissed"] = "open"


@dataclass(frozen=True, kw_only=True)
class Advice:
    """throttle_s: refuse this key for so long, 0 = go on; cases: opened by this request."""

    throttle_s: float = 0.0
    cases: tuple[Case, ...] = ()


@dataclass
class _Request:
    at_s: float
    digest: str
    sketch: frozenset[int]
    rules: tuple[str, ...]
    blocked: bool
    near: bool


@dataclass
class _Key:
    requests: deque[_Request]
    n_cases: int = 0
    throttled_until_s: float = 0.0
    last_case_s: dict[str, float] = field(default_factory=dict)


class AbuseWatch:
    """Watches keys. One instance a gateway, called from one thread."""

    def __init__(self, limits: AbuseLimits | None = None) -> None:
        self.limits = limits or AbuseLimits()
        self._keys: OrderedDict[str, _Key] = OrderedDict()
        self._cases: OrderedDict[str, Case] = OrderedDict()

    def observe(self, key_id: str, texts: Sequence[str], verdicts: Sequence[Verdict], *, now_s: float) -> Advice:
        """Take note of one request of a key and of what the guards said about it (requests that guards did not judge: ())."""
        key = self._keys.setdefault(key_id, _Key(requests=deque(maxlen=self.limits.n_requests)))
        self._keys.move_to_end(key_id)
        while len(self._keys) > self.limits.n_keys:
            self._keys.popitem(last=False)
        while key.requests and key.requests[0].at_s < now_s - self.limits.window_s:
            key.requests.popleft()
        key.requests.append(_request(texts, verdicts, key.requests, now_s))
        cases = tuple(case for case in self._suspicions(key_id, key, now_s) if self._is_new(key, case))
        for case in cases:
            key.last_case_s[case.kind] = now_s
            key.n_cases += 1
            wait_s = min(self.limits.throttle_most_s, self.limits.throttle_s * 2.0 ** (key.n_cases - 1))
            key.throttled_until_s = max(key.throttled_until_s, now_s + wait_s)
            self._cases[case.id] = case
        while len(self._cases) > self.limits.n_keys:
            self._cases.popitem(last=False)
        return Advice(throttle_s=self.throttled_s(key_id, now_s=now_s), cases=cases)

    def throttled_s(self, key_id: str, *, now_s: float) -> float:
        """How long this key should still be refused; 0 for others. Cheap: for every request, before anything else."""
        key = self._keys.get(key_id)
        return max(0.0, key.throttled_until_s - now_s) if key else 0.0

    def cases(self) -> tuple[Case, ...]:
        """All cases still known, oldest first."""
        return tuple(self._cases.values())

    def review(self, case_id: str, state: Literal["confirmed", "dismissed"]) -> Case | None:
        """A person's decision. Dismissing lifts the key's throttle and does not count towards longer ones. None: there is no such case."""
        case = self._cases.get(case_id)
        if case is None:
            return None
        key = self._keys.get(case.key_id)
        if state == "dismissed" and case.state != "dismissed" and key is not None:
            key.throttled_until_s = 0.0
            key.n_cases = max(0, key.n_cases - 1)
        self._cases[case_id] = replace(case, state=state)
        return self._cases[case_id]

    def _is_new(self, key: _Key, case: Case) -> bool:
        """One case of a kind in a window: the same requests would open it again and again."""
        return case.opened_s - key.last_case_s.get(case.kind, float("-inf")) >= self.limits.window_s

    def _suspicions(self, key_id: str, key: _Key, now_s: float) -> list[Case]:
        limits, seen = self.limits, key.requests
        blocked = [(one, next((rule for rule in one.rules if rule.startswith(ATTEMPTS)), "")) for one in seen if one.blocked]
        blocked = [(one, rule) for one, rule in blocked if rule]
        near = [(one, "nearly the same text as an earlier one") for one in seen if one.near]
        fraud = [(one, next(iter(set(one.rules) & set(FRAUD)))) for one in seen if set(one.rules) & set(FRAUD)]
        cards = {one.digest: (one, "carries a card or account number") for one in seen if set(one.rules) & set(CARDS)}
        share_pct = 100.0 * len(near) / len(seen)
        window = f"in {limits.window_s:g} s"
        found: list[Case] = []
        if len(blocked) >= limits.blocked:
            words = f"{len(blocked)} requests {window} that guards blocked as attempts"
            found.append(_case(key_id, "repeated-attempts", now_s, words, len(blocked) / limits.blocked, blocked))
        if len(near) >= limits.near and share_pct >= limits.near_pct:
            words = f"{len(near)} requests {window} that nearly equal another, {share_pct:.0f} % of all"
            found.append(_case(key_id, "scraping", now_s, words, len(near) / limits.near, near))
        if len(fraud) >= limits.fraud:
            found.append(
                _case(key_id, "fraud-series", now_s, f"{len(fraud)} requests {window} for deceit", len(fraud) / limits.fraud, fraud)
            )
        elif len(cards) >= limits.cards:
            words = f"{len(cards)} different requests {window} with card or account numbers"
            found.append(_case(key_id, "fraud-series", now_s, words, len(cards) / limits.cards, list(cards.values())))
        return found


def _request(texts: Sequence[str], verdicts: Sequence[Verdict], earlier: Sequence[_Request], now_s: float) -> _Request:
    text = "\n".join(texts)
    own = sketch(text)
    return _Request(
        at_s=now_s,
        digest=hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16],
        sketch=own,
        rules=tuple({finding.rule for verdict in verdicts for finding in verdict.findings}),
        blocked=any(verdict.action == "block" for verdict in verdicts),
        near=any(_is_near(own, one.sketch) for one in earlier),
    )


def _case(key_id: str, kind: Kind, now_s: float, reason: str, score: float, why: Sequence[tuple[_Request, str]]) -> Case:
    evidence = tuple((one.at_s, one.digest, rule) for one, rule in why[-20:])
    name = hashlib.sha256(f"{key_id} {kind} {now_s} {evidence}".encode()).hexdigest()[:12]
    return Case(id=name, key_id=key_id, kind=kind, opened_s=now_s, reason=reason, score=score, evidence=evidence)


def sketch(text: str) -> frozenset[int]:
    """At most SKETCH hashes of a text's words and pairs of words, the same ones for similar texts (bottom-k of Broder's min-wise hashing,
    1997). Numbers are all the same: a crawl that counts up is one text."""
    words = DIGITS.sub("0", text[:MOST_CHARS].lower()).split()
    names = {*words, *(f"{a} {b}" for a, b in pairwise(words))}
    return frozenset(heapq.nsmallest(SKETCH, (zlib.crc32(name.encode(errors="replace")) for name in names)))


def _is_near(one: frozenset[int], other: frozenset[int]) -> bool:
    shared = len(one & other)
    return shared > 0 and shared >= NEAR * (len(one) + len(other) - shared)
