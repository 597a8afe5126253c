"""Rows of a table of decisions to counts: one pass, and memory for the distinct combinations only, however many rows there are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import InputError
from trimtab.decide.counterfactual import PairedRows
from trimtab.decide.decision_table import MOST_COLUMNS, DecisionTable
from trimtab.sources.table import Batch, Table

MOST_GROUPS = 200
MOST_IN_AXIS = 600
"""Groups of one column or intersection: every two of them are held against each other."""
MOST_VALUES = 50
MOST_SCORES = 1000
MOST_COMBINATIONS = 2_000_000
MOST_PAIRED_ROWS = 1_000_000
_LEVELS = 1024
_GROUP_RADIX, _VALUE_RADIX = 256, 64
_MERGE_AT = 500_000
YES = frozenset({"1", "1.0", "true", "yes", "y", "t"})
NO = frozenset({"0", "0.0", "false", "no", "n", "f"})

Codes = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What to read. An empty text = there is none. positive...: values that count as positive; none given = they must speak for themselves.

    threshold: the decision is `score >= threshold` where there is no decision column
    drop_missing: leave rows out that lack a value, and count them; else they are refused
    """

    decision: str
    label: str
    groups: tuple[str, ...]
    score: str = ""
    before: str = ""
    pair: str = ""
    cluster: str = ""
    threshold: float | None = None
    positive: tuple[str, ...] = ()
    positive_label: tuple[str, ...] = ()
    drop_missing: bool = False

    @property
    def used(self) -> tuple[str, ...]:
        named = (*self.groups, self.decision, self.label, self.before, self.score, self.pair, self.cluster)
        return tuple(dict.fromkeys(name for name in named if name))


@dataclass(frozen=True, kw_only=True)
class Counted:
    """dropped: rows left out, by the column that lacked a value (the first one); positive...: the values that counted as positive."""

    table: DecisionTable
    paired: PairedRows | None
    n_rows: int
    dropped: dict[str, int]
    positive: tuple[str, ...]
    positive_label: tuple[str, ...]


@dataclass
class _Values:
    """Distinct values of one column over all batches, in order of appearance, with the row of the first of each."""

    column: str
    most: int
    too_many: str
    numbers: dict[str, int] = field(default_factory=dict)
    first: list[int] = field(default_factory=list)

    def codes(self, batch: Batch, where: Callable[[int], str]) -> Codes:
        """Codes (rows,), -1 = missing."""
        coded = batch.coded(self.column)
        translate = np.full(len(coded.values) + 1, -1, dtype=np.int64)
        for code, text in enumerate(coded.values):
            if text not in self.numbers:
                row = batch.first + int(np.argmax(coded.codes == code))
                if len(self.numbers) == self.most:
                    raise InputError(f"{where(row)}: column {self.column!r} holds more than {self.most} different values; {self.too_many}")
                self.numbers[text] = len(self.numbers)
                self.first.append(row)
            translate[code] = self.numbers[text]
        return translate[coded.codes]


class _Scores:
    """Scores as levels: the exact values while there are at most MOST_SCORES, then thousandths of 0..1."""

    def __init__(self) -> None:
        self.values = np.empty(0)
        self.is_grid = False

    def levels(self, scores: NDArray[np.float64], where: Callable[[int], str]) -> tuple[Codes, Codes | None]:
        """Level of each score, and how the levels of earlier ones are to be renumbered (None = as they are)."""
        renumbered: Codes | None = None
        if not self.is_grid:
            merged = np.union1d(self.values, scores)
            if merged.size <= MOST_SCORES:
                if merged.size != self.values.size:
                    renumbered = np.searchsorted(merged, self.values).astype(np.int64)
                    self.values = merged
                return np.searchsorted(merged, scores).astype(np.int64), renumbered
            renumbered = _grid(self.values)
            self._check(self.values, lambda _: "An earlier row")
            self.is_grid = True
            self.values = (np.arange(1000) + 0.5) / 1000
        self._check(scores, where)
        return _grid(scores), renumbered

    @staticmethod
    def _check(scores: NDArray[np.float64], where: Callable[[int], str]) -> None:
        wrong = np.flatnonzero((scores < 0) | (scores > 1))
        if wrong.size:
            raise InputError(
                f"{where(int(wrong[0]))}: the score {scores[wrong[0]]:g} lies outside 0..1, and there are more than {MOST_SCORES} "
                "different scores; give probabilities, or scores in fewer steps."
            )


