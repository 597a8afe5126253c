"""The figures of a decision as texts with unit, interval, n and conditions: what all cards print."""

import math
from collections.abc import Iterator
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
    seconds,
    significant,
    times,
    times_interval,
)
from trimtab.package.cards.facts import CardFacts, Plain, Subject, mapping, table

LATENCIES = (("ttft_ms", "time to the first token"), ("tpot_ms", "time per output token"), ("e2e_ms", "time of a whole request"))


def change(gate: Plain) -> str:
    """`−0.0108 nats/token, 96.8 % interval [−0.0159, −0.0057]`, or that it was not measured."""
    if not is_number(gate.get("delta")):
        return MISSING
    decimals = gate_decimals(gate)
    sure = percent(gate.get("confidence"), 1) if is_number(gate.get("confidence")) else ""
    ends = interval(gate.get("low"), gate.get("high"), decimals)
    return f"{fixed(gate['delta'], decimals)} {line(gate.get('unit') or '')}, {sure} interval {ends}".replace("  ", " ")


def meaning(gate: Plain) -> str:
    """What a gate's change is, with its unit and which way is better."""
    unit = line(gate.get("unit") or "no unit", 100)
    return {
        "parity": f"what is served minus what was scored, {unit}, nearer to 0 is better",
        "equivalence": f"change against the reference, {unit}, nearer to 0 is better",
        "equivalence_by_group": f"change of the group that moved furthest against the others, {unit}, nearer to 0 is better",
    }.get(str(gate.get("kind")), f"change against the reference, {unit}, higher is better")


def gate_decimals(gate: Plain) -> int:
    """Decimals that show a gate's margin and half its interval with two digits."""
    low, high = gate.get("low"), gate.get("high")
    return decimals_for(gate.get("margin"), (high - low) / 2 if is_number(low) and is_number(high) else None)


def counted(gate: Plain) -> str:
    """`96 items in 22 independent clusters`, and how many are missing."""
    missing = f", {count(gate['n_missing'])} without a value" if gate.get("n_missing") else ""
    return f"{count(gate.get('n'))} items in {count(gate.get('n_clusters'))} independent clusters{missing}"


def control(gate: Plain) -> str:
    """Whether a planted fault was found by this gate."""
    planted = mapping(gate.get("positive_control"))
    if not planted:
        return "no fault was planted"
    return f"{line(planted.get('name', '?'))}: {'found' if planted.get('caught') else 'missed'}"


def group_change(group: Plain, gate: Plain) -> str:
    """`−0.041 nats [−0.063, −0.017]` of one group."""
    decimals = gate_decimals(gate)
    ends = interval(group.get("low"), group.get("high"), decimals)
    return f"{fixed(group.get('delta'), decimals, signed=True)} {line(gate.get('unit') or '')} {ends}"


def group_name(group: Plain) -> tuple[str, str]:
    """(axis, name) of a group such as `religion:muslim`; the axis may be empty."""
    axis, _, name = str(group.get("group", "")).rpartition(":")
    return line(axis, 60), line(name, 100)


def in_odds(change_nats: float) -> float:
    """A change of log-odds (or of a log-probability) as a share of the odds: −0.041 is −0.040."""
    return math.expm1(min(change_nats, 50.0))


def speed_rows(subject: Subject) -> Iterator[dict[str, str]]:
    """One row a latency and number in flight: level, what, median, n, over (the ratio to the baseline, empty if not timed in turns)."""
    for point in subject.points:
        level = count(point.get("concurrency"))
        ratios = mapping(subject.speedup.get(str(point.get("concurrency"))))
        for name, what in LATENCIES:
            found = mapping(point.get(name))
            if not is_number(found.get("p50")):
                continue
            ratio = mapping(ratios.get(f"{name}_p50"))
            over = f"{times(ratio['ratio'])} {times_interval(ratio.get('low'), ratio.get('high'))}" if is_number(ratio.get("ratio")) else ""
            rounds = f", {count(ratio['n_rounds'])} rounds" if over and is_number(ratio.get("n_rounds")) else ""
            n = f"{count(found.get('n'))} requests"
            yield {"level": level, "what": what, "median": milliseconds(found["p50"]), "n": n, "over": over + rounds}


