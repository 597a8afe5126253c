"""A decision computed again from the files of its run: the same, or the figure that differs is named."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.evidence import Outcome
from trimtab.flows.parts.recompute import Recomputed, recompute
from trimtab.flows.verify import verify_release
from trimtab.record.outcomes import read_outcomes, write_outcomes
from trimtab.record.run import read_decision

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "parts"))
from sample_run import write_sample_run


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    write_sample_run(root / "run", root / "weights" / "tiny.gguf")
    return root / "run"


@pytest.fixture
def run(sample: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample, tmp_path / "run"))


def again(run: Path) -> Recomputed:
    return recompute(run, read_decision(run))


def rewrite(path: Path, change: Callable[[list[Outcome]], None]) -> None:
    outcomes, notes = read_outcomes(path)
    rows = list(outcomes)
    change(rows)
    notes.pop("schema", None)
    write_outcomes(path, rows, notes)


def redecide(run: Path, change: Callable[[Any], None]) -> None:
    document = json.loads((run / "decision.json").read_text())
    change(document)
    (run / "decision.json").write_text(json.dumps(document))


def test_every_gate_of_every_candidate_is_computed_again(sample: Path) -> None:
    """One was looked at longer than the other, and both share the reference's items."""
    assert again(sample) == Recomputed(n_gates=8, n_judged=2)


@pytest.mark.parametrize("kind", ["choice-", "fairness-", "control.choice.", "noise."])
def test_a_changed_value_is_told(run: Path, kind: str) -> None:
    document = read_decision(run)
    digest = document["chosen"]["deployment_sha256"][:16]
    [path] = (run / "items").glob(f"{kind}*{digest}.parquet")

    def change(rows: list[Outcome]) -> None:
        rows[3] = replace(rows[3], value=(rows[3].value or 0.0) + 0.5)

    rewrite(path, change)
    told = again(run).different
    assert told
    assert all("llamacpp slots=2: gate " in sentence for sentence in told)


def test_a_row_taken_out_and_one_put_in_are_told(run: Path) -> None:
    [path] = (run / "items").glob(f"choice-{read_decision(run)['chosen']['deployment_sha256'][:16]}.parquet")
    rewrite(path, lambda rows: rows.pop(7) and None)
    assert any("gate choice: n " in sentence for sentence in again(run).different)
    rewrite(path, lambda rows: rows.append(replace(rows[0])))
    assert any("choice-0-0" in sentence for sentence in again(run).different)


def test_a_changed_answer_of_the_served_path_is_told(run: Path) -> None:
    [path] = (run / "items").glob(f"served.{read_decision(run)['chosen']['deployment_sha256'][:16]}.json")
    served = json.loads(path.read_text())
    served["generation"]["broken"][4] = True
    path.write_text(json.dumps(served))
    assert any("gate generation: " in sentence for sentence in again(run).different)
    served["parity"]["differences"][0] += 0.1
    path.write_text(json.dumps(served))
    assert any("gate parity: delta is " in sentence for sentence in again(run).different)


def set_margin(document: Any) -> None:
    document["policy"]["gates"][0]["margin"] = 0.2


def set_verdict(document: Any) -> None:
    document["candidates"][0]["verdict"] = "pass"


def set_low(document: Any) -> None:
    document["candidates"][1]["evidence"]["gates"][0]["low"] += 0.001


def choose_the_worse(document: Any) -> None:
    document["chosen"]["id"] = "llamacpp threads=1"


def show_others(document: Any) -> None:
    document["gates"][0]["n"] += 1


def drop_a_gate(document: Any) -> None:
    document["candidates"][0]["evidence"]["gates"].pop()


def drop_policy(document: Any) -> None:
    del document["policy"]["gates"]


def no_candidates(document: Any) -> None:
    document["candidates"] = 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_margin, "is not the one of its sha256"),
        (set_verdict, "its verdict is pass in decision.json, fail computed again"),
        (set_low, "gate choice: low is "),
        (choose_the_worse, "no candidate that passed was chosen"),
        (show_others, "are those of no candidate in it"),
        (drop_a_gate, "are not those of the policy"),
        (drop_policy, "has no gates"),
        (no_candidates, "do not fit together"),
    ],
)
def test_a_decision_that_says_otherwise_is_told(run: Path, change: Callable[[Any], None], words: str) -> None:
    redecide(run, change)
    assert any(words in sentence for sentence in again(run).different)


def test_a_run_that_kept_items_only_is_computed_as_far_as_they_go(run: Path) -> None:
    for path in (*(run / "items").glob("served.*"), *(run / "items").glob("control.*"), *(run / "items").glob("noise.*")):
        path.unlink()
    found = again(run)
    assert (found.n_gates, found.different) == (4, ())
    assert len(found.unknown) == 2
    assert "only the items were kept" in found.unknown[0]
    redecide(run, set_low)
    assert any("gate choice: low is " in sentence for sentence in again(run).different)


def test_without_items_nothing_is_claimed(run: Path) -> None:
    shutil.rmtree(run / "items")
    found = again(run)
    assert (found.n_gates, found.different, len(found.unknown)) == (0, (), 2)
    assert "were not kept" in found.unknown[0]


def test_a_damaged_file_is_told(run: Path) -> None:
    path = next((run / "items").glob("choice-*"))
    path.write_bytes(path.read_bytes()[:-9])
    assert "cannot be read as Parquet" in again(run).different[0]


@pytest.mark.slow
@pytest.mark.model
def test_a_real_run_is_computed_again(certified: Path) -> None:
    assert again(certified / "run") == Recomputed(n_gates=1, n_judged=1)
    checks = verify_release(str(certified / "run"))["checks"]
    assert {check["name"]: check["state"] for check in checks if check["name"] in ("decision", "items")} == {
        "decision": "right",
        "items": "right",
    }
