"""Lets the tests of this room import what stands beside them; a disk that is soon full, a PostgreSQL server, places for ledgers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2] / "benchmarks" / "parts")]

from postgres_server import Server, find_binaries, server  # noqa: E402


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB (tmpfs), where one can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.getuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False).returncode == 0
    if not mounted:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server of these tests' own, where one is installed."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("needs the PostgreSQL server (on Debian: apt-get install postgresql)")
    with server(binaries, is_durable=False) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a ledger may begin, in each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    running: Server = request.getfixturevalue("postgres")
    running.run("DROP SCHEMA public CASCADE")
    running.run("CREATE SCHEMA public")
    return running.url("postgres")
