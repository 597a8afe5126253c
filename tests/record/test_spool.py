"""The spool between a gateway and its watch: nothing twice, nothing lost unsaid, nobody held up."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from trimtab.core.errors import InputError
from trimtab.core.watching import Late, Observed
from trimtab.record import spool
from trimtab.record.spool import Cursor, SpoolWriter, read_newest, read_spool

LATE = Late(request="r1", at_s=2.0, kind="feedback", name="thumbs", value=1.0, groups={"sex": "female"})


def observed(index: int) -> Observed:
    return Observed(request=f"r{index}", at_s=float(index), numbers={"total_ms": 1.5}, flags={"error": False}, labels={"language": "de"})


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread writes when it ends, and the tests before that."""
    monkeypatch.setattr(spool, "FLUSH_S", 60.0)


def test_what_is_written_is_read_once(tmp_path: Path) -> None:
    with_writer = SpoolWriter[Observed | Late](tmp_path)
    assert read_spool(tmp_path) == ([], Cursor())
    with_writer.append(observed(1))
    with_writer.append(LATE)
    with_writer.close()
    items, cursor = read_spool(tmp_path)
    assert items == [observed(1), LATE]
    assert read_spool(tmp_path, cursor) == ([], cursor)
    again = SpoolWriter[Observed | Late](tmp_path)
    again.append(observed(2))
    again.close()
    items, cursor = read_spool(tmp_path, cursor)
    assert items == [observed(2)]
    assert (cursor.segment, cursor.missed, cursor.broken, cursor.lost) == (2, 0, 0, 0)
    assert list(read_newest(tmp_path, 1)) == [observed(2)]
    assert list(read_newest(tmp_path, 9)) == [observed(1), LATE, observed(2)]


def test_a_reader_goes_on_where_it_was_at_any_size_of_its_steps(tmp_path: Path) -> None:
    writer = SpoolWriter[Observed](tmp_path, segment_bytes=450)
    for index in range(20):
        writer.append(observed(index))
        writer._flush()  # one line a write, so that segments fill
    writer.close()
    for most in (1, 3, 100):
        found: list[Observed | Late] = []
        cursor = Cursor()
        while True:
            items, cursor = read_spool(tmp_path, cursor, most=most)
            found += items
            if not items:
                break
        assert len({one.request for one in found}) == len(found)
        assert found == [observed(index) for index in range(20 - len(found), 20)]
        assert len(found) >= 8
    assert len(list(tmp_path.glob("*.jsonl"))) == spool.KEPT_SEGMENTS


def test_removed_segments_count_as_missed(tmp_path: Path) -> None:
    writer = SpoolWriter[Observed](tmp_path, segment_bytes=1, kept_segments=2)
    writer.append(observed(1))
    writer._flush()
    _, cursor = read_spool(tmp_path)
    for index in range(2, 7):
        writer.append(observed(index))
        writer._flush()
    writer.close()
    items, cursor = read_spool(tmp_path, cursor)
    assert items == [observed(5), observed(6)]
    assert cursor.missed == 4  # the one it stood in, of which it does not know that it was at its end, and three unread


def test_a_torn_line_is_waited_for_and_counts_once_it_can_no_longer_be_mended(tmp_path: Path) -> None:
    writer = SpoolWriter[Observed](tmp_path)
    writer.append(observed(1))
    writer.close()
    path = tmp_path / "000000000001.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    items, cursor = read_spool(tmp_path)
    assert (items, cursor.broken) == ([observed(1)], 0)
    path.write_bytes(whole + whole)
    assert read_spool(tmp_path, cursor)[0] == [observed(1)]
    path.write_bytes(whole + whole[:20])
    again = SpoolWriter[Observed](tmp_path)
    again.append(observed(2))
    again.close()
    items, cursor = read_spool(tmp_path, cursor)
    assert (items, cursor.broken) == ([observed(2)], 1)
    path.write_bytes(b"{}\nnonsense\n" + whole)
    assert read_spool(tmp_path, Cursor(segment=1))[1].broken == 1


def test_a_full_disk_loses_lines_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    writer = SpoolWriter[Observed](tmp_path)
    write = os.write
    monkeypatch.setattr(spool.os, "write", lambda handle, raw: write(handle, raw[:10]))
    for index in (1, 2):
        writer.append(observed(index))
        writer._flush()
    assert writer.n_lost == 2
    assert "space" in writer.problem
    monkeypatch.setattr(spool.os, "write", write)
    writer.append(observed(3))
    writer.close()
    items, cursor = read_spool(tmp_path)
    assert items == [observed(3)]
    assert (cursor.broken, cursor.lost) == (2, 2)
    assert caplog.text.count("is not written") == 1
    assert "is written again; 2 items were lost" in caplog.text


def test_a_full_queue_never_waits(tmp_path: Path) -> None:
    gate = threading.Event()

    def slowly(thing: Observed) -> Iterable[Observed]:
        gate.wait(10.0)
        return (thing,)

    writer = SpoolWriter[Observed](tmp_path, slowly, queue_limit=4)
    taken = [writer.append(observed(index)) for index in range(50)]
    assert not all(taken)
    assert writer.n_lost == taken.count(False) >= 45
    gate.set()
    writer.close()
    items, cursor = read_spool(tmp_path)
    assert len(items) == taken.count(True)
    assert cursor.lost == taken.count(False)
    assert not writer.append(observed(99))


def test_one_writer_a_folder(tmp_path: Path) -> None:
    writer = SpoolWriter[Observed](tmp_path)
    with pytest.raises(InputError):
        SpoolWriter[Observed](tmp_path)
    writer.close()
    SpoolWriter[Observed](tmp_path).close()


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    writer = SpoolWriter[Observed](tmp_path)
    writer.append(observed(1))
    writer.close()
    assert (tmp_path / "000000000001.jsonl").stat().st_mode & 0o077 == 0