def _grid(scores: NDArray[np.float64]) -> Codes:
    """Thousandths, a score at an edge belongs to the upper one; 1 to the last."""
    return np.minimum(np.searchsorted(np.arange(1, 1000) / 1000, scores, side="right"), 999).astype(np.int64)


def count_decisions(table: Table, columns: Columns, *, seed: int = 0, on_rows: Callable[[int], None] = lambda n: None) -> Counted:
    """Read a table once. Raises InputError for what cannot be judged, naming row and column."""
    _check_columns(table, columns)
    return _Counting(table, columns, seed).run(on_rows)


def _check_columns(table: Table, columns: Columns) -> None:
    if not columns.groups:
        raise InputError("Name at least one column of groups with --group.")
    if len(columns.groups) > MOST_COLUMNS:
        raise InputError(f"{len(columns.groups)} group columns are too many: cells get too small to tell; give at most {MOST_COLUMNS}.")
    if not columns.decision and (not columns.score or columns.threshold is None):
        raise InputError("Name the column of decisions with --decision, or give --score and --threshold.")
    if columns.cluster and not columns.pair:
        raise InputError("--cluster says which pairs belong together; it needs --pair.")
    named = [*columns.groups, columns.decision, columns.label, columns.before, columns.score]
    twice = [name for name in named if name and named.count(name) > 1]
    if twice:
        raise InputError(f"Column {twice[0]!r} is named for two things; decision, label, score and each group need columns of their own.")
    table.need(columns.used)


