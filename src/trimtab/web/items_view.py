"""Candidate against reference, item by item. Pure but for `read_sides`, which reads a run's outcomes, and `texts_of`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError, TrimtabError
from trimtab.core.evidence import Item, Outcome
from trimtab.core.files import digest_of
from trimtab.core.phrases import fixed, line, visible
from trimtab.flows.parts.exam import load_suites
from trimtab.flows.parts.known import stored_outcomes
from trimtab.flows.runs import Run
from trimtab.record.hidden import may_show

ROWS = 50
"""Items of a page."""
LONGEST = 4000
"""Characters of a text."""
DECIMALS = 3
ORDERS = {"change": "largest change", "worse": "most for the worse", "better": "most for the better", "item": "name"}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One item under both. before: None where there is no reference"""

    after: Outcome
    before: Outcome | None

    @property
    def change(self) -> float | None:
        if self.before is None or self.before.value is None or self.after.value is None:
            return None
        return self.after.value - self.before.value

    @property
    def flip(self) -> str:
        """`lost`, `gained` or empty."""
        was, now = self.before.correct if self.before is not None else None, self.after.correct
        if was is None or now is None or was == now:
            return ""
        return "gained" if now else "lost"


@dataclass(frozen=True, kw_only=True)
class ItemLine:
    """One row. missing: why there is no value; texts: (what, text) of what was asked and answered; hidden: they may not be shown"""

    id: str
    suite: str
    group: str
    before: str
    after: str
    change: str
    flip: str
    right: str
    missing: str
    texts: tuple[tuple[str, str], ...]
    hidden: bool


@dataclass(frozen=True, kw_only=True)
class ItemsPage:
    """lines: of page `page` of `n_pages`; n: that fit the filter, of n_all; suites, groups: to choose from"""

    candidate: str
    reference: str
    lines: tuple[ItemLine, ...]
    page: int
    n_pages: int
    n: int
    n_all: int
    n_lost: int
    n_gained: int
    n_missing: int
    suites: tuple[str, ...]
    groups: tuple[str, ...]
    has_texts: bool


def read_sides(run: Run) -> tuple[str, str, list[Pair]]:
    """Names of candidate and reference, and every item that the candidate was asked. Raises InputError where the run kept none."""
    candidate, reference = _sides(run)
    after = _outcomes(run.path, candidate[1])
    before = {one.item_id: one for one in _outcomes(run.path, reference[1])}
    if not after:
        raise InputError("This run kept no outcomes of single items of what it chose; a run that judged a candidate keeps them.")
    return candidate[0], reference[0], [Pair(after=one, before=before.get(one.item_id)) for one in after]


def _sides(run: Run) -> tuple[tuple[str, str], tuple[str, str]]:
    """(name, deployment digest) of what was judged and of what it was compared with."""
    if run.evaluation is not None:
        return _named(run.evaluation.get("model")), _named(run.evaluation.get("reference"))
    decision = run.decision or {}
    reference = _named(decision.get("reference"))
    judged = [row for row in decision.get("candidates") or () if row.get("status") == "certified"]
    chosen = decision.get("chosen") or {}
    row = next((row for row in judged if row.get("id") == chosen.get("id")), None) or (judged[-1] if judged else chosen)
    return _named(row), reference


def _named(subject: Any) -> tuple[str, str]:
    subject = subject or {}
    digest = subject.get("deployment_sha256") or (subject.get("details") or {}).get("deployment_sha256") or ""
    return line(subject.get("id") or "").removeprefix("reference: "), str(digest)


def _outcomes(path: Path, digest: str) -> tuple[Outcome, ...]:
    if not digest or not digest.isalnum():
        return ()
    stamps = tuple(sorted((found.name, found.stat().st_mtime_ns) for found in (path / "items").glob(f"*-{digest[:16]}.parquet")))
    return _read_outcomes(path, digest, stamps)


@lru_cache(maxsize=16)
def _read_outcomes(path: Path, digest: str, stamps: tuple[tuple[str, int], ...]) -> tuple[Outcome, ...]:
    return stored_outcomes(path, digest)


def texts_of(run: Run) -> Mapping[str, Item]:
    """Items of the run's suites by id, where the suites at hand have the very digest that the run had; else none."""
    suite = (run.decision or run.evaluation or {}).get("suite") or {}
    wanted = str(suite.get("digest") or "")
    names = run.head["inputs"].get("suites") or [part for part in str(suite.get("name") or "").replace("+", ",").split(",") if part]
    return _texts_of(tuple(map(str, names)), wanted)


