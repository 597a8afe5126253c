"""From a decision (plain JSON, schema trimtab.decision/1) to the texts and plots of its page. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trimtab.core.phrases import (
    MISSING,
    count,
    decimals_for,
    fixed,
    interval,
    is_number,
    line,
    megabytes,
    milliseconds,
    percent,
    times,
    times_interval,
    with_unit,
)
from trimtab.decide.scope import evidence_for
from trimtab.decide.standing import loss_of, points_by_level
from trimtab.record.answers import standard_answers, untimed_note
from trimtab.record.conditions import facts, mapping, margins, pairs, predicted, settings_in_words
from trimtab.record.demands import capacity_lines, demand_rows, objective_claim
from trimtab.record.explain import gate_change, headline, levels_of
from trimtab.record.figures import ForestRow, forest_plot
from trimtab.record.flips import flips_of_gate, flips_page
from trimtab.record.losers import engine_rows, negative_groups
from trimtab.record.measured import levels_timed, p50, ranked, role_of
from trimtab.record.mitigation import mitigation_of
from trimtab.record.power import power_of
from trimtab.record.prices import FORMULA, price_rows
from trimtab.record.trade import front_of, loss_in_words, trade_plots
from trimtab.record.worst import confirmation_lines

_KINDS = {
    "non_inferiority": "no worse than the margin",
    "equivalence": "within the margin, either way",
    "equivalence_by_group": "every group within the margin, either way",
    "parity": "what is served is what was scored",
    "generation": "no more broken answers than the margin",
    "rate": "no smaller share than the margin allows",
    "agreement": "as alike to the reference as it is to itself",
}


def page_of(decision: Mapping[str, Any]) -> dict[str, Any]:
    """All that the template prints, as text, lists and SVG."""
    gates = list(decision.get("gates") or ())
    rows = ranked(decision)
    chosen = mapping(decision.get("chosen")).get("id")
    is_compare = decision.get("kind") != "optimize"
    judged = mapping((decision.get("candidates") or [None])[0] if is_compare else decision.get("chosen"))
    what_if = standard_answers(decision)
    return {
        "kind": str(decision.get("kind", "optimize")),
        "is_of_run": "machine" in decision,  # logs of others are compared without a run of ours
        "verdict": str(decision.get("verdict", "inconclusive")),
        "headline": headline(decision),
        "reasons": [line(reason) for reason in decision.get("reasons") or ()],
        "tiles": _tiles(decision, rows),
        "reference": _named(mapping(decision.get("reference"))),
        "candidate": _named(judged) if judged else None,
        "speed": _speed(decision),
        "confirmation": confirmation_lines(decision),
        "objective": objective_claim(decision),
        "demands": demand_rows(decision),
        "capacity": capacity_lines(decision),
        "candidates": [{"number": number, **_candidate(row, decision)} for number, row in enumerate(rows, start=1)],
        "levels": levels_timed(rows),
        "trade": trade_plots(decision, rows),
        "front": front_of(decision, rows),
        "gates": [_gate(gate) for gate in gates],
        "forest": _forest(gates),
        "fairness": [_groups(gate) for gate in gates if gate.get("groups")],
        "mitigation": mitigation_of(decision),
        "flips": flips_page(decision),
        "power": power_of(decision) if gates else None,
        "memory": _bars(rows, chosen, "peak_memory_bytes", megabytes),
        "roofline": _bars(rows, chosen, "roofline_share", percent, top=1.0),
        "served": [_gate(gate) for gate in gates if gate.get("kind") in ("parity", "generation")],
        "parity": _parity(rows),
        "margins": margins(decision),
        "evidence_for": [(line(gate.get("name", "")), points) for gate in gates if (points := evidence_for(gate))],
        "facts": facts(decision, rows),
        "what_if": what_if,
        "untimed": untimed_note(what_if),
        "engines": [] if is_compare else engine_rows(decision, rows),
        "prices": price_rows(decision, rows),
        "formula": FORMULA,
        "negative": negative_groups(decision, [] if is_compare else rows),
    }


def _named(deployment: Mapping[str, Any]) -> dict[str, str]:
    fields = {name: line(deployment.get(name) or "") for name in ("id", "engine", "recipe", "source", "provenance", "why")}
    return {**fields, "settings": settings_in_words(deployment.get("settings"))}


def _tiles(decision: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The few figures a reader wants first."""
    tiles = []
    over = mapping(mapping(decision.get("speedup")).get("over_baseline"))
    for level in levels_of(over):
        ratio = mapping(over[level].get("e2e_ms_p50"))
        if is_number(ratio.get("ratio")):
            what = f"as fast end to end, {level} request{'' if level == '1' else 's'} in flight"
            tiles.append({"figure": times(ratio["ratio"]), "what": what, "range": times_interval(ratio.get("low"), ratio.get("high"))})
    text = next((gate for gate in decision.get("gates") or () if gate.get("suite") == "text"), None)
    if text is not None and is_number(text.get("delta")):
        decimals = decimals_for(text.get("margin"))
        tiles.append(
            {
                "figure": fixed(text["delta"], decimals + 1),
                "what": f"{line(text.get('unit', ''))} change on text; margin {fixed(-text['margin'], decimals)}",
                "range": interval(text.get("low"), text.get("high"), decimals + 1),
            }
        )
    required = [gate for gate in decision.get("gates") or () if gate.get("required")]
    if required:
        passed = sum(gate.get("verdict") == "pass" for gate in required)
        caught = sum(bool(gate.get("informative")) for gate in required)
        informative = f"{caught} of {len(required)} informative (their positive control was caught)"
        tiles.append({"figure": f"{passed}/{len(required)}", "what": "required gates passed", "range": informative})
    return tiles


