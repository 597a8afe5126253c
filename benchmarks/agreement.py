"""Do our sub-suites move as the public sets do that measure alike? Over several forms of one model's weights, change against change.

usage: python benchmarks/agreement.py --set arc:arc_easy.jsonl --set bbq:bbq_Age.jsonl ... [--quick] [--state DIR --time-limit S]

--set NAME:FILE is what `trimtab evaluate --suite` takes (docs/suites.md, "Public sets"); files of one set are put together, ARC's two parts
stay apart. A set that is not given is not measured, and that is said. Of each sub-suite of a set --items rows are drawn by hash, or the
number that --draw SUBSUITE=N says. Winogender needs the authors' occupations file beside it: a pronoun counts as expected by the majority
there, where it stands for the occupation.

Forms: the weights at 4 to 2 bits in both engines, and as 16-bit floats with normal noise of 5, 10 and 15 % of each matrix's standard
deviation, two draws each; beside the same weights as 16-bit floats in llama.cpp. Forms that move hardly anything tell nothing here.
--state keeps each form's outcomes on each sub-suite: the same command goes on where it stopped, and it may be the folder of
what_bits_change.py. --time-limit: seconds after which nothing more is begun; what was not scored is left out of the pairs.

Shown for each pair: the rank correlation of the two changes over the forms, with the interval of Bonett and Wright (Psychometrika 65,
2000), in how many forms each side's own interval excludes zero, and both at once on the same side and on opposite ones. Forms of one model
are no sample of models, and more damage moves most things: read it as a description. "Cannot tell" is said where the interval holds zero.

--quick: three forms, 40 rows. The last line of stdout is one JSON object: name, figures, targets, ok. `ok`: no pair that was measured is
shown to move in opposite directions as a whole (interval of the rank correlation below zero).
"""

import argparse
import asyncio
import csv
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from parts.forms import (
    FORMS,
    MODEL,
    NOISES,
    REFERENCE,
    SETTINGS,
    Form,
    Found,
    by_sub_suite,
    drawn,
    levels_of,
    open_bench,
    score_forms,
    units_of,
)
from parts.tables import table, write_block
from scipy.stats import spearmanr

from trimtab.core.evidence import Item
from trimtab.evaluate.suites.public import READERS
from trimtab.evaluate.suites.registry import load_suite

PAIRS = (
    ("cloze", "lambada"),
    ("choice", "arc-easy"),
    ("choice", "arc-challenge"),
    ("choice", "openbookqa"),
    ("choice", "boolq"),
    ("choice", "copa"),
    ("arithmetic", "gsm8k"),
    ("refusal", "xstest"),
    ("refusal", "simplesafetytests"),
    ("overrefusal", "xstest-safe"),
    ("stereotype", "crows-pairs"),
    ("ambiguous", "bbq-ambiguous"),
    ("lean", "bbq-lean"),
    ("told", "bbq-told"),
    ("coreference", "winobias"),
    ("coreference", "winogender"),
)
OURS = ("core", "bias")
OCCUPATIONS = "winogender_occupations.tsv"
BY_GROUP = {"coreference": "pronoun:expected"}
"""Sub-suites whose measure is one group against the others, not their mean."""
TOLD_FORMS = ("q4_k_m", "q4_0", "q3_k_m", "q2_k", "int4")
AGREEMENT_FORMS = (*(form for form in FORMS if any(kind in form.name for kind in TOLD_FORMS)), *NOISES)
QUICK_FORMS = ("llamacpp-q4_k_m", "llamacpp-q2_k", "noise-0.1-1")
N_ITEMS, N_ITEMS_QUICK = 150, 40
LEAST_FORMS = 5
TARGETS = {"pairs_apart_at_most": 0}
BLOCK = "agreement"
Change = tuple[float, float | None, float | None]
"""(change, low, high)."""


def public_items(name: str, path: Path) -> tuple[Item, ...]:
    """Items of a public set; ARC's two parts as sub-suites of their own, Winogender's as the expected pronoun against the other."""
    items = load_suite(f"{name}:{path}").items
    if name == "winogender":
        return expected_pronouns(items, path.with_name(OCCUPATIONS))
    if name == "arc":
        part = "arc-challenge" if "challenge" in path.name.lower() else "arc-easy"
        return tuple(
            replace(one, id=one.id.replace("arc", part, 1), suite=part, cluster=one.cluster.replace("arc", part, 1)) for one in items
        )
    return items


