"""The sample of texts: its size, its privacy, its end."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from trimtab.record.captures import Captures


@pytest.mark.parametrize(("pct", "least", "most"), [(0.0, 0, 0), (5.0, 60, 140), (100.0, 2000, 2000)])
def test_the_sample_has_its_share(pct: float, least: int, most: int, tmp_path: Path) -> None:
    captures = Captures(tmp_path, pct)
    chosen = [number for number in range(2000) if captures.wants(f"req_{number}")]
    assert least <= len(chosen) <= most
    assert chosen == [number for number in range(2000) if Captures(tmp_path, pct).wants(f"req_{number}")]


def test_texts_are_kept_for_their_owner_and_not_for_long(tmp_path: Path) -> None:
    folder = tmp_path / "captures"
    folder.mkdir()
    today = datetime.now(UTC).date()
    old = [folder / f"{(today - timedelta(days=days)).isoformat()}.jsonl" for days in (2, 8, 400)]
    for path in [*old, folder / "notes.txt"]:
        path.write_text("x")
    captures = Captures(folder, 100, keep_days=7)
    captures.keep("req_1", ["hi [EMAIL]", "zwei\nZeilen"], "answer \ud800")
    captures.keep("req_2", [], "")
    assert [path.exists() for path in old] == [True, False, False]
    assert (folder / "notes.txt").exists()
    [kept] = [path for path in folder.glob("*.jsonl") if path not in old]
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [row["request"] for row in rows] == ["req_1", "req_2"]
    assert rows[0]["input"] == ["hi [EMAIL]", "zwei\nZeilen"]
    assert kept.stat().st_mode & 0o077 == 0


def test_a_disk_that_refuses_is_said_and_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "captures").write_text("in the way")
    captures = Captures(tmp_path / "captures", 100)
    captures.keep("req_1", ["a"], "b")
    assert "\n" not in captures.problem
    assert captures.problem
    (tmp_path / "captures").unlink()
    captures.keep("req_2", ["a"], "b")
    assert captures.problem == ""
