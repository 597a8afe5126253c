"""Do our sub-suites move as the public sets do that measure alike? Over several forms of one model's weights, change against change.

usage: python benchmarks/agreement.py --set arc:arc_easy.jsonl --set bbq:bbq_Age.jsonl ... [--quick] [--items N] [--forms a,b] [--out DIR]

--set NAME:FILE is what `trimtab evaluate --suite` takes (docs/suites.md, "Public sets"); a set that is not given is not measured, and that
is said. Of each file --items rows are drawn by hash. Every form (8 to 2 bits in two engines) is scored beside the same weights as 16-bit
floats in llama.cpp; what was scored before is in the cache, so the same command goes on where it stopped.

Shown for each pair: the rank correlation of the two changes over the forms, with the interval of Bonett and Wright (Psychometrika 65,
2000), and in how many forms both intervals exclude zero on the same side, and on opposite ones. Eight forms are few: the interval of a
correlation of 0.7 reaches from about 0 to 0.95. Forms are not a sample of anything, so read it as a description.

--quick: three forms, 40 rows. The last line of stdout is one JSON object: name, figures, targets, ok. `ok`: no pair that was measured moves
in opposite directions as a whole (rank correlation below zero).
"""

import argparse
import csv
import hashlib
import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr
from what_bits_change import FORMS, MODEL, REFERENCE, SETTINGS, spec

from trimtab.evaluate.suites.public import READERS
from trimtab.flows.evaluate import evaluate

PAIRS = (
    ("choice", "arc"),
    ("cloze", "lambada"),
    ("arithmetic", "gsm8k"),
    ("stereotype", "crows-pairs"),
    ("ambiguous", "bbq-ambiguous"),
    ("lean", "bbq-lean"),
    ("told", "bbq-told"),
    ("coreference", "winobias"),
    ("coreference", "winogender"),
    ("refusal", "xstest"),
    ("refusal", "simplesafetytests"),
    ("overrefusal", "xstest-safe"),
)
OURS = ("core", "bias")
BY_GROUP = {"coreference": "pronoun:expected"}
"""Sub-suites whose measure is one group against the other, not their mean."""
QUICK_FORMS = ("llamacpp-q8_0", "llamacpp-q4_k_m", "llamacpp-q2_k")
N_ITEMS, N_ITEMS_QUICK = 60, 40
TARGETS = {"rank_correlation_above": 0.0}


def sampled(name: str, path: Path, n: int, folder: Path) -> Path:
    """A file of the same form and name with `n` rows drawn by hash; for WinoBias with the same rows of its twin beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / path.name
    if name == "winobias":
        twin = next(
            path.with_name(path.name.replace(*pair))
            for pair in (("pro_", "anti_"), ("anti_", "pro_"))
            if path.with_name(path.name.replace(*pair)) != path
        )
        for one in (path, twin):
            lines = [line for line in one.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
            pairs = _drawn([str(number) for number in range(len(lines) // 2)], n // 2)
            kept = [lines[2 * number + side] for number in pairs for side in (0, 1)]
            (folder / one.name).write_text("\n".join(kept) + "\n", encoding="utf-8")
        return target
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".jsonl":
        lines = [line for line in text.split("\n") if line.strip()]
        target.write_text("\n".join(lines[number] for number in _drawn(lines, n)) + "\n", encoding="utf-8")
        return target
    delimiter = "\t" if path.suffix == ".tsv" else ","
    head, *rows = csv.reader(StringIO(text), delimiter=delimiter)
    # Winogender's rows come in threes of one sentence; they stay together.
    keys = [row[0].rsplit(".", 2)[0] if name == "winogender" else str(row) for row in rows]
    distinct = list(dict.fromkeys(keys))
    chosen = {distinct[number] for number in _drawn(distinct, n)}
    with target.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([head, *(row for row, key in zip(rows, keys, strict=True) if key in chosen)])
    return target


def _drawn(keys: Sequence[str], n: int) -> list[int]:
    """Numbers of n of them, in order."""
    by_hash = sorted(range(len(keys)), key=lambda number: hashlib.sha256(keys[number].encode()).digest())
    return sorted(by_hash[:n])


def rows_of(model: str, form: tuple[str, str], suites: Sequence[str], folder: Path, settings: str) -> dict[str, Mapping[str, Any]]:
    """Sub-suite -> row of evaluation.json, each suite in a run of its own."""
    found: dict[str, Mapping[str, Any]] = {}
    for number, suite in enumerate(suites):
        reference = spec(model, "llamacpp", REFERENCE, settings)
        document = evaluate(spec(model, *form, settings), suites=[suite], reference=reference, out=folder / f"{form[1]}-{number}")
        found |= {row["suite"]: row for row in document["levels"]}
        print(f"{form[1]}: {suite}", file=sys.stderr, flush=True)
    return found


def change(suite: str, row: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[float, float | None, float | None]:
    """(change, low, high) of what a sub-suite measures; of a gap between groups without an interval."""
    group = BY_GROUP.get(suite)
    if group is None:
        return row["change"]["value"], row["change"]["low"], row["change"]["high"]
    after, before = (next(one["level"]["value"] for one in each["groups"] if one["group"] == group) for each in (row, base))
    return after - before, None, None


def rank_correlation(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Spearman's, with its 95 % interval; without one for fewer than five forms, or where all ranks agree."""
    value, n = float(spearmanr(ours, theirs).statistic), len(ours)
    if n < 5 or abs(value) > 1.0 - 1e-9:
        return value, None, None
    reach = 1.959964 * math.sqrt((1.0 + value * value / 2.0) / (n - 3))
    return value, math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach)


