"""Timings of a search as measurements of the planner."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from trimtab.core.deployment import Recipe
from trimtab.core.planning import Prediction
from trimtab.core.workload import Workload
from trimtab.flows.parts.plan_feedback import _measurements, remember_timings, weights_of
from trimtab.plan.anchors.fitted import prediction, shipped
from trimtab.plan.anchors.measured import OWN, kept, remember, with_own
from trimtab.plan.architectures import architecture
from trimtab.plan.devices import device

CHAT = Workload(name="chat", prompt_tokens=512, output_tokens=128, concurrency=(1, 4))
MODEL, DEVICE = architecture("llama-3.1-8b"), device("rtx-4090")


def row(points: list[dict[str, object]], **told: object) -> SimpleNamespace:
    recipe = Recipe(name="llamacpp-q4_k_m", family="gguf", engine="llamacpp", parameters={"type": "Q4_K_M"})
    plan = SimpleNamespace(id="llamacpp q4_k_m", engine="llamacpp", recipe=recipe)
    return SimpleNamespace(plan=plan, timed=SimpleNamespace(measurement={"points": points, "noisy": False, **told}))


def point(concurrency: int, ttft_ms: float, tpot_ms: float, failed: int = 0) -> dict[str, object]:
    return {"concurrency": concurrency, "failed": failed, "ttft_ms": {"mean": ttft_ms}, "tpot_ms": {"mean": tpot_ms}}


def test_each_level_is_kept_in_the_planners_units(tmp_path: Path) -> None:
    found = list(_measurements(row([point(1, 120.0, 8.0), point(4, 300.0, 12.0)]), MODEL, DEVICE, CHAT, {}))  # type: ignore[arg-type]
    by_name = {(one.quantity, one.features["concurrency"] > 0): one for one in found}  # type: ignore[operator]
    assert by_name["tpot_ms", False].value == 8.0
    assert by_name["tpot_ms", True].value == 12.0
    assert by_name["decode_tok_s", False].value == 125.0
    assert by_name["prefill_tok_s", False].value == pytest.approx(512 / 0.12)
    assert ("decode_tok_s", True) not in by_name
    for one in found:
        remember(tmp_path / "m.jsonl", one)
    assert kept(tmp_path / "m.jsonl").measurements == tuple(found)


def test_what_was_timed_here_narrows_what_is_predicted_here() -> None:
    one = next(m for m in _measurements(row([point(1, 120.0, 9.9)]), MODEL, DEVICE, CHAT, {}) if m.quantity == "decode_tok_s")  # type: ignore[arg-type]
    fit = shipped("decode_tok_s")
    assert fit is not None
    told = [
        prediction(now, "decode_tok_s", "tokens/s", one.physics, {**one.features, "source": OWN}, slower_is_larger=False)
        for now in (fit, with_own(fit, [one]))
    ]
    before, after = (number for number in told if isinstance(number, Prediction))
    assert after.high / after.low < before.high / before.low
    assert abs(after.value - one.value) < abs(before.value - one.value)


def test_failures_and_noise_are_not_kept() -> None:
    assert list(_measurements(row([point(1, 120.0, 8.0, failed=1)]), MODEL, DEVICE, CHAT, {})) == []  # type: ignore[arg-type]
    assert list(_measurements(row([point(1, 120.0, 8.0)], noisy=True), MODEL, DEVICE, CHAT, {})) == []  # type: ignore[arg-type]


def test_a_machine_that_the_planner_does_not_know_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path))
    assert remember_timings(SimpleNamespace()) == 0  # type: ignore[arg-type]
    assert not (tmp_path / "planner").exists()


@pytest.mark.parametrize(
    ("parameters", "stored", "kind"),
    [
        ({"type": "Q5_K_M"}, {}, "Q5_K_M"),
        ({"mode": "int8_asym"}, {}, "int8"),
        ({"type": "as-shipped"}, {"F32": 10, "Q8_0": 900}, "Q8_0"),
        ({}, {"F16": 5}, "F16"),
    ],
)
def test_the_type_of_the_weights(parameters: dict[str, str], stored: dict[str, int], kind: str) -> None:
    assert weights_of(Recipe(name="r", family="gguf", engine="llamacpp", parameters=parameters), stored) == kind
