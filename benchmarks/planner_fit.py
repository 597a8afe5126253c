"""Fit what published runs add to the planner's physics, and write the files that ship.

    python benchmarks/planner_fit.py [--quick] [--data FOLDER] [--date 2026-11-27]

FOLDER holds train.csv, train_vtrain_single_node.csv, infer_silicon.csv and infer.csv; default ../shared/data/planner, seen from the clone.
No row of them goes into the files: coefficients, their precision, hashes of settings, and counts by source. --quick: made in a folder of
their own, and those that ship stay as they are. The last line of stdout is JSON. Exit code 3: there is no such folder.
"""

import argparse
import json
import sys
import tempfile
import time
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from parts.planner_rows import DATA, anchors_by_quantity, files_of, read

from trimtab.plan.anchors.fitted import fitted, save
from trimtab.plan.anchors.published import SCHEMES

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "src" / "trimtab" / "catalog" / "planner"
LARGEST_BYTES = 500_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--date", type=date.fromisoformat, default=datetime.now(UTC).date())
    args = parser.parse_args()
    paths = files_of(args.data)
    if not paths:
        print(f"{args.data} holds no table of published runs.", file=sys.stderr)
        return 3
    out = Path(tempfile.mkdtemp(prefix="trimtab-planner-")) if args.quick else OUT
    digests = {path.name: sha256(path.read_bytes()).hexdigest() for path in paths}
    found = anchors_by_quantity(read(paths))
    fits, seconds = [], {}
    for quantity, scheme in SCHEMES.items():
        if quantity not in found:
            print(f"{quantity}: no row tells it")
            continue
        began = time.perf_counter()
        fits.append(fitted(quantity, found[quantity], scheme, digests, args.date))
        seconds[quantity] = round(time.perf_counter() - began, 1)
        residual = fits[-1].residual
        print(f"{quantity}: {residual.n_anchors} anchors, {residual.basis.n_columns} columns, {seconds[quantity]} s", flush=True)
    save(out, fits)
    sizes = {fit.quantity: (out / f"{fit.quantity}.npz").stat().st_size for fit in fits}
    ok = bool(fits) and max(sizes.values()) <= LARGEST_BYTES
    figures = {"anchors": {fit.quantity: fit.residual.n_anchors for fit in fits}, "bytes": sizes, "seconds": seconds}
    print(json.dumps({"name": "planner_fit", "figures": figures, "targets": {"bytes": LARGEST_BYTES}, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
