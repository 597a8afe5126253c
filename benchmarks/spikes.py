"""How often does the watch cry spike on losses that only fluctuate, and how often does it find a spike that was planted?

    python benchmarks/spikes.py [--quick] [--steps N] [--planted N] [--seed S]

Losses fall as trainings' do (2.5 nats + two exponentials) with independent noise of three shapes: normal, Student's t with 3 degrees, and
lognormal (few, short answers a batch). Noise is given as its standard deviation in nats. A planted spike raises the loss by a quarter, a
half or all of it, from one step on. The settings are those that a train.toml without [watch] has.
"""

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from parts.tables import table

from trimtab.core.training import TrainWatch
from trimtab.train.spikes import SpikeWatch

NOISE: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "t(3)": lambda rng, n: rng.standard_t(3, size=n) / math.sqrt(3),
    "lognormal": lambda rng, n: (np.exp(0.5 * rng.normal(size=n)) - math.exp(0.125)) / math.sqrt(math.exp(0.5) - math.exp(0.25)),
}
SPREADS = (0.02, 0.1, 0.3)
RISES = (0.25, 0.5, 1.0)
RUN_STEPS = 2000
TARGETS = {"false_alarms_per_100k_steps_most": 5.0, "found_share_of_half_at_0.1_least": 0.98}


def losses(rng: np.random.Generator, kind: str, spread: float, n: int) -> np.ndarray:
    at = np.arange(n)
    return 2.5 + 4.0 * np.exp(-at / 60) + 1.5 * np.exp(-at / 600) + spread * NOISE[kind](rng, n)


def alarms(rng: np.random.Generator, kind: str, spread: float, steps: int) -> tuple[int, int]:
    """(spikes cried, losses suspected) over so many steps, in runs of RUN_STEPS. After a cry the run goes on as if led back."""
    cried, suspected = 0, 0
    for _ in range(steps // RUN_STEPS):
        watch = SpikeWatch(TrainWatch())
        for loss in losses(rng, kind, spread, RUN_STEPS):
            verdict = watch.judge(float(loss), 1.0)
            cried += verdict == "spike"
            suspected += verdict == "suspect"
    return cried, suspected


def found_share(rng: np.random.Generator, kind: str, spread: float, rise: float, planted: int) -> float:
    """Of spikes planted at a random step, those cried within four steps."""
    found = 0
    for _ in range(planted):
        start = int(rng.integers(40, 800))
        seen = losses(rng, kind, spread, start + 4)
        seen[start:] += rise * seen[start - 1]
        watch = SpikeWatch(TrainWatch())
        found += "spike" in [watch.judge(float(loss), 1.0) for loss in seen[start - 40 :]][40:]
    return found / planted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 steps and 40 planted spikes of each kind")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--planted", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    steps, planted = (20_000, 40) if options.quick else (options.steps, options.planted)
    rng = np.random.default_rng(options.seed)
    rows: list[dict[str, Any]] = []
    for kind in NOISE:
        for spread in SPREADS:
            cried, suspected = alarms(rng, kind, spread, steps)
            shares = {f"found_{rise:g}": found_share(rng, kind, spread, rise, planted) for rise in RISES}
            rows.append({"noise": kind, "spread": spread, "cried": cried, "suspected": suspected, **shares})
    head = (
        "noise",
        "deviation, nats",
        "false spikes per 100,000 steps",
        "odd losses let pass",
        *(f"found at +{rise:.0%}" for rise in RISES),
    )
    lines = [
        [row["noise"], f"{row['spread']:g}", f"{row['cried'] * 1e5 / steps:.1f}", f"{row['suspected'] * 1e5 / steps:.0f}"]
        + [f"{row[f'found_{rise:g}']:.0%}" for rise in RISES]
        for row in rows
    ]
    print("\n".join(table(head, lines)))
    figures = {
        "steps": steps,
        "planted": planted,
        "false_alarms_per_100k_steps_most": max(row["cried"] for row in rows) * 1e5 / steps,
        "found_share_of_half_at_0.1_least": min(row["found_0.5"] for row in rows if row["spread"] == 0.1),
    }
    ok = (
        figures["false_alarms_per_100k_steps_most"] <= TARGETS["false_alarms_per_100k_steps_most"]
        and figures["found_share_of_half_at_0.1_least"] >= TARGETS["found_share_of_half_at_0.1_least"]
    )
    print(json.dumps({"name": "spikes", "figures": {"rows": rows, **figures}, "targets": TARGETS, "ok": ok}))


if __name__ == "__main__":
    main()
