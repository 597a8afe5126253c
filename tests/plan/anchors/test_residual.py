"""The residual on data whose truth is known: what it learns, what it does not claim, and what it refuses."""

import math

import numpy as np
import pytest

from trimtab.core.errors import InputError
from trimtab.plan.anchors.residual import Anchor, Residual, Scheme, fit, fitted_with_rows
from trimtab.plan.anchors.scheme import full_features

SCHEME = Scheme(
    groups=("model", "source", "device"), numbers=("load", "length"), inside={"model": ("load",)}, waves_over=("load", "length"), n_waves=12
)


def synthetic(n: int = 400, n_models: int = 12, seed: int = 1, noise: float = 0.05) -> tuple[list[Anchor], dict[str, float]]:
    """Rows of a hierarchy: an effect for each model (sd 0.3), device and source (0.1), a curve along the load."""
    rng = np.random.default_rng(seed)
    model_effects = {f"m{i}": float(rng.normal() * 0.3) for i in range(n_models)}
    others = {name: float(rng.normal() * 0.1) for name in ("d0", "d1", "d2", "s0", "s1", "s2", "s3")}
    rows = []
    for i in range(n):
        model, device, source = f"m{rng.integers(n_models)}", f"d{rng.integers(3)}", f"s{rng.integers(4)}"
        load, length = float(rng.uniform(0, 6)), float(rng.uniform(5, 9))
        truth = model_effects[model] + others[device] + others[source] + 0.2 * math.sin(load) + 0.3
        rows.append(
            Anchor(
                quantity="tpot_ms",
                features={"device": device, "load": load, "length": length},
                log_ratio=truth + float(rng.normal()) * noise,
                setting=f"r{i}",
                model=model,
                source=source,
            )
        )
    return rows, model_effects


@pytest.fixture(scope="module")
def anchors() -> list[Anchor]:
    return synthetic()[0]


@pytest.fixture(scope="module")
def residual(anchors: list[Anchor]) -> Residual:
    return fit(anchors, SCHEME)


def test_it_learns_down_to_the_noise(anchors: list[Anchor], residual: Residual) -> None:
    fresh = synthetic(n=600)[0][400:]  # the same truth, further rows
    shifts = residual.shift([full_features(a) for a in fresh])
    miss = np.array([a.log_ratio for a in fresh]) - shifts.mean
    assert np.sqrt(np.mean(miss**2)) < 0.08
    assert 0.8 < np.mean(np.abs(miss) < 1.645 * shifts.sd) < 0.99


def test_an_unseen_level_is_the_mean_and_wide(anchors: list[Anchor], residual: Residual) -> None:
    known = {**full_features(anchors[0])}
    new = known | {"model": "never seen"}
    at_known, at_new = residual.shift([known]), residual.shift([new])
    models = [residual.shift([known | {"model": f"m{i}"}]).mean[0] for i in range(12)]
    assert min(models) < at_new.mean[0] < max(models)
    assert abs(at_new.mean[0] - np.mean(models)) < 0.15
    # The models differ by 0.3: that is what an unseen one is unsure by.
    assert 0.15 < at_new.sd[0] < 0.6
    assert at_new.sd[0] > 2 * at_known.sd[0]
    assert at_new.nearness[0] < at_known.nearness[0]


def test_far_numbers_are_not_near(anchors: list[Anchor], residual: Residual) -> None:
    inside = dict(full_features(anchors[0])) | {"load": 3.0}
    shifts = residual.shift([inside, inside | {"load": 30.0}])
    assert shifts.nearness[1] < shifts.nearness[0]
    assert shifts.sd[1] > shifts.sd[0]
    # An effect does not run away outside what was measured.
    assert abs(shifts.mean[1] - residual.shift([inside | {"load": 6.0}]).mean[0]) < 0.05


def test_a_level_with_one_row_is_drawn_to_the_mean() -> None:
    """Noise as large as the models' differences: one row of a model is believed by half or less."""
    odd = Anchor(
        quantity="tpot_ms", features={"device": "d0", "load": 3.0, "length": 7.0}, log_ratio=1.2, setting="x", model="odd", source="s0"
    )
    residual = fit([*synthetic(noise=0.3)[0], odd], SCHEME)
    of_odd = residual.shift([full_features(odd)]).mean[0]
    of_new = residual.shift([full_features(odd) | {"model": "never seen"}]).mean[0]
    assert 0.05 < (of_odd - of_new) / (1.2 - of_new) < 0.6


def test_wild_rows_move_little(anchors: list[Anchor], residual: Residual) -> None:
    wild = [
        Anchor(quantity=a.quantity, features=a.features, log_ratio=a.log_ratio + 3, setting=a.setting, model=a.model, source=a.source)
        for a in anchors[:12]
    ]
    spoilt = fit([*wild, *anchors[12:]], SCHEME)
    rows = [full_features(a) for a in anchors[12:]]
    assert np.median(np.abs(spoilt.shift(rows).mean - residual.shift(rows).mean)) < 0.03


def test_leaving_out_by_formula_is_leaving_out(anchors: list[Anchor]) -> None:
    """The closed form against solving again without the rows, at the same variances."""
    fitted = fitted_with_rows(anchors, SCHEME)
    shifts = fitted.left_out([a.model for a in anchors])
    out = np.array([a.model == "m3" for a in anchors])
    kept, weight = fitted.columns.values[~out], fitted.row_precision[~out]
    matrix = (kept * weight[:, None]).T @ kept + np.diag(1 / fitted.residual._prior)
    mean = fitted.columns.values[out] @ np.linalg.solve(matrix, kept.T @ (weight * fitted.y[~out]))
    assert np.allclose(shifts.mean[out], mean, atol=1e-6)


def test_an_update_is_what_the_rows_together_give(anchors: list[Anchor], residual: Residual) -> None:
    """Two updates in turn equal one, and a new model becomes known by it."""
    base = anchors[0]
    own = [
        Anchor(quantity="tpot_ms", features=base.features | {"load": load}, log_ratio=1.2, setting=f"own{load}", model="mine", source="own")
        for load in (1.0, 2.0, 4.0)
    ]
    row = [full_features(own[1])]
    before = residual.shift(row)
    together, in_turn = residual.updated(own), residual.updated(own[:1]).updated(own[1:])
    assert np.allclose(together.shift(row).mean, in_turn.shift(row).mean, atol=1e-6)
    assert np.allclose(together.shift(row).sd, in_turn.shift(row).sd, atol=1e-6)
    assert together.shift(row).sd[0] < before.sd[0] / 1.5
    assert abs(together.shift(row).mean[0] - 1.2) < abs(before.mean[0] - 1.2) / 2
    # Others' rows hardly move.
    other = [full_features(a) for a in anchors[:50]]
    assert np.max(np.abs(together.shift(other).mean - residual.shift(other).mean)) < 0.1


def test_what_cannot_be_fitted_is_said(anchors: list[Anchor]) -> None:
    with pytest.raises(InputError, match="no anchor"):
        fit([], SCHEME)
    bad = Anchor(quantity="tpot_ms", features={}, log_ratio=math.nan, setting="a", model="m", source="s")
    with pytest.raises(InputError, match="no finite ratio"):
        fit([bad], SCHEME)
    with pytest.raises(InputError, match="several quantities"):
        fit([anchors[0], Anchor(quantity="ttft_ms", features={}, log_ratio=0.0, setting="a", model="m", source="s")], SCHEME)