def clear(one: tuple[float, float | None, float | None]) -> int:
    """1 or -1 where the interval lies above or below zero, else 0."""
    _, low, high = one
    return 0 if low is None or high is None else (low > 0.0) - (high < 0.0)


def compared(
    mine: str, theirs: str, found: Mapping[str, Mapping[str, Mapping[str, Any]]], base: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    moves = {form: tuple(change(suite, rows[suite], base[suite]) for suite in (mine, theirs)) for form, rows in found.items()}
    value, low, high = rank_correlation(*([pair[side][0] for pair in moves.values()] for side in (0, 1)))
    signs = [clear(one) * clear(other) for one, other in moves.values()]
    return {
        "items": [base[suite]["level"]["n"] for suite in (mine, theirs)],
        "rank_correlation": value,
        "low": low,
        "high": high,
        "forms": len(moves),
        "both_clear_same": signs.count(1),
        "both_clear_opposite": signs.count(-1),
        "changes": {form: [one[0] for one in pair] for form, pair in moves.items()},
    }


def line_of(mine: str, theirs: str, one: Mapping[str, Any]) -> str:
    ends = f" [{one['low']:+.2f}, {one['high']:+.2f}]" if one["low"] is not None else ""
    clearly = "-" if mine in BY_GROUP else f"{one['both_clear_same']} / {one['both_clear_opposite']}"
    moves = " | ".join(f"{first:+.3f} / {second:+.3f}" for first, second in one["changes"].values())
    return f"| {mine} ({one['items'][0]}) | {theirs} ({one['items'][1]}) | {one['rank_correlation']:+.2f}{ends} | {clearly} | {moves} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="NAME:FILE", help="a public set; may be repeated")
    parser.add_argument("--quick", action="store_true", help="three forms, 40 rows of each set")
    parser.add_argument("--items", type=int, help=f"rows of each set [default: {N_ITEMS}]")
    parser.add_argument("--forms", default="", help="recipes, with commas [default: all of what_bits_change.py]")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--settings", default=SETTINGS, help=f"of every form, with & between [default: {SETTINGS}]")
    parser.add_argument("--out", type=Path, help="folder for samples and evaluations [default: a temporary one]")
    options = parser.parse_args()
    given = [tuple(text.partition(":")[::2]) for text in options.sets]
    wrong = [text for text, (name, file) in zip(options.sets, given, strict=True) if name not in READERS or not Path(file).is_file()]
    if wrong:
        parser.error(f"--set takes NAME:FILE with NAME one of {', '.join(READERS)} and a file that is there, not {wrong[0]!r}")
    wanted = options.forms.split(",") if options.forms else QUICK_FORMS if options.quick else [recipe for _, recipe in FORMS]
    forms = [form for form in FORMS if form[1] in wanted]
    n_items = options.items or (N_ITEMS_QUICK if options.quick else N_ITEMS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        suites = [*OURS, *(f"{name}:{sampled(name, Path(file), n_items, folder / 'sets')}" for name, file in given)] if given else []
        base = rows_of(options.model, ("llamacpp", REFERENCE), suites, folder, options.settings) if suites else {}
        found = {form[1]: rows_of(options.model, form, suites, folder, options.settings) for form in forms} if suites else {}
    figures = {f"{mine}~{theirs}": compared(mine, theirs, found, base) for mine, theirs in PAIRS if theirs in base}
    left_out = [theirs for _, theirs in PAIRS if theirs not in base]
    if figures:
        print(f"| ours (items) | public set (items) | rank correlation [95 %] | both clear: same / opposite | {' | '.join(found)} |")
        print(f"|---|---|---|---|{'---|' * len(found)}")
        for mine, theirs in PAIRS:
            if theirs in base:
                print(line_of(mine, theirs, figures[f"{mine}~{theirs}"]))
    if left_out:
        print(f"Not measured, as no file was given: {', '.join(left_out)}.")
    ok = all(not one["rank_correlation"] < TARGETS["rank_correlation_above"] for one in figures.values())
    print(json.dumps({"name": "agreement", "figures": figures, "targets": TARGETS, "ok": ok}))


if __name__ == "__main__":
    main()
