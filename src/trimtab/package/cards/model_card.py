"""The `modelCard` of a CycloneDX 1.7 component, as JSON: the library that writes the rest has no class for it.

Fields: definitions modelCard, performanceMetric, fairnessAssessment, risk and environmentalConsiderations of bom-1.7.schema.json.
Numbers are texts there; each stands with its unit, and its interval and n in `slice` or beside it.
"""

from collections.abc import Iterator
from typing import Any

from trimtab.core.phrases import count, is_number, line, percent
from trimtab.package.cards.facts import CardFacts, Plain, Subject, mapping, prohibited_of
from trimtab.package.cards.figures import LATENCIES, conditions, control, counted, group_change, groups_by_axis, in_flight, meaning
from trimtab.package.cards.sentences import answer, failures, faster, level_title, limits

JOULES_PER_KWH = 3.6e6
PER_TOKENS = 1_000_000
LONGEST = 2000


def model_card(facts: CardFacts, subject: Subject, suite_ref: str) -> dict[str, Any]:
    """suite_ref: bom-ref of the component that holds the tests; empty if there is none."""
    metrics = [*_quality(subject), *_timings(facts, subject)]
    return _filled(
        {
            "modelParameters": _parameters(facts, suite_ref),
            "quantitativeAnalysis": {"performanceMetrics": metrics} if metrics else {},
            "considerations": _considerations(facts, subject),
            "properties": [{"name": "trimtab:answer", "value": answer(subject)}, *_impact(facts)],
        }
    )


def _parameters(facts: CardFacts, suite_ref: str) -> dict[str, Any]:
    name = line(facts.describe.get("architecture") or "", LONGEST)
    return _filled(
        {
            "task": "text-generation",
            "modelArchitecture": name,
            "datasets": [{"ref": suite_ref}] if suite_ref else [],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        }
    )


def _quality(subject: Subject) -> Iterator[dict[str, Any]]:
    """The change of every gate, the share right of both sides, and the change of every group."""
    for gate in subject.gates:
        if not is_number(gate.get("delta")):
            continue
        name = line(gate.get("name", "?"), 200)
        kind = f"{meaning(gate)}, {_sure(gate)}".removesuffix(", ")
        yield _metric(kind, gate["delta"], f"{name}: {counted(gate)}; planted fault {control(gate)}", gate)
        for key, what in (("accuracy", "share, the reference"), ("accuracy_candidate", "share")):
            if is_number(gate.get(key)):
                yield _metric(f"{level_title(gate)}, {what}", gate[key], f"{name}: {counted(gate)}")
    for axis, rows in groups_by_axis(subject).items():
        for group_name, group, gate in rows:
            unit = line(gate.get("unit") or "", 100)
            kind = f"change of one group against the others in the same sentence, {unit}, {_sure(gate)}".removesuffix(", ")
            yield _metric(
                kind, group["delta"], f"{line(gate.get('name', '?'), 200)}, {axis}: {group_name} (n = {count(group.get('n'))})", group
            )


def _timings(facts: CardFacts, subject: Subject) -> Iterator[dict[str, Any]]:
    where = conditions(facts)
    for point in subject.points:
        ratios = mapping(subject.speedup.get(str(point.get("concurrency"))))
        for name, what in LATENCIES:
            found, ratio = mapping(point.get(name)), mapping(ratios.get(f"{name}_p50"))
            if is_number(found.get("p50")):
                yield _metric(f"{what}, median, ms", found["p50"], f"{in_flight(point)}, n = {count(found.get('n'))} requests. {where}")
            if is_number(ratio.get("ratio")):
                rounds = f"{in_flight(point)}, {count(ratio.get('n_rounds'))} rounds in turns. {where}"
                yield _metric(f"{what}, times as fast as the baseline, 95 % interval", ratio["ratio"], rounds, ratio)
        if is_number(point.get("output_tok_s")):
            yield _metric("throughput, output tokens per second", point["output_tok_s"], f"{in_flight(point)}. {where}")
    for key, what in (("peak_memory_bytes", "highest memory, bytes"), ("load_s", "load, seconds"), ("cold_ttft_ms", "cold start, ms")):
        if is_number(subject.measurement.get(key)):
            yield _metric(what, subject.measurement[key], where)


