"""The chained log: nothing acknowledged is lost, nothing that was changed goes unseen."""

import asyncio
import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.errors import InputError
from trimtab.record import chain
from trimtab.record.audit import AuditLog
from trimtab.record.chain import START, AuditUnavailable, ChainLog, Link, log_id, read_line, sealed, segments
from trimtab.record.chain_check import LogCheck, check_log
from trimtab.record.checkpoints import Checkpoint, Signer, public_key_of, read_anchor


def body(number: int, size: int = 0) -> bytes:
    return json.dumps({"number": number, "text": "ä" * size}, separators=(",", ":")).encode()


def anchor_of(home: Path, folder: Path) -> Checkpoint:
    return read_anchor(home / "anchors" / f"{log_id(folder)}.json")


def check(home: Path, folder: Path, checkpoint: Checkpoint | None = None) -> LogCheck:
    kept = checkpoint or anchor_of(home, folder)
    return check_log(folder, kept, trusted_key=Signer.of(home).public_hex, is_copy=False, is_in_use=False)


def numbers(folder: Path) -> list[int]:
    """What the records say, in order; the log's own records left out."""
    found, link = [], START
    for path in segments(folder):
        for line in path.read_bytes().splitlines():
            link, content = read_line(line, link)
            found.append(json.loads(content).get("number"))
    return [number for number in found if number is not None]


def written(tmp_path: Path, n: int = 40, segment_bytes: int = 2500) -> tuple[Path, Path]:
    """Home and folder of a closed log of n + 1 records."""
    home, folder = tmp_path / "home", tmp_path / "log"
    log = ChainLog.open(folder, home=home, segment_bytes=segment_bytes)
    for number in range(n):
        log.commit([body(number, size=number % 7)])
    log.close()
    return home, folder


def test_records_follow_each_other_over_segments(tmp_path: Path) -> None:
    home, folder = written(tmp_path)
    assert len(segments(folder)) > 3
    assert numbers(folder) == list(range(40))
    found = check(home, folder)
    assert (found.verdict, found.n_records, found.bad, found.reasons) == ("pass", 41, None, ())
    log = ChainLog.open(folder, home=home)
    assert log.commit([body(40), body(41)]) == 42
    log.close()
    assert numbers(folder) == list(range(42))
    assert check(home, folder).verdict == "pass"
    assert all(path.stat().st_mode & 0o077 == 0 for path in [*segments(folder), home / "keys" / "signing.pem"])
    assert public_key_of(home / "keys" / "signing.pub.pem") == public_key_of(home / "keys" / "signing.pem") == Signer.of(home).public_hex


def test_a_new_segment_does_not_begin_a_new_log(tmp_path: Path) -> None:
    """Killed right after a segment was begun, and reopened there."""
    home, folder = written(tmp_path)
    (folder / chain.segment_name(42)).touch()
    assert check(home, folder).verdict == "pass"
    log = ChainLog.open(folder, home=home, segment_bytes=100)
    log.commit([body(40)])
    log.close()
    assert numbers(folder) == list(range(41))
    assert check(home, folder).verdict == "pass"


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    log = ChainLog.open(tmp_path / "log", home=tmp_path / "home")
    with pytest.raises(InputError, match="in use"):
        ChainLog.open(tmp_path / "log", home=tmp_path / "home")
    log.close()
    log.close()
    with pytest.raises(AuditUnavailable, match="closed"):
        log.commit([body(0)])
    ChainLog.open(tmp_path / "log", home=tmp_path / "home").close()


# Tampering: every change that alters a record is found, and the first bad record is named.

Rows = list[bytes]
Tampered = tuple[bytes, int | None]
"""New bytes of all segments in one, and the record that must be named (None = it is enough that something is)."""


def row_at(rows: Rows, position: int) -> int:
    """Number of the record that a byte belongs to."""
    end = 0
    for number, row in enumerate(rows, start=1):
        end += len(row)
        if position < end:
            return number
    return len(rows) + 1


