"""Ten million decisions in bounded memory: rows a second and peak resident memory of `trimtab fairness`, at two sizes.

The ratio of the peaks says whether memory grows with the rows. A child process a size, so that peaks are their own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CHILD = """
import json, resource, sys, time
from trimtab.flows.fairness import fairness
start = time.perf_counter()
found = fairness(sys.argv[1], decision="approved", label="repaid", groups=["sex", "race"], score="risk")
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(json.dumps({"rows": found["input"]["rows"], "seconds": time.perf_counter() - start, "peak_bytes": peak}))
"""


def write_rows(path: Path, n: int) -> None:
    """A CSV of n made decisions, written in blocks."""
    random = np.random.default_rng(0)
    sexes, races = np.array(["Female", "Male"]), np.array(["A", "B", "C", "D"])
    with path.open("w") as file:
        file.write("id,sex,race,risk,approved,repaid\n")
        for first in range(0, n, 100_000):
            size = min(100_000, n - first)
            risk = random.random(size)
            columns = (
                range(first, first + size),
                sexes[random.integers(0, 2, size)],
                races[random.integers(0, 4, size)],
                risk.round(6),
                (risk > 0.5).astype(int),
                (random.random(size) < risk).astype(int),
            )
            file.writelines(f"{a},{b},{c},{d},{e},{f}\n" for a, b, c, d, e, f in zip(*columns, strict=True))


def measure(folder: Path, n: int) -> dict[str, float]:
    path = folder / f"{n}.csv"
    write_rows(path, n)
    done = subprocess.run([sys.executable, "-c", CHILD, str(path)], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    path.unlink()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    quick = parser.parse_args().quick
    sizes = (100_000, 1_000_000) if quick else (1_000_000, 10_000_000)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        small, large = (measure(Path(folder), n) for n in sizes)
    growth = large["peak_bytes"] / small["peak_bytes"]
    for one in (small, large):
        print(f"{one['rows']:>12,.0f} rows  {one['rows'] / one['seconds']:>12,.0f} rows/s  {one['peak_bytes'] / 1e6:>6.0f} MB at most")
    print(f"ten times the rows take {growth:.2f} times the memory; {time.perf_counter() - start:.0f} s in all")
    figures = {
        "small": small,
        "large": large,
        "memory_growth": growth,
        "own_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    targets = {"memory_growth_below": 1.5}
    print(json.dumps({"name": "fairness_rows", "figures": figures, "targets": targets, "ok": growth < 1.5}))
    return 0 if growth < 1.5 else 1


if __name__ == "__main__":
    raise SystemExit(main())
