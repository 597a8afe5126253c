"""Items that a small change of the outputs is most likely to flip, from the outcomes of an earlier run. A warning, never evidence."""

import math
from collections.abc import Collection, Sequence
from typing import Any

from trimtab.core.evidence import Outcome
from trimtab.evaluate.requests import PreparedSuite


def nearest_to_a_flip(stored: Sequence[Outcome], most: int) -> tuple[Outcome, ...]:
    """Up to `most` items that have a right answer, smallest absolute value first.

    The value of such an item is its margin: log-probability per token of the right answer minus that of the best wrong one (nats per
    token). It changes sign where the answer flips, so its size is the distance from a flip.
    """
    able = [one for one in stored if one.correct is not None and one.value is not None and math.isfinite(one.value)]
    return tuple(sorted(able, key=lambda one: (abs(one.value or 0.0), one.item_id))[:most])


def requests_for(prepared: PreparedSuite, item_ids: Collection[str]) -> PreparedSuite:
    """The requests that answer these items (items of one cluster may share a request)."""
    wanted = set(item_ids)
    return PreparedSuite(requests=tuple(one for one in prepared.requests if any(place.item.id in wanted for place in one.places)))


def watch_rows(watched: Sequence[Outcome], now: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One row a watched item: margin then and now, and whether its answer flipped. Items that could not be scored have no margin now."""
    found = {one.item_id: one for one in now}
    rows = []
    for old in watched:
        new = found.get(old.item_id)
        if new is None:
            continue
        is_flip = new.correct is not None and new.correct != old.correct
        rows.append(
            {
                "suite": old.suite,
                "item_id": old.item_id,
                "margin": old.value,
                "margin_now": new.value,
                "correct": old.correct,
                "correct_now": new.correct,
                "flip": ("gained" if new.correct else "lost") if is_flip else "",
            }
        )
    return rows
