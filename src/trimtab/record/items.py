"""items.html: every sub-suite of a run item by item, beside its report. Loads nothing, runs nothing, escapes every text it prints."""

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.evidence import Item, Outcome
from trimtab.core.files import write_atomic
from trimtab.core.phrases import count, fixed, line
from trimtab.record.disk import sentences
from trimtab.record.hidden import may_show
from trimtab.record.page import environment

NAME = "items.html"
MOST_ITEMS = 300
"""Rows of a sub-suite: those with the largest changes."""
MOST_ROWS = 3000
"""Rows of the page: with many sub-suites each has fewer, so that a phone can open it."""
LONGEST = 320
"""Characters of a text; of a prompt the end is shown, where the question stands."""
DECIMALS = 3


@dataclass(frozen=True, kw_only=True)
class Side:
    """One deployment's name and what it did on the items."""

    id: str
    outcomes: Sequence[Outcome]


def anchor(item_id: str) -> str:
    """The name of an item's row, for links from the report."""
    return f"i{hashlib.sha256(item_id.encode(errors='replace')).hexdigest()[:12]}"


def render_items(candidate: Side, reference: Side | None, items: Mapping[str, Item], units: Mapping[str, str]) -> str:
    """The page. items: id -> item, for the texts; an item that is not there is shown without. units: sub-suite -> unit of its values.

    With a reference rows are sorted by the size of the change, without one by value, the worst first; items without a value come first.
    """
    before = {one.item_id: one for one in reference.outcomes} if reference else {}
    by_suite: dict[str, list[Outcome]] = {}
    for one in candidate.outcomes:
        by_suite.setdefault(one.suite, []).append(one)
    most = max(1, min(MOST_ITEMS, MOST_ROWS // max(1, len(by_suite))))
    suites = [_suite(name, found, before if reference else None, items, units.get(name, ""), most) for name, found in by_suite.items()]
    page = {
        "candidate": line(candidate.id),
        "reference": line(reference.id).removeprefix("reference: ") if reference else "",
        "n_items": count(len(candidate.outcomes)),
        "most": count(most),
        "suites": suites,
    }
    return environment().get_template("items.html.j2").render(page=page, title=f"trimtab items: {page['candidate']}") + "\n"


def write_items_page(path: Path, candidate: Side, reference: Side | None, items: Mapping[str, Item], units: Mapping[str, str]) -> None:
    """Write the page, whole or not at all. Raises MissingError where the folder cannot be written."""
    text = render_items(candidate, reference, items, units)
    with sentences(path, "write"):
        write_atomic(path, text)


def _suite(
    name: str, outcomes: Sequence[Outcome], before: Mapping[str, Outcome] | None, items: Mapping[str, Item], unit: str, most: int
) -> dict[str, Any]:
    rows = [_Row(outcome=one, before=before.get(one.item_id) if before is not None else None) for one in outcomes]

    def place(row: _Row) -> tuple[bool, float, str]:
        return not row.is_missing(before is not None), -row.size if before is not None else row.level, row.outcome.item_id

    rows.sort(key=place)
    kept = [row for row in rows if row.turned][:most]  # an answer that changed sides is shown, however small the change
    chosen = {row.outcome.item_id for row in kept}
    for row in rows:
        if len(chosen) >= most:
            break
        chosen.add(row.outcome.item_id)
    shown = [row for row in rows if row.outcome.item_id in chosen]
    lead = _lead([items[row.outcome.item_id].prompt for row in rows if row.outcome.item_id in items])
    sizes = [row.size for row in rows if math.isfinite(row.size)]
    has_texts = may_show(name) and any(row.outcome.item_id in items for row in shown)
    return {
        "name": line(name),
        "id": anchor(f"suite {name}"),
        "unit": line(unit),
        "n": count(len(rows)),
        "n_shown": count(len(shown)),
        "is_whole": len(shown) == len(rows),
        "n_lost": sum(row.turned == "lost" for row in rows),
        "n_gained": sum(row.turned == "gained" for row in rows),
        "n_missing": sum(row.is_missing(before is not None) for row in rows),
        "median": fixed(statistics.median(sizes), DECIMALS) if sizes and before is not None else "",
        "has_texts": has_texts,
        "rows": [_shown(row, items.get(row.outcome.item_id), before is not None, lead) for row in shown],
    }


def _lead(prompts: Sequence[str]) -> str:
    """The paragraphs that all prompts of a sub-suite begin with (examples of how to answer), which need not be shown each time."""
    split = [prompt.split("\n\n") for prompt in prompts]
    n_shared = 0
    while len(split) > 1 and len({tuple(parts[: n_shared + 1]) for parts in split}) == 1 and n_shared + 1 < min(map(len, split)):
        n_shared += 1
    return "".join(f"{part}\n\n" for part in split[0][:n_shared]) if n_shared else ""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One item in both runs."""

    outcome: Outcome
    before: Outcome | None

    @property
    def change(self) -> float | None:
        if self.before is None or self.before.value is None or self.outcome.value is None:
            return None
        return self.outcome.value - self.before.value

    @property
    def size(self) -> float:
        return math.inf if self.change is None else abs(self.change)

    @property
    def level(self) -> float:
        return -math.inf if self.outcome.value is None else self.outcome.value

    def is_missing(self, has_reference: bool) -> bool:
        return self.outcome.value is None or (has_reference and self.change is None)

    @property
    def turned(self) -> str:
        """`lost`, `gained` or nothing."""
        was, now = self.before.correct if self.before is not None else None, self.outcome.correct
        if was is None or now is None or was == now:
            return ""
        return "gained" if now else "lost"


def _shown(row: _Row, item: Item | None, has_reference: bool, lead: str) -> dict[str, Any]:
    outcome, before = row.outcome, row.before
    language = item.language if item is not None and item.language != "en" else ""
    error = outcome.error or (before.error if before is not None else "")
    missing = line(error or "no value", LONGEST) if row.is_missing(has_reference) else ""
    return {
        "id": line(outcome.item_id),
        "anchor": anchor(outcome.item_id),
        "group": ", ".join(line(part) for part in (outcome.group, language) if part),
        "before": fixed(before.value, DECIMALS) if before is not None else fixed(None, DECIMALS),
        "after": fixed(outcome.value, DECIMALS),
        "change": fixed(row.change, DECIMALS, signed=True),
        "turned": row.turned,
        "right": "" if outcome.correct is None else "right" if outcome.correct else "wrong",
        "missing": missing,
        "texts": _texts(item, outcome, before, lead) if item is not None and may_show(item.suite, item.id, item.group) else [],
    }


def _texts(item: Item, outcome: Outcome, before: Outcome | None, lead: str) -> list[tuple[str, str]]:
    """Names and texts of what was asked and answered, each on one line and cut."""
    asked = _end_of(item.prompt.removeprefix(lead), is_cut=bool(lead))
    found = [("", asked)] if item.prompt.strip() else []
    if item.scorer == "nats_per_token":
        return [*found, ("scored" if found else "", line(item.options[0], LONGEST))]
    picks = [("picked", outcome.picked)]
    if before is not None:
        same = before.picked == outcome.picked
        picks = [("both", outcome.picked)] if same else [("reference", before.picked), ("candidate", outcome.picked)]
    if item.scorer == "margin" and any(picked != item.answer for _, picked in picks):
        picks.insert(0, ("right", item.answer))
    return found + [
        (name, line(item.options[picked], LONGEST)) for name, picked in picks if picked is not None and 0 <= picked < len(item.options)
    ]


def _end_of(prompt: str, *, is_cut: bool) -> str:
    text = line(prompt)
    if len(text) > LONGEST:
        return f"…{text[1 - LONGEST :].lstrip()}"
    return f"… {text}" if is_cut else text
