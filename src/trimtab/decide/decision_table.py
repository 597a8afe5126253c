"""Decisions about people as counts: how many rows share their groups, decision, outcome and score. Rows themselves are not kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import InputError

Codes = NDArray[np.int64]
Flags = NDArray[np.bool_]
MOST_COLUMNS = 4


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Counts of one group. Without labels tp, fp, fn, tn are None."""

    n: int
    selected: int
    tp: int | None = None
    fp: int | None = None
    fn: int | None = None
    tn: int | None = None

    def without(self, part: "Confusion") -> "Confusion":
        """The counts of all others, where `part` is one group of these."""

        def rest(whole: int | None, of_part: int | None) -> int | None:
            return None if whole is None or of_part is None else whole - of_part

        return Confusion(
            n=self.n - part.n,
            selected=self.selected - part.selected,
            tp=rest(self.tp, part.tp),
            fp=rest(self.fp, part.fp),
            fn=rest(self.fn, part.fn),
            tn=rest(self.tn, part.tn),
        )


@dataclass(frozen=True, kw_only=True)
class DecisionTable:
    """One line a distinct combination, all arrays (lines,).

    columns, values: the group columns and their values; groups: (lines, columns) codes into `values`
    n: rows of the line; selected: the decision was positive; actual: the outcome was (None = no label)
    before: an earlier decision about the same rows was positive (None = there is none)
    half: 0 or 1, drawn at random by row; level: code into `level_values`, ascending scores (None = no score)
    is_grid: a level is 1/1000 wide and its value the middle; else each level is one exact score
    """

    columns: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    groups: Codes
    n: Codes
    selected: Flags
    actual: Flags | None = None
    before: Flags | None = None
    half: Codes | None = None
    level: Codes | None = None
    level_values: tuple[float, ...] = ()
    is_grid: bool = False

    @property
    def axes(self) -> list[tuple[str, ...]]:
        """Each column by itself, then every combination of two, and of all."""
        sizes = sorted({1, 2, len(self.columns)} & set(range(1, len(self.columns) + 1)))
        return [axis for size in sizes for axis in combinations(self.columns, size)]

    def split(self, axis: tuple[str, ...]) -> Iterator[tuple[str, Flags]]:
        """The groups of an axis that occur, with the lines of each, by name (`Female, Black`).

        Raises InputError if two of them have one name: `a, b` with `c`, and `a` with `b, c`.
        """
        named, index = self._named(axis)
        for name, number in named:
            yield name, index == number

    def _named(self, axis: tuple[str, ...]) -> tuple[list[tuple[str, int]], Codes]:
        """(name, number) of the groups of an axis that occur, in order of their names, and the number of each line's group."""
        places = [self.columns.index(column) for column in axis]
        key = np.zeros(len(self.groups), dtype=np.int64)
        for place in places:
            key = key * len(self.values[place]) + self.groups[:, place]
        _, first, index = np.unique(key, return_index=True, return_inverse=True)
        named = [(", ".join(self.values[place][self.groups[line, place]] for place in places), number) for number, line in enumerate(first)]
        if len({name for name, _ in named}) < len(named):
            raise InputError(f"Two groups of {' and '.join(axis)} read the same, because values hold commas; rename those values.")
        return sorted(named), index.ravel()

    def confusions(self, axis: tuple[str, ...]) -> dict[str, Confusion]:
        """Counts of every group of an axis that occurs, by name, from one pass over the lines. Raises InputError as `split` does."""
        named, index = self._named(axis)

        def summed(lines: Flags) -> Codes:
            return np.bincount(index, np.where(lines, self.n, 0), len(named)).astype(np.int64)  # exact: rows are far fewer than 2^53

        n, chosen = summed(np.ones_like(self.selected)), summed(self.selected)
        if self.actual is None:
            return {name: Confusion(n=int(n[k]), selected=int(chosen[k])) for name, k in named}
        tp, fn = summed(self.selected & self.actual), summed(~self.selected & self.actual)
        return {
            name: Confusion(
                n=int(n[k]),
                selected=int(chosen[k]),
                tp=int(tp[k]),
                fp=int(chosen[k] - tp[k]),
                fn=int(fn[k]),
                tn=int(n[k] - chosen[k] - fn[k]),
            )
            for name, k in named
        }

    def confusion(self, lines: Flags, *, before: bool = False) -> Confusion:
        """Counts over some lines; before: of the earlier decision."""
        selected = self.before if before and self.before is not None else self.selected
        n, chosen = self.n[lines], selected[lines]
        total, picked = int(n.sum()), int(n[chosen].sum())
        if self.actual is None:
            return Confusion(n=total, selected=picked)
        true = self.actual[lines]
        tp, fn = int(n[chosen & true].sum()), int(n[~chosen & true].sum())
        return Confusion(n=total, selected=picked, tp=tp, fp=picked - tp, fn=fn, tn=total - picked - fn)

    def of_half(self, half: int) -> "DecisionTable":
        """The lines of one half."""
        assert self.half is not None
        return self.only(self.half == half)

    def only(self, lines: Flags, *, selected: Flags | None = None) -> "DecisionTable":
        """Some lines; selected: another decision about these lines, given for all lines of this table."""
        chosen = self.selected if selected is None else selected

        def cut(values: "NDArray[np.int64] | None") -> "Codes | None":
            return None if values is None else values[lines]

        return DecisionTable(
            columns=self.columns,
            values=self.values,
            groups=self.groups[lines],
            n=self.n[lines],
            selected=chosen[lines],
            actual=None if self.actual is None else self.actual[lines],
            before=None if self.before is None else self.before[lines],
            half=cut(self.half),
            level=cut(self.level),
            level_values=self.level_values,
            is_grid=self.is_grid,
        )