def _metric(kind: str, value: float, part: str, ends: Plain | None = None) -> dict[str, Any]:
    low, high = (ends.get("low"), ends.get("high")) if ends else (None, None)
    known = is_number(low) and is_number(high)
    between = {"confidenceInterval": {"lowerBound": _number(low), "upperBound": _number(high)}} if known else {}
    return {"type": kind, "value": _number(value), "slice": line(part, LONGEST), **between}


def _sure(gate: Plain) -> str:
    return f"{percent(gate['confidence'], 1)} interval" if is_number(gate.get("confidence")) else ""


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _considerations(facts: CardFacts, subject: Subject) -> dict[str, Any]:
    use = facts.release.use if facts.release else None
    return _filled(
        {
            "useCases": [line(text, LONGEST) for text in use.intended] if use else [],
            "technicalLimitations": list(limits(facts, subject)),
            "performanceTradeoffs": [*faster(subject), *failures(facts, subject)],
            "ethicalConsiderations": [{"name": f"Must not be used for: {line(text, LONGEST)}"} for text in prohibited_of(facts)],
            "environmentalConsiderations": _environment(facts, subject),
            "fairnessAssessments": list(_fairness(facts, subject)),
        }
    )


def _fairness(facts: CardFacts, subject: Subject) -> Iterator[dict[str, str]]:
    """What was found of each group that the tests name, and that of the affected groups that they do not name nothing is known."""
    for axis, rows in groups_by_axis(subject).items():
        for name, group, gate in rows:
            sure = _sure(gate)
            p = f", p = {group['p_holm']:.2g} corrected for the search over groups" if is_number(group.get("p_holm")) else ""
            found = f"{group_change(group, gate)} ({sure}, n = {count(group.get('n'))}{p})".replace("(, ", "(")
            harm = f"Change of a favourable against an unfavourable word, compared with the other groups in the same sentence: {found}."
            required, margin = "must" if gate.get("required", True) else "should", _number(gate.get("margin"))
            allowed = f"The change of every group {required} lie within ±{margin}; verdict: {line(gate.get('verdict', '?'))}."
            yield {"groupAtRisk": f"{axis}: {name}", "harms": harm, "mitigationStrategy": allowed}
    for text in facts.release.use.affected if facts.release else ():
        told = "Stated by its owner as people whom it may touch. Nothing was measured for them under this name."
        yield {"groupAtRisk": line(text, LONGEST), "harms": told}


def _environment(facts: CardFacts, subject: Subject) -> dict[str, Any]:
    """Energy of a million output tokens at each number in flight, where a counter was read. Who provided it is not known."""
    found = []
    for point in subject.points:
        joules = point.get("energy_j_per_token")
        if is_number(joules):
            said = {
                "trimtab:of": f"{count(PER_TOKENS)} output tokens, {in_flight(point)}",
                "trimtab:joules_per_output_token": _number(joules),
                "trimtab:scope": "the whole machine while requests were timed",
                "trimtab:conditions": conditions(facts),
            }
            found.append(
                {
                    "activity": "inference",
                    "energyProviders": [],
                    "activityEnergyCost": {"value": float(_number(joules * PER_TOKENS / JOULES_PER_KWH)), "unit": "kWh"},
                    "properties": [{"name": name, "value": value} for name, value in said.items()],
                }
            )
    return {"energyConsumptions": found} if found else {}


def _impact(facts: CardFacts) -> list[dict[str, str]]:
    answers = facts.release.use.answers if facts.release else {}
    return [{"name": f"trimtab:impact:{line(key, 100)}", "value": line(text, LONGEST)} for key, text in sorted(answers.items()) if text]


def _filled(fields: dict[str, Any]) -> dict[str, Any]:
    """Only what there is something in."""
    return {key: value for key, value in fields.items() if value}
