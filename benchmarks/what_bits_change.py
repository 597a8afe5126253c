"""What fewer bits change: quality, bias and safety of one model's weights at 8 to 2 bits in both engines, against 16 bits, item by item.

usage: python benchmarks/what_bits_change.py [--quick] [--suites core,bias] [--forms a,b] [--draw decisions=20] [--state DIR --time-limit S]

Every form is scored on the suites core, tools, bias, safety and languages beside the same weights as 16-bit floats in llama.cpp. Shown is
the change of each sub-suite's mean with its 95 % interval over clusters; a change whose interval excludes zero is marked. Over a table of
this size one in twenty intervals misses the truth: single marks are no findings. Then the groups that are found to have moved against the
others of their axis, by Holm's correction over the groups of the sub-suite.

--draw takes only some clusters of a sub-suite, drawn by hash. --state keeps each form's outcomes on each sub-suite: the same command goes
on where it stopped, and several may share a folder. --time-limit: seconds after which no further sub-suite is begun; what was not scored is
shown as "-". --docs writes the tables into bits.md and suites.md of that folder.

--quick: two forms, two suites. The last line of stdout is one JSON object: name, figures, targets, ok. `ok`: the 2-bit form is shown to be
worse on text, and the 8-bit one to be within its margin there.
"""

import argparse
import asyncio
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from parts.forms import FORMS, MODEL, REFERENCE, SETTINGS, Form, Found, by_sub_suite, drawn, levels_of, open_bench, score_forms, units_of
from parts.tables import interval, table, write_block

from trimtab.core.evidence import Item, Outcome
from trimtab.decide.fairness import axes_of
from trimtab.decide.pairs import pair_outcomes
from trimtab.evaluate.split import split
from trimtab.evaluate.suites.registry import load_suite
from trimtab.stats.paired import clustered_mean

