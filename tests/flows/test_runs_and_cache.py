"""Run directories listed, compared and removed; the cache shown and pruned. Everything on real files, made by the code that runs use."""

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.decision import CandidateResult
from trimtab.core.errors import InputError
from trimtab.core.evidence import Outcome
from trimtab.flows.cache import Entry, find_entries, prune_cache, select, show_cache
from trimtab.flows.parts import session
from trimtab.flows.runs import apart, ask, diff_runs, list_runs, load_run, remove_runs
from trimtab.record.cache import Cache
from trimtab.record.lock import FolderLock, UseLock, is_locked
from trimtab.record.run import RunDir

SOURCE = "a" * 64


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TRIMTAB_CACHE", raising=False)
    return tmp_path / "home"


def candidate(name: str, status: Any, verdict: Any = None, **more: Any) -> CandidateResult:
    return CandidateResult(
        id=name, engine="openvino", recipe="int8", settings={"threads": 2}, status=status, verdict=verdict, reasons=("why",), **more
    )


def gate(delta: float, half: float = 0.004, unit: str = "nats/token") -> dict[str, Any]:
    return {
        "name": "text",
        "delta": delta,
        "low": delta - half,
        "high": delta + half,
        "margin": 0.02,
        "unit": unit,
        "n": 50,
        "verdict": "pass",
    }


def write_run(
    path: Path, *, delta: float = 0.0, e2e_ms: float = 1000.0, low: float = 1.5, finish: bool = True, policy: str = "standard"
) -> Path:
    measurement = {"points": [{"concurrency": 1, "e2e_ms": {"p50": e2e_ms}}]}
    over = {"1": {"e2e_ms_p50": {"ratio": low + 0.1, "low": low, "high": low + 0.2}}}
    details = {"speed_over_baseline": {"base": over}, "deployment_sha256": "d" * 64, "weights_sha256": f"{policy:0<64}", "settings": {}}
    row = candidate("fast", "certified", "pass", measurement=measurement, evidence={"gates": [gate(delta)]}, details=details)
    inputs = {"model": "models/m.gguf", "workload": "chat", "policy": policy}
    with RunDir.open(path, digests={"source": SOURCE, "policy": policy}, seed=0, inputs=inputs, versions={"trimtab": "0.1.0"}) as run:
        run.step("screen/fast", lambda: {"loss": 0.1})
        run.put_candidate(row)
        run.put_outcomes("e" * 64, "text", [Outcome(item_id="1", suite="text", cluster="1", value=0.5, n_tokens=3)])
        if finish:
            run.write_decision(
                {
                    "schema": "trimtab.decision/1",
                    "kind": "optimize",
                    "verdict": "pass",
                    "chosen": {"id": "fast"},
                    "baseline": {"id": "base", "deployment_sha256": "b" * 64},
                    "speedup": {"over_baseline": over},
                    "gates": [gate(delta)],
                    "candidates": [row],
                }
            )
            run.write_text("report.html", "<p>report</p>")
            run.finish()
    return path