def flip(rows: Rows, chance: random.Random) -> Tampered:
    raw = bytearray(b"".join(rows))
    at = chance.randrange(len(raw))
    raw[at] ^= chance.randrange(1, 256)
    return bytes(raw), row_at(rows, at)


def drop_byte(rows: Rows, chance: random.Random) -> Tampered:
    raw = bytearray(b"".join(rows))
    at = chance.randrange(len(raw))
    del raw[at]
    return bytes(raw), row_at(rows, at)


def insert_byte(rows: Rows, chance: random.Random) -> Tampered:
    raw = bytearray(b"".join(rows))
    at = chance.randrange(len(raw))
    raw.insert(at, chance.randrange(256))
    return bytes(raw), row_at(rows, at)


def cut(rows: Rows, chance: random.Random) -> Tampered:
    raw = b"".join(rows)
    at = chance.randrange(len(raw))
    return raw[:at], row_at(rows, at)


def cut_rows(rows: Rows, chance: random.Random) -> Tampered:
    left = chance.randrange(len(rows))
    return b"".join(rows[:left]), left + 1


def drop_rows(rows: Rows, chance: random.Random) -> Tampered:
    at = chance.randrange(len(rows))
    n = chance.randrange(1, 4)
    return b"".join(rows[:at] + rows[at + n :]), at + 1


def swap_rows(rows: Rows, chance: random.Random) -> Tampered:
    first, second = sorted(chance.sample(range(len(rows)), 2))
    changed = list(rows)
    changed[first], changed[second] = changed[second], changed[first]
    return b"".join(changed), first + 1


def repeat_row(rows: Rows, chance: random.Random) -> Tampered:
    at = chance.randrange(len(rows))
    return b"".join([*rows[: at + 1], rows[at], *rows[at + 1 :]]), at + 2 if at + 1 < len(rows) else None


def replace_row(rows: Rows, chance: random.Random) -> Tampered:
    at, other = chance.sample(range(len(rows)), 2)
    return b"".join([*rows[:at], rows[other], *rows[at + 1 :]]), at + 1


def sealed_again(row: bytes) -> bytes:
    """A record with another content, its own hash made right."""
    content = json.loads(row)
    return sealed(Link(content["seq"] - 1, content["prev"]), b'{"number":-1}')[0]


def forge_one(rows: Rows, chance: random.Random) -> Tampered:
    at = chance.randrange(len(rows))
    return b"".join([*rows[:at], sealed_again(rows[at]), *rows[at + 1 :]]), at + 2 if at + 1 < len(rows) else at + 1


def forge_tail(rows: Rows, chance: random.Random) -> Tampered:
    """Everything from one record on is written anew, with hashes that are right."""
    at = chance.randrange(len(rows))
    content = json.loads(rows[at])
    link = Link(content["seq"] - 1, content["prev"])
    new = []
    for number in range(at, len(rows)):
        line, link = sealed(link, body(-number))
        new.append(line)
    return b"".join(rows[:at] + new), len(rows)


def append_forged(rows: Rows, chance: random.Random) -> Tampered:
    last = json.loads(rows[-1])
    line, _ = sealed(Link(last["seq"], last["hash"]), body(-1))
    return b"".join(rows) + line[: chance.choice([len(line), len(line) - 1])], None


TAMPERINGS: list[Callable[[Rows, random.Random], Tampered]] = [
    *(flip, flip, flip, drop_byte, insert_byte, cut, cut_rows, drop_rows, swap_rows),
    *(repeat_row, replace_row, forge_one, forge_tail, append_forged),
]