@lru_cache(maxsize=8)
def _texts_of(names: tuple[str, ...], wanted: str) -> Mapping[str, Item]:
    try:
        suites = load_suites(names)
    except (TrimtabError, OSError, ValueError):
        return {}
    digests = {digest_of([suite.digest for suite in suites]), *(suite.digest for suite in suites[:1] if len(suites) == 1)}
    return {item.id: item for suite in suites for item in suite.items} if wanted in digests else {}


def items_page(
    candidate: str,
    reference: str,
    pairs: Sequence[Pair],
    items: Mapping[str, Item],
    *,
    suite: str = "",
    group: str = "",
    flip: str = "",
    order: str = "change",
    page: int = 1,
) -> ItemsPage:
    """One page of the items that fit. flip: `lost`, `gained`, `any` or empty = all; order: of ORDERS"""
    found = [
        pair
        for pair in pairs
        if (not suite or pair.after.suite == suite)
        and (not group or pair.after.group == group)
        and (not flip or pair.flip == flip or (flip == "any" and bool(pair.flip)))
    ]
    found.sort(key=lambda pair: _place(pair, order))
    n_pages = max(1, math.ceil(len(found) / ROWS))
    page = min(max(1, page), n_pages)
    of_suite = [pair for pair in pairs if not suite or pair.after.suite == suite]
    return ItemsPage(
        candidate=candidate,
        reference=reference,
        lines=tuple(_line(pair, items.get(pair.after.item_id), bool(reference)) for pair in found[(page - 1) * ROWS : page * ROWS]),
        page=page,
        n_pages=n_pages,
        n=len(found),
        n_all=len(pairs),
        n_lost=sum(pair.flip == "lost" for pair in of_suite),
        n_gained=sum(pair.flip == "gained" for pair in of_suite),
        n_missing=sum(pair.after.value is None for pair in of_suite),
        suites=tuple(dict.fromkeys(pair.after.suite for pair in pairs)),
        groups=tuple(sorted({pair.after.group for pair in of_suite if pair.after.group})),
        has_texts=bool(items),
    )


def _place(pair: Pair, order: str) -> tuple[bool, float, str]:
    """Without a value first: what is missing is no small matter. Without a reference the lowest value comes first."""
    change = pair.change
    name = pair.after.item_id
    if order == "item":
        return False, 0.0, name
    if pair.before is None:
        return pair.after.value is not None, pair.after.value or 0.0, name
    if change is None:
        return False, 0.0, name
    return True, {"worse": change, "better": -change}.get(order, -abs(change)), name


def _line(pair: Pair, item: Item | None, has_reference: bool) -> ItemLine:
    after, before = pair.after, pair.before
    is_hidden = not may_show(after.suite, after.item_id, after.group)
    error = after.error or (before.error if before is not None else "")
    is_missing = after.value is None or (has_reference and pair.change is None)
    return ItemLine(
        id=line(after.item_id),
        suite=line(after.suite),
        group=line(after.group),
        before=fixed(before.value, DECIMALS) if before is not None else "",
        after=fixed(after.value, DECIMALS),
        change=fixed(pair.change, DECIMALS, signed=True) if before is not None else "",
        flip=pair.flip,
        right="" if after.correct is None else "right" if after.correct else "wrong",
        missing=line(error or "no value", 320) if is_missing else "",
        texts=() if item is None or is_hidden else tuple(_texts(item, pair)),
        hidden=item is not None and is_hidden,
    )


def _texts(item: Item, pair: Pair) -> list[tuple[str, str]]:
    """What was asked, and what each side would rather have said."""
    found = [("system", item.system)] if item.system else []
    found += [("prompt", item.prompt)] if item.prompt.strip() else []
    if item.scorer == "nats_per_token":
        found.append(("scored", item.options[0]))
    else:
        sides = [("reference picks", pair.before.picked)] if pair.before is not None else []
        for what, picked in [*sides, ("candidate picks", pair.after.picked)]:
            if picked is not None and 0 <= picked < len(item.options):
                found.append((what, item.options[picked]))
        if item.scorer == "margin":
            found.append(("right answer", item.options[item.answer]))
    return [(what, _cut(text)) for what, text in found]


def _cut(text: str) -> str:
    shown = visible(text).strip("\n")
    return shown if len(shown) <= LONGEST else f"…{shown[1 - LONGEST :]}"
