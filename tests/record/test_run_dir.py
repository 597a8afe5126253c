"""Run directories: resume after kill -9, refuse what does not fit, say in a sentence what a disk refuses."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.decision import CandidateResult
from trimtab.core.errors import InputError, MissingError, TrimtabError
from trimtab.core.evidence import Outcome
from trimtab.record.disk import append_record, check_schema, read_records
from trimtab.record.run import RunDir, read_decision, read_run

DIGESTS = {"source": "a" * 64, "policy": "b" * 64, "workload": "c" * 64}


def open_run(path: Path, **changes: Any) -> RunDir:
    return RunDir.open(path, **{"digests": DIGESTS, "seed": 0, **changes})


def candidate(status: str = "screened") -> CandidateResult:
    return CandidateResult(
        id="openvino/int8",
        engine="openvino",
        recipe="int8",
        settings={"threads": 2},
        status=status,  # type: ignore[arg-type]
        verdict=None,
        reasons=("fast",),
    )


def test_steps_run_once_and_survive(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> dict[str, Any]:
        calls.append(1)
        return {"pair": (1, 2.5), "missing": float("nan")}

    with open_run(tmp_path / "run") as run:
        assert not run.resumed
        assert run.step("a", compute) == {"pair": [1, 2.5], "missing": None}
        assert run.step("a", compute) == {"pair": [1, 2.5], "missing": None}
    with open_run(tmp_path / "run") as run:
        assert run.resumed
        assert run.finished("a")
        assert (run.steps("a"), run.steps("b")) == (["a"], [])
        assert run.step("a", compute) == {"pair": [1, 2.5], "missing": None}
    assert len(calls) == 1


def test_last_line_of_a_candidate_counts(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        run.put_candidate(candidate())
        run.put_candidate(candidate())
        run.put_candidate(candidate("timed"))
    assert len((tmp_path / "run" / "candidates.jsonl").read_text().splitlines()) == 2
    with open_run(tmp_path / "run") as run:
        assert [row["status"] for row in run.candidates().values()] == ["timed"]


def test_outcomes_are_kept_with_their_digest(tmp_path: Path) -> None:
    rows = tuple(Outcome(item_id=f"i{i}", suite="cloze", cluster="c", value=None if i else 0.5, n_tokens=3) for i in range(4))
    with open_run(tmp_path / "run") as run:
        kept = run.put_outcomes("f" * 64, "mine/../../x.jsonl", rows)
        path = tmp_path / "run" / kept["file"]
        assert path.parent == tmp_path / "run" / "items"
        assert run.get_outcomes(kept) == rows
        path.write_bytes(b"other")
        assert run.get_outcomes(kept) is None
        path.unlink()
        assert run.get_outcomes(kept) is None


def test_run_json_says_what_ran(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", seed=7, inputs={"model": "m.gguf"}, versions={"trimtab": "0.1.0"}) as run:
        assert read_run(tmp_path / "run")["finished"] is None
        run.finish()
    head = read_run(tmp_path / "run")
    assert (head["schema"], head["seed"], head["digests"]) == ("trimtab.run/1", 7, DIGESTS)
    assert head["finished"] >= head["started"]
    with open_run(tmp_path / "run", seed=7) as run:
        run.finish()
    assert read_run(tmp_path / "run") == head


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"seed": 1}, "seed"), ({"digests": {**DIGESTS, "policy": "0" * 64}}, "policy"), ({"digests": {"source": "a" * 64}}, "workload")],
)
def test_other_inputs_are_refused_unless_fresh(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        run.step("a", lambda: 1)
    with pytest.raises(InputError, match=named):
        open_run(tmp_path / "run", **changes)
    with open_run(tmp_path / "run", **changes, fresh=True) as run:
        assert not run.resumed
        assert not run.finished("a")
    [old] = [path for path in tmp_path.iterdir() if path.name.startswith("run.old-")]
    assert "a" in (old / "journal.jsonl").read_text()
    with open_run(tmp_path / "run", fresh=True):
        assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_of_the_users_is_never_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    for fresh in (False, True):
        with pytest.raises(InputError, match=r"thesis\.tex"):
            open_run(tmp_path, fresh=fresh)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(InputError):
        open_run(tmp_path / "run")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with open_run(tmp_path / "run"):
        with pytest.raises(InputError, match=f"process {os.getpid()}"):
            open_run(tmp_path / "run")
        with pytest.raises(InputError, match="in use"):
            open_run(tmp_path / "run", fresh=True)
    open_run(tmp_path / "run").close()


def test_a_torn_last_line_is_ignored_with_a_warning(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        run.step("a", lambda: 1)
        run.step("b", lambda: "zwölf")
    journal = tmp_path / "run" / "journal.jsonl"
    whole = journal.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first + 1, len(whole), 7):
        journal.write_bytes(whole[:cut])
        with open_run(tmp_path / "run") as run:
            assert len(run.warnings) == 1
            assert "torn" in run.warnings[0]
            assert (run.finished("a"), run.finished("b")) == (True, False)
            run.step("b", lambda: "zwölf")
        assert journal.read_bytes() == whole


def test_zeros_at_the_end_are_torn_too(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        run.step("a", lambda: 1)
    with (tmp_path / "run" / "journal.jsonl").open("ab") as file:
        file.write(b"\0" * 100 + b"\n")
    with open_run(tmp_path / "run") as run:
        assert run.finished("a")
        assert run.warnings


@pytest.mark.parametrize("damage", [b"{broken\n", b"[1]\n", b"\xff\n", b"{}\n"])
def test_damage_in_the_middle_is_an_input_error(damage: bytes, tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        run.step("a", lambda: 1)
    journal = tmp_path / "run" / "journal.jsonl"
    journal.write_bytes(damage + journal.read_bytes())
    with pytest.raises(InputError, match="ine 1"):
        open_run(tmp_path / "run")
    with open_run(tmp_path / "run", fresh=True) as run:
        assert not run.finished("a")


def test_a_changed_result_is_noticed(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        run.step("a", lambda: {"delta": -0.031})
        run.step("b", lambda: 1)
    journal = tmp_path / "run" / "journal.jsonl"
    journal.write_text(journal.read_text().replace("-0.031", "-0.001"))
    with pytest.raises(InputError, match="line 1"):
        open_run(tmp_path / "run")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": "trimtab.run/3"}', '{"schema": "other/1"}', "[" * 100000])
def test_a_bad_run_json_is_an_input_error(content: str, tmp_path: Path) -> None:
    open_run(tmp_path / "run").close()
    (tmp_path / "run" / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json"):
        open_run(tmp_path / "run")


def test_readers_take_the_version_before() -> None:
    for version in (1, 2):
        assert check_schema({"schema": f"trimtab.run/{version}"}, "trimtab.run/2", "it") == version
    with pytest.raises(InputError, match="newer trimtab"):
        check_schema({"schema": "trimtab.run/3"}, "trimtab.run/2", "it")
    with pytest.raises(InputError, match="too old"):
        check_schema({"schema": "trimtab.run/1"}, "trimtab.run/3", "it")
    for other in (None, 1, "trimtab.run", "trimtab.run/x", "trimtab.run/-1", "trimtab.run/²"):
        with pytest.raises(InputError, match="not a"):
            check_schema({"schema": other}, "trimtab.run/2", "it")


def test_decision_round_trip(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        with pytest.raises(InputError):
            run.write_decision({"schema": "x"})
        run.write_decision({"schema": "trimtab.decision/1", "verdict": "pass"})
    assert read_decision(tmp_path / "run") == read_decision(tmp_path / "run" / "decision.json")
    with pytest.raises(InputError, match="There is no"):
        read_decision(tmp_path / "nowhere")


KILLED = """
import sys
from pathlib import Path
import pyarrow.parquet
from trimtab.core.decision import CandidateResult
from trimtab.core.evidence import Outcome
from trimtab.record.run import RunDir

