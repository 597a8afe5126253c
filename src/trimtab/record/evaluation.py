"""report.html of an evaluation: levels, changes, groups, languages, and what is missing. No verdict: that takes a policy."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import digest_of, write_atomic
from trimtab.core.phrases import count, decimals_for, fixed, interval, is_number, line, percent, visible
from trimtab.decide.scope import not_examined
from trimtab.record.conditions import machine_facts, mapping, pairs, run_facts, settings_in_words, suite_facts
from trimtab.record.disk import check_schema, sentences
from trimtab.record.levels import LevelRow, levels_plot
from trimtab.record.page import environment
from trimtab.record.run import EVALUATION_SCHEMA

Plain = Mapping[str, Any]
FEW_CLUSTERS = 10
"""With fewer an interval is marked: it rests on too little (as decide/levels.py says)."""
FOUND_P = 0.05
_SECTIONS = (
    ("answer", "What was scored", ()),
    ("levels", "Levels", ("levels",)),
    ("calibration", "Calibration", ("calibration",)),
    ("requests", "Requests by class of harm", ("requests", "untold")),
    ("refusals", "Refusals in generated answers", ("refusals",)),
    ("groups", "By group", ("groups",)),
    ("languages", "By language", ("languages",)),
    ("missing", "What is missing", ()),
    ("conditions", "Conditions", ()),
    ("reproduce", "Reproduce it", ()),
)


def render_evaluation(document: Plain, *, command: str = "", items: str = "") -> str:
    """The page of an evaluation.json (plain JSON types). Takes about a second: plots are drawn.

    command: what to type to run it again; items: name of the page of single items beside it, if there is one
    Raises InputError if the document lacks what the schema demands.
    """
    check_schema(document, EVALUATION_SCHEMA, "The evaluation")
    try:
        page = _page(document)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(f"The evaluation is not a whole {EVALUATION_SCHEMA} document ({type(error).__name__}: {error}).") from error
    page |= {"command": visible(command), "digest": digest_of(document), "items_page": items}
    sections = [(name, title) for name, title, needs in _SECTIONS if not needs or any(page[need] for need in needs)]
    return environment().get_template("evaluation.html.j2").render(page=page, sections=sections) + "\n"


def write_evaluation(path: Path, document: Plain, *, command: str = "", items: str = "") -> None:
    """Write the page, whole or not at all. Raises InputError or MissingError."""
    text = render_evaluation(document, command=command, items=items)
    with sentences(path, "write"):
        write_atomic(path, text)


def _page(document: Plain) -> dict[str, Any]:
    rows, reference, refusals = list(document["levels"]), document.get("reference"), document.get("refusals") or ()
    suite = mapping(document.get("suite"))
    names = [line(language) for language in suite.get("languages") or ()]
    conditions = [
        ("Machine", machine_facts(document)),
        ("Items", suite_facts(document)),
        ("Run", run_facts(document)),
        ("Versions", pairs(mapping(document.get("versions")))),
    ]
    return {
        "model": _named(document["model"]),
        "reference": _named(reference) if reference else None,
        "suite": line(suite.get("name", "")),
        "tiles": _tiles(rows, bool(reference)),
        "plots": list(_suite_plots(rows, bool(reference))),
        "levels": [_suite_row(row) for row in rows],
        "calibration": [_calibration_row(row["suite"], row["calibration"]) for row in rows if row.get("calibration")],
        "asked": list(_asked(document)),
        "changed": [line(told) for told in document.get("changed") or ()],
        "requests": [_request_row(row) for row in document.get("requests") or () if not row["cannot_tell"]],
        "untold": _untold(document.get("requests") or ()),
        "refusals": [_refusal_row(row) for row in refusals],
        "groups": [found for index, row in enumerate(rows) if row["groups"] and (found := _groups(row, index))],
        "languages": _languages(rows, names),
        "spoken": ", ".join(names),
        "missing": list(_missing(rows, refusals, document.get("asked") or ())),
        "facts": conditions,
    }


def _named(subject: Plain) -> dict[str, str]:
    fields = {name: line(subject.get(name) or "") for name in ("id", "engine", "recipe", "source", "provenance", "why")}
    return {**fields, "id": fields["id"].removeprefix("reference: "), "settings": settings_in_words(subject.get("settings"))}


def _tiles(rows: Sequence[Plain], has_reference: bool) -> list[dict[str, str]]:
    scored = [row["level"] for row in rows if row["level"]]
    n, missing = sum(level["n"] for level in scored), sum(row["n_missing"] for row in rows)
    tiles = [
        {
            "figure": count(n),
            "what": f"items scored in {len(scored)} sub-suite{'s' * (len(scored) != 1)}",
            "range": f"{count(missing)} missing",
        }
    ]
    if has_reference:
        lost, gained = (sum(row[name] for row in rows) for name in ("flips_lost", "flips_gained"))
        tiles.append(
            {"figure": f"{count(lost)} / {count(gained)}", "what": "right answers lost / gained", "range": "against the reference"}
        )
        moved = [row["change"] for row in rows if row["change"] and is_number(row["change"]["low"]) and is_number(row["change"]["high"])]
        worse, better = sum(one["high"] < 0 for one in moved), sum(one["low"] > 0 for one in moved)
        unlike = {"figure": f"{worse} / {better}", "what": "sub-suites whose whole interval is worse / better"}
        tiles.append({**unlike, "range": f"of {len(moved)}; one in twenty is so by chance"})
    return tiles


def _suite_plots(rows: Sequence[Plain], has_reference: bool) -> Iterator[dict[str, str]]:
    """One plot a unit: changes where there is a reference, then levels."""
    for key, title, with_zero in (("change", "Change against the reference", True), ("level", "Level", False)):
        if key == "change" and not has_reference:
            continue
        for index, unit in enumerate(dict.fromkeys(row["unit"] for row in rows)):
            found = [_level_row(row["suite"], row[key], signed=with_zero) for row in rows if row["unit"] == unit and row[key]]
            if found:
                named = f"{title}, {line(unit)}"
                svg = levels_plot(found, axis=line(unit), with_zero=with_zero, name=f"{key}{index}", title=named)
                yield {"title": named, "svg": svg}


def _level_row(name: str, level: Plain, *, signed: bool) -> LevelRow:
    ends = [level[end] if is_number(level[end]) else None for end in ("low", "high")]
    text = level_text(level, signed=signed)
    thin = level["n_clusters"] < FEW_CLUSTERS
    return LevelRow(name=line(name, 22), text=" ".join(text), value=float(level["value"]), low=ends[0], high=ends[1], is_thin=thin)


def level_text(level: Plain, *, signed: bool = False) -> tuple[str, str]:
    """A mean and its interval, with the decimals that the interval's width calls for."""
    low, high = level["low"], level["high"]
    half = (high - low) / 2 if is_number(low) and is_number(high) else None
    decimals = decimals_for(half)
    return fixed(level["value"], decimals, signed=signed), interval(low, high, decimals)


