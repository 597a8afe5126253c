"""What is learnt late of a request beside what was seen of it: which model, version, slice and groups it belongs to. Bounded memory."""

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.core.watching import Late, Observed

MOST_REQUESTS = 50_000
MOST_EARLY = 1_000
_KEPT_LABELS = ("language", "topic", "length")

Context = tuple[str, str, tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]


@dataclass
class _Known:
    """context: (model, version, labels, groups), shared between requests; names: of what has been learnt"""

    context: Context
    names: frozenset[str] = frozenset()


class Join:
    """The last MOST_REQUESTS requests, about 15 MB.

    n_joined: late items that found their request; n_unknown: those that came too late for it, or name none; n_twice: a name a second time
    for one request, which does not count. What comes before its request waits for it, MOST_EARLY at most.
    """

    def __init__(self, most: int = MOST_REQUESTS) -> None:
        self.n_joined = self.n_unknown = self.n_twice = 0
        self._most = most
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._contexts: dict[Context, Context] = {}
        self._early: OrderedDict[tuple[str, str], Late] = OrderedDict()

    def knows(self, request: str) -> bool:
        """Whether a request is among the last ones."""
        return request in self._known

    def see(self, item: Observed) -> tuple[tuple[Late, Observed], ...]:
        """Remember a request. Returns what came before it, joined."""
        self._remember(item.request, _context_of(item))
        waiting = [key for key in self._early if key[0] == item.request] if self._early else []
        return tuple(found for key in waiting if (found := self.take(self._early.pop(key))) is not None)

    def take(self, late: Late) -> tuple[Late, Observed] | None:
        """The late item and its request, of which model, version, labels and groups are told. None if it is not known, or twice.

        Groups that the person gave with it count for the item, and for later ones of the same request.
        """
        known = self._known.get(late.request)
        if known is None:
            self._wait(late)
            return None
        if late.name in known.names:
            self.n_twice += 1
            return None
        known.names |= {late.name}
        if late.groups:
            model, version, labels, groups = known.context
            known.context = self._shared((model, version, labels, tuple(sorted({**dict(groups), **late.groups}.items()))))
        self.n_joined += 1
        model, version, labels, groups = known.context
        request = Observed(request=late.request, at_s=late.at_s, model=model, version=version, labels=dict(labels), groups=dict(groups))
        return dataclasses.replace(late, groups=dict(groups)), request

    def _wait(self, late: Late) -> None:
        key = late.request, late.name
        if key in self._early:
            self.n_twice += 1
            return
        self._early[key] = late
        if len(self._early) > MOST_EARLY:
            self._early.popitem(last=False)
            self.n_unknown += 1

    def _remember(self, request: str, context: Context) -> None:
        self._known[request] = _Known(self._shared(context))
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def _shared(self, context: Context) -> Context:
        """One object for equal contexts. They are few, but nothing stops a site from giving thousands."""
        if len(self._contexts) > self._most:
            self._contexts.clear()
        return self._contexts.setdefault(context, context)

    # Over restarts

    def state(self) -> dict[str, Any]:
        """Plain values for `from_state`: each context once, each request as [id, number of its context, names learnt]."""
        numbers: dict[Context, int] = {}
        rows = [[request, numbers.setdefault(one.context, len(numbers)), sorted(one.names)] for request, one in self._known.items()]
        return {
            "contexts": [[model, version, dict(labels), dict(groups)] for model, version, labels, groups in numbers],
            "requests": rows,
            "early": [dataclasses.asdict(late) for late in self._early.values()],
            "n_joined": self.n_joined,
            "n_unknown": self.n_unknown,
            "n_twice": self.n_twice,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], most: int = MOST_REQUESTS) -> "Join":
        """Raises KeyError, TypeError or ValueError if it is no state."""
        found = cls(most)
        contexts: list[Context] = [
            (model, version, tuple(labels.items()), tuple(groups.items())) for model, version, labels, groups in state["contexts"]
        ]
        for request, number, names in state["requests"]:
            found._known[request] = _Known(found._shared(contexts[number]), frozenset(names))
        for row in state["early"]:
            late = Late(**row)
            found._early[late.request, late.name] = late
        found.n_joined, found.n_unknown, found.n_twice = state["n_joined"], state["n_unknown"], state["n_twice"]
        return found


def _context_of(item: Observed) -> Context:
    labels = tuple((name, item.labels[name]) for name in _KEPT_LABELS if name in item.labels)
    return item.model, item.version, labels, tuple(sorted(item.groups.items()))