def test_list_tells_every_state_and_never_fails(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_run(runs / "done")
    write_run(runs / "project" / "half", finish=False)
    for name, text in {"torn": "{", "foreign": '{"schema": "other/1"}', "newer": '{"schema": "trimtab.run/99"}', "list": "[]"}.items():
        (runs / name).mkdir()
        (runs / name / "run.json").write_text(text)
    head = json.loads((runs / "done" / "run.json").read_text())
    for name, change in {"shape": {"inputs": []}, "lacks": {"finished": None, "digests": 3}, "when": {"started": 4}}.items():
        (runs / name).mkdir()
        (runs / name / "run.json").write_text(json.dumps(head | change))
    write_run(runs / "odd")
    (runs / "odd" / "decision.json").write_text('{"schema": "trimtab.decision/1", "chosen": "x", "speedup": [1]}')
    (runs / "empty").mkdir()
    (runs / "linked").symlink_to(runs / "done")
    write_run(runs / "a" / "b" / "too-deep")
    with RunDir.open(runs / "running", digests={"source": SOURCE}, seed=0, inputs={"a": "x", "b": "y"}):
        rows = {Path(row["path"]).name: row for row in list_runs([runs, runs / "done"])}
    states = {name: row["state"] for name, row in rows.items()}
    damaged = dict.fromkeys(("torn", "foreign", "newer", "list", "shape", "lacks", "when", "odd"), "damaged")
    assert states == {"done": "finished", "half": "unfinished", "running": "in use", **damaged}
    assert all(row["problem"] for name, row in rows.items() if name in damaged)
    assert "newer trimtab" in rows["newer"]["problem"]
    assert (rows["done"]["verdict"], rows["done"]["chosen"], rows["done"]["speedup_low"]) == ("pass", "fast", {"1": 1.5})
    assert (rows["running"]["verb"], rows["running"]["model"]) == ("compare", "x vs y")
    with pytest.raises(InputError, match="nowhere"):
        list_runs([tmp_path / "nowhere"])


def test_a_run_of_evaluate_is_finished_without_a_verdict(tmp_path: Path) -> None:
    inputs = {"model": "m.gguf", "reference": "", "suites": ["core"]}
    for name in ("done", "half"):
        with RunDir.open(tmp_path / name, digests={"source": SOURCE}, seed=0, inputs=inputs) as run:
            run.write_evaluation({"schema": "trimtab.evaluation/1", "levels": []})
            if name == "done":
                run.finish()
    found = {Path(row["path"]).name: (row["verb"], row["state"], row["verdict"]) for row in list_runs([tmp_path])}
    assert found == {"done": ("evaluate", "finished", None), "half": ("evaluate", "unfinished", None)}
    with pytest.raises(InputError, match=r"needs a run of `trimtab optimize`; .* is one of `trimtab evaluate`"):
        ask(load_run(tmp_path / "done"), ["memory<1GB"])


def test_what_is_no_run_says_what_may_have_been_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "demo")
    for look in (load_run, lambda path: remove_runs([path], dry_run=True)):
        with pytest.raises(InputError, match="did you mean runs/demo"):
            look(Path("demo"))
        with pytest.raises(InputError, match="`trimtab runs list` shows which runs there are"):
            look(Path("other"))
        with pytest.raises(InputError, match=r"it is a file; name the folder it lies in, .*runs/demo"):
            look(Path("runs/demo/decision.json"))


def test_a_killed_run_shows_what_is_known_and_is_not_mended(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", finish=False)
    for name in ("journal.jsonl", "candidates.jsonl"):
        with (path / name).open("ab") as file:
            file.write(b'{"schema": "trimt')
    before = {item: item.read_bytes() for item in path.iterdir() if item.is_file()}
    run = load_run(path)
    assert (run.state, run.step_keys, list(run.candidates)) == ("unfinished", ("screen/fast",), ["fast"])
    assert {item: item.read_bytes() for item in path.iterdir() if item.is_file()} == before


def test_a_look_does_not_disturb_who_opens(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    looking = threading.Event()

    def look() -> None:
        while not looking.is_set():
            is_locked(path)
            time.sleep(0.001)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(50):
            FolderLock(path).release()
    finally:
        looking.set()
        thread.join()
    lock = FolderLock(path)
    assert is_locked(path)
    lock.release()
    assert not is_locked(path)
    assert not is_locked(tmp_path / "none")


def test_diff_names_what_differs(tmp_path: Path) -> None:
    a = load_run(write_run(tmp_path / "a"))
    b = load_run(write_run(tmp_path / "b", policy="strict", delta=-0.01, e2e_ms=900.0, low=1.7))
    found = diff_runs(a, b)
    assert {row["what"] for row in found["asked"]} == {"inputs: policy", "digests: policy"}
    assert [row["what"] for row in found["candidates"]] == ["weights_sha256"]
    assert [(row["gate"], row["apart"]) for row in found["gates"]] == [("text", True)]
    assert found["same_baseline"]
    assert [(row["one_session"], row["a"]["e2e_ms_p50"], row["b"]["over_baseline"]["low"]) for row in found["speed"]] == [
        (False, 1000.0, 1.7)
    ]
    same = diff_runs(a, load_run(write_run(tmp_path / "again")))
    assert (same["asked"], same["candidates"], same["only_a"], same["only_b"]) == ([], [], [], [])
    assert same["speed"][0]["one_session"]
    half = diff_runs(a, load_run(write_run(tmp_path / "half", finish=False)))
    assert not half["same_baseline"]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (gate(0.0), gate(0.01), True),
        (gate(0.0), gate(0.003), False),
        (gate(0.0, half=0.02), gate(0.01, half=0.001), False),
        (gate(0.0), gate(0.01, unit="nats"), None),
        (gate(0.0), gate(0.01) | {"delta": None}, None),
    ],
)
def test_apart_needs_both_intervals(a: dict[str, Any], b: dict[str, Any], expected: bool | None) -> None:
    assert apart(a, b) is expected
    assert apart(b, a) is expected


