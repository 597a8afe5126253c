"""How many records a second the audit log makes durable, beside what the disk itself can do: one write and one sync at a time.

    python benchmarks/audit.py [--quick] [--folder DIR]

Each round measures the disk and the log at 1, 16 and 64 appends at once, in turns. A log whose appends each paid their own sync could not
be faster than the disk alone; the ratio shows how many share one. The log is verified at the end, every record signed for.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from trimtab.record.audit import AuditLog
from trimtab.record.chain import log_id
from trimtab.record.chain_check import check_log
from trimtab.record.checkpoints import Signer, read_anchor

CONCURRENCY = (1, 16, 64)
RECORD = {
    "event": "ended",
    "request": "req_0123456789abcdef0123456789abcdef",
    "key": "k_01234567",
    "model": "chat",
    "version": "chat@stable",
    "status": 200,
    "error": "",
    "output_sha256": "0" * 64,
    "prompt_tokens": 512,
    "completion_tokens": 64,
    "first_token_ms": 123.456,
    "total_ms": 1234.567,
    "verdicts": [],
}
TARGETS = {"log_over_disk_at_64": 5.0, "verified": 1}


def disk_alone(folder: Path, seconds: float) -> list[float]:
    """Seconds of each write with its sync."""
    line = json.dumps(RECORD).encode() + b"\n"
    sync = getattr(os, "fdatasync", os.fsync)
    took = []
    handle = os.open(folder / "alone", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            began = time.perf_counter()
            os.write(handle, line)
            sync(handle)
            took.append(time.perf_counter() - began)
    finally:
        os.close(handle)
    return took


async def log_at(log: AuditLog, concurrency: int, seconds: float) -> tuple[list[float], float, float]:
    """Seconds of each append, wall seconds and CPU seconds of all."""
    took: list[float] = []
    began, cpu = time.perf_counter(), time.process_time()
    ends = began + seconds

    async def client() -> None:
        while (start := time.perf_counter()) < ends:
            await log.append(RECORD)
            took.append(time.perf_counter() - start)

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return took, time.perf_counter() - began, time.process_time() - cpu


async def measured(folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    home = folder / "home"
    alone: list[float] = []
    appends: dict[int, list[float]] = {n: [] for n in CONCURRENCY}
    wall, cpu = dict.fromkeys(CONCURRENCY, 0.0), dict.fromkeys(CONCURRENCY, 0.0)
    async with AuditLog.open(folder / "log", home=home) as log:
        for _ in range(rounds):
            alone += disk_alone(folder, seconds)
            for n in CONCURRENCY:
                took, wall_s, cpu_s = await log_at(log, n, seconds)
                appends[n] += took
                wall[n] += wall_s
                cpu[n] += cpu_s
    anchor = read_anchor(home / "anchors" / f"{log_id(folder / 'log')}.json")
    began = time.perf_counter()
    check = check_log(folder / "log", anchor, trusted_key=Signer.of(home).public_hex, is_copy=False, is_in_use=False)
    disk_per_s = len(alone) / sum(alone)
    figures: dict[str, Any] = {"disk": {"per_s": disk_per_s, **percentiles(alone)}}
    for n in CONCURRENCY:
        rate = len(appends[n]) / wall[n]
        figures[f"log_at_{n}"] = {
            "per_s": rate,
            "over_disk": rate / disk_per_s,
            "cpu_us": 1e6 * cpu[n] / len(appends[n]),
            **percentiles(appends[n]),
        }
    figures["verify"] = {"records": check.n_records, "per_s": check.n_records / (time.perf_counter() - began), "verdict": check.verdict}
    return figures


def percentiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50_ms": 1e3 * cuts[49], "p99_ms": 1e3 * cuts[98]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", default=None, help="a folder on the disk to measure (default the one for temporary files)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = asyncio.run(measured(Path(folder), rounds=2 if options.quick else 10, seconds=0.3 if options.quick else 1.0))
    for name, row in figures.items():
        print(
            f"{name:<10} "
            + "  ".join(f"{key} {value:,.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
        )
    values = {"log_over_disk_at_64": figures["log_at_64"]["over_disk"], "verified": figures["verify"]["verdict"] == "pass"}
    ok = all(values[name] >= bound for name, bound in TARGETS.items())
    print(json.dumps({"name": "audit", "figures": {**figures, **values}, "targets": TARGETS, "ok": ok}))


if __name__ == "__main__":
    main()