SUITES = ("core", "tools", "bias", "safety", "languages")
QUICK_FORMS, QUICK_SUITES = ("llamacpp-q8_0", "llamacpp-q2_k"), ("core", "tools")
SEPARATE_FORMS = tuple(f"llamacpp-{kind}" for kind in ("q8_0", "q6_k", "q4_k_m", "q2_k"))
TEXT_MARGIN = 0.02
TARGETS = {"q2_k_text_high_below": 0.0, "q8_0_text_low_above": -TEXT_MARGIN}
Rows = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Form -> sub-suite -> row of `evaluate`."""


def label(suite: str, row: Mapping[str, Any]) -> str:
    """`choice (2.238 nats/token, 83.3 % right; 126 items in 29 clusters)`: the level of the reference itself."""
    level, right = row["level"], row["share_correct"]
    share = f", {100 * right['value']:.1f} % right" if right else ""
    clusters = f" in {level['n_clusters']} clusters" if level["n_clusters"] < level["n"] else ""
    return f"{suite} ({level['value']:.3f} {row['unit']}{share}; {level['n']} items{clusters})"


def means(suites: Sequence[str], rows: Rows, forms: Sequence[Form]) -> list[str]:
    """The table of changes, with calibration of questions, and answers where any form gains or loses one. Contrasts of groups: `moved`."""

    def cells(suite: str, show: Any) -> list[str]:
        return [show(rows[form.name][suite]) if suite in rows[form.name] else "-" for form in forms]

    lines = []
    for suite in suites:
        base = rows[REFERENCE.name].get(suite)
        nobody = base is None or not any(suite in rows[form.name] for form in forms)
        if nobody or any(group["is_contrast"] for group in base["groups"]):
            continue
        lines.append([label(suite, base), *cells(suite, lambda row: interval(row["change"]))])
        flips = [rows[form.name][suite][side] for form in forms if suite in rows[form.name] for side in ("flips_lost", "flips_gained")]
        if any(flips):
            lines.append([f"{suite}: answers lost / gained", *cells(suite, lambda row: f"{row['flips_lost']} / {row['flips_gained']}")])
        if base["calibration"]:
            brier = f"{suite}: Brier score ({base['calibration']['brier']['value']:.3f}), above zero is worse"
            lines.append([brier, *cells(suite, lambda row: interval(row["calibration"]["brier_change"]))])
    return table(["sub-suite (level at 16 bits)", *(form.title for form in forms)], lines) if lines else []


def moved(suites: Sequence[str], rows: Rows, forms: Sequence[Form]) -> list[str]:
    """Which groups are found to have moved, by sub-suite and form; the forms where none was in one line, with the furthest."""
    lines = []
    for suite in suites:
        still: list[tuple[Form, Mapping[str, Any]]] = []
        base = rows[REFERENCE.name].get(suite)
        name = f"{suite} ({base['level']['n_clusters']})" if base else suite
        scored = [form for form in forms if suite in rows[form.name]]
        for form in scored:
            groups = [one for one in rows[form.name][suite]["groups"] if one["change"]]
            found = sorted((one for one in groups if one["p_holm"] < 0.05), key=lambda one: -abs(one["change"]["value"]))
            if found:
                lines.append([name, form.title, "; ".join(map(group_change, found))])
            elif groups:
                still.append((form, max(groups, key=lambda one: abs(one["change"]["value"]))))
        if still:
            form, furthest = max(still, key=lambda one: abs(one[1]["change"]["value"]))
            where = ", ".join(one.title for one, _ in still)
            lines.append([name, where, f"none found; the furthest is {group_change(furthest)}, {form.title}"])
    return table(["sub-suite (clusters)", "form", "groups that moved, nats"], lines) if lines else []


def group_change(one: Mapping[str, Any]) -> str:
    axis, _, group = one["group"].rpartition(":")
    name = f"{group} ({axis})" if group == "none" else group
    return f"{name} {interval(one['change']).removesuffix(' *')}"


def separates(found: Found, items: Mapping[str, Sequence[Item]], units: Mapping[str, str], forms: Sequence[Form]) -> list[str]:
    """Changes with standard errors on the items of `core` that certify, by which a sub-suite earned its place."""
    certify = {item.id for ours in items.values() for item in split(ours)[1]}
    lines = []
    for suite in by_sub_suite(load_suite("core").items):
        if suite == "fairness" or any(suite not in found[name] for name in (REFERENCE.name, *(form.name for form in forms))):
            continue
        before = [one for one in found[REFERENCE.name][suite] if one.item_id in certify]
        cells, last = [], math.nan
        for form in forms:
            estimate, se, sd, _ = change_of(suite, before, found[form.name][suite])
            ends = f", {sd:.3g}" if form in (forms[0], forms[-1]) else ""
            cells.append(f"{estimate:+.3f} ({se:.3f}){ends}")
            last = estimate / se
        *_, level = change_of(suite, before, before)
        right = [one.correct for one in before if one.correct is not None]
        shown = f"{level:.3f}" + (f" ({100 * sum(right) / len(right):.1f} % right)" if right else "")
        lines.append([suite, shown, *cells, f"{last:+.1f}"])
    heads = [f"{form.title}: change (se){', sd' if form in (forms[0], forms[-1]) else ''}" for form in forms]
    return table(["sub-suite", "level at F16", *heads, f"{forms[-1].title} in se"], lines) if lines else []


def axes_moved(found: Found, items: Sequence[Item], forms: Sequence[Form]) -> list[str]:
    """Changes of every group of `fairness` on the templates that certify, an axis a line, with the range of the standard errors."""
    certify = {item.id for item in split(items)[1]}
    before = [one for one in found[REFERENCE.name]["fairness"] if one.item_id in certify]
    heads, columns = ["axis"], []
    for form in forms:
        after = [one for one in found[form.name]["fairness"] if one.item_id in certify]
        cells, errors = {}, []
        for axis in axes_of(pair_outcomes("fairness", before, after, weight="items"), 1.0):
            means = [clustered_mean(column, list(range(column.size))) for column in axis.contrasts.T]
            names = [group.partition(":")[2] for group in axis.groups]
            cells[axis.groups[0].partition(":")[0]] = ", ".join(f"{n} {m.estimate:+.3f}" for n, m in zip(names, means, strict=True))
            errors += [mean.se for mean in means]
        heads.append(f"{form.title} (se {min(errors):.3f} to {max(errors):.3f})")
        columns.append(cells)
    return table(heads, [[axis, *(cells[axis] for cells in columns)] for axis in columns[0]])


def change_of(suite: str, before: Sequence[Outcome], after: Sequence[Outcome]) -> tuple[float, float, float, float]:
    """(mean change, its standard error over clusters, its spread over items, the reference's level) on the items of `before`."""
    ids = {one.item_id for one in before}
    pairs = pair_outcomes(suite, before, [one for one in after if one.item_id in ids], weight="tokens" if suite == "text" else "items")
    mean = clustered_mean(pairs.changes, pairs.clusters, pairs.weights)
    level = float(np.average([pair.reference for pair in pairs.observed], weights=pairs.weights))
    return mean.estimate, mean.se, float(pairs.changes.std(ddof=1)), level


async def gathered(options: argparse.Namespace, state: Path, items: Mapping[str, Sequence[Item]], forms: Sequence[Form]) -> Found:
    bench = await open_bench(options.model, items, state=state, settings=options.settings, deadline_s=time.monotonic() + options.time_limit)
    return await score_forms(bench, (REFERENCE, *forms), [list(group) for group in options.groups])


def asked_for() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two forms, two suites")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--suites", default="", help=f"with commas [default: {','.join(SUITES)}]")
    parser.add_argument("--forms", default="", help="recipes, with commas [default: all]")
    parser.add_argument("--settings", default=SETTINGS, help=f"of every form, with & between [default: {SETTINGS}]")
    parser.add_argument("--draw", action="append", default=[], metavar="SUBSUITE=N", help="only N clusters of it; may be repeated")
    parser.add_argument("--state", type=Path, help="folder of outcomes [default: a temporary one]")
    parser.add_argument("--time-limit", type=float, default=math.inf, metavar="S", help="seconds until nothing more is begun")
    parser.add_argument("--docs", type=Path, help="folder whose bits.md and suites.md get the tables")
    options = parser.parse_args()
    names = [form.name for form in FORMS]
    wanted = options.forms.split(",") if options.forms else QUICK_FORMS if options.quick else names
    options.wanted = [form for form in FORMS if form.name in wanted]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        parser.error(f"there is no form {unknown[0]!r}; the forms are {', '.join(names)}")
    options.suites = options.suites.split(",") if options.suites else QUICK_SUITES if options.quick else SUITES
    options.draws = {name: int(n) for name, _, n in (text.partition("=") for text in options.draw)}
    return options


