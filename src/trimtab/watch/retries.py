"""Who asks nearly the same again soon: told of the earlier request, whose answer cannot have been of much use."""

import re
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass

from trimtab.core.watching import Late

RETRY_S = 300.0
MOST_WAITING = 4096
LOOK_BACK = 8
HASHES = 32
LIKE = 0.8
"""Two questions are nearly the same if so much of their words is, of those that either has."""

_TOKEN = re.compile(r"\w+")

Signature = tuple[int, ...]


def signature(prompt: str) -> Signature:
    """The least hashes of a prompt's words. Python's `hash` of texts is keyed with a secret of the process: worthless elsewhere."""
    return tuple(sorted({hash(word) for word in _TOKEN.findall(prompt[:4000].casefold())})[:HASHES])


def likeness(one: Signature, other: Signature) -> float:
    """Share of words that two prompts have in common, of all that they have; an estimate for those of more than HASHES words."""
    if not one or not other:
        return 0.0
    union = sorted({*one, *other})[:HASHES]
    both = set(one) & set(other)
    return sum(word in both for word in union) / len(union)


@dataclass(frozen=True, slots=True)
class _Asked:
    request: str
    at_s: float
    signature: Signature


class Retries:
    """The last requests of each key, for RETRY_S, MOST_WAITING in all: what is pushed out before that is told nothing of."""

    def __init__(self) -> None:
        self._of_key: OrderedDict[str, deque[_Asked]] = OrderedDict()
        self._order: deque[tuple[str, _Asked]] = deque()

    def take(self, key: str, request: str, asked: Signature, at_s: float) -> Iterator[Late]:
        """`retried` of earlier requests: 0 of those that were not within RETRY_S, 1 of the one that this one repeats. Needs a key."""
        yield from self.expire(at_s)
        if not key or not asked:
            return
        mine = self._of_key.setdefault(key, deque())
        same = next((one for one in reversed(mine) if likeness(one.signature, asked) >= LIKE), None)
        if same is not None:
            mine.remove(same)
            yield _late(same, at_s, 1.0)
        new = _Asked(request, at_s, asked)
        mine.append(new)
        if len(mine) > LOOK_BACK:
            mine.popleft()
        self._order.append((key, new))
        if len(self._order) > MOST_WAITING:
            self._forget(*self._order.popleft())

    def expire(self, now_s: float) -> Iterator[Late]:
        """`retried` 0 of all that were asked more than RETRY_S ago."""
        while self._order and self._order[0][1].at_s < now_s - RETRY_S:
            key, one = self._order.popleft()
            if self._forget(key, one):
                yield _late(one, now_s, 0.0)

    def _forget(self, key: str, one: _Asked) -> bool:
        mine = self._of_key.get(key, deque())
        if one not in mine:
            return False
        mine.remove(one)
        if not mine:
            del self._of_key[key]
        return True


def _late(one: _Asked, at_s: float, value: float) -> Late:
    return Late(request=one.request, at_s=at_s, kind="feedback", name="retried", value=value)
