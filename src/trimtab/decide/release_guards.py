"""Guards of a released model, from its rules and from those prohibited uses that name a guard.

A prohibited use is a sentence for people. Where it begins with a guard's name and a colon (`hazards: advice on weapons`), the gateway
enforces it as far as that guard can; `topics: betting = casino, bet` gives the words too. No guard stands behind the others, and they are
told apart.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from trimtab.core.site import GuardUse

Sides = Literal["in", "out", "both"]
_NAMED = re.compile(r"\s*([a-z][a-z0-9_-]*)\s*:\s*(.*)", re.DOTALL)


def guards_of(prohibited: Sequence[str], required: Sequence[GuardUse], known: Mapping[str, Sides]) -> tuple[GuardUse, ...]:
    """The guards that a site must put before a model. required: of the rules; known: guards of the gateway -> what they read."""
    guards = list(required)
    topics: dict[str, list[str]] = {}
    for name, rest in _named(prohibited, known):
        if name == "topics":
            topic, words = _topic(rest)
            topics.setdefault(topic, []).extend(words)
        elif all(one.name != name for one in guards):
            guards.append(GuardUse(name=name, side=known[name]))
    if topics:
        guards.append(GuardUse(name="topics", side=known["topics"], options={"deny": topics}))
    return tuple(guards)


def unguarded(prohibited: Sequence[str], known: Mapping[str, Sides]) -> tuple[str, ...]:
    """Prohibited uses that no guard stands behind: people must see to them."""
    return tuple(one for one in prohibited if not _named([one], known))


def in_words(use: str) -> str:
    """A prohibited use as people read it: `topics: betting = casino, bet` is `betting (casino, bet)`; every other one as it stands."""
    match = _NAMED.fullmatch(use)
    topic, words = _topic(match[2]) if match and match[1] == "topics" else ("", [])
    if not words:
        return use
    others = [word for word in words if word != topic]
    return f"{topic} ({', '.join(others)})" if others else topic


def _named(prohibited: Sequence[str], known: Mapping[str, Sides]) -> list[tuple[str, str]]:
    """(guard, what it is about) of the uses that name one. `topics` without words cannot be enforced, so it names none."""
    found = []
    for one in prohibited:
        match = _NAMED.fullmatch(one)
        if match and match[1] in known and (match[1] != "topics" or _topic(match[2])[1]):
            found.append((match[1], match[2].strip()))
    return found


def _topic(text: str) -> tuple[str, list[str]]:
    """`betting = casino, bet` as topic and words; without a topic the first word names it."""
    topic, equals, words = text.partition("=")
    listed = [word.strip() for word in (words if equals else text).split(",") if word.strip()]
    return (topic.strip() if equals and topic.strip() else listed[0] if listed else ""), listed