def main() -> None:
    options = asked_for()
    by_suite = {name: by_sub_suite(load_suite(name).items) for name in options.suites}
    items = {suite: ours for found in by_suite.values() for suite, ours in found.items()}
    for suite, n in options.draws.items():
        if suite in items:
            items[suite] = drawn(items[suite], n, whole_clusters=True)
    options.groups = list(by_suite.values())
    with tempfile.TemporaryDirectory() as scratch:
        found = asyncio.run(gathered(options, options.state or Path(scratch), items, options.wanted))
    units = units_of(items)
    rows = levels_of(found, REFERENCE.name, units)
    blocks = {f"bits {name}": means(list(suites), rows, options.wanted) for name, suites in by_suite.items()}
    blocks["bits groups"] = moved(list(items), rows, options.wanted)
    pages = dict.fromkeys(blocks, "bits.md")
    if "core" in by_suite and all(name in found for name in SEPARATE_FORMS):
        blocks["what separates"] = separates(found, items, units, [form for form in FORMS if form.name in SEPARATE_FORMS])
        pages["what separates"] = "suites.md"
        extremes = [form for form in FORMS if form.name in (SEPARATE_FORMS[0], SEPARATE_FORMS[-1])]
        if all("fairness" in found[name] for name in (REFERENCE.name, *(form.name for form in extremes))):
            blocks["what separates groups"] = axes_moved(found, items["fairness"], extremes)
            pages["what separates groups"] = "suites.md"
    for name, lines in blocks.items():
        if lines:
            print(f"\n{name}\n\n" + "\n".join(lines))
            if options.docs:
                write_block(options.docs / pages[name], name, lines)
    figures = {name: {suite: row["change"] for suite, row in mine.items()} for name, mine in rows.items() if name != REFERENCE.name}
    texts = {name: mine["text"] for name, mine in figures.items() if "text" in mine}
    ok = "llamacpp-q2_k" in texts and texts["llamacpp-q2_k"]["high"] < 0.0
    ok = ok and "llamacpp-q8_0" in texts and texts["llamacpp-q8_0"]["low"] > -TEXT_MARGIN
    print(json.dumps({"name": "what_bits_change", "figures": figures, "targets": TARGETS, "ok": ok}))


if __name__ == "__main__":
    main()
