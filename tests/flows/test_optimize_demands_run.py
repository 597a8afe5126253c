"""`optimize` under demands, end to end on a tiny random model: the rows, the capacity, and an answer of no."""

import json

import pytest

pytest.importorskip("llama_cpp")

from trimtab.core.errors import InfeasibleError
from trimtab.flows.optimize import optimize
from trimtab.testing.tiny_models import write_tiny_gguf

pytestmark = [pytest.mark.model, pytest.mark.slow]

WORDS = ("the", "small", "boat", "turned", "slowly", "into", "wind", "and", "old", "sailor", "watched", "water", "near", "shore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, liked):
    root = tmp_path_factory.mktemp("demands")
    write_tiny_gguf(root / "model.gguf", architecture="qwen2", seed=1, weight_type="Q4_1")
    rows = [{"id": f"t{n}", "text": " ".join(WORDS[(n * 5 + k * (1 + n % 3)) % len(WORDS)] for k in range(24))} for n in range(60)]
    (root / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "shelf.toml").write_text('[[entry]]\nrecipe = "llamacpp-q8_0"\n')
    (root / "own.toml").write_text(liked.policy.replace('"said"', '"mine"'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(root / "state"))
        patch.setattr("trimtab.flows.parts.space.SHELF", root / "shelf.toml")
        patch.setattr("trimtab.flows.parts.tuning.axes_for", lambda engine, workload, n_cores: {})
        for name in ("TIMING_S", "NEEDED_TIMING_S", "LEAST_TIMING_S"):  # what is demanded is settled after the timing
            patch.setattr(f"trimtab.flows.parts.search.{name}", 3.0)
        yield root


def search(folder, out, slo):
    return optimize(
        str(folder / "model.gguf"),
        suites=[str(folder / "mine.jsonl")],
        policy=str(folder / "own.toml"),
        workload="32/8@1,2",
        engines=["llamacpp"],
        slo=slo,
        objective="throughput",
        time_limit_s=120,
        out=folder / out,
    )


def test_demands_are_judged_on_enough_requests_and_the_capacity_is_found(folder):
    decision = search(folder, "met", "ttft_p95<5s,memory<4GiB")
    assert decision["objective"]["name"] == "throughput"
    chosen = decision["chosen"]["id"]
    rows = [row for row in decision["slo"] if row["candidate"] == chosen]
    assert [(row["metric"], row["concurrency"]) for row in rows] == [("ttft", 1), ("ttft", 2), ("memory", None)]
    assert all(row["n"] >= 93 or row["verdict"] == "inconclusive" for row in rows[:2]), "as many as p95 takes with one beyond the limit"
    assert rows[2]["verdict"] == "pass"
    if any(row["verdict"] != "pass" for row in rows):
        assert decision["verdict"] == "inconclusive"
    capacity = decision["capacity"]["chosen"]
    assert capacity["id"] == chosen
    assert capacity.get("points") or "time limit" in capacity["why"], "on a busy machine there may be no time for it"
    assert "What is demanded" in (folder / "met" / "report.html").read_text()


def test_a_demand_that_nothing_meets_is_an_answer_of_no(folder):
    decision = search(folder, "missed", "memory<25MB")
    assert (decision["verdict"], decision["chosen"]) == ("fail", None)
    assert decision["reasons"][0].startswith("Nothing that was timed here meets memory<25MB: the nearest is ")
    assert not (folder / "missed" / "deploy.toml").exists()
    with pytest.raises(InfeasibleError, match="beyond the best case of all candidates"):
        search(folder, "never", "throughput>1000000000tok/s")