class _Counting:
    """One pass over one table. Its state is what has been counted so far."""

    def __init__(self, table: Table, columns: Columns, seed: int) -> None:
        self.table, self.columns, self.seed = table, columns, seed
        several = "group them, or name another column."
        self.groups = [_Values(name, MOST_GROUPS, f"a group column has few: {several}") for name in columns.groups]
        words = "a decision has few: for a number give --score and --threshold."
        self.flags = {name: _Values(name, MOST_VALUES, words) for name in (columns.decision, columns.label, columns.before) if name}
        self.scores = _Scores()
        self.keys, self.counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        self.fresh: list[tuple[Codes, Codes]] = []
        self.n_fresh = 0
        self.dropped: dict[str, int] = {}
        self.pairs: dict[str, int] = {}
        self.clusters: dict[str, int] = {}
        self.paired: list[tuple[Codes, ...]] = []
        self.paired_scores: list[NDArray[np.float64]] = []
        self.n_paired = 0

    def run(self, on_rows: Callable[[int], None]) -> Counted:
        n_rows = 0
        for batch in self.table.batches(self.columns.used):
            self._add(batch)
            n_rows += batch.n
            on_rows(n_rows)
        self._merge()
        if not self.keys.size:
            lost = f" that has a value in every column; {sum(self.dropped.values())} were left out" if self.dropped else ""
            raise InputError(f"{self.table.path} holds no row{lost}.")
        return self._finish(n_rows)

    def _add(self, batch: Batch) -> None:
        columns = self.columns
        groups = [values.codes(batch, self.table.where) for values in self.groups]
        flags = {name: values.codes(batch, self.table.where) for name, values in self.flags.items()}
        scores = batch.numbers(columns.score, f"{self.table.path.name}, {self.table.unit}") if columns.score else None
        texts = {name: batch.texts(name) for name in (columns.pair, columns.cluster) if name}
        absent = {name: codes < 0 for name, codes in zip(columns.groups, groups, strict=True)} | {n: c < 0 for n, c in flags.items()}
        if scores is not None:
            absent[columns.score] = np.isnan(scores)
        absent |= {name: np.array([text is None for text in rows]) for name, rows in texts.items()}
        kept = self._kept(batch, absent)
        if kept.all() and batch.n == 0:
            return
        rows = np.flatnonzero(kept)
        key = np.zeros(rows.size, dtype=np.int64)
        for codes in groups:
            key = key * _GROUP_RADIX + codes[rows]
        decision = flags[columns.decision] if columns.decision else self._decided(scores)
        for told in (decision, flags.get(columns.label), flags.get(columns.before)):
            key = key * _VALUE_RADIX + (0 if told is None else told[rows])
        if scores is not None:
            level, renumbered = self.scores.levels(scores[rows], lambda place: self.table.where(batch.first + int(rows[place])))
            if renumbered is not None:
                self._renumber(renumbered)
            key = (key * 2 + row_halves(batch.first + rows, self.seed)) * _LEVELS + level
        distinct, counts = np.unique(key, return_counts=True)
        self.fresh.append((distinct, counts.astype(np.int64)))
        self.n_fresh += distinct.size
        if self.n_fresh > _MERGE_AT:
            self._merge()
        if texts:
            self._add_pairs(rows, texts, [codes[rows] for codes in groups], decision[rows], None if scores is None else scores[rows])

    def _decided(self, scores: "NDArray[np.float64] | None") -> Codes:
        assert scores is not None
        assert self.columns.threshold is not None
        return (scores >= self.columns.threshold).astype(np.int64)

    def _kept(self, batch: Batch, absent: dict[str, NDArray[np.bool_]]) -> NDArray[np.bool_]:
        kept = np.ones(batch.n, dtype=bool)
        for name, missing in absent.items():
            lost = missing & kept
            if not lost.any():
                continue
            if not self.columns.drop_missing:
                row = batch.first + int(np.argmax(lost))
                raise InputError(
                    f"{self.table.where(row)} has no value in column {name!r} (empty, or a word for none: NaN, NA, None, null); fill "
                    "it in, or give --missing drop: such rows are then left out and counted."
                )
            self.dropped[name] = self.dropped.get(name, 0) + int(lost.sum())
            kept &= ~missing
        return kept

    def _add_pairs(
        self,
        rows: NDArray[np.intp],
        texts: dict[str, list[str | None]],
        groups: list[Codes],
        decision: Codes,
        scores: "NDArray[np.float64] | None",
    ) -> None:
        self.n_paired += rows.size
        if self.n_paired > MOST_PAIRED_ROWS:
            raise InputError(f"More than {MOST_PAIRED_ROWS:,} rows of pairs do not fit into memory; give a sample of whole pairs.")
        names = [texts[self.columns.pair][row] or "" for row in rows]
        case = np.array([self.pairs.setdefault(name, len(self.pairs)) for name in names], dtype=np.int64)
        cluster = case
        if self.columns.cluster:
            names = [texts[self.columns.cluster][row] or "" for row in rows]
            cluster = np.array([self.clusters.setdefault(name, len(self.clusters)) for name in names], dtype=np.int64)
        self.paired.append((case, cluster, decision, *groups))
        if scores is not None:
            self.paired_scores.append(scores)

    def _renumber(self, levels: Codes) -> None:
        self._merge()
        if self.keys.size:
            moved = self.keys - self.keys % _LEVELS + levels[self.keys % _LEVELS]
            self.fresh, self.n_fresh = [(moved, self.counts)], moved.size
            self.keys, self.counts = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)

    def _merge(self) -> None:
        parts = [(self.keys, self.counts), *self.fresh]
        self.keys, index = np.unique(np.concatenate([keys for keys, _ in parts]), return_inverse=True)
        weights = np.concatenate([counts for _, counts in parts])
        self.counts = np.zeros(self.keys.size, dtype=np.int64)
        np.add.at(self.counts, index, weights)
        self.fresh, self.n_fresh = [], 0
        if self.keys.size > MOST_COMBINATIONS:
            raise InputError(
                f"{self.table.path} holds more than {MOST_COMBINATIONS:,} combinations of groups and scores; name fewer group columns."
            )

    def _finish(self, n_rows: int) -> Counted:
        columns, rest = self.columns, self.keys
        level = half = None
        if columns.score:
            level, rest = rest % _LEVELS, rest // _LEVELS
            half, rest = rest % 2, rest // 2
        before, rest = rest % _VALUE_RADIX, rest // _VALUE_RADIX
        label, rest = rest % _VALUE_RADIX, rest // _VALUE_RADIX
        decision, rest = rest % _VALUE_RADIX, rest // _VALUE_RADIX
        groups = np.empty((rest.size, len(self.groups)), dtype=np.int64)
        for place in reversed(range(len(self.groups))):
            groups[:, place], rest = rest % _GROUP_RADIX, rest // _GROUP_RADIX
        is_positive = np.array([False, True])
        positive: tuple[str, ...] = (f"{columns.score} >= {columns.threshold:g}",) if not columns.decision else ()
        if columns.decision:
            positive, is_positive = self._positive(columns.decision, columns.positive, "--positive")
        positive_label: tuple[str, ...] = ()
        actual = earlier = None
        if columns.label:
            positive_label, is_true = self._positive(columns.label, columns.positive_label, "--positive-label")
            actual = is_true[label]
            if actual.all() or not actual.any():
                raise InputError(
                    f"Every {self.table.unit} of {self.table.path} has the same label (column {columns.label!r}): there are no errors "
                    "of both kinds to compare; leave --label out, or give data with both outcomes."
                )
        if columns.before:
            _, was_positive = self._positive(columns.before, columns.positive, "--positive")
            earlier = was_positive[before]
        for values in self.groups:
            if len(values.numbers) < 2:
                only = next(iter(values.numbers))
                raise InputError(
                    f"Column {values.column!r} of {self.table.path} holds one group only ({only}): there is nothing to compare."
                )
        table = DecisionTable(
            columns=columns.groups,
            values=tuple(tuple(values.numbers) for values in self.groups),
            groups=groups,
            n=self.counts,
            selected=is_positive[decision],
            actual=actual,
            before=earlier,
            half=half,
            level=level,
            level_values=tuple(float(value) for value in self.scores.values),
            is_grid=self.scores.is_grid,
        )
        self._check_axes(table)
        return Counted(
            table=table,
            paired=self._paired_rows(table, is_positive) if columns.pair else None,
            n_rows=n_rows,
            dropped=self.dropped,
            positive=positive,
            positive_label=positive_label,
        )

    def _check_axes(self, table: DecisionTable) -> None:
        for axis in table.axes:
            n_groups = len(np.unique(table.groups[:, [table.columns.index(column) for column in axis]], axis=0))
            if n_groups > MOST_IN_AXIS:
                raise InputError(
                    f"{' x '.join(axis)} of {self.table.path} make {n_groups:,} groups, more than the {MOST_IN_AXIS} that can be held "
                    "against each other; name fewer group columns, or put their values into fewer groups."
                )

    def _positive(self, column: str, given: Sequence[str], flag: str) -> tuple[tuple[str, ...], NDArray[np.bool_]]:
        """Values of a column that count as positive, and whether each of its codes does."""
        values = self.flags[column]
        names = list(values.numbers)
        chosen = set(given)
        if given:
            unknown = [value for value in given if value not in values.numbers]
            if unknown and (column != self.columns.before or len(unknown) == len(given)):
                shown = ", ".join(names[:10])
                raise InputError(f"No {self.table.unit} has {unknown[0]!r} in column {column!r}; its values are {shown}. Correct {flag}.")
        else:
            strange = [name for name in names if name.lower() not in YES | NO]
            if strange:
                where = self.table.where(values.first[values.numbers[strange[0]]])
                shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
                raise InputError(
                    f"{where}: {strange[0]!r} in column {column!r} is neither yes nor no; its values are {shown}. Say which are positive "
                    f"with {flag}."
                )
            chosen = {name for name in names if name.lower() in YES}
        return tuple(name for name in names if name in chosen), np.array([name in chosen for name in names])

    def _paired_rows(self, table: DecisionTable, is_positive: NDArray[np.bool_]) -> PairedRows:
        stacked = [np.concatenate(column) for column in zip(*self.paired, strict=True)]
        outcomes = {"decision": is_positive[stacked[2]].astype(float)}
        if self.paired_scores:
            outcomes["score"] = np.concatenate(self.paired_scores)
        return PairedRows(
            case=stacked[0],
            cluster=stacked[1],
            groups=dict(zip(table.columns, stacked[3:], strict=True)),
            values=dict(zip(table.columns, table.values, strict=True)),
            outcomes=outcomes,
        )


def row_halves(rows: Codes, seed: int) -> Codes:
    """0 or 1 for each row number: splitmix64's finaliser, so that no order of the file can lean on it."""
    with np.errstate(over="ignore"):
        x = rows.astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x >> np.uint64(40)) & np.uint64(1)).astype(np.int64)