@pytest.mark.slow
def test_a_thousand_tamperings_are_found_and_named(tmp_path: Path) -> None:
    home, folder = written(tmp_path, n=24)
    kept = anchor_of(home, folder)
    paths = segments(folder)
    rows = [line for path in paths for line in path.read_bytes().splitlines(keepends=True)]
    starts = [int(path.stem) for path in paths]
    chance = random.Random(5)
    for attempt in range(1000):
        tamper = TAMPERINGS[attempt % len(TAMPERINGS)]
        raw, expected = tamper(rows, chance)
        if raw == b"".join(rows):
            continue
        spread(raw, rows, starts, paths)
        found = check(home, folder, kept)
        what = f"{tamper.__name__}, attempt {attempt}: {found}"
        assert found.verdict == "fail", what
        assert found.reasons, what
        if expected is not None:
            assert found.bad is not None, what
            assert found.bad.record == expected, what
    spread(b"".join(rows), rows, starts, paths)
    assert check(home, folder, kept).verdict == "pass"


def spread(raw: bytes, rows: Rows, starts: list[int], paths: list[Path]) -> None:
    """Write a log's bytes to its segments, split where they were: by lines, so that what moves a line moves it over files too."""
    lines = raw.splitlines(keepends=True)
    if len(raw.split(b"\n")) != len(raw.splitlines()) + raw.endswith(b"\n"):
        lines = [line + b"\n" for line in raw.split(b"\n")]
        lines[-1] = lines[-1][:-1]
    for start, end, path in zip(starts, [*starts[1:], None], paths, strict=True):
        path.write_bytes(b"".join(lines[start - 1 : None if end is None else end - 1]))


@pytest.mark.parametrize("index", range(4))
def test_a_missing_or_swapped_file_is_found(index: int, tmp_path: Path) -> None:
    home, folder = written(tmp_path)
    kept, paths = anchor_of(home, folder), segments(folder)
    first = int(paths[index].stem)
    raw = paths[index].read_bytes()
    paths[index].unlink()
    found = check(home, folder, kept)
    assert (found.verdict, found.bad and found.bad.record) == ("fail", first)
    other = paths[(index + 1) % len(paths)]
    paths[index].write_bytes(other.read_bytes())
    other.write_bytes(raw)
    assert check(home, folder, kept).verdict == "fail"


def test_a_log_that_is_gone_is_found_and_is_not_begun_anew(tmp_path: Path) -> None:
    home, folder = written(tmp_path)
    kept = anchor_of(home, folder)
    shutil.rmtree(folder)
    found = check(home, folder, kept)
    assert (found.verdict, found.bad and found.bad.record) == ("fail", 1)
    with pytest.raises(InputError, match="41 records that was kept in"):
        ChainLog.open(folder, home=home)
    (home / "anchors" / f"{kept.log}.json").rename(tmp_path / "moved.json")
    ChainLog.open(folder, home=home).close()


def test_a_cut_log_is_not_written_on(tmp_path: Path) -> None:
    home, folder = written(tmp_path)
    last = segments(folder)[-1]
    last.write_bytes(last.read_bytes()[:-30])
    with pytest.raises(InputError, match="cut or changed"):
        ChainLog.open(folder, home=home)
    last.unlink()
    with pytest.raises(InputError, match="cut or changed"):
        ChainLog.open(folder, home=home)


def test_a_forged_signature_and_another_key_are_found(tmp_path: Path) -> None:
    home, folder = written(tmp_path)
    kept = anchor_of(home, folder)
    stranger = Signer.of(tmp_path / "stranger")
    forged = stranger.signed(log=kept.log, folder=folder, size=kept.size, head=kept.head, is_closed=True)
    assert check(home, folder, forged).verdict == "fail"
    assert check(home, folder, Checkpoint(**{**vars(kept), "size": kept.size - 1})).verdict == "fail"
    unknown = check_log(folder, kept, trusted_key="", is_copy=False, is_in_use=False)
    assert (unknown.verdict, len(unknown.reasons)) == ("inconclusive", 1)
    assert check_log(folder, None, trusted_key="", is_copy=False, is_in_use=False).verdict == "inconclusive"


