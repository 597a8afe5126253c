"""`trimtab plan check`: every row of files of published runs predicted, with its interval, beside what was measured."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.core.errors import InputError
from trimtab.core.files import to_plain
from trimtab.plan.anchors.conformal import basis_of_prediction
from trimtab.plan.anchors.fitted import predict, shipped
from trimtab.plan.anchors.published import SCHEMES, Row, read_files
from trimtab.plan.anchors.scheme import UNITS, Anchor, full_features
from trimtab.plan.anchors.scores import WAYS, Held, Outcome, Way, leave_out, score, scores_by_source
from trimtab.plan.anchors.stored import Published

SCHEMA = "trimtab.plan_check/1"
# Below this many rows of a quantity a fit on what is left would say nothing.
LEAST_ROWS = 20


def plan_check(paths: Sequence[str], *, leave_out: str = "") -> dict[str, Any]:
    """Predictions and errors as JSON types.

    leave_out: `configuration`, `model` or `source`: fit anew on the rows of the files, each predicted without what it shares with others;
        "" = with the fit that came with trimtab. Raises InputError: no file, none readable, a file of no known kind.
    """
    if leave_out and leave_out not in WAYS:
        raise InputError(f"--leave-out {leave_out} is none of {', '.join(WAYS)}.")
    if not paths:
        raise InputError("No file is given; name one or more CSVs of published runs.")
    rows = read_files(paths)
    if not rows:
        raise InputError(f"{', '.join(paths)}: there is no row below the names of the columns.")
    predicted = {quantity: _predicted(quantity, anchors, leave_out) for quantity, anchors in _by_quantity(rows).items()}
    return _document(paths, rows, predicted, leave_out)


def _by_quantity(rows: Sequence[Row]) -> dict[str, list[Anchor]]:
    found: dict[str, list[Anchor]] = {}
    for row in rows:
        for anchor in row.anchors:
            found.setdefault(anchor.quantity, []).append(anchor)
    return found


def _predicted(quantity: str, anchors: Sequence[Anchor], way: str) -> list[dict[str, Any]]:
    """One entry an anchor, in order: predicted, low, high (None = not predicted, then `why`), measured, basis."""
    if way:
        return _left_out(quantity, anchors, way)
    fit = shipped(quantity)
    if fit is None:
        return [_entry(anchor, None, "", f"Nothing was measured of {quantity} that the planner knows.") for anchor in anchors]
    features = [full_features(anchor) for anchor in anchors]
    physics = np.array([_physics(anchor) for anchor in anchors])
    found = predict(fit, physics, features)
    entries = []
    for at, anchor in enumerate(anchors):
        known = fit.measured_at(anchor.setting)
        basis, why = basis_of_prediction(fit.residual, features[at], float(found.nearness[at]), measured_here=known)
        numbers = (float(found.value[at]), float(found.low[at]), float(found.high[at])) if basis else None
        entries.append(_entry(anchor, numbers, basis or "", why, in_fit=_in_fit(fit, anchor)))
    return entries


def _left_out(quantity: str, anchors: Sequence[Anchor], way: str) -> list[dict[str, Any]]:
    distinct = _once(anchors)
    if len(distinct) < LEAST_ROWS:
        why = f"Only {len(distinct)} rows tell {quantity}: too few to leave some out."
        return [_entry(anchor, None, "", why) for anchor in anchors]
    try:
        held = leave_out(distinct, SCHEMES[quantity], _way(way))
    except InputError as error:
        return [_entry(anchor, None, "", str(error)) for anchor in anchors]
    place = {_key(anchor): at for at, anchor in enumerate(distinct)}
    return [_entry(anchor, _of_held(held, place[_key(anchor)], anchor), "", f"Fitted without its {way}.") for anchor in anchors]


def _way(text: str) -> Way:
    return next(way for way in WAYS if way == text)


def _once(anchors: Sequence[Anchor]) -> list[Anchor]:
    """A measurement that several rows repeat counts once in a fit."""
    return list({_key(anchor): anchor for anchor in anchors}.values())


def _key(anchor: Anchor) -> tuple[str, str, float]:
    return anchor.setting, anchor.source, anchor.log_ratio


def _of_held(held: Held, at: int, anchor: Anchor) -> tuple[float, float, float]:
    value, low, high = (float(np.exp(part[at])) * _physics(anchor) for part in (held.mean, held.low, held.high))
    return value, low, high


def _physics(anchor: Anchor) -> float:
    return float(anchor.measured * np.exp(-anchor.log_ratio))


def _in_fit(fit: Published, anchor: Anchor) -> bool:
    return fit.measured_at(anchor.setting) and anchor.source in fit.provenance["sources"]


def _entry(anchor: Anchor, numbers: tuple[float, float, float] | None, basis: str, why: str, *, in_fit: bool = False) -> dict[str, Any]:
    value, low, high = numbers or (None, None, None)
    return {
        "id": anchor.id,
        "source": anchor.source,
        "model": anchor.model,
        "quantity": anchor.quantity,
        "unit": UNITS.get(anchor.quantity, ""),
        "predicted": value,
        "low": low,
        "high": high,
        "measured": anchor.measured,
        "basis": basis,
        "why": why,
        "in_fit": in_fit,
    }


def _document(paths: Sequence[str], rows: Sequence[Row], predicted: Mapping[str, list[dict[str, Any]]], leave_out: str) -> dict[str, Any]:
    entries = [entry for quantity in SCHEMES if quantity in predicted for entry in predicted[quantity]]
    refused = [
        {"file": Path(row.file).name, "line": row.line, "id": row.id, "source": row.source, "why": row.why}
        for row in rows
        if not row.anchors
    ]
    scored = [row for row in rows if not row.aside]
    missing = [Outcome(row.source, 1.0) for row in scored if not row.anchors]
    return {
        "schema": SCHEMA,
        "files": [str(path) for path in paths],
        "leave_out": leave_out or None,
        "n_rows": len(rows),
        "n_not_measured": len(rows) - len(scored),
        "n_rows_predicted": sum(bool(row.anchors) for row in scored),
        "n_in_fit": sum(entry["in_fit"] for entry in entries),
        "n_numbers": len(entries),
        "quantities": {
            quantity: to_plain(scores_by_source(map(_outcome, found)))
            for quantity, found in sorted(predicted.items(), key=lambda of: -len(of[1]))
        },
        "sources": to_plain(scores_by_source([*map(_outcome, entries), *missing])),
        "pooled": to_plain(score([*map(_outcome, entries), *missing])),
        "rows": entries,
        "refused": refused,
        "reasons": dict(Counter(entry["why"] for entry in refused).most_common()),
    }


def _outcome(entry: Mapping[str, Any]) -> Outcome:
    if entry["predicted"] is None:
        return Outcome(entry["source"], entry["measured"])
    return Outcome(entry["source"], entry["measured"], entry["predicted"], entry["low"], entry["high"])
