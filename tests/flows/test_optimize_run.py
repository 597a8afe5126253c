"""`optimize` end to end on a tiny random model, with both engines: what it writes, what it says, and that it goes on where it was."""

import json

import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("openvino_genai")

from trimtab.core.errors import InputError
from trimtab.flows.events import Event
from trimtab.flows.optimize import optimize
from trimtab.plan.tuning.axes import axes_for
from trimtab.record.deploy import read_deploy_toml
from trimtab.testing.tiny_models import write_tiny_gguf

pytestmark = [pytest.mark.model, pytest.mark.slow]

WORDS = ("the", "small", "boat", "turned", "slowly", "into", "wind", "and", "old", "sailor", "watched", "water", "near", "shore")


def first_axis(engine, workload, n_cores):
    """One setting of each engine: with all of them a run has no end but its time limit."""
    return dict([next(iter(axes_for(engine, workload, n_cores).items()))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    write_tiny_gguf(root / "model.gguf", architecture="qwen2", seed=1, weight_type="Q4_1")
    rows = [{"id": f"t{n}", "text": " ".join(WORDS[(n * 5 + k * (1 + n % 3)) % len(WORDS)] for k in range(24))} for n in range(60)]
    (root / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(root / "state"))
        patch.setattr("trimtab.flows.parts.tuning.axes_for", first_axis)
        for name in ("TIMING_S", "NEEDED_TIMING_S", "LEAST_TIMING_S"):  # nothing here needs narrow intervals
            patch.setattr(f"trimtab.flows.parts.search.{name}", 4.0)
        yield root


def search(folder, out, **more):
    asked = {"suites": [str(folder / "mine.jsonl")], "workload": "64/16@1,2", "engines": ("llamacpp", "openvino"), "time_limit_s": 90}
    return optimize(str(folder / "model.gguf"), out=folder / out, **asked, **more)


@pytest.fixture(scope="module")
def first(folder):
    events: list[Event] = []
    decision = search(folder, "one", on_event=events.append)
    return decision, events


def test_the_decision_has_what_is_promised(first):
    decision, _ = first
    for key in ("schema", "verdict", "reference", "baseline", "chosen", "speedup", "gates", "candidates"):
        assert key in decision
    assert decision["baseline"]["id"] == "llamacpp as-shipped"
    assert decision["reference"]["engine"] == "llamacpp"
    assert "already" in decision["reference"]["provenance"], "a reference made of quantised weights says so"
    ids = {row["id"] for row in decision["candidates"]}
    assert {"openvino gguf", "openvino gguf-exact", "llamacpp q8_0"} <= ids
    for row in decision["candidates"]:
        assert row["status"] in ("dropped", "infeasible", "screened", "timed", "certified")
        assert row["reasons"] or row["id"] in (decision["chosen"]["id"], "llamacpp as-shipped")
    for row in decision["candidates"]:
        if row["verdict"] is not None:
            assert row["evidence"]["gates"]


def test_nothing_passes_on_gates_that_cannot_fail(first):
    """Random weights at two bits are as good as any others, so no gate is informative: the answer cannot be a faster candidate."""
    decision, _ = first
    assert decision["chosen"]["id"] == decision["baseline"]["id"]
    assert decision["verdict"] in ("inconclusive", "pass")
    assert all(row["verdict"] != "pass" for row in decision["candidates"])


def test_the_files_of_the_run(folder, first):
    decision, _ = first
    run = folder / "one"
    assert json.loads((run / "decision.json").read_text()) == json.loads(json.dumps(decision))
    assert json.loads((run / "run.json").read_text())["finished"]
    lines = [json.loads(line) for line in (run / "candidates.jsonl").read_text().splitlines()]
    assert {line["id"] for line in lines} == {row["id"] for row in decision["candidates"]}
    assert (run / "report.html").stat().st_size > 10_000
    if decision["verdict"] == "pass":
        assert read_deploy_toml(run / "deploy.toml").id == decision["chosen"]["id"]


def test_progress_tells_the_plan_and_every_phase(first):
    _, events = first
    phases = {event.phase for event in events}
    assert {"open", "reference", "plan", "screen", "time"} <= phases
    assert any("build the candidates" in event.message for event in events)
    assert all(event.seconds_left is None or event.seconds_left >= 0 for event in events)


def test_the_second_time_everything_is_known(folder, first):
    decision, _ = first
    again = search(folder, "two")
    assert again["work"]["computed"] == 0
    assert again["chosen"] == decision["chosen"]
    assert again["gates"] == decision["gates"]
    assert again["speedup"] == decision["speedup"]


def test_a_folder_with_another_run_is_not_taken_over(folder, first):
    with pytest.raises(InputError, match="--fresh"):
        search(folder, "one", seed=5)
    with pytest.raises(InputError, match="not empty"):
        search(folder, ".")
