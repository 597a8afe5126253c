"""Does the ledger keep every entry that it acknowledged, killed at random points and written by many at once? On SQLite and PostgreSQL.

    python benchmarks/ledger_crash.py [--quick] [--writes N] [--seconds S] [--writers N] [--folder DIR]

Kills: a writer process is killed with kill -9 after a random number of entries and a random part of the next one, again and again, until
N entries were acknowledged. Crowd: many processes append for S seconds. After each, every acknowledged hash must be in the ledger in its
order, and the chain must hold against the signed checkpoint. PostgreSQL runs as a server made for this; without one it is left out.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parts.postgres_server import find_binaries, server

from trimtab.record.ledger import Ledger

TARGETS = {"lost": 0, "broken_chains": 0, "failed_writers": 0, "databases": 2}


@contextlib.contextmanager
def places(folder: Path) -> Iterator[dict[str, str]]:
    """Where ledgers may begin, by database."""
    found = {"sqlite": f"sqlite:///{folder}"}
    if (binaries := find_binaries()) is None:
        print("PostgreSQL is left out: its server is not installed.")
        yield found
        return
    with server(binaries) as running:
        yield {**found, "postgresql": running.url("postgres")}


def new_ledger(database: str, place: str, name: str) -> str:
    """URL of an empty ledger."""
    if database == "sqlite":
        return f"{place}/{name}.db"
    import pg8000.dbapi
    from sqlalchemy.engine import make_url

    url = make_url(place)
    connection = pg8000.dbapi.connect(url.username or "", url.host or "", "postgres", url.port or 0, url.password)
    connection.autocommit = True
    connection.cursor().execute(f"CREATE DATABASE {name}")
    connection.close()
    return place.removesuffix("/postgres") + f"/{name}"


def append_on_and_on(url: str, home: Path, acknowledged: int, ends: float) -> None:
    """Hash and milliseconds of every entry go to a file descriptor once it is acknowledged."""
    with Ledger.open(url, home=home) as ledger:
        while time.monotonic() < ends:
            began = time.perf_counter()
            entry = ledger.append("incident", by=f"writer {os.getpid()}", about="chat@1", body={"note": "x" * random.randrange(2000)})
            os.write(acknowledged, f"{entry.seq} {entry.hash} {1e3 * (time.perf_counter() - began):.3f}\n".encode())


def forked(url: str, home: Path, acknowledged: int, ends: float = float("inf")) -> int:
    child = os.fork()
    if child == 0:
        try:
            append_on_and_on(url, home, acknowledged, ends)
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
    return child


def lines_of(path: Path) -> list[tuple[int, str, float]]:
    found = [line.split() for line in path.read_text().splitlines()]
    return [(int(seq), digest, float(ms)) for seq, digest, ms in found]


def judged(url: str, home: Path, acknowledged: list[tuple[int, str, float]]) -> dict[str, int]:
    with Ledger.open(url, home=home) as ledger:
        ledger.append("incident", by="benchmark", about="chat@1", body={})  # signs for what a killed writer could not
        check = ledger.check()
        kept = {entry.seq: entry.hash for entry in ledger.entries()}
    return {
        "acknowledged": len(acknowledged),
        "lost": sum(kept.get(seq) != digest for seq, digest, _ in acknowledged),
        "entries": check.n_entries,
        "broken_chains": int(check.verdict != "pass" or len({seq for seq, _, _ in acknowledged}) != len(acknowledged)),
    }


def kills(url: str, home: Path, n_writes: int, chance: random.Random) -> dict[str, Any]:
    """A writer at a time, killed at random points."""
    log = home / "acknowledged"
    home.mkdir(parents=True)
    n_kills, n_written = 0, 0
    with log.open("ab", buffering=0) as file:
        while n_written < n_writes:
            child = forked(url, home, file.fileno())
            wanted = n_written + chance.randrange(1, 12)
            while log.read_bytes().count(b"\n") < wanted:
                if os.waitpid(child, os.WNOHANG)[0]:
                    raise RuntimeError("a writer ended by itself")
                time.sleep(0.0005)
            times = [ms for _, _, ms in lines_of(log)[1:]] or [5.0]
            time.sleep(chance.random() * 1.2e-3 * statistics.median(times))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            n_kills += 1
            n_written = log.read_bytes().count(b"\n")
    found = judged(url, home, lines_of(log))
    # What is in the ledger and was not acknowledged: killed between the commit and the acknowledgement.
    return {"kills": n_kills, **found, "written_unheard": found["entries"] - found["acknowledged"] - 1}


def crowd(url: str, home: Path, n_writers: int, seconds: float) -> dict[str, Any]:
    """Many writers at once."""
    home.mkdir(parents=True)
    Ledger.open(url, home=home).close()
    ends = time.monotonic() + seconds
    logs = [home / f"acknowledged-{number}" for number in range(n_writers)]
    files = [log.open("ab", buffering=0) for log in logs]
    children = [forked(url, home, file.fileno(), ends) for file in files]
    failed = sum(os.waitpid(child, 0)[1] != 0 for child in children)
    for file in files:
        file.close()
    by_writer = [lines_of(log) for log in logs]
    acknowledged = [line for lines in by_writer for line in lines]
    cuts = statistics.quantiles([ms for _, _, ms in acknowledged], n=100)
    return {
        **judged(url, home, acknowledged),
        "failed_writers": failed,
        "per_s": len(acknowledged) / seconds,
        "p50_ms": cuts[49],
        "p99_ms": cuts[98],
        "most_ms": max(ms for _, _, ms in acknowledged),
        "least_of_a_writer": min(len(lines) for lines in by_writer),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="60 writes, 4 seconds")
    parser.add_argument("--writes", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", default=None, help="a folder on the disk to use (default the one for temporary files)")
    options = parser.parse_args()
    writes, seconds = (60, 4.0) if options.quick else (options.writes, options.seconds)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name, places(Path(name)) as found:
        for database, place in found.items():
            chance = random.Random(options.seed)
            figures[f"{database}_kills"] = kills(new_ledger(database, place, "kills"), Path(name) / database / "kills", writes, chance)
            figures[f"{database}_crowd"] = crowd(
                new_ledger(database, place, "crowd"), Path(name) / database / "crowd", options.writers, seconds
            )
            for part in ("kills", "crowd"):
                row = figures[f"{database}_{part}"]
                print(f"{database:<10} {part}  " + "  ".join(f"{key} {value:,.4g}" for key, value in row.items()), flush=True)
        n_databases = len(found)
    sums = {key: sum(row.get(key, 0) for row in figures.values()) for key in ("lost", "broken_chains", "failed_writers")}
    values = {**sums, "databases": n_databases}
    ok = all(values[key] == 0 for key in sums) and n_databases == TARGETS["databases"]
    print(json.dumps({"name": "ledger_crash", "figures": {**figures, **values}, "targets": TARGETS, "ok": ok}))


if __name__ == "__main__":
    main()