rows = [Outcome(item_id=str(i), suite="s", cluster="c", value=i / 3, n_tokens=1) for i in range(300)]
run = RunDir.open(Path(sys.argv[1]), digests={"source": "a"}, seed=0)
print("open", flush=True)
for number in range(100000):
    run.step(f"step {number}", lambda: {"number": number, "text": "x" * 20000})
    run.step(f"items {number}", lambda: run.put_outcomes(f"{number:016d}", "s", rows))
    run.write_decision({"schema": "trimtab.decision/1", "number": number, "text": "y" * 50000})
    print(number, flush=True)
"""


@pytest.mark.slow
def test_kill_dash_nine_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    chance = random.Random(0)
    path = tmp_path / "run"
    finished = 0
    for _ in range(12):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        # A disk may take a second for what another does in a millisecond: wait for steps, then for a part of one.
        began = time.monotonic()
        acknowledged = -1
        while acknowledged < finished + 1:
            acknowledged = int(child.stdout.readline())
        time.sleep(chance.uniform(0.0, (time.monotonic() - began) / 2))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        with RunDir.open(path, digests={"source": "a"}, seed=0) as run:
            number = 0
            while run.finished(f"step {number}"):
                assert run.step(f"step {number}", lambda: None) == {"number": number, "text": "x" * 20000}
                number += 1
            assert number > acknowledged
            finished = number
            for index in range(number - 1):
                rows = run.get_outcomes(run.step(f"items {index}", lambda: None))
                assert rows is not None
                assert len(rows) == 300
        assert not list(path.rglob("*.part"))
        if (path / "decision.json").exists():
            decision = read_decision(path)
            assert decision["text"] == "y" * 50000
    assert finished > 12


def test_a_full_disk_is_one_sentence_and_the_run_resumes(small_disk: Path) -> None:
    path = small_disk / "run"

    def fill(run: RunDir) -> None:
        for number in range(100):
            run.step(f"step {number}", lambda: "x" * 9000)

    with open_run(path) as run, pytest.raises(MissingError, match="No space left") as caught:
        fill(run)
    assert "\n" not in str(caught.value)
    with open_run(path) as run:
        assert run.warnings == []
        assert run.finished("step 3")
        with pytest.raises(MissingError, match="No space left"):
            run.put_outcomes(
                "f" * 64, "s", [Outcome(item_id=f"{i * 2**70}", suite="s", cluster="c", value=i / 7, n_tokens=1) for i in range(9000)]
            )
        with pytest.raises(MissingError, match="No space left"):
            run.write_text("report.html", "x" * 300000)
        assert not (path / "report.html").exists()
        assert not list(path.rglob("*.part"))


def test_a_file_size_limit_leaves_no_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    append_record(path, {"a": "x" * 1000})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(MissingError, match="No space left"):
            append_record(path, {"a": "x" * 5000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert read_records(path, mend=False) == ([{"a": "x" * 1000}], "")


READ_ONLY = """
import os, sys
from pathlib import Path
from trimtab.core.errors import TrimtabError
from trimtab.record.cache import Cache
from trimtab.record.run import RunDir
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    RunDir.open(Path(sys.argv[1]) / "run", digests={}, seed=0)
except TrimtabError as error:
    print(error.exit_code, error)
print(Cache(Path(sys.argv[1]) / "cache").put_json("screen", "1" * 64, 1))
"""


def test_a_folder_without_permission_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    for parent in [tmp_path, *tmp_path.parents][:3]:
        parent.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", READ_ONLY, str(folder)], capture_output=True, text=True, check=False)
    run, cache = done.stdout.splitlines()
    assert run.startswith("2 No permission to write")
    assert cache.startswith("Not cached: No permission to write")


def test_every_error_of_the_disk_is_ours(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        (tmp_path / "run" / "report.html").mkdir()
        with pytest.raises(TrimtabError):
            run.write_text("report.html", "x")
        assert json.loads((tmp_path / "run" / "run.json").read_text())["schema"] == "trimtab.run/1"
