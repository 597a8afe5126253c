"""What reweighing would do: a logistic regression fitted without and with the weights; and the weights as a file, one a row."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import InputError
from trimtab.decide.decision_table import DecisionTable, Flags
from trimtab.decide.mitigation import Weight
from trimtab.flows.parts.decision_counts import Columns, Counted, row_halves
from trimtab.record.disk import sentences
from trimtab.sources.table import Table

MOST_ROWS = 200_000
MOST_CATEGORIES = 50
_PENALTY = 1.0

Floats = NDArray[np.float64]


def write_row_weights(table: Table, columns: Columns, counted: Counted, weights: Sequence[Weight], path: Path) -> str:
    """`row,weight` for every row that was counted, in order, as trainers take sample weights. Returns the path."""
    by_cell = {(weight.group, weight.label): repr(round(weight.weight, 9)) for weight in weights}
    part = path.with_name(f".{path.name}.part")
    with sentences(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("w", encoding="utf-8") as file:
                file.write(f"{table.unit},weight\n")
                file.writelines(f"{number},{by_cell[group, label]}\n" for number, group, label, _ in _rows(table, columns, counted, ()))
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return str(path)


def _rows(
    table: Table, columns: Columns, counted: Counted, features: Sequence[str]
) -> Iterator[tuple[int, str, bool, tuple[str | None, ...]]]:
    """Number, group (intersection), label and features of each row that was counted."""
    positive = set(counted.positive_label)
    names = columns.used
    for batch in table.batches((*names, *features)):
        texts = {name: batch.texts(name) for name in (*names, *features)}
        for place in range(batch.n):
            if any(texts[name][place] is None for name in names):
                continue
            group = ", ".join(texts[name][place] or "" for name in columns.groups)
            yield batch.first + place, group, texts[columns.label][place] in positive, tuple(texts[name][place] for name in features)


def refit(
    table: Table, columns: Columns, counted: Counted, weights: Sequence[Weight], features: Sequence[str], *, seed: int
) -> tuple[DecisionTable, Flags]:
    """The rows of the second half as a table decided by the unweighted model, and the decisions of the weighted one (lines,).

    Every model decides positive where its probability is at least one half. At most MOST_ROWS rows are used, the first ones.
    Raises InputError where a feature cannot be used.
    """
    rows = []
    for row in _rows(table, columns, counted, features):
        rows.append(row)
        if len(rows) == MOST_ROWS:
            break
    label = np.array([row[2] for row in rows])
    half = row_halves(np.array([row[0] for row in rows], dtype=np.int64), seed)
    fitting, held = half == 0, half == 1
    if not fitting.any() or not held.any() or label[fitting].all() or not label[fitting].any():
        raise InputError(f"{table.path} has too few rows of both outcomes to fit a model on half of them.")
    design = np.column_stack([np.ones(len(rows)), *(_encoded([row[3][k] for row in rows], name) for k, name in enumerate(features))])
    by_cell = {(weight.group, weight.label): weight.weight for weight in weights}
    weight = np.array([by_cell[row[1], row[2]] for row in rows])
    plain = _logistic(design[fitting], label[fitting], np.ones(int(fitting.sum())))
    weighted = _logistic(design[fitting], label[fitting], weight[fitting])
    groups = _group_codes(counted.table, [row[1] for row in rows])
    decided = DecisionTable(
        columns=counted.table.columns,
        values=counted.table.values,
        groups=groups[held],
        n=np.ones(int(held.sum()), dtype=np.int64),
        selected=design[held] @ plain >= 0.0,
        actual=label[held],
    )
    return decided, design[held] @ weighted >= 0.0


def _group_codes(table: DecisionTable, names: Sequence[str]) -> NDArray[np.int64]:
    known = {name: table.groups[int(np.argmax(lines))] for name, lines in table.split(table.columns)}
    return np.array([known[name] for name in names])


def _encoded(texts: Sequence[str | None], name: str) -> Floats:
    """A feature as standardised numbers, or as one column for each of its words but the first; missing is the mean, or its own word."""
    to_number: Callable[[str], float] = float
    try:
        values = np.array([np.nan if text is None else to_number(text) for text in texts])
    except ValueError:
        words = sorted({text or "" for text in texts})
        if len(words) > MOST_CATEGORIES:
            raise InputError(
                f"The feature {name!r} holds {len(words)} different words, more than {MOST_CATEGORIES}; leave it out."
            ) from None
        place = {word: number for number, word in enumerate(words)}
        return np.eye(len(words))[[place[text or ""] for text in texts]][:, 1:]
    if np.isinf(values).any() or np.isnan(values).all():
        raise InputError(f"The feature {name!r} holds no numbers that can be used, or infinite ones; leave it out.")
    values = np.where(np.isnan(values), np.nanmean(values), values)
    spread = values.std()
    return np.asarray((values - values.mean()) / (spread if spread > 0 else 1.0))[:, None]


def _logistic(design: Floats, label: NDArray[np.bool_], weight: Floats) -> Floats:
    """Coefficients (columns,) of a logistic regression with a ridge on all but the first."""
    from scipy.optimize import minimize

    sign = np.where(label, 1.0, -1.0)
    ridge = np.full(design.shape[1], _PENALTY)
    ridge[0] = 0.0

    def loss(beta: Floats) -> tuple[float, Floats]:
        margin = sign * (design @ beta)
        value = float(weight @ np.logaddexp(0.0, -margin)) + 0.5 * float(ridge @ beta**2)
        pull = -weight * sign / (1.0 + np.exp(np.clip(margin, -500, 500)))
        return value, design.T @ pull + ridge * beta

    return np.asarray(minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B").x)