def expected_pronouns(items: Sequence[Item], occupations: Path) -> tuple[Item, ...]:
    """Winogender's pairs in which the pronoun stands for the occupation, so turned that the pronoun of its majority is the favoured one.

    occupations: the authors' table with `bls_pct_female`. An item's name ends in .0 where the pronoun stands for the occupation.
    """
    with occupations.open(encoding="utf-8", newline="") as file:
        shares = {row["occupation"]: float(row["bls_pct_female"]) for row in csv.DictReader(file, delimiter="\t")}
    found = []
    for item in items:
        occupation, _, answer = item.id.removeprefix("winogender-").split(".")
        if answer == "0" and occupation in shares:
            found.append(replace(item, options=item.options[::-1]) if shares[occupation] > 50.0 else item)
    return tuple(found)


def change(suite: str, row: Mapping[str, Any]) -> Change:
    """What a sub-suite measures: its mean, or one group against the others."""
    group = BY_GROUP.get(suite)
    moved = row["change"] if group is None else next(one["change"] for one in row["groups"] if one["group"] == group)
    return moved["value"], moved["low"], moved["high"]


def rank_correlation(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Spearman's, with its 95 % interval; without one for fewer than five forms, or where all ranks agree or are turned round.

    None altogether for fewer than two forms, and where one side does not move.
    """
    n = len(ours)
    if n < 2 or len(set(ours)) < 2 or len(set(theirs)) < 2:
        return None, None, None
    value = float(spearmanr(ours, theirs).statistic)
    if n < LEAST_FORMS or abs(value) > 1.0 - 1e-9:
        return value, None, None
    reach = 1.959964 * math.sqrt((1.0 + value * value / 2.0) / (n - 3))
    return value, math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach)


def side(one: Change) -> int:
    """1 or -1 where the interval lies above or below zero, else 0."""
    _, low, high = one
    return 0 if low is None or high is None else (low > 0.0) - (high < 0.0)


def compared(mine: str, theirs: str, rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """A pair over the forms in which both were scored. rows: form -> sub-suite -> row of `evaluate`, without the reference."""
    both = {form: found for form, found in rows.items() if mine in found and theirs in found}
    moves = {form: tuple(change(suite, found[suite]) for suite in (mine, theirs)) for form, found in both.items()}
    value, low, high = rank_correlation(*([pair[at][0] for pair in moves.values()] for at in (0, 1)))
    sides = [(side(one), side(other)) for one, other in moves.values()]
    figures = {
        "items": [next(iter(both.values()))[suite]["level"]["n"] for suite in (mine, theirs)] if both else [0, 0],
        "rank_correlation": value,
        "low": low,
        "high": high,
        "forms": len(moves),
        "clear": [sum(one[at] != 0 for one in sides) for at in (0, 1)],
        "both_clear_same": sum(one * other == 1 for one, other in sides),
        "both_clear_opposite": sum(one * other == -1 for one, other in sides),
        "changes": {form: [one[0] for one in pair] for form, pair in moves.items()},
    }
    return {**figures, "answer": answer(figures)}


def answer(one: Mapping[str, Any]) -> str:
    """`together`, `apart`, or `cannot tell` with the reason."""
    value, low, high, n = (one[key] for key in ("rank_correlation", "low", "high", "forms"))
    if n < LEAST_FORMS:
        return f"cannot tell: {n} forms"
    if value is None:
        return "cannot tell: one side does not move at all"
    if low is None or high is None or low > 0.0 or high < 0.0:
        return "together" if value > 0.0 else "apart"
    few = [
        f"{name} moves clearly in {clear} of {n} forms"
        for name, clear in zip(("ours", "the public set"), one["clear"], strict=True)
        if 2 * clear < n
    ]
    return f"cannot tell: {' and '.join(few)}" if few else "cannot tell: both move, in different orders"


def shown(figures: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    """The table, a line a pair."""
    lines = []
    for (mine, theirs), one in figures.items():
        ends = f" [{one['low']:+.2f}, {one['high']:+.2f}]" if one["low"] is not None else ""
        clear = f"{one['clear'][0]} / {one['clear'][1]}"
        both = f"{one['both_clear_same']} / {one['both_clear_opposite']}"
        sides = [f"{mine} ({one['items'][0]})", f"{theirs} ({one['items'][1]})"]
        value = "-" if one["rank_correlation"] is None else f"{one['rank_correlation']:+.2f}{ends}"
        lines.append([*sides, f"{one['forms']}", value, clear, both, one["answer"]])
    heads = ["ours (items)", "public set (items)", "forms", "rank correlation [95 %]", "clear: ours / public"]
    return table([*heads, "both clear: same / opposite", "they move"], lines)


def items_of(sets: Sequence[tuple[str, Path]], n: int, draws: Mapping[str, int]) -> tuple[dict[str, tuple[Item, ...]], list[list[str]]]:
    """Sub-suite -> items of the pairs that can be formed, and the groups that are scored together: ours first, then one a public sub-suite.

    n: rows of a public sub-suite; draws: of single ones
    """
    public: dict[str, tuple[Item, ...]] = {}
    for name, path in sets:
        for suite, found in by_sub_suite(public_items(name, path)).items():
            public[suite] = (*public.get(suite, ()), *found)
    public = {suite: drawn(items, draws.get(suite, n), whole_clusters=False) for suite, items in public.items()}
    own = by_sub_suite([item for suite in OURS for item in load_suite(suite).items])
    ours = {mine: own[mine] for mine, theirs in PAIRS if theirs in public}
    return {**ours, **public}, [list(ours), *([suite] for suite in public)]


async def gathered(options: argparse.Namespace, state: Path, items: Mapping[str, Sequence[Item]], groups: Sequence[Sequence[str]]) -> Found:
    bench = await open_bench(options.model, items, state=state, settings=options.settings, deadline_s=time.monotonic() + options.time_limit)
    return await score_forms(bench, (REFERENCE, *options.wanted), groups)


def asked_for() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="NAME:FILE", help="a public set; may be repeated")
    parser.add_argument("--quick", action="store_true", help="three forms, 40 rows of each set")
    parser.add_argument("--items", type=int, help=f"rows of each set [default: {N_ITEMS}]")
    parser.add_argument("--draw", action="append", default=[], metavar="SUBSUITE=N", help="rows of one public sub-suite; may be repeated")
    parser.add_argument("--forms", default="", help="with commas [default: 4 to 2 bits and noise]")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--settings", default=SETTINGS, help=f"of every form, with & between [default: {SETTINGS}]")
    parser.add_argument("--state", type=Path, help="folder of outcomes [default: a temporary one]")
    parser.add_argument("--time-limit", type=float, default=math.inf, metavar="S", help="seconds until nothing more is begun")
    parser.add_argument("--docs", type=Path, help="folder whose suites.md gets the table")
    options = parser.parse_args()
    options.given = [(name, Path(file)) for name, _, file in (text.partition(":") for text in options.sets)]
    wrong = [text for text, (name, path) in zip(options.sets, options.given, strict=True) if name not in READERS or not path.is_file()]
    if wrong:
        parser.error(f"--set takes NAME:FILE with NAME one of {', '.join(READERS)} and a file that is there, not {wrong[0]!r}")
    lacking = [path for name, path in options.given if name == "winogender" and not path.with_name(OCCUPATIONS).is_file()]
    if lacking:
        parser.error(f"{lacking[0]} needs the authors' {OCCUPATIONS} beside it")
    known: dict[str, Form] = {form.name: form for form in (*FORMS, *NOISES)}
    names = options.forms.split(",") if options.forms else QUICK_FORMS if options.quick else [form.name for form in AGREEMENT_FORMS]
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"there is no form {unknown[0]!r}; the forms are {', '.join(known)}")
    options.wanted = [known[name] for name in names]
    options.draws = {name: int(n) for name, _, n in (text.partition("=") for text in options.draw)}
    return options


def main() -> None:
    options = asked_for()
    items, groups = items_of(options.given, options.items or (N_ITEMS_QUICK if options.quick else N_ITEMS), options.draws)
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    if items:
        with tempfile.TemporaryDirectory() as scratch:
            found = asyncio.run(gathered(options, options.state or Path(scratch), items, groups))
        rows = levels_of(found, REFERENCE.name, units_of(items))
        del rows[REFERENCE.name]
    figures = {(mine, theirs): compared(mine, theirs, rows) for mine, theirs in PAIRS if theirs in items}
    if figures:
        print("\n".join(shown(figures)))
        if options.docs:
            write_block(options.docs / "suites.md", BLOCK, shown(figures))
    left_out = [theirs for _, theirs in PAIRS if theirs not in items]
    if left_out:
        print(f"Not measured, as no file was given: {', '.join(left_out)}.")
    plain = {f"{mine}~{theirs}": one for (mine, theirs), one in figures.items()}
    ok = sum(one["answer"] == "apart" for one in figures.values()) <= TARGETS["pairs_apart_at_most"]
    print(json.dumps({"name": "agreement", "figures": plain, "targets": TARGETS, "ok": ok}))


if __name__ == "__main__":
    main()
