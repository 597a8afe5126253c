"""Searching a log of the gateway: newest first, by what is asked, without reading more than allowed."""

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.errors import InputError
from trimtab.record.audit_search import Wanted, log_bytes, search_log
from trimtab.record.chain import START, sealed, segment_name

PER_SEGMENT = 400


def written(folder: Path, n: int) -> Path:
    """A log of n records in segments; every tenth request was refused by a guard."""
    folder.mkdir(parents=True, exist_ok=True)
    link, lines, first = START, [], 1
    for number in range(1, n + 1):
        line, link = sealed(link, json.dumps(body(number)).encode())
        lines.append(line)
        if len(lines) == PER_SEGMENT or number == n:
            (folder / segment_name(first)).write_bytes(b"".join(lines))
            lines, first = [], number + 1
    return folder


def body(number: int) -> dict[str, Any]:
    findings = [{"rule": "injection.override", "start": 0, "end": 4, "score": 1.0}] if number % 10 == 0 else []
    verdicts = [{"guard": "injection", "side": "in", "action": "block", "findings": findings, "error": ""}] if findings else []
    at = f"2026-11-27T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}.000+00:00"
    status = 403 if findings else 200
    return {"at": at, "event": "ended", "request": f"req_{number}", "key": f"key_{number % 3}", "status": status, "verdicts": verdicts}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("log"), 3000)


def numbers(folder: Path, wanted: Wanted, **more: Any) -> list[int]:
    return [one.seq for one in search_log(folder, wanted, **more).records]


def test_newest_first_and_the_next_page_goes_on_where_this_one_ended(log: Path) -> None:
    seen: list[int] = []
    before = 0
    while True:
        found = search_log(log, Wanted(), before=before, limit=700)
        seen += [one.seq for one in found.records]
        assert all(one.is_whole for one in found.records)
        if not found.before:
            break
        before = found.before
    assert seen == list(range(3000, 0, -1))


def test_records_are_found_by_each_field(log: Path) -> None:
    assert numbers(log, Wanted(request="req_17")) == [17]
    assert numbers(log, Wanted(status="403"), limit=3) == [3000, 2990, 2980]
    assert numbers(log, Wanted(status="4xx", key="key_1"), limit=2) == [2980, 2950]
    assert numbers(log, Wanted(rule="injection.override"), limit=1) == numbers(log, Wanted(rule="injection"), limit=1) == [3000]
    assert numbers(log, Wanted(since="2026-11-27T00:10:00", until="2026-11-27T00:10:02")) == [602, 601, 600]
    assert numbers(log, Wanted(model="nothing of this name")) == []


def test_no_more_is_read_than_allowed_and_the_answer_says_where_to_go_on(log: Path) -> None:
    found = search_log(log, Wanted(request="req_1"), most_bytes=20_000)
    assert not found.records
    assert 0 < found.n_read < 100
    assert found.before == 3000 - found.n_read + 1
    assert log_bytes(log) > 500_000


def test_reading_stops_soon_before_what_is_looked_for(log: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no time"):
        search_log(log, Wanted(since="yesterday"))
    far = tmp_path / "far"
    written(far, 20)
    assert search_log(far, Wanted(since="2026-11-28T00:00:00")).n_read == 1


def test_a_torn_end_and_a_changed_record_are_told(tmp_path: Path) -> None:
    folder = written(tmp_path / "log", 30)
    path = folder / segment_name(1)
    data = path.read_bytes().replace(b'"request": "req_12"', b'"request": "req_99"')
    path.write_bytes(data + b'{"seq":31,"prev":"half a rec')
    found = search_log(folder, Wanted(), limit=100)
    assert [one.seq for one in found.records] == list(range(30, 0, -1))
    assert [one.seq for one in found.records if not one.is_whole] == [12]


def test_no_log_is_an_empty_answer(tmp_path: Path) -> None:
    assert search_log(tmp_path / "none", Wanted()).records == ()
    assert log_bytes(tmp_path / "none") == 0
