"""The decision: every gate judged, checked against its noise floor and its planted control, and joined."""

import math
from collections.abc import Mapping, Sequence

from trimtab.core.decision import ControlResult, Decision, GateResult, Verdict
from trimtab.core.errors import InputError
from trimtab.core.evidence import Evidence
from trimtab.core.policy import GateSpec, Policy
from trimtab.decide.anytime import judge_anytime, judge_anytime_controls
from trimtab.decide.equivalence import judge_equivalence
from trimtab.decide.fairness import judge_equivalence_by_group
from trimtab.decide.generation import judge_generation
from trimtab.decide.judgement import Judgement, Level, at_worst_open, number, others_unchanged
from trimtab.decide.noise import noise_floor
from trimtab.decide.non_inferiority import judge_non_inferiority
from trimtab.decide.pairs import Pairs, pair_outcomes, share_change, share_correct
from trimtab.decide.parity import judge_parity
from trimtab.decide.policies import check_policy, policy_sha256
from trimtab.decide.rate import judge_rate
from trimtab.stats.power import joint_power
from trimtab.stats.sequential import nominal_alphas

FLIPS_CONFIDENCE = 0.95
NO_PAIRS = Pairs(observed=(), missing=())


def decide(policy: Policy, evidence: Evidence, *, attempt: int = 1, look: int = 1) -> Decision:
    """Judge one candidate. Pure: the same policy and evidence give the same decision.

    attempt: which candidate this is on these items, counted from 1
    look: which of the policy's planned looks, counted from 1; 1 for evidence without a plan: `fixed_n`, `anytime`
    Raises InputError for an attempt or look beyond the plan, a policy that cannot be judged by, or outcomes that do not belong together
    (repeated ids, other clusters, other prompts).
    """
    check_policy(policy)
    looks = _looks(policy, evidence, attempt, look)
    levels = gate_levels(policy, looks=looks, look=look)
    judged = [_gate(spec, evidence, levels[spec.name], policy.noise_multiple) for spec in policy.gates]
    gates = tuple(gate for gate, _ in judged)
    verdict, reasons = _join(gates)
    return Decision(
        verdict=verdict,
        reasons=reasons,
        gates=gates,
        policy=policy.name,
        policy_sha256=policy_sha256(policy),
        use=evidence.use,
        attempt=attempt,
        look=look,
        n_looks=len(looks),
        joint_power=None if evidence.use == "anytime" else joint_power([power for gate, power in judged if gate.required]),
    )


def gate_levels(policy: Policy, *, looks: Sequence[float], look: int) -> dict[str, Level]:
    """One-sided level of each gate at this look: alpha over the attempts (Bonferroni), then spent over the looks.

    Parity and generation are measured once, before the first look, and so are not spent over looks.
    """
    per_attempt = policy.alpha / policy.max_attempts
    once = Level(alpha=per_attempt, power=policy.power)
    spent = Level(alpha=nominal_alphas(looks, per_attempt)[look - 1], power=policy.power)
    return {spec.name: once if spec.kind in ("parity", "generation") else spent for spec in policy.gates}


def _looks(policy: Policy, evidence: Evidence, attempt: int, look: int) -> tuple[float, ...]:
    if not 1 <= attempt <= policy.max_attempts:
        raise InputError(
            f"Attempt {attempt} is beyond the {policy.max_attempts} that policy {policy.name!r} allows on the same certify items; "
            "use fresh items or start a new suite version."
        )
    looks = policy.looks if evidence.use == "sequential" else (1.0,)
    if not 1 <= look <= len(looks):
        raise InputError(f"Look {look} was not planned: {evidence.use} evidence under policy {policy.name!r} has {len(looks)}.")
    return looks


def judge_gate(spec: GateSpec, evidence: Evidence, level: Level) -> Judgement:
    """What one gate's arithmetic says, before its control and its noise are looked at."""
    if evidence.use == "anytime":
        return judge_anytime(spec, evidence, level)
    match spec.kind:
        case "non_inferiority":
            return judge_non_inferiority(spec, evidence.reference, evidence.candidate, level)
        case "equivalence":
            return judge_equivalence(spec, evidence.reference, evidence.candidate, level)
        case "equivalence_by_group":
            return judge_equivalence_by_group(spec, evidence.reference, evidence.candidate, level)
        case "parity":
            return judge_parity(spec, evidence.parity, level)
        case "generation":
            return judge_generation(spec, evidence.generation_reference, evidence.generation, level)
        case "rate":
            return judge_rate(spec, evidence.reference, evidence.candidate, level)
        case "agreement":
            return at_worst_open(judge_non_inferiority(spec, evidence.reference, evidence.candidate, level))


def judge_controls(spec: GateSpec, evidence: Evidence, level: Level) -> dict[str, Judgement]:
    """The gate's planted positive controls, judged by the same rules at the same n; empty if none was run."""
    if evidence.use == "anytime":
        return judge_anytime_controls(spec, evidence, level)
    if spec.kind == "parity":
        return {name: judge_parity(spec, probe, level) for name, probe in evidence.parity_controls.items()}
    name = spec.control or "control"
    if spec.kind == "generation":
        planted = evidence.generation_control
        return {} if planted is None else {name: judge_generation(spec, evidence.generation_reference, planted, level)}
    outcomes = evidence.controls.get(spec.name)
    if not outcomes:
        return {}
    if spec.kind in ("non_inferiority", "agreement"):
        return {name: judge_non_inferiority(spec, evidence.reference, outcomes, level, sample=True)}
    if spec.kind == "equivalence":
        return {name: judge_equivalence(spec, evidence.reference, outcomes, level, sample=True)}
    if spec.kind == "rate":
        return {name: judge_rate(spec, evidence.reference, outcomes, level, sample=True)}
    return {name: judge_equivalence_by_group(spec, evidence.reference, others_unchanged(evidence.reference, outcomes), level, sample=True)}


