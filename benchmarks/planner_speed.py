"""How many layouts a second the planner weighs on one core, and whether it finds what the makers of large models chose good.

usage: python benchmarks/planner_speed.py [--quick] [--rounds N]

Speed: whole searches, from the question to the ten best and the front: enumeration and memory of all layouts, time of those that fit. A
dense 70B, a mixture of experts and a 405B model, over several devices and counts. Layouts over seconds of processor time (one thread), the
best of N rounds (other work on the machine only ever slows one down).

Published runs: the layout of the authors, timed by the same model as the best layout under their constraints (their devices, batch,
sequence and the features that their framework had). `behind_pct`: how much longer its step takes.

--quick: one round and the smallest question. The last line of stdout is one JSON object: name, figures, targets, ok.
"""

import argparse
import json
import time

from parts.planner_runs import PUBLISHED, ask_of

from trimtab.plan.architectures import architecture
from trimtab.plan.devices import device
from trimtab.plan.search.train import TrainAsk, parse_counts, search
from trimtab.plan.search.why import why_not

TARGETS = {"layouts_s_at_least": 100_000, "published_behind_pct_at_most": 10.0}


def questions() -> dict[str, TrainAsk]:
    common = {"tokens": 1e12, "framework": "megatron"}
    return {
        "70B on 8 to 512": TrainAsk(
            architecture=architecture("llama-3.1-70b"),
            devices=(device("h100-sxm"),),
            counts=parse_counts("8..512"),
            seq_tokens=8192,
            global_batch_seqs=1024,
            **common,
        ),
        "mixture of experts on 64 to 1024, two devices": TrainAsk(
            architecture=architecture("mixtral-8x22b"),
            devices=(device("h100-sxm"), device("h200-sxm")),
            counts=parse_counts("64..1024"),
            seq_tokens=4096,
            global_batch_seqs=2048,
            **common,
        ),
        "405B on 1024 to 16384": TrainAsk(
            architecture=architecture("llama-3.1-405b"),
            devices=(device("h100-sxm"),),
            counts=parse_counts("1024..16384"),
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
    behind = {}
    for run in PUBLISHED:
        found = search(ask_of(run))
        theirs = why_not(found, run.layout)
        behind[run.name] = None if theirs.slower is None else round(100 * theirs.slower, 1)
        print(f"{run.name}: best of {found.n_fit:,}: {found.best[0].step_s:.2f} s a step; the authors' {theirs.sentence}", flush=True)
    worst = max((value for value in behind.values() if value is not None), default=0.0)
    figures = {"layouts_s": rates, "slowest_layouts_s": min(rates.values()), "published_behind_pct": behind}
    ok = (
        min(rates.values()) >= TARGETS["layouts_s_at_least"]
        and None not in behind.values()
        and worst <= TARGETS["published_behind_pct_at_most"]
    )
    print(json.dumps({"name": "planner_speed", "figures": figures, "targets": TARGETS, "ok": ok}))


if __name__ == "__main__":
    main()