def _suite_row(row: Plain) -> dict[str, Any]:
    level, change, share = row["level"], row["change"], row["share_correct"]
    return {
        "suite": line(row["suite"]),
        "unit": line(row["unit"]),
        "n": count(level["n"] if level else 0),
        "n_clusters": count(level["n_clusters"] if level else 0),
        "is_thin": bool(level) and level["n_clusters"] < FEW_CLUSTERS,
        "n_missing": count(row["n_missing"]) if row["n_missing"] else "",
        "level": level_text(level) if level else None,
        "share": (percent(share["value"], 1), _share_ends(share)) if share else None,
        "change": level_text(change, signed=True) if change else None,
        "flips": f"{count(row['flips_lost'])} lost, {count(row['flips_gained'])} gained" if change and share else "",
    }


def _calibration_row(suite: str, found: Plain) -> dict[str, Any]:
    change = found["brier_change"]
    return {
        "suite": line(suite),
        "brier": level_text(found["brier"]),
        "change": level_text(change, signed=True) if change else None,
        "confidence": percent(found["confidence"], 1),
        "right": percent(found["right"], 1),
        "error": fixed(found["error"], 3),
        "error_reference": fixed(found["error_reference"], 3) if is_number(found["error_reference"]) else "",
        "by_chance": fixed(found["error_by_chance"], 3),
    }


def _asked(document: Plain) -> Iterator[str]:
    """How sub-suites were put to a side that takes text and no token ids; nothing of other documents."""
    ways = {"scored": "By log-probability of given text, values by the byte", "answered": "By what it writes, right or wrong"}
    for way, words in ways.items():
        names = [line(row["suite"]) for row in document.get("asked") or () if row["way"] == way]
        if names:
            yield f"{words}: {', '.join(names)}."


def _request_row(row: Plain) -> dict[str, Any]:
    change, wanted = row["change"], row["as_wanted"]
    missing = f", {count(row['n_missing'])} missing" if row["n_missing"] else ""
    star = " *" if is_number(row["p_holm"]) and row["p_holm"] < FOUND_P else ""
    moved = level_text(change, signed=True) if change else None
    return {
        "suite": line(row["suite"]),
        "kind": line(row["kind"]).replace("_", " "),
        "unit": line(row["unit"]),
        "n": f"{count(row['n'])}{missing}",
        "wanted": (percent(wanted["value"]), _share_ends(wanted)),
        "level": level_text(row["level"]),
        "change": (f"{moved[0]}{star}", moved[1]) if moved else None,
    }