def test_an_old_copy_of_the_checkpoint_finds_what_a_new_one_hides(tmp_path: Path) -> None:
    """Somebody with the key writes the whole log anew: only a copy that lies elsewhere can tell."""
    home, folder = written(tmp_path)
    copy = anchor_of(home, folder)
    log = ChainLog.open(folder, home=home)
    log.commit([body(40)])
    log.close()
    good = check_log(folder, copy, trusted_key=Signer.of(home).public_hex, is_copy=True, is_in_use=False)
    assert (good.verdict, good.n_records) == ("pass", 42)
    link, lines = START, []
    for path in segments(folder):
        for line in path.read_bytes().splitlines():
            content = json.loads(line)["body"]
            if content.get("number") == 7:
                content["number"] = 8
            new, link = sealed(link, json.dumps(content, separators=(",", ":")).encode())
            lines.append(new)
        path.unlink()
    (folder / chain.segment_name(1)).write_bytes(b"".join(lines))
    forged = Signer.of(home).signed(log=copy.log, folder=folder, size=42, head=link.hash, is_closed=True)
    assert check(home, folder, forged).verdict == "pass"
    assert check_log(folder, copy, trusted_key=Signer.of(home).public_hex, is_copy=True, is_in_use=False).verdict == "fail"


# Ends that a killed process leaves


