"""The fits that ship: how they are made, found, checked, and turned into predictions with an interval and a basis."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path

import numpy as np

from trimtab.core.errors import InputError
from trimtab.core.planning import Prediction, Unknown
from trimtab.core.toml import to_toml
from trimtab.plan.anchors.conformal import LEVEL, basis_of_prediction, calibrated
from trimtab.plan.anchors.residual import fitted_with_rows
from trimtab.plan.anchors.scheme import Anchor, Features, Floats, Scheme, setting_key
from trimtab.plan.anchors.scores import interval
from trimtab.plan.anchors.stored import Published, from_bytes, to_bytes

INDEX = "index.toml"


@dataclass(frozen=True)
class Predicted:
    """Many predictions of one quantity, (n,) each, in its own unit."""

    value: Floats
    low: Floats
    high: Floats
    nearness: Floats


def fitted(quantity: str, anchors: Sequence[Anchor], scheme: Scheme, digests: Mapping[str, str], today: date) -> Published:
    """A fit and its calibration on all anchors. digests: sha256 of the files they came from, by name. Raises `InputError` as `fit` does."""
    rows = fitted_with_rows(anchors, scheme)
    counts: dict[str, int] = {}
    for anchor in anchors:
        counts[anchor.source] = counts.get(anchor.source, 0) + 1
    return Published(
        quantity=quantity,
        residual=rows.residual,
        calibration=calibrated(rows),
        settings=np.unique(np.array([setting_key(anchor.setting) for anchor in anchors], dtype=np.uint64)),
        provenance={"sources": counts, "files": dict(digests), "made": today.isoformat()},
    )


def save(folder: Path, fits: Sequence[Published]) -> None:
    """The files of these fits and the index that names them with their digests, in place of what was there."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = {}
    for fit in fits:
        data = to_bytes(fit)
        (folder / f"{fit.quantity}.npz").write_bytes(data)
        entries[fit.quantity] = {"sha256": sha256(data).hexdigest(), "n_anchors": fit.residual.n_anchors, "made": fit.provenance["made"]}
    (folder / INDEX).write_text(to_toml({"fits": entries}), encoding="utf-8")


@cache
def shipped(quantity: str) -> Published | None:
    """The fit of a quantity that came with this trimtab; None: there is none. Raises `InputError` if it is not what the index says."""
    folder = resources.files("trimtab") / "catalog" / "planner"
    if not (folder / INDEX).is_file():
        return None
    entry = tomllib.loads((folder / INDEX).read_text(encoding="utf-8"))["fits"].get(quantity)
    if entry is None:
        return None
    data = (folder / f"{quantity}.npz").read_bytes()
    if sha256(data).hexdigest() != entry["sha256"]:
        raise InputError(f"The planner's fit of {quantity} is not the one that was shipped (its digest differs); install trimtab again.")
    return from_bytes(data, f"{quantity}.npz")


def predict(fit: Published, physics: Floats, rows: Sequence[Features]) -> Predicted:
    """Physics, corrected, with intervals, for many rows at once."""
    mean, low, high, nearness = interval(fit.residual, fit.calibration, rows)
    return Predicted(physics * np.exp(mean), physics * np.exp(low), physics * np.exp(high), nearness)


def prediction(
    fit: Published | None,
    quantity: str,
    unit: str,
    physics: float,
    features: Features,
    *,
    setting: str = "",
    speed_of_light: float | None = None,
    slower_is_larger: bool = True,
) -> Prediction | Unknown:
    """One number with its interval and what stands behind it, or `Unknown` where no anchor supports it.

    fit: of `shipped`, or `measured.with_own` on it; setting: as anchors name theirs, "" = not comparable
    speed_of_light: bounds the interval from the side that nothing can pass: below for times, above for rates (`slower_is_larger` False)
    """
    if fit is None:
        return Unknown(quantity=quantity, why=f"Nothing was measured of {quantity} that the planner knows.")
    one = predict(fit, np.array([physics]), [features])
    basis, why = basis_of_prediction(
        fit.residual, features, float(one.nearness[0]), measured_here=bool(setting) and fit.measured_at(setting)
    )
    if basis is None:
        return Unknown(quantity=quantity, why=why)
    low, value, high = (float(part[0]) for part in (one.low, one.value, one.high))
    if speed_of_light is not None:
        low, value, high = (max(end, speed_of_light) if slower_is_larger else min(end, speed_of_light) for end in (low, value, high))
    return Prediction(
        quantity=quantity, value=value, low=low, high=high, unit=unit, basis=basis, why=why, level=LEVEL, speed_of_light=speed_of_light
    )
