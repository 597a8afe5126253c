"""How wrong is the planner? Published runs, each predicted by a fit that did not see it, three ways.

    python benchmarks/planner_accuracy.py [--quick] [--data FOLDER] [--only QUANTITY ...] [--rivals]

FOLDER: as in planner_fit.py. Left out at a time: a configuration (with what repeats it), a model, or a source; fit and intervals are made
anew without it, in ten folds. What is fixed before: physics with its few coefficients, and which features may matter. --quick: five folds,
and configuration alone. On the same training rows: 6ND at 40 % MFU. --rivals: llm-analysis too, in a throw-away environment.

For each quantity, by source: rows, median and mean absolute percentage error, bias (median signed error, positive = predicted too high),
share inside the 90 % interval. The last line of stdout is JSON; exit code 3: there is no such folder.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from parts.planner_rivals import constant_mfu, rival_lines
from parts.planner_rows import DATA, anchors_by_quantity, files_of, read

from trimtab.plan.anchors.published import SCHEMES, Row
from trimtab.plan.anchors.scheme import Anchor
from trimtab.plan.anchors.scores import WAYS, Score, Way, leave_out, outcomes_of, score, scores_by_source

COVERAGE = (0.85, 0.95)
LARGE_SOURCE = 50
LEAST_SHOWN = 5
MOST_REASONS = 8


@dataclass(frozen=True)
class Part:
    """A line of targets: the anchors of a quantity that it speaks of, and the most a median error may be, in percent, by way."""

    name: str
    quantity: str
    targets: Mapping[Way, float]
    counts: Callable[[Anchor], bool] = lambda anchor: True


PARTS = (
    Part("training_tok_s", "tok_s_per_device", {"configuration": 8, "model": 12, "source": 15}),
    Part("vtrain_step_time", "step_time_s", {"configuration": 6}, lambda anchor: "vTrain, one node" in anchor.source),
    Part("peak_memory", "peak_memory_bytes", {"configuration": 8, "model": 10, "source": 15}),
    Part("tpot", "tpot_ms", {"configuration": 13, "model": 18, "source": 25}),
    Part("ttft", "ttft_ms", {"configuration": 20, "model": 25, "source": 35}),
    Part(
        "llamacpp_decode",
        "decode_tok_s",
        {"configuration": 8, "model": 12, "source": 18},
        lambda anchor: anchor.features.get("engine") == "llamacpp",
    ),
)


def main() -> int:
    args = _arguments()
    paths = files_of(args.data)
    if not paths:
        print(f"{args.data} holds no table of published runs.", file=sys.stderr)
        return 3
    rows = read(paths)
    _told_rows(rows)
    anchors = anchors_by_quantity(rows)
    ours: dict[tuple[str, str], float] = {}
    figures: dict[str, float] = {}
    targets: dict[str, float] = {}
    wide: list[str] = []
    for part in PARTS:
        if (args.only and part.quantity not in args.only) or part.quantity not in anchors:
            continue
        for way in WAYS[:1] if args.quick else WAYS:
            began = time.perf_counter()
            found = _scores(part, anchors[part.quantity], way, 5 if args.quick else 10, ours)
            name = f"{part.name}_{way}"
            _shown(f"{part.name}, leave-{way}-out ({time.perf_counter() - began:.0f} s)", found)
            figures[f"{name}_pct"] = round(found["pooled"].median_ape_pct or 0.0, 1)
            figures[f"{name}_coverage"] = round(found["pooled"].coverage or 0.0, 3)
            if way in part.targets:
                targets[f"{name}_pct"] = part.targets[way]
            wide += [f"{name}: {source} {one.coverage:.0%}" for source, one in found.items() if _off(one)]
    figures |= _sixes(paths)
    for line in rival_lines(paths, ours, make=args.rivals):
        print(line)
    missed = [name for name, most in targets.items() if figures[name] > most]
    for name in missed:
        print(f"missed: {name} {figures[name]} %, target {targets[name]} %")
    for line in wide:
        print(f"coverage outside 85-95 %: {line}")
    print(json.dumps({"name": "planner_accuracy", "figures": figures, "targets": targets, "missed": missed, "ok": not missed}))
    return 0 if not missed else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--only", nargs="+", default=(), metavar="QUANTITY")
    parser.add_argument("--rivals", action="store_true")
    return parser.parse_args()


def _told_rows(everything: Sequence[Row]) -> None:
    """How many rows of each file are predicted, and why others are not."""
    for file in dict.fromkeys(row.file for row in everything):
        rows = [row for row in everything if row.file == file and not row.aside]
        refused = [row for row in rows if not row.anchors]
        done = len(rows) - len(refused)
        print(f"{Path(file).name}: {done} of {len(rows)} measured rows predicted ({done / max(len(rows), 1):.1%})")
        for why, n in Counter(row.why for row in refused).most_common(MOST_REASONS):
            print(f"  {n} x {why}", flush=True)


def _scores(part: Part, anchors: Sequence[Anchor], way: Way, n_folds: int, ours: dict[tuple[str, str], float]) -> dict[str, Score]:
    """By source. ours: predicted / measured by quantity and row, filled where the configuration is left out"""
    held = leave_out(anchors, SCHEMES[part.quantity], way, n_folds)
    pairs = [pair for pair in zip(outcomes_of(anchors, held), anchors, strict=True) if part.counts(pair[1])]
    if way == "configuration":
        ours |= {(part.quantity, anchor.id): outcome.predicted or 0.0 for outcome, anchor in pairs}
    return scores_by_source([outcome for outcome, _ in pairs])


def _shown(title: str, found: Mapping[str, Score]) -> None:
    print(f"\n{title}")
    for source, one in found.items():
        if one.n < LEAST_SHOWN:
            continue
        print(
            f"  {source[:52]:52} {one.n:5}  median {one.median_ape_pct:6.1f} %  mean {one.mean_ape_pct:6.1f} %"
            f"  bias {one.bias_pct:+6.1f} %  inside {one.coverage:5.0%}",
            flush=True,
        )


def _off(one: Score) -> bool:
    return one.n >= LARGE_SOURCE and one.coverage is not None and not COVERAGE[0] <= one.coverage <= COVERAGE[1]


def _sixes(paths: Sequence[Path]) -> dict[str, float]:
    """What a rule of thumb reaches on the same rows."""
    figures = {}
    for quantity, name in (("tok_s_per_device", "training_tok_s"), ("step_time_s", "vtrain_step_time")):
        outcomes = constant_mfu(paths, quantity)
        if outcomes:
            one = score(outcomes)
            _shown(f"{name}, 6ND at 40 % MFU", {"pooled": one})
            figures[f"{name}_6nd_pct"] = round(one.median_ape_pct or 0.0, 1)
    return figures


if __name__ == "__main__":
    sys.exit(main())
