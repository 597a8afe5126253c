"""Groups of people, as requests and feedback state them: `{"group:sex": "female"}` in a request's metadata. Nobody guesses them."""

import re
from collections.abc import Mapping
from typing import Any

PREFIX = "group:"
MOST_GROUPS = 8
GROUP_CHARS = 64
NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
"""What an attribute, a signal or an outcome may be called: names end up in files, in metrics and on pages."""


def groups_of(metadata: Any) -> dict[str, str]:
    """Sensitive attribute -> group, of a request's metadata. What is no short word is passed over, as is all beyond MOST_GROUPS."""
    if not isinstance(metadata, Mapping):
        return {}
    stated = ((str(key).removeprefix(PREFIX), value) for key, value in metadata.items() if str(key).startswith(PREFIX))
    return stated_groups(dict(stated))


def stated_groups(given: Any) -> dict[str, str]:
    """Those of a mapping that can be a sensitive attribute and one of its groups."""
    if not isinstance(given, Mapping):
        return {}
    return {name: group.strip() for name, group in list(given.items())[:MOST_GROUPS] if is_group(name, group)}


def is_group(name: Any, group: Any) -> bool:
    """Whether this can be a sensitive attribute and one of its groups."""
    return isinstance(name, str) and NAME.fullmatch(name) is not None and isinstance(group, str) and 0 < len(group.strip()) <= GROUP_CHARS


def without_groups(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A request's body without the groups in its metadata: they are for the watch, and no business of a server behind."""
    metadata = body.get("metadata")
    if not isinstance(metadata, Mapping) or not any(str(key).startswith(PREFIX) for key in metadata):
        return body
    rest = {key: value for key, value in metadata.items() if not str(key).startswith(PREFIX)}
    others = {key: value for key, value in body.items() if key != "metadata"}
    return {**others, "metadata": rest} if rest else others