@pytest.mark.parametrize("torn", [b"{", b'{"seq":42,"prev":"', b"\0" * 500, b"\0\n", b"x\ny\n"])
def test_a_torn_end_is_cut_off_and_said(torn: bytes, tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "log"
    log = ChainLog.open(folder, home=home)
    log.commit([body(number) for number in range(5)])
    killed(log)
    with segments(folder)[-1].open("ab") as file:
        file.write(torn)
    log = ChainLog.open(folder, home=home)
    log.commit([body(5)])
    log.close()
    assert numbers(folder) == list(range(6))
    assert check(home, folder).verdict == "pass"
    assert f'"cut_bytes":{len(torn)}' in segments(folder)[-1].read_text()


def killed(log: ChainLog) -> None:
    """What is left open when a process dies is closed by the kernel, without a last checkpoint."""
    log._give_up()


@pytest.mark.parametrize("is_new", [True, False])
def test_killed_between_a_record_and_its_checkpoint(is_new: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first record after a start: the checkpoint from before must not say that nothing may follow."""
    home, folder = tmp_path / "home", tmp_path / "log"
    if not is_new:
        ChainLog.open(folder, home=home).close()
    with monkeypatch.context() as patch:
        if is_new:
            patch.setattr(chain.Anchor, "write", lambda *_, **__: None)
        log = ChainLog.open(folder, home=home)
        patch.setattr(chain.Anchor, "write", lambda *_, **__: None)
        log.commit([body(0)])
        killed(log)
    assert check(home, folder).verdict == "inconclusive"
    ChainLog.open(folder, home=home).close()
    assert numbers(folder) == [0]
    assert check(home, folder).verdict == "pass"


@pytest.mark.parametrize("content", [b"[1]", b"7", b'{"no":1}', b"nonsense"])
def test_a_forged_first_record_is_no_crash(content: bytes, tmp_path: Path) -> None:
    home, folder = written(tmp_path)
    kept = anchor_of(home, folder)
    first = segments(folder)[0]
    _, *rest = first.read_bytes().splitlines(keepends=True)
    first.write_bytes(sealed(START, content)[0] + b"".join(rest))
    assert check(home, folder, kept).verdict == "fail"
    with pytest.raises(InputError, match="record 1"):
        ChainLog.open(folder, home=home)


def test_records_behind_the_last_checkpoint_are_told_apart(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "log"
    log = ChainLog.open(folder, home=home)
    log.commit([body(0)])
    line, _ = sealed(log.head, body(1))
    killed(log)
    with segments(folder)[-1].open("ab") as file:
        file.write(line)
    assert check(home, folder).verdict == "inconclusive"
    ChainLog.open(folder, home=home).close()
    assert '"unsigned":1' in segments(folder)[-1].read_text()
    assert check(home, folder).verdict == "pass"


@pytest.mark.parametrize("n_bytes", [0, 1, 60])
def test_killed_while_the_first_record_is_written(n_bytes: int, tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "log"
    chain.new_anchor(home, folder)
    folder.mkdir()
    (folder / chain.segment_name(1)).write_bytes(b'{"seq":1,"prev":"' + b"0" * n_bytes if n_bytes else b"")
    log = ChainLog.open(folder, home=home)
    log.commit([body(0)])
    log.close()
    assert check(home, folder).n_records == 2
    assert len(list((home / "anchors").iterdir())) == 1


def test_a_spoilt_place_of_the_anchor_leaves_the_other(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "log"
    log = ChainLog.open(folder, home=home)
    log.commit([body(0)])
    log.commit([body(1)])
    killed(log)
    path = log._anchor.path
    raw = path.read_bytes()
    newest = read_anchor(path).size
    for place in (0, 4096):
        path.write_bytes(raw[:place] + b"\0" * 100 + raw[place + 100 :])
        assert read_anchor(path).size in (newest, newest - 1)
    path.write_bytes(b"\0" * 8192)
    with pytest.raises(InputError, match="no checkpoint"):
        ChainLog.open(folder, home=home)


KILLED = """
import asyncio, os, sys
from pathlib import Path
from trimtab.record.audit import AuditLog

async def client(log, number):
    for step in range(100000):
        await log.append({"client": number, "step": step, "text": "x" * 300})
        os.write(1, b"%d %d\\n" % (number, step))

async def main():
    log = AuditLog.open(Path(sys.argv[1]), home=Path(sys.argv[2]), segment_bytes=20000, sync_s=float(sys.argv[3]))
    await asyncio.gather(*(client(log, number) for number in range(8)))

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("sync_s", [0.0, 0.01])
def test_kill_dash_nine_loses_no_acknowledged_record(sync_s: float, tmp_path: Path) -> None:
    home, folder, chance = tmp_path / "home", tmp_path / "log", random.Random(1)
    n_before = 0
    for _ in range(5):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(home), str(sync_s)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        # A disk may take a second for what another does in a millisecond: wait for records, never for a time.
        said = [child.stdout.readline() for _ in range(chance.randrange(8, 150))]
        child.send_signal(signal.SIGKILL)
        said += child.stdout.readlines()
        child.wait()
        child.stdout.close()
        acknowledged = [tuple(map(int, line.split())) for line in said if line.endswith(b"\n")]
        assert len(acknowledged) >= 8
        assert check(home, folder).verdict in ("pass", "inconclusive")
        ChainLog.open(folder, home=home).close()
        assert check(home, folder).verdict == "pass"
        lines = [json.loads(line)["body"] for path in segments(folder) for line in path.read_bytes().splitlines()]
        mine = [(line["client"], line["step"]) for line in lines if "client" in line][n_before:]
        assert set(acknowledged) <= set(mine)
        for client in range(8):
            steps = [step for who, step in mine if who == client]
            assert steps == list(range(len(steps)))
        n_before += len(mine)
    assert n_before > 40


# Disks that fail


@pytest.mark.parametrize("where", ["elsewhere", "same disk"])
def test_a_full_disk_refuses_and_recovers(where: str, small_disk: Path, tmp_path: Path) -> None:
    home = tmp_path / "home" if where == "elsewhere" else small_disk / "home"
    folder = small_disk / "log"

    async def run() -> list[int]:
        log = AuditLog.open(folder, home=home, segment_bytes=30_000)
        (small_disk / "ballast").write_bytes(b"x" * 100_000)
        kept = []
        sentence = ""
        while not sentence:
            try:
                await log.append({"number": len(kept), "text": "x" * 700})
                kept.append(len(kept))
            except AuditUnavailable as error:
                sentence = str(error)
        assert sentence.startswith("No space left")
        assert "\n" not in sentence
        with pytest.raises(AuditUnavailable):
            await log.append({"number": -1, "text": "x" * 7000})
        (small_disk / "ballast").unlink()
        await log.append({"number": 5000})
        await log.close()
        return [*kept, 5000]

    kept = asyncio.run(run())
    assert len(kept) > 20
    assert numbers(folder) == kept
    assert check(home, folder).verdict == "pass"


def test_a_log_opened_on_a_full_disk_begins_when_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    folder, ballast = small_disk / "log", small_disk / "ballast"
    folder.mkdir()

    def fill() -> None:
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 4096):
                pass

    async def run() -> None:
        fill()
        log = AuditLog.open(folder, home=tmp_path / "home")
        with pytest.raises(AuditUnavailable, match="No space left"):
            await log.append({"number": 0})
        ballast.unlink()
        await log.append({"number": 1})
        await log.close()

    asyncio.run(run())
    assert numbers(folder) == [1]


@pytest.fixture
def sync_errors(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Error numbers that the next syncs fail with; syncs that went well are counted by 0."""
    coming: list[int] = []
    real = chain._sync

    def sync(handle: int) -> None:
        if coming and coming[0]:
            raise OSError(coming.pop(0), "failed")
        coming.append(0)
        real(handle)

    monkeypatch.setattr(chain, "_sync", sync)
    return coming


def test_what_a_failed_sync_leaves_is_written_anew(sync_errors: list[int], tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "log"
    log = ChainLog.open(folder, home=home)
    log.commit([body(0)])
    size = segments(folder)[-1].stat().st_size
    sync_errors[:] = [errno.EIO, errno.EDQUOT]
    for _ in range(2):
        with pytest.raises(AuditUnavailable):
            log.commit([body(1)])
        assert segments(folder)[-1].stat().st_size == size
    log.commit([body(2)])
    log.close()
    assert numbers(folder) == [0, 2]
    assert check(home, folder).verdict == "pass"


@pytest.mark.parametrize("segment_bytes", [chain.SEGMENT_BYTES, 300])
def test_what_was_written_before_a_failed_sync_is_kept_and_written_anew(segment_bytes: int, sync_errors: list[int], tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "log"
    log = ChainLog.open(folder, home=home, segment_bytes=segment_bytes)
    for number in range(3):
        log.write([body(number)])
    assert numbers(folder) == [0, 1, 2]
    sync_errors[:] = [errno.EIO, errno.EIO]
    with pytest.raises(AuditUnavailable):
        log.settle()
    with pytest.raises(AuditUnavailable):
        log.write([body(3)])
    assert numbers(folder) == [0, 1, 2]
    log.write([body(4)])
    log.settle()
    assert anchor_of(home, folder).size == 5
    log.write([body(5)])
    log.close()
    assert numbers(folder) == [0, 1, 2, 4, 5]
    assert check(home, folder).verdict == "pass"


@pytest.mark.parametrize("how", ["removed", "cut", "added to"])
def test_another_hand_is_noticed_while_it_is_written(how: str, tmp_path: Path) -> None:
    log = ChainLog.open(tmp_path / "log", home=tmp_path / "home")
    log.commit([body(0)])
    path = segments(tmp_path / "log")[-1]
    if how == "removed":
        path.unlink()
    elif how == "cut":
        os.truncate(path, 10)
    else:
        with path.open("ab") as file:
            file.write(b"{}\n")
    with pytest.raises(AuditUnavailable, match="somebody else"):
        log.commit([body(1)])


def test_a_checkpoint_that_is_taken_away_is_noticed_while_the_log_is_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    log = ChainLog.open(tmp_path / "log", home=home)
    path = home / "anchors" / f"{log.id}.json"
    (home / "copy").write_bytes(path.read_bytes())
    os.replace(home / "copy", path)
    with pytest.raises(AuditUnavailable, match="removed or replaced"):
        log.commit([body(0)])


# Many at once


def test_many_appends_share_one_sync(sync_errors: list[int], tmp_path: Path) -> None:
    async def run() -> None:
        log = AuditLog.open(tmp_path / "log", home=tmp_path / "home")
        sync_errors.clear()
        await asyncio.gather(*(log.append({"number": number}) for number in range(500)))
        assert len(sync_errors) == 1
        assert log.n_records == 501
        await log.close()

    asyncio.run(run())
    assert numbers(tmp_path / "log") == list(range(500))


def test_records_that_nobody_waits_to_sync_share_one_sync_soon(sync_errors: list[int], tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "log"

    async def run() -> None:
        log = AuditLog.open(folder, home=home, sync_s=0.05)
        sync_errors.clear()
        for number in range(100):
            await log.append({"number": number})
        assert (sync_errors, numbers(folder)) == ([], list(range(100)))
        while anchor_of(home, folder).size < 101:
            await asyncio.sleep(0.01)
        assert len(sync_errors) == 1
        await log.append({"number": 100})
        await log.close()

    asyncio.run(run())
    assert numbers(folder) == list(range(101))
    assert check(home, folder).verdict == "pass"


def test_a_caller_that_leaves_loses_nothing_for_others(tmp_path: Path) -> None:
    async def run() -> None:
        log = AuditLog.open(tmp_path / "log", home=tmp_path / "home")
        tasks = [asyncio.create_task(log.append({"number": number})) for number in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [result is None for result in done] == [False, True] * 10
        late = asyncio.create_task(log.append({"number": 20}))
        await asyncio.sleep(0)
        await log.close()
        assert late.done()
        with pytest.raises(AuditUnavailable, match="closed"):
            await log.append({"number": 21})
        await log.close()

    asyncio.run(run())
    assert numbers(tmp_path / "log") == list(range(21))


def test_an_error_is_told_to_each_of_many(sync_errors: list[int], tmp_path: Path) -> None:
    async def run() -> list[Any]:
        log = AuditLog.open(tmp_path / "log", home=tmp_path / "home")
        sync_errors[:] = [errno.ENOSPC]
        failed = await asyncio.gather(*(log.append({"number": number}) for number in range(3)), return_exceptions=True)
        await log.append({"number": 3})
        await log.close()
        return failed

    failed = asyncio.run(run())
    assert [type(error) for error in failed] == [AuditUnavailable] * 3
    assert len({id(error) for error in failed}) == 3
    assert numbers(tmp_path / "log") == [3]


def test_the_digest_of_a_short_text_says_nothing_without_the_key(tmp_path: Path) -> None:
    async def digest(name: str) -> str:
        log = AuditLog.open(tmp_path / name, home=tmp_path / f"home of {name}")
        digester = log.digester()
        digester.update(b"yes")
        await log.close()
        return digester.hexdigest()

    first, second = asyncio.run(digest("a")), asyncio.run(digest("b"))
    assert first != second
    assert (tmp_path / "home of a" / "keys" / "digest.key").stat().st_mode & 0o077 == 0


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    home, folder = written(tmp_path)
    (home / "keys" / "signing.pem").chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        ChainLog.open(folder, home=home)
    (home / "keys" / "signing.pem").chmod(0o600)
    (home / "keys" / "signing.pem").write_text("x")
    with pytest.raises(InputError, match="not a private key"):
        ChainLog.open(folder, home=home)


def test_a_log_without_its_checkpoints_is_not_written_on(tmp_path: Path) -> None:
    home, folder = written(tmp_path)
    shutil.rmtree(home / "anchors")
    with pytest.raises(InputError, match="no checkpoint for the log"):
        ChainLog.open(folder, home=home)
