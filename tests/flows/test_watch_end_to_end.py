"""A canary that says other things than the stable version, in real processes: caught from live traffic, taken back, told in the ledger."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("uvloop")
pytest.importorskip("datasketches")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from parts.canary_story import add_people, run_story, write_locks

from trimtab.record.spool import watch_folder
from trimtab.testing.tiny_models import write_tiny_gguf


@pytest.mark.slow
def test_a_canary_that_loses_is_taken_back_with_nobody_there(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TRIMTAB_CACHE", raising=False)
    models = [str(write_tiny_gguf(tmp_path / f"{seed}.gguf", architecture="qwen2", seed=seed)) for seed in (1, 2)]
    write_locks(tmp_path, "llamacpp-as-shipped", "llamacpp-as-shipped", threads=1, context_tokens=256, models=models)

    add_people()
    story = run_story(tmp_path, canary_pct=20.0, clients=2, max_tokens=12, limit_s=120.0)

    assert story.caught_s is not None, story
    assert story.failed == 0
    assert set(story.answered) == {"chat@stable", "chat@next"}
    assert story.trial["verdict"] == "fail"
    assert 20 <= story.trial["n"] < 100
    done = {row["kind"]: row for row in story.actions if row.get("done")}
    assert "chat@next gets no more traffic (20 % before); chat@stable answers" in done["stop-canary"]["result"]
    (incident,) = story.incidents
    assert (incident["by"], incident["severity"], incident["state"]) == ("watch", "high", "open")
    assert "gate text on live answers" in incident["title"]
    assert [line.partition(" ")[2] for line in story.ledger[2:4]] == ["incident by watch about chat", "action by watch about chat"]

    folder = watch_folder(tmp_path / "home", tmp_path / "site.toml")
    live = json.loads((folder / "live.json").read_text())
    (alarm,) = [one for one in live["alarms"] if one["signal"] == "quality:text"]
    assert alarm["version"] == "chat@next"
    kept = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "sample"]
    assert not [path for path in kept if b"Why do people like" in path.read_bytes()], "no text is kept but the sample that waits"
