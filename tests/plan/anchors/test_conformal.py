"""Intervals on simulated data: they hold what they say, for known models, for new ones and for new sources, and say what they rest on."""

from dataclasses import replace

import numpy as np
import pytest

from trimtab.core.errors import InputError
from trimtab.plan.anchors.conformal import Calibration, _quantile, basis_of_prediction, calibrated, kind_of
from trimtab.plan.anchors.residual import Anchor, Scheme, fit, fitted_with_rows
from trimtab.plan.anchors.scheme import full_features
from trimtab.plan.anchors.scores import Outcome, folds, leave_out, outcomes_of, score, scores_by_source

SCHEME = Scheme(groups=("model", "source", "device"), numbers=("load",))


def hierarchy(seed: int, *, n: int = 360) -> list[Anchor]:
    """18 models and 9 sources with effects of sd 0.25 and 0.15; noise with heavy tails, three times as large in one source."""
    rng = np.random.default_rng(seed)
    models, sources = rng.normal(size=18) * 0.25, rng.normal(size=9) * 0.15
    rows = []
    for i in range(n):
        m, s, load = int(rng.integers(18)), int(rng.integers(9)), float(rng.uniform(0, 5))
        wide = 3.0 if s == 0 else 1.0
        value = models[m] + sources[s] + 0.1 * load + float(rng.standard_t(4)) * 0.05 * wide
        features = {"device": f"d{i % 3}", "load": load}
        rows.append(Anchor(quantity="tpot_ms", features=features, log_ratio=value, setting=f"r{i}", model=f"m{m}", source=f"s{s}"))
    return rows


@pytest.mark.parametrize(("way", "least", "most"), [("configuration", 0.86, 0.95), ("model", 0.82, 0.97), ("source", 0.80, 0.98)])
def test_intervals_hold_what_they_say(way: str, least: float, most: float) -> None:
    inside = []
    for seed in (1, 2, 3):
        anchors = hierarchy(seed)
        held = leave_out(anchors, SCHEME, way, 6)  # type: ignore[arg-type]
        inside += [o.low <= o.measured <= o.high for o in outcomes_of(anchors, held)]
    assert least < np.mean(inside) < most


def test_a_noisy_source_is_wide_and_the_others_are_not() -> None:
    anchors = hierarchy(4, n=600)
    fitted = fitted_with_rows(anchors, SCHEME)
    row = dict(full_features(anchors[0]))
    quiet, noisy = fitted.residual.shift([row | {"source": "s1"}, row | {"source": "s0"}]).sd
    assert noisy > 1.8 * quiet


def test_new_models_and_new_sources_are_wider() -> None:
    fitted = fitted_with_rows(hierarchy(5), SCHEME)
    calibration = calibrated(fitted)
    residual = fitted.residual
    row = dict(full_features(fitted.anchors[0]))
    rows = {
        "configuration": row,
        "model": row | {"model": "new"},
        "source": row | {"source": "mine"},
        "both": row | {"model": "new", "source": "mine"},
    }
    assert [kind_of(residual, features) for features in rows.values()] == list(rows)
    widths = [calibration.factor(residual, features) * residual.shift([features]).sd[0] for features in rows.values()]
    assert widths[0] < min(widths[1:3])
    assert widths[3] > max(widths[:3]) * 0.85


def test_one_large_source_does_not_set_all() -> None:
    """900 rows of one source miss by little, ten sources of nine rows by much: the factor is not that of the large one."""
    scores = np.concatenate([np.linspace(0, 1, 900), np.linspace(0, 5, 90)])
    alike = _quantile(scores, [f"s{i}" for i in range(990)], 0.9, new_group=False)
    by_source = _quantile(scores, ["large"] * 900 + [f"s{i // 9}" for i in range(90)], 0.9, new_group=False)
    assert alike < 1.3 < 3 < by_source