def size_rows(subject: Subject) -> list[tuple[str, str]]:
    """What it needs: (what, figure with unit and condition), only what was measured."""
    measured, parts = subject.measurement, []
    if is_number(subject.deployment.get("size_bytes")):
        parts.append(("weights on disk", megabytes(subject.deployment["size_bytes"])))
    if is_number(measured.get("peak_memory_bytes")):
        kind = line(mapping(measured.get("conditions")).get("memory_kind") or "")
        parts.append(("highest memory", megabytes(measured["peak_memory_bytes"]) + (f" ({kind.upper()})" if kind else "")))
    if is_number(measured.get("load_s")):
        parts.append(("load", seconds(measured["load_s"])))
    if is_number(measured.get("cold_ttft_ms")):
        parts.append(("from no process to the first token", milliseconds(measured["cold_ttft_ms"])))
    for point in subject.points:
        if is_number(point.get("energy_j_per_token")):
            parts.append((f"energy, {in_flight(point)}", f"{significant(point['energy_j_per_token'])} J per output token, whole machine"))
    return parts


def in_flight(point: Plain) -> str:
    return f"{count(point.get('concurrency'))} request{'' if point.get('concurrency') == 1 else 's'} at a time"


def conditions(facts: CardFacts) -> str:
    """Where and with what load the timings were taken, one sentence."""
    decision = facts.decision
    machine, workload, noise = (mapping(decision.get(name)) for name in ("machine", "workload", "noise"))
    cpu = line(machine.get("cpu") or mapping(facts.lock.get("machine")).get("title") or "an unnamed machine")
    cores = f" with {count(machine['n_cores'])} cores" if is_number(machine.get("n_cores")) else ""
    memory = f" and {megabytes(machine['memory_bytes'])} of memory" if is_number(machine.get("memory_bytes")) else ""
    load = line(workload.get("title") or workload.get("name") or "")
    noisy = " The machine was noisy meanwhile." if noise.get("noisy") else ""
    return f"Measured on {cpu}{cores}{memory}{f'; load: {load}' if load else ''}.{noisy}"


def tests(facts: CardFacts) -> str:
    """The suite with its version and size, one phrase; empty if there is none."""
    suite = mapping(facts.decision.get("suite"))
    if not suite.get("name"):
        return ""
    size = f"{count(suite.get('n_items'))} items in {count(suite.get('n_clusters'))} clusters"
    return f"suite {line(suite['name'])} {line(suite.get('version') or '')}, {size}".replace(" ,", ",")


def languages(facts: CardFacts) -> list[str]:
    """Of the items, as they name them."""
    found = mapping(facts.decision.get("suite")).get("languages")
    return [line(one, 20) for one in found if one] if isinstance(found, (list, tuple)) else []


def groups_by_axis(subject: Subject) -> dict[str, list[tuple[str, Plain, Plain]]]:
    """Axis -> (name, group, gate) of every group that a gate looked at."""
    axes: dict[str, list[tuple[str, Plain, Plain]]] = {}
    for gate in subject.gates:
        for group in table(gate.get("groups")):
            if is_number(group.get("delta")):
                axis, name = group_name(group)
                axes.setdefault(axis or line(gate.get("name", "")), []).append((name, group, gate))
    return axes


def changed_groups(subject: Subject, at_most: float = 0.05) -> list[tuple[str, Plain, Plain]]:
    """Groups whose change is beyond chance, corrected for the search over all of them (Holm)."""
    found: list[tuple[str, Plain, Plain]] = []
    for axis, rows in groups_by_axis(subject).items():
        found += [(f"{axis}: {name}", group, gate) for name, group, gate in rows if _small(group.get("p_holm"), at_most)]
    return found


def _small(value: Any, at_most: float) -> bool:
    return is_number(value) and value < at_most
