"""Own measurements: kept whole, refused when they cannot be meant, and what they do to a prediction."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from trimtab.core.errors import InputError
from trimtab.core.planning import Prediction, Unknown
from trimtab.plan.anchors.fitted import fitted, prediction, save
from trimtab.plan.anchors.measured import OWN, Measurement, kept, remember, with_own
from trimtab.plan.anchors.scheme import Anchor, Scheme, full_features
from trimtab.plan.anchors.stored import Published, from_bytes, to_bytes

SCHEME = Scheme(groups=("model", "source", "device"), numbers=("load",), inside={"device": ("load",)}, waves_over=(), n_waves=0)
FEATURES = {"model": "m1", "device": "d1", "load": 2.0}
MINE = Measurement(
    quantity="tpot_ms", unit="ms", value=14.0, physics=10.0, features=FEATURES, setting="m1 d1 8", model="m1", when="2026-11-27"
)


@pytest.fixture(scope="module")
def fit() -> Published:
    rng = np.random.default_rng(3)
    anchors = []
    for i in range(300):
        model, source, load = int(rng.integers(10)), int(rng.integers(6)), float(rng.uniform(0, 4))
        value = 0.2 * np.sin(7.0 * model) + 0.15 * np.cos(5.0 * source) + 0.05 * load + float(rng.normal()) * 0.04
        features = {"device": f"d{i % 3}", "load": load}
        anchors.append(
            Anchor(quantity="tpot_ms", features=features, log_ratio=value, setting=f"r{i}", model=f"m{model}", source=f"s{source}")
        )
    return fitted("tpot_ms", anchors, SCHEME, {"rows.csv": "0" * 64}, date(2026, 11, 27))


def told(fit: Published, **features: str) -> Prediction:
    found = prediction(fit, "tpot_ms", "ms", 10.0, {**FEATURES, **features}, setting=MINE.setting)
    assert isinstance(found, Prediction)
    return found


def test_a_measurement_moves_and_narrows_the_prediction(fit: Published) -> None:
    before, after = told(fit), told(with_own(fit, [MINE]), source=OWN)
    assert after.high / after.low < before.high / before.low
    assert abs(after.value - 14) < abs(before.value - 14)
    assert before.basis in ("interpolated", "extrapolated")
    assert after.basis == "measured"


def test_a_second_machine_is_not_told_by_the_first(fit: Published) -> None:
    """Who does not say that it is the machine that was measured gets the published runs' answer, hardly moved."""
    before, after = told(fit), told(with_own(fit, [MINE]))
    assert abs(np.log(after.value / before.value)) < 0.1


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "planner" / "measurements.jsonl"
    other = replace(MINE, value=15.5, conditions={"version": "0.19"})
    remember(path, MINE)
    remember(path, other)
    assert kept(path).measurements == (MINE, other)
    assert kept(tmp_path / "absent.jsonl").measurements == ()


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "measurements.jsonl"
    remember(path, MINE)
    with path.open("ab") as file:
        file.write(b'{"version":1,"quantity":"tpo')  # the power went
    remember(path, MINE)
    with path.open("ab") as file:
        file.write(b'{"version":2}\n[]\n')
    found = kept(path)
    assert found.measurements == (MINE, MINE)
    assert found.n_unread == 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"unit": "s"}, "kept in ms, not in s"),
        ({"unit": ""}, "no unit"),
        ({"quantity": "mood"}, "nothing that the planner predicts"),
        ({"value": 0.014}, "is it in ms"),
        ({"value": -3.0}, "must be above 0"),
        ({"value": float("nan")}, "must be above 0"),
        ({"physics": 0.0}, "must be above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        remember(tmp_path / "m.jsonl", replace(MINE, **wrong))  # type: ignore[arg-type]
    assert not (tmp_path / "m.jsonl").exists()


def test_a_fit_survives_its_file(fit: Published) -> None:
    again = from_bytes(to_bytes(fit))
    rows = [
        full_features(Anchor(quantity="tpot_ms", features=FEATURES | {"load": x}, log_ratio=0, setting="", model="m2", source="s1"))
        for x in (0.5, 9.0)
    ]
    mine, theirs = fit.residual.shift(rows), again.residual.shift(rows)
    assert np.allclose(mine.mean, theirs.mean, atol=1e-9)
    assert np.allclose(mine.sd, theirs.sd, rtol=0.02)
    assert again.measured_at("r17")
    assert not again.measured_at("r17 but not quite")
    assert again.provenance == fit.provenance
    assert sum(again.provenance["sources"].values()) == 300


def test_a_file_holds_no_row(fit: Published) -> None:
    assert b"r17" not in to_bytes(fit)
    assert len(fit.settings) == 300


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY nothing"])
def test_another_file_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="no fit of the planner"):
        from_bytes(data, "tpot_ms.npz")


def test_files_are_named_with_their_digests(fit: Published, tmp_path: Path) -> None:
    save(tmp_path, [fit])
    index = (tmp_path / "index.toml").read_text()
    assert "[fits.tpot_ms]" in index
    assert "n_anchors = 300" in index
    save(tmp_path, [fit])
    assert (tmp_path / "index.toml").read_text() == index  # the same fit gives the same bytes


def test_a_bound_is_never_passed(fit: Published) -> None:
    found = prediction(fit, "tpot_ms", "ms", 10.0, FEATURES, speed_of_light=30.0)
    assert isinstance(found, Prediction)
    assert (found.low, found.value) == (30.0, 30.0)
    assert isinstance(prediction(None, "mood", "", 1.0, FEATURES), Unknown)
    assert isinstance(prediction(fit, "tpot_ms", "ms", 1.0, {"model": "new", "device": "new"}), Unknown)
