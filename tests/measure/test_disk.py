"""A disk's rates: the file goes away, the numbers are of it, too little space is said."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from trimtab.core.errors import MissingError
from trimtab.measure import disk
from trimtab.measure.disk import LEAST_BYTES, disk_rates


def test_a_file_is_written_read_and_removed(tmp_path: Path) -> None:
    found = disk_rates(tmp_path, seconds=0.05)
    assert found.n_bytes >= LEAST_BYTES
    assert found.read_bytes_s > 1e6
    assert found.write_bytes_s > 1e6
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_direct_reads_is_read_through_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = disk._timed_read

    def refuses(path: Path, flag: int, buffer: object) -> float:
        if flag:
            raise OSError(22, "Invalid argument")
        return timed(path, flag, buffer)  # type: ignore[arg-type]

    monkeypatch.setattr(disk, "_timed_read", refuses)
    found = disk_rates(tmp_path, seconds=0.05)
    assert not found.direct or not hasattr(disk.os, "O_DIRECT")
    assert found.read_bytes_s > 1e6


def test_too_little_space_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(MissingError, match="Too little space is free"):
        disk_rates(tmp_path)
    assert list(tmp_path.iterdir()) == []
