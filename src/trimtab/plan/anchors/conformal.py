"""Intervals by cross-conformal calibration: how wide must they be, in units of the model's own sd, to hold 90 % of measurements like these?

Each calibration row is predicted without what would be missing at a prediction of its kind (Vovk 2015, cross-conformal; Mondrian bins):
its setting, its whole model, or its whole source. The factor of a bin is the finite-sample quantile of |miss| / sd, with the rows of
one source (of one model, where models are new) weighted down by the root of their number, so that a large one does not set all intervals.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trimtab.core.planning import Basis
from trimtab.plan.anchors.residual import Fitted, Residual
from trimtab.plan.anchors.scheme import Features, Floats, full_features, level_of

LEVEL = 0.9
# A bin needs this many rows to have a factor of its own; with fewer it takes that of the wider kind.
LEAST_ROWS = 40
# And a bin of new models of one source this many models: the rows of one say only how wrong that one is.
LEAST_GROUPS = 5
# The factor where nothing calibrates: of a normal at 90 %, and half as much again because nobody checked.
UNCHECKED = 1.645 * 1.5
# From here on anchors have settled most of what could vary.
NEAR = 0.75

__all__ = ["LEVEL", "Calibration", "basis_of_prediction", "beyond_range", "calibrated", "kind_of"]


@dataclass(frozen=True)
class Calibration:
    """factors: by bin, how many sd to each side; sizes: the calibration rows behind each."""

    factors: Mapping[str, float]
    sizes: Mapping[str, int]

    def factor(self, residual: Residual, features: Features) -> float:
        """The factor for a prediction at these features: of the nearest bin that has enough rows."""
        kind = kind_of(residual, features)
        for name in _bins(kind, features):
            if name in self.factors:
                return self.factors[name]
        return max((self.factors[name] for name in ("model", "source") if name in self.factors), default=UNCHECKED)


def kind_of(residual: Residual, features: Features) -> str:
    """What is new in a prediction: `configuration` alone, its `model`, its `source`, or `both`."""
    new_model = not residual.knows("model", str(features.get("model", "")))
    new_source = not residual.knows("source", str(features.get("source", "")))
    return {(False, False): "configuration", (True, False): "model", (False, True): "source", (True, True): "both"}[new_model, new_source]


def _bins(kind: str, features: Features) -> tuple[str, ...]:
    """The bins of a kind from the narrowest: of one source where that is known, then of the kind."""
    return (f"{kind}:{features.get('source', '')}", kind) if kind in ("configuration", "model") else (kind,)


def calibrated(fitted: Fitted, level: float = LEVEL) -> Calibration:
    """Factors from the rows of a fit, each predicted without its setting, its model, its source."""
    rows = [full_features(anchor) for anchor in fitted.anchors]
    elsewhere = _models_elsewhere(fitted)
    factors: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for kind, of, evenly in (("configuration", "setting", "source"), ("model", "model", "model"), ("source", "source", "source")):
        shifts = fitted.left_out([getattr(anchor, of) for anchor in fitted.anchors])
        scores = np.abs(fitted.y - shifts.mean) / shifts.sd
        members: dict[str, list[int]] = {}
        for index, row in enumerate(rows):
            actual = "both" if kind == "source" and not elsewhere[index] else kind
            for name in _bins(actual, row):
                members.setdefault(name, []).append(index)
        for name, at in members.items():
            groups = [getattr(fitted.anchors[index], evenly) for index in at]
            few = ":" in name and kind == "model" and len(set(groups)) < LEAST_GROUPS
            if len(at) >= LEAST_ROWS and not few:
                factors[name], sizes[name] = _quantile(scores[at], groups, level, new_group=kind != "configuration"), len(at)
    return Calibration(factors, sizes)


def _models_elsewhere(fitted: Fitted) -> list[bool]:
    """By row: whether another source has its model, so that leaving its source out leaves the model known."""
    sources: dict[str, set[str]] = {}
    for anchor in fitted.anchors:
        sources.setdefault(anchor.model, set()).add(anchor.source)
    return [len(sources[anchor.model]) > 1 for anchor in fitted.anchors]


def _quantile(scores: Floats, groups: Sequence[str], level: float, *, new_group: bool) -> float:
    """The smallest score that `level` of the weight does not exceed, when one more could lie anywhere above.

    Rows of a group of n weigh n^-1/2 each. new_group: what is predicted is of a group of its own, so the one more is a group (Lee, Barber &
    Willett 2023, hierarchical conformal prediction), taken as half of one: rows of a group do differ, and a whole one covers too much. Else
    it is a row. Where there are too few for the level: the largest.
    """
    counts = Counter(groups)
    weights = np.array([counts[group] ** -0.5 for group in groups])
    order = np.argsort(scores)
    one_more = weights.sum() / len(counts) / 2 if new_group else weights.mean()
    at = int(np.searchsorted(np.cumsum(weights[order]) / (weights.sum() + one_more), level - 1e-9))
    return float(scores[order][min(at, len(scores) - 1)])


IDENTITY = {"model", "device", "engine", "framework"}
"""One of these, alone or with another, must have been measured, or nothing is known."""


def _named(group: str, level: str) -> str:
    """`device l40s`, `engine vllm and device l40s`."""
    return " and ".join(f"{name} {value}" for name, value in zip(group.split("*"), level.split("\x1f"), strict=True))


def basis_of_prediction(residual: Residual, features: Features, nearness: float, *, measured_here: bool) -> tuple[Basis | None, str]:
    """How near measurements are, and the sentence that says so. None: no anchor supports the number."""
    groups = [group for group, levels in residual.basis.levels.items() if levels and group != "source" and group.count("*") < 2]
    known = {group: level_of(features, group) for group in groups}
    seen = [group for group, level in known.items() if level and residual.knows(group, level)]
    new = [_named(group, level) for group, level in known.items() if level and group not in seen]
    if measured_here:
        return "measured", "This very setting was measured."
    identity = [group for group in known if set(group.split("*")) & IDENTITY]
    rated = any("device" in group.split("*") for group in groups)  # what no device sets, such as bytes held, is counted from the shape
    if rated and not set(identity) & set(seen):
        shared = ", ".join(group.replace("*", " and ") for group in identity) or "a feature"
        return None, f"No published run shares {shared} with this: " + ("; ".join(new) or "nothing is told of it") + "."
    beyond = beyond_range(residual, features)
    if not new and not beyond and nearness >= NEAR:
        return "interpolated", f"Published runs surround it ({residual.n_anchors} anchors)."
    reasons = [f"no run with {name}" for name in new] + [f"{name} outside what was measured" for name in beyond]
    return "extrapolated", ("; ".join(reasons) or "few runs are near").capitalize() + "."


def beyond_range(residual: Residual, features: Features) -> list[str]:
    """The numbers that lie outside the range of the anchors."""
    basis = residual.basis
    names = []
    for at, name in enumerate(basis.scheme.numbers):
        value = features.get(name)
        if isinstance(value, (int, float)) and np.isfinite(value):
            scaled = (value - basis.centre[at]) / basis.spread[at]
            if not basis.low[at] - 1e-6 <= scaled <= basis.high[at] + 1e-6:
                names.append(name)
    return names