def _untold(rows: Sequence[Plain]) -> list[str]:
    """The kinds that are too few to tell, by sub-suite."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["cannot_tell"]:
            found.setdefault(line(row["suite"]), []).append(f"{line(row['kind']).replace('_', ' ')} ({count(row['n'])})")
    return [f"{suite}: {', '.join(kinds)}" for suite, kinds in found.items()]


def _refusal_row(row: Plain) -> dict[str, Any]:
    change = row["change"]
    points = [100 * change[end] for end in ("value", "low", "high")] if change else []
    return {
        "kind": f"{line(row['kind'])} requests",
        "model": _refusing(row["model"]),
        "reference": _refusing(row["reference"]),
        "change": (f"{fixed(points[0], 0, signed=True)} points", interval(points[1], points[2], 0)) if points else None,
    }


def _refusing(side: Plain | None) -> dict[str, Any] | None:
    """What was counted on one side, and the rate that follows from it."""
    if side is None:
        return None
    missing = f", {count(side['n_missing'])} missing" if side["n_missing"] else ""
    rate = side["rate"]
    seen = f"{count(side['refused'])} of {count(side['n'])} by the judge{missing}"
    return {"seen": seen, "rate": (percent(rate["value"]), _share_ends(rate)) if rate else None}


def _share_ends(share: Plain) -> str:
    low, high = share["low"], share["high"]
    return f"[{percent(low, 1)}, {percent(high, 1)}]" if is_number(low) and is_number(high) else "interval not known"


def _groups(row: Plain, index: int) -> dict[str, Any]:
    """One plot an axis (`religion` of `religion:jewish`), and one of its changes, all of a sub-suite in its unit."""
    axes: dict[str, list[LevelRow]] = {}
    changes: dict[str, list[LevelRow]] = {}
    for group in row["groups"]:
        axis, _, name = group["group"].rpartition(":")
        axes.setdefault(axis, []).append(_level_row(name, group["level"], signed=group["is_contrast"]))
        if group.get("change"):
            moved = _level_row(name, group["change"], signed=True)
            star = " *" if is_number(group["p_holm"]) and group["p_holm"] < FOUND_P else ""
            changes.setdefault(axis, []).append(replace(moved, text=f"{moved.text}{star}"))
    is_contrast = any(group["is_contrast"] for group in row["groups"])
    plots = []
    for number, (axis, found) in enumerate(axes.items()):
        title = line(axis) or line(row["suite"])
        against = "against the mean of the axis" if is_contrast else "level"
        label = f"{line(row['unit'])}, {against}"
        named = f"{line(row['suite'])}, {title}"
        plots.append({"title": title, "svg": levels_plot(found, axis=label, with_zero=is_contrast, name=f"g{index}x{number}", title=named)})
        if axis in changes:
            label = f"{line(row['unit'])}, change{' against the mean of the axis' if is_contrast else ''}"
            svg = levels_plot(changes[axis], axis=label, with_zero=True, name=f"c{index}x{number}", title=f"{named}, change")
            plots.append({"title": f"{title}, change", "svg": svg})
    return {"suite": line(row["suite"]), "unit": line(row["unit"]), "is_contrast": is_contrast, "plots": plots}


def _languages(rows: Sequence[Plain], names: Sequence[str]) -> list[dict[str, Any]]:
    """Sub-suites that come in several languages (`cloze-es`), with the level, or the change, in each."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        base, _, language = line(row["suite"]).rpartition("-")
        if not (base and language in names):
            base, language = line(row["suite"]), "en"
        found.setdefault(base, []).append({"language": language, **_suite_row(row)})
    return [{"suite": base, "rows": each} for base, each in found.items() if len(each) > 1]


def _items(n: int) -> str:
    return "1 item has" if n == 1 else f"{count(n)} items have"


def _missing(rows: Sequence[Plain], refusals: Sequence[Plain], asked: Sequence[Plain]) -> Iterator[str]:
    for row in asked:
        if row["n_left_out"]:
            yield f"{line(row['suite'])}: {count(row['n_left_out'])} items cannot be asked, and were not scored: {line(row['why'])}."
    for row in rows:
        if row["n_missing"]:
            yield f"{line(row['suite'])}: {_items(row['n_missing'])} no value; the level is of the others."
        if row["level"] is None:
            yield f"{line(row['suite'])}: nothing was scored."
        elif row["level"]["n_clusters"] < FEW_CLUSTERS:
            clusters = row["level"]["n_clusters"]
            yield f"{line(row['suite'])}: {count(clusters)} cluster{'s' * (clusters != 1)} only, so its interval says little."
        thin = [line(group["group"]) for group in row["groups"] if group["level"]["n_clusters"] < FEW_CLUSTERS]
        if thin:
            yield f"{line(row['suite'])}: few clusters for {', '.join(thin)}."
    for about in not_examined(row["suite"] for row in rows):
        yield f"Not examined: {about}."
    for row in refusals:
        if row["why_not"]:
            yield f"Answers to {line(row['kind'])} requests: {line(row['why_not'])}"
    looked = "was looked at for refusals only, on few requests" if refusals else "was not looked at"
    if any(row["way"] == "answered" for row in asked):
        yield "Text that the model writes by itself was looked at for one thing an item, and for nothing else."
    else:
        yield f"Text that the model writes by itself {looked}: all items are scored by likelihood."