def test_a_quantile_is_of_finitely_many_rows_or_groups() -> None:
    """Of 9 rows the ninth bounds a tenth at 90 %; of 20 the nineteenth is enough. Where a whole group is new, groups count as rows do."""
    one = [f"s{i}" for i in range(20)]
    assert _quantile(np.arange(1.0, 10.0), one[:9], 0.9, new_group=False) == 9
    assert _quantile(np.arange(1.0, 21.0), one, 0.9, new_group=False) == 19
    ten = [f"s{i // 50}" for i in range(500)]
    assert _quantile(np.arange(500.0), ten, 0.9, new_group=False) < 460
    assert _quantile(np.arange(500.0), ten, 0.9, new_group=True) > 465


def test_with_nothing_to_calibrate_it_is_wide() -> None:
    anchors = hierarchy(6, n=30)
    fitted = fitted_with_rows(anchors, SCHEME)
    calibration = calibrated(fitted)
    assert calibration == Calibration({}, {})
    assert calibration.factor(fitted.residual, full_features(anchors[0])) > 2


def test_what_stands_behind_a_number() -> None:
    residual = fit(hierarchy(7), SCHEME)
    near = {"model": "m1", "device": "d1", "load": 2.0}
    assert basis_of_prediction(residual, near, 0.9, measured_here=True)[0] == "measured"
    assert basis_of_prediction(residual, near, 0.9, measured_here=False)[0] == "interpolated"
    basis, why = basis_of_prediction(residual, near | {"model": "new"}, 0.9, measured_here=False)
    assert basis == "extrapolated"
    assert "model new" in why
    assert basis_of_prediction(residual, near | {"load": 50.0}, 0.9, measured_here=False)[0] == "extrapolated"
    none, why = basis_of_prediction(residual, {"model": "new", "device": "abacus"}, 0.0, measured_here=False)
    assert none is None
    assert "device abacus" in why


def test_folds_keep_groups_whole_and_even() -> None:
    groups = [f"g{i % 13}" for i in range(200)]
    fold = folds(groups, 5)
    assert fold == folds(groups, 5)
    assert len({(g, f) for g, f in zip(groups, fold, strict=True)}) == 13
    assert max(fold.count(k) for k in range(5)) < 1.5 * min(fold.count(k) for k in range(5))


def test_a_score_counts_what_was_refused() -> None:
    rows = [Outcome("a", 10.0, 11.0, 9.0, 12.0), Outcome("a", 10.0, 8.0, 7.0, 9.0), Outcome("b", 5.0)]
    pooled = score(rows)
    assert (pooled.n, pooled.predicted_share) == (3, pytest.approx(2 / 3))
    assert (pooled.median_ape_pct, pooled.bias_pct, pooled.coverage) == (pytest.approx(15), pytest.approx(-5), 0.5)
    assert score([rows[2]]).median_ape_pct is None
    assert list(scores_by_source(rows)) == ["pooled", "a", "b"]


def test_leaving_out_the_only_source_is_refused() -> None:
    anchors = [a for a in hierarchy(8) if a.source == "s1"]
    with pytest.raises(InputError, match="share one source"):
        leave_out(anchors, SCHEME, "source")


def test_a_new_device_is_told_even_where_it_has_no_effect_of_its_own() -> None:
    residual = fit(hierarchy(9), Scheme(groups=("model", "source"), numbers=("load",)))
    known = {"model": "m1", "device": "d1", "load": 2.0}
    assert basis_of_prediction(residual, known, 0.9, measured_here=False)[0] == "interpolated"
    basis, why = basis_of_prediction(residual, known | {"device": "abacus"}, 0.9, measured_here=False)
    assert basis == "extrapolated"
    assert "abacus" in why


def test_what_no_device_sets_is_counted_even_where_everything_is_new() -> None:
    held = [replace(anchor, features={"load": anchor.features["load"]}) for anchor in hierarchy(11)]
    residual = fit(held, Scheme(groups=("model", "source"), numbers=()))
    basis, why = basis_of_prediction(residual, {"model": "new", "load": 2.0}, 0.0, measured_here=False)
    assert basis == "extrapolated"
    assert "model new" in why