def test_rm_removes_all_of_a_run(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    Cache(path / "cache").put_json("rates", "f" * 64, {"a": 1})
    (path / ".decision.json.x1.part").write_text("left by a killed writer")
    removed = remove_runs([path, path])
    assert not path.exists()
    assert len(removed) == 1
    assert removed[0].kept == ()
    assert removed[0].n_bytes > 300


def test_rm_keeps_what_no_run_wrote_and_follows_no_link(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.parquet").write_text("x")
    (path / "notes.txt").write_text("mine")
    (path / "items" / "mine").mkdir()
    (path / "items" / "mine" / "a.parquet").write_text("mine")
    (path / "empty").mkdir()
    (path / "deploy.toml").symlink_to(outside / "precious.parquet")
    (path / "cache").symlink_to(outside)
    kept = remove_runs([path])[0].kept
    assert kept == ("cache", "deploy.toml", "items/mine/a.parquet", "notes.txt")
    assert (outside / "precious.parquet").read_text() == "x"
    assert sorted(item.name for item in path.iterdir()) == ["cache", "deploy.toml", "empty", "items", "notes.txt"]


def test_rm_refuses_what_is_no_run_or_in_use_and_then_touches_nothing(tmp_path: Path) -> None:
    good, other = write_run(tmp_path / "good"), tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text('{"name": "not ours"}')
    (tmp_path / "link").symlink_to(good)
    linked = tmp_path / "linked-head"
    linked.mkdir()
    (linked / "run.json").symlink_to(good / "run.json")
    for bad in (other, tmp_path / "link", linked, tmp_path / "none", other / "run.json"):
        with pytest.raises(InputError):
            remove_runs([good, bad])
    with RunDir.open(tmp_path / "busy", digests={"source": SOURCE}, seed=0), pytest.raises(InputError, match="in use"):
        remove_runs([good, tmp_path / "busy"])
    assert load_run(good).state == "finished"
    assert sorted(item.name for item in other.iterdir()) == ["run.json"]


def product(caches: Path, name: str, n_bytes: int, age_s: float) -> Path:
    folder = caches / "products" / f"{name}-{'0' * 31}{n_bytes % 10}"
    folder.mkdir(parents=True)
    for file in (folder / "weights.gguf", folder / "product.json"):
        file.write_bytes(b"x" * n_bytes if file.suffix == ".gguf" else b"")
        os.utime(file, (time.time() - age_s,) * 2)
    return folder


def test_prune_takes_the_longest_unused_first(home: Path) -> None:
    caches = home / "cache"
    old, middle, young = (product(caches, name, n, age) for name, n, age in (("old", 1001, 9000), ("mid", 2002, 800), ("new", 3003, 10)))
    (caches / "huggingface").mkdir()
    (caches / "huggingface" / "weights").write_text("not ours")
    assert (show_cache()["bytes"], show_cache()["other"]) == (6006, ["huggingface"])
    assert [entry.path for entry in prune_cache(max_bytes=5100, older_than_s=None, dry_run=True).removed] == [old]
    assert old.exists()
    done = prune_cache(max_bytes=5100, older_than_s=None, dry_run=False)
    assert (done.bytes_removed, done.bytes_left, old.exists(), middle.exists()) == (1001, 5005, False, True)
    assert [entry.path for entry in prune_cache(max_bytes=None, older_than_s=500, dry_run=False).removed] == [middle]
    assert prune_cache(max_bytes=0, older_than_s=None, dry_run=False).bytes_left == 0
    assert not young.exists()
    assert (caches / "huggingface" / "weights").exists()
    assert [item.name for item in (caches / "products").iterdir() if item.is_dir()] == []


def test_reading_a_result_is_using_it(home: Path) -> None:
    cache = Cache(home / "cache" / "results")
    for number in range(4):
        cache.put_json("screen", str(number) * 64, "x" * 1000)
        os.utime(cache.root / "screen" / (str(number) * 2) / (str(number) * 64), (1000 + number, 1000 + number))
    assert cache.get_json("screen", "0" * 64) is not None  # used now: the youngest
    prune_cache(max_bytes=show_cache()["bytes"] // 2 + 10, older_than_s=None, dry_run=False)
    assert [cache.get_json("screen", str(number) * 64) is not None for number in range(4)] == [True, False, False, True]


def test_weights_stay_from_before_a_run_opens_them(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in which somebody prunes at the worst moment: after the model was found, before the run has its folder."""
    folder = product(home / "cache", "old", 1001, 9000)

    def prune_now(source: str, **_: Any) -> Any:
        assert [entry.path for entry in prune_cache(max_bytes=0, older_than_s=None, dry_run=False).held] == [folder]
        raise InputError("no such model")

    monkeypatch.setattr(session, "open_model", prune_now)

    async def run() -> None:
        given = {"digests": {}, "inputs": {}, "versions": {}, "fresh": False, "offline": True, "limit_s": 1.0, "seed": 0}
        async with session.open_session("m.gguf", out=tmp_path / "run", on_event=lambda event: None, **given):
            pass

    with pytest.raises(InputError, match="no such model"):
        asyncio.run(run())
    assert prune_cache(max_bytes=0, older_than_s=None, dry_run=False).held == ()


def test_prune_keeps_weights_while_a_run_runs(home: Path, tmp_path: Path) -> None:
    caches = home / "cache"
    folder = product(caches, "old", 1001, 9000)
    Cache(caches / "results").put_json("rates", "f" * 64, {"a": 1})
    with RunDir.open(tmp_path / "run", digests={"source": SOURCE}, seed=0):
        done = prune_cache(max_bytes=0, older_than_s=None, dry_run=False)
        assert [entry.kind for entry in done.removed] == ["results: rates"]
        assert ([entry.path for entry in done.held], "running" in done.why_held) == ([folder], True)
    assert prune_cache(max_bytes=0, older_than_s=None, dry_run=False).held == ()
    assert not folder.exists()


def test_a_run_killed_with_kill_9_holds_nothing(home: Path, tmp_path: Path) -> None:
    folder = product(home / "cache", "old", 1001, 9000)
    code = (
        "import sys, time; from pathlib import Path; from trimtab.record.run import RunDir\n"
        f"RunDir.open(Path({str(tmp_path / 'run')!r}), digests={{}}, seed=0, inputs={{'model': 'm'}})\n"
        "print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert load_run(tmp_path / "run").state == "in use"
        assert UseLock.alone(home / "cache") is None
        process.send_signal(signal.SIGKILL)
    assert load_run(tmp_path / "run").state == "unfinished"
    prune_cache(max_bytes=0, older_than_s=None, dry_run=False)
    assert not folder.exists()


def test_prune_keeps_a_product_that_is_being_built(home: Path) -> None:
    folder = product(home / "cache", "old", 1001, 9000)
    with (folder.parent / f".{folder.name[-32:]}.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        done = prune_cache(max_bytes=0, older_than_s=None, dry_run=False)
    assert ([entry.path for entry in done.held], done.removed, folder.exists()) == ([folder], (), True)


def test_old_leftovers_go_and_young_ones_stay(home: Path) -> None:
    rooms = [home / "cache" / "products" / ".aa.part-1", home / "cache" / "pypi" / ".m-1.x"]
    for room, age_s in zip(rooms, (7200, 60), strict=True):
        room.mkdir(parents=True)
        (room / "file").write_text("x")
        os.utime(room / "file", (time.time() - age_s,) * 2)
    prune_cache(max_bytes=10**9, older_than_s=None, dry_run=False)
    assert [room.exists() for room in rooms] == [False, True]


def test_entries_may_be_read_and_written_while_others_prune(home: Path) -> None:
    cache = Cache(home / "cache" / "results")
    stop = threading.Event()
    wrong: list[Any] = []

    def use() -> None:
        while not stop.is_set():
            cache.put_json("rates", "f" * 64, {"a": 1})
            if cache.get_json("rates", "f" * 64) not in (None, {"a": 1}):
                wrong.append("half an entry")

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        removed, end = 0, time.monotonic() + 20
        while removed < 20 and time.monotonic() < end:
            removed += len(prune_cache(max_bytes=0, older_than_s=None, dry_run=False).removed)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert removed >= 20


def test_links_in_the_cache_are_not_followed(home: Path, tmp_path: Path) -> None:
    folder = product(home / "cache", "old", 1001, 9000)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious").write_text("x")
    (folder.parent / f"linked-{'a' * 32}").symlink_to(mine)
    (folder / "inside").symlink_to(mine)
    assert [entry.path for entry in find_entries(home / "cache")] == [folder]
    prune_cache(max_bytes=0, older_than_s=None, dry_run=False)
    assert (mine / "precious").exists()


ENTRIES = st.lists(
    st.builds(
        Entry,
        kind=st.sampled_from(("built weights", "models from wheels", "results: timing")),
        path=st.just(Path("x")),
        n_bytes=st.integers(0, 100),
        used_unix_s=st.floats(0, 1000),
        is_leftover=st.booleans(),
    ),
    max_size=12,
)


@given(ENTRIES, st.none() | st.integers(0, 600), st.none() | st.floats(0, 1000), st.booleans())
def test_select_frees_enough_and_no_more(
    entries: list[Entry], max_bytes: int | None, older_than_s: float | None, keep_models: bool
) -> None:
    going = select(entries, max_bytes=max_bytes, older_than_s=older_than_s, now_unix_s=1000.0, keep_models=keep_models)
    left = sum(entry.n_bytes for entry in entries) - sum(entry.n_bytes for entry in going)
    staying = list(entries)
    for entry in going:
        staying.remove(entry)
    free = [entry for entry in staying if not entry.is_leftover and not (keep_models and entry.is_model)]
    if max_bytes is not None and left > max_bytes:
        assert free == []
    if older_than_s is not None:
        assert all(1000.0 - entry.used_unix_s <= older_than_s for entry in free)
    if max_bytes is not None and older_than_s is None and going:
        ordinary = [entry for entry in going if not entry.is_leftover]
        if ordinary:  # without the last one taken, there was too much
            after = sum(entry.n_bytes for entry in staying) + sum(e.n_bytes for e in going[going.index(ordinary[-1]) :])
            assert after > max_bytes