def _speed(decision: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Speed-up tables: over the baseline, and over the best passing candidate of its engine."""
    tables = []
    speedup = mapping(decision.get("speedup"))
    baseline = line(mapping(decision.get("baseline")).get("id", "the baseline"))
    for key, what in (
        ("over_baseline", "the baseline"),
        ("over_best_of_baseline_engine", "the best of the baseline's own engine"),
    ):
        over = mapping(speedup.get(key))
        rows = []
        for level in levels_of(over):
            for name, title in (
                ("e2e_ms_p50", "end to end"),
                ("ttft_ms_p50", "time to first token"),
                ("tpot_ms_p50", "time per output token"),
            ):
                ratio = mapping(over[level].get(name))
                if ratio:
                    ends = times_interval(ratio.get("low"), ratio.get("high"))
                    rows.append([level, title, times(ratio.get("ratio")), ends, count(ratio.get("n_rounds"))])
        if rows:
            tables.append({"over": what, "id": line(over.get("id", baseline)), "rows": rows})
    return tables


def _candidate(row: Mapping[str, Any], decision: Mapping[str, Any]) -> dict[str, Any]:
    reference_id = mapping(decision.get("reference")).get("id")
    points, is_reference = points_by_level(row), row.get("id") == reference_id
    loss, loss_range = loss_in_words(loss_of(row, decision))
    measurement = mapping(row.get("measurement"))
    screen = mapping(mapping(row.get("evidence")).get("screen"))
    timed = [
        {"level": level, **{name: milliseconds(p50(point, name)) for name in ("e2e_ms", "ttft_ms", "tpot_ms")}}
        for level, point in sorted(points.items())
    ]
    n_failed = sum(point.get("failed") or 0 for point in points.values())
    return {
        "id": line(row.get("id", "")),
        "engine": line(row.get("engine", "")),
        "recipe": line(row.get("recipe", "")),
        "settings": settings_in_words(row.get("settings")),
        "role": role_of(row, decision),
        "status": str(row.get("status", "")),
        "verdict": str(row["verdict"]) if row.get("verdict") else None,
        "timed": timed,
        "failed": f"{n_failed} requests failed" if n_failed else "",
        "memory": megabytes(measurement.get("peak_memory_bytes")),
        "load": with_unit(measurement.get("load_s"), "s"),
        "kl": with_unit(screen.get("kl_nats"), "nats", 2),
        "top1": percent(screen.get("top1_agreement"), 1),
        "loss": "0" if is_reference else loss,
        "loss_range": "the reference itself" if is_reference else loss_range,
        "noise": line(measurement.get("noise") or "noisy machine") if measurement.get("noisy") else "",
        "is_empty": not points and loss == MISSING and not screen,
        "predicted": predicted(row.get("estimate")) if not points else "",
        "why": [line(reason) for reason in row.get("reasons") or ()],
    }


def _forest(gates: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for gate in gates:
        margin = gate.get("margin")
        if not is_number(margin) or not margin:
            continue
        scaled = {name: gate[name] / margin if is_number(gate.get(name)) else None for name in ("delta", "low", "high", "noise_floor")}
        control = mapping(gate.get("positive_control"))
        ends = {name: control[name] / margin if is_number(control.get(name)) else None for name in ("delta", "low", "high")}
        rows.append(
            ForestRow(
                name=line(gate.get("name", ""), 24),
                text=gate_change(gate),
                verdict=str(gate.get("verdict")),
                two_sided=gate.get("kind") in ("equivalence", "equivalence_by_group", "parity"),
                **scaled,
                control=ends["delta"],
                control_low=ends["low"],
                control_high=ends["high"],
            )
        )
    if not rows:
        return ""
    summary = "; ".join(f"{row.name}: {row.text}, {row.verdict}" for row in rows)
    return forest_plot(rows, name="forest", title="Gates: change with its interval against the margin", description=summary)


def _gate(gate: Mapping[str, Any]) -> dict[str, Any]:
    margin, control = gate.get("margin"), mapping(gate.get("positive_control"))
    low, high = gate.get("low"), gate.get("high")
    decimals = decimals_for(margin, (high - low) / 2 if is_number(low) and is_number(high) else None)
    levels = [gate.get("level"), gate.get("level_candidate")]
    shares = [gate.get("accuracy"), gate.get("accuracy_candidate")]
    control_ends = interval(control.get("low"), control.get("high"), decimals)
    return {
        "name": line(gate.get("name", "")),
        "kind": _KINDS.get(str(gate.get("kind")), line(gate.get("kind", ""))),
        "unit": line(gate.get("unit", "")),
        "verdict": str(gate.get("verdict")),
        "required": bool(gate.get("required")),
        "informative": bool(gate.get("informative")),
        "n": count(gate.get("n")),
        "n_clusters": count(gate.get("n_clusters")),
        "n_missing": count(gate.get("n_missing")),
        "levels": [fixed(level, decimals) for level in levels] if is_number(levels[0]) else [],
        "delta": fixed(gate.get("delta"), decimals),
        "range": interval(low, high, decimals),
        "confidence": percent(gate.get("confidence"), 1),
        "margin": fixed(margin, decimals),
        "detectable": fixed(gate.get("detectable"), decimals),
        "noise_floor": fixed(gate.get("noise_floor"), decimals + 1),
        "control": f"{line(control.get('name', ''))} {'caught' if control.get('caught') else 'NOT caught'}" if control else MISSING,
        "control_range": f"{fixed(control.get('delta'), decimals)} {control_ends}" if control else "",
        "accuracy": " → ".join(percent(share, 1) for share in shares) if is_number(shares[0]) else "",
        "flips": flips_of_gate(gate) if is_number(shares[0]) else "",
        "reasons": [line(reason) for reason in gate.get("reasons") or ()],
    }


def _groups(gate: Mapping[str, Any]) -> dict[str, Any]:
    decimals = decimals_for(gate.get("margin"))
    rows = []
    for group in sorted(gate["groups"], key=lambda group: group["delta"]):
        ends = interval(group.get("low"), group.get("high"), decimals)
        corrected = fixed(group.get("p_holm"), 2)
        rows.append([line(group["group"]), fixed(group["delta"], decimals, signed=True), ends, corrected, count(group.get("n"))])
    return {"gate": line(gate["name"]), "unit": line(gate["unit"]), "margin": fixed(gate["margin"], decimals), "rows": rows}


def _bars(rows: Iterable[Mapping[str, Any]], chosen: Any, name: str, words: Any, top: float | None = None) -> list[dict[str, Any]]:
    """Bars as shares of the longest (or of `top`), for the candidates where it was measured."""
    timed = [row for row in rows if row.get("measurement")]
    values = [row["measurement"].get(name) for row in timed]
    longest = top or max((value for value in values if is_number(value)), default=0)
    share = [min(1.0, value / longest) if is_number(value) and longest else 0.0 for value in values]
    return [
        {"id": line(row.get("id", "")), "text": words(value), "share": f"{100 * part:.1f}", "chosen": row.get("id") == chosen}
        for row, value, part in zip(timed, values, share, strict=True)
    ]


def _parity(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    found = [(line(row.get("id", "")), mapping(mapping(row.get("evidence")).get("parity"))) for row in rows]
    return [(id_, pairs(parity)) for id_, parity in found if parity]
