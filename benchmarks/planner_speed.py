"""How many layouts a second the planner weighs on one core, and whether it finds what the makers of large models chose good.

usage: python benchmarks/planner_speed.py [--quick] [--rounds N]

Speed: whole searches, from the question to the ten best and the front: enumeration and memory of all layouts, time of those that fit. A
dense 70B, a mixture of experts and a 405B model, over several devices and counts. Layouts over seconds of processor time (one thread), the
best of N rounds (other work on the machine only ever slows one down).

Published runs: the layout of the authors, timed by the same model as the best layout under their constraints (their devices, batch,
sequence and the features that their framework had). `behind_pct`: how much longer its step takes.

Picks: of layouts that were all measured for one job, the one that the planner takes for the best, against the best that was measured
(../shared/data/planner; left out where it is absent).

--quick: one round and the smallest question. The last line of stdout is one JSON object: name, figures, targets, ok.
"""

import argparse
import json
import time

from parts.planner_picks import picks, serving_picks
from parts.planner_rows import DATA
from parts.planner_runs import PUBLISHED, ask_of

from trimtab.plan.architectures import architecture
from trimtab.plan.devices import device
from trimtab.plan.quantities import device_counts
from trimtab.plan.search.train import TrainAsk, search
from trimtab.plan.search.why import why_not

PICKED_FROM = {"train.csv": picks, "train_vtrain_single_node.csv": picks, "infer_silicon.csv": serving_picks}
TARGETS = {"layouts_s_at_least": 100_000, "published_behind_pct_at_most": 10.0}


def questions() -> dict[str, TrainAsk]:
    common = {"tokens": 1e12, "framework": "megatron"}
    return {
        "70B on 8 to 512": TrainAsk(
            architecture=architecture("llama-3.1-70b"),
            devices=(device("h100-sxm"),),
            counts=device_counts("8..512"),
            seq_tokens=8192,
            global_batch_seqs=1024,
            **common,
        ),
        "mixture of experts on 64 to 1024, two devices": TrainAsk(
            architecture=architecture("mixtral-8x22b"),
            devices=(device("h100-sxm"), device("h200-sxm")),
            counts=device_counts("64..1024"),
            seq_tokens=4096,
            global_batch_seqs=2048,
            **common,
        ),
        "405B on 1024 to 16384": TrainAsk(
            architecture=architecture("llama-3.1-405b"),
            devices=(device("h100-sxm"),),
            counts=device_counts("1024..16384"),
            seq_tokens=8192,
            global_batch_seqs=2048,
            **common,
        ),
    }


def speed(ask: TrainAsk, rounds: int) -> tuple[int, int, float]:
    """(layouts, of them fit, layouts a second of processor time)."""
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        found = search(ask)
        seconds.append(time.process_time() - began)
    return found.n_layouts, found.n_fit, found.n_layouts / min(seconds)


def behind_pct() -> dict[str, float | None]:
    """By published run: how much longer the authors' step takes than the best they could have had; None = it does not fit."""
    found = {}
    for run in PUBLISHED:
        best = search(ask_of(run))
        theirs = why_not(best, run.layout)
        found[run.name] = None if theirs.slower is None else round(100 * theirs.slower, 1)
        print(f"{run.name}: best of {best.n_fit:,}: {best.best[0].step_s:.2f} s a step; the authors' {theirs.sentence}", flush=True)
    return found


def picked() -> dict[str, dict[str, float]]:
    """By table of published runs, as far as they are at hand."""
    found = {}
    for table, weighed in PICKED_FROM.items():
        if not (DATA / table).is_file():
            print(f"{table} is not at hand: no picks from it", flush=True)
            continue
        seen = weighed(DATA / table)
        found[table] = {name: round(value, 1) for name, value in vars(seen).items()}
        print(
            f"{table}: the pick is the best that was measured for {seen.best} of {seen.jobs} jobs, {seen.regret_pct:.1f} % worse on "
            f"average (nine in ten below {seen.ninth_pct:.1f} %; by chance {seen.chance_pct:.1f} %)",
            flush=True,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round and the smallest question")
    parser.add_argument("--rounds", type=int, default=5, help="how often each question is asked (default 5)")
    options = parser.parse_args()
    asked = dict(list(questions().items())[:1]) if options.quick else questions()
    rates = {}
    search(next(iter(asked.values())))  # what is loaded once is loaded
    for name, ask in asked.items():
        n_layouts, n_fit, rate = speed(ask, 1 if options.quick else options.rounds)
        rates[name] = round(rate)
        print(f"{name}: {n_layouts:,} layouts, {n_fit:,} fit, {rate:,.0f} a second", flush=True)
    behind = behind_pct()
    figures = {"layouts_s": rates, "slowest_layouts_s": min(rates.values()), "published_behind_pct": behind, "picks": picked()}
    is_near = all(value is not None and value <= TARGETS["published_behind_pct_at_most"] for value in behind.values())
    ok = min(rates.values()) >= TARGETS["layouts_s_at_least"] and is_near
    print(json.dumps({"name": "planner_speed", "figures": figures, "targets": TARGETS, "ok": ok}))


if __name__ == "__main__":
    main()