def _gate(spec: GateSpec, evidence: Evidence, level: Level, noise_multiple: float) -> tuple[GateResult, float]:
    """The gate's result, and its power for a candidate exactly as good as the reference."""
    judgement = judge_gate(spec, evidence, level)
    controls = judge_controls(spec, evidence, level)
    informative, control_reasons = _assay(controls)
    floor = noise_floor(spec, evidence)
    verdict, noise_reasons = _against_noise(spec, judgement.verdict, floor, noise_multiple)
    pairs = pair_outcomes(spec.suite, evidence.reference, evidence.candidate, weight=spec.weight) if spec.suite else NO_PAIRS
    accuracy, accuracy_candidate, lost, gained = share_correct(pairs)
    moved = share_change(pairs, FLIPS_CONFIDENCE) if evidence.use != "anytime" else None  # it is an interval for one look
    result = GateResult(
        name=spec.name,
        kind=spec.kind,
        suite=spec.suite,
        unit=spec.unit,
        margin=spec.margin,
        required=spec.required,
        verdict=verdict,
        informative=informative,
        reasons=(*noise_reasons, *control_reasons, *judgement.reasons),
        n=judgement.n,
        n_clusters=judgement.n_clusters,
        n_missing=judgement.n_missing,
        delta=_known(judgement.delta),
        low=_known(judgement.low),
        high=_known(judgement.high),
        confidence=level.confidence,
        level=judgement.level,
        level_candidate=judgement.level_candidate,
        noise_floor=floor,
        detectable=_known(judgement.detectable),
        positive_control=_shown_control(spec, controls),
        groups=judgement.groups,
        accuracy=accuracy,
        accuracy_candidate=accuracy_candidate,
        flips_lost=lost,
        flips_gained=gained,
        accuracy_change_low=moved.change.low if moved else None,
        accuracy_change_high=moved.change.high if moved else None,
        flips_p=moved.test.p_exact if moved else None,
    )
    return result, judgement.power if informative and not noise_reasons else 0.0


def _assay(controls: Mapping[str, Judgement]) -> tuple[bool, list[str]]:
    """Is the gate informative: was there a planted control, and did every one of them fail?"""
    if not controls:
        return False, ["not informative: no positive control was run, so it is not known whether this gate can fail"]
    missed = {name: judgement for name, judgement in controls.items() if judgement.verdict != "fail"}
    return not missed, [
        f"not informative: the planted control {name} was not failed ({judgement.verdict}: {judgement.reasons[0]})"
        for name, judgement in missed.items()
    ]


def _shown_control(spec: GateSpec, controls: Mapping[str, Judgement]) -> ControlResult | None:
    """The control shown with the gate: one that was missed if there is one, else the policy's own, else the first."""
    if not controls:
        return None
    missed = [name for name, judgement in controls.items() if judgement.verdict != "fail"]
    name = missed[0] if missed else spec.control if spec.control in controls else next(iter(controls))
    shown = controls[name]
    return ControlResult(
        name=name,
        delta=_known(shown.delta),
        low=_known(shown.low),
        high=_known(shown.high),
        verdict=shown.verdict,
        caught=shown.verdict == "fail",
    )


def _against_noise(spec: GateSpec, verdict: Verdict, floor: float | None, multiple: float) -> tuple[Verdict, list[str]]:
    """A margin close to the noise floor is refused whatever the outcome; an unmeasured floor forbids only a pass."""
    if floor is None:
        unmeasured = "the noise floor was not measured: the reference was not compared with itself on this gate"
        return ("inconclusive" if verdict == "pass" else verdict), [unmeasured]
    if spec.margin < multiple * floor:
        refused = (
            f"margin refused: {spec.margin:.3g} {spec.unit} is under {multiple:g} times the noise floor of {floor:.3g} "
            "(the reference against itself under other numerics)"
        )
        return "inconclusive", [refused]
    return verdict, []


def _join(gates: Sequence[GateResult]) -> tuple[Verdict, tuple[str, ...]]:
    """Fail if a required gate fails; inconclusive if one is inconclusive or not informative; else pass."""
    required = [gate for gate in gates if gate.required]
    advisory = tuple(
        f"{g.name} (not required): {g.verdict}: {'; '.join(g.reasons)}" for g in gates if not g.required and g.verdict != "pass"
    )
    failed = [gate for gate in required if gate.verdict == "fail"]
    open_ = [gate for gate in required if gate.verdict != "fail" and (gate.verdict == "inconclusive" or not gate.informative)]
    if failed or open_:
        return ("fail" if failed else "inconclusive"), tuple(f"{g.name}: {'; '.join(g.reasons)}" for g in (*failed, *open_)) + advisory
    return "pass", (f"all {len(required)} required gates passed, each shown able to fail", *(_closest(required)), *advisory)


def _closest(gates: Sequence[GateResult]) -> list[str]:
    """The gate that used up most of its margin."""
    used = [
        (max(-(g.low or 0.0), (g.high or 0.0) if g.kind in ("equivalence", "equivalence_by_group", "parity") else 0.0) / g.margin, g)
        for g in gates
    ]
    share, gate = max(used, key=lambda item: item[0])
    if share <= 0.0 or gate.delta is None:
        return []
    used_up = f"using at most {100 * share:.0f} % of its margin of {gate.margin:.3g}"
    return [f"closest: {gate.name}, change {number(gate.delta)} {gate.unit}, {used_up}"]


def _known(value: float | None) -> float | None:
    """None for what is not finite: an unknown bound is not a number."""
    return value if value is not None and math.isfinite(value) else None
