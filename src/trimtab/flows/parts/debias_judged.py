"""Whether a trained model is less biased, and what that cost elsewhere: gates, gaps, and one table of both."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trimtab.core.decision import GateResult, Verdict
from trimtab.core.evidence import Outcome
from trimtab.core.files import to_plain
from trimtab.core.policy import GateSpec, Policy
from trimtab.decide.decide import gate_levels
from trimtab.decide.gaps import BIAS_KINDS, Fall, GapResult, gap_outcomes, judge_fall, judge_gap
from trimtab.flows.parts.certify import Certified
from trimtab.stats.paired import clustered_mean

SEARCH_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Judged:
    """fall: of the mean gap over the sub-suites that were to become fairer; gaps: of each sub-suite that has one, others' too."""

    verdict: Verdict
    reasons: tuple[str, ...]
    fall: Fall
    gaps: tuple[GapResult, ...]
    targets: tuple[str, ...]


def debias_policy(policy: Policy) -> Policy:
    """The policy for a model that was to change how it treats groups, looked at once.

    Gates on whether groups moved at all are told and decide nothing: that they move, towards each other, is what was asked for. The gaps
    decide in their place.
    """
    gates = tuple(replace(gate, required=gate.required and gate.kind not in BIAS_KINDS) for gate in policy.gates)
    return replace(policy, gates=gates, looks=(1.0,))


def bias_gates(policy: Policy) -> dict[str, GateSpec]:
    """Sub-suite -> its gate, of all that have gaps."""
    return {gate.suite: gate for gate in policy.gates if gate.kind in BIAS_KINDS}


def verdict_of(policy: Policy, certified: Certified, targets: Sequence[str]) -> Judged:
    """Pass if the gap fell, no sub-suite's gap may have grown by its margin, and every other required gate passes; fail if one of them is
    shown to be otherwise; else inconclusive. targets: sub-suites whose bias was to fall."""
    gates = bias_gates(policy)
    levels = gate_levels(policy, looks=policy.looks, look=1)
    level = next(iter(levels.values()))
    before, after = gap_outcomes(certified.reference, gates), gap_outcomes(certified.candidate, gates)
    gaps = tuple(judge_gap(gate, before, after, levels[gate.name]) for gate in gates.values())
    own = tuple(name for name in targets if name in gates)
    fall = judge_fall(own, before, after, level)
    verdicts = [certified.decision.verdict, fall.verdict, *(gap.verdict for gap in gaps)]
    reasons = [fall.reason, *(f"{gap.suite}: {gap.reason}" for gap in gaps if gap.verdict != "pass"), *certified.decision.reasons]
    verdict: Verdict = "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"
    return Judged(verdict=verdict, reasons=tuple(reasons), fall=fall, gaps=gaps, targets=own)


def levels_of(outcomes: Sequence[Outcome], policy: Policy) -> list[dict[str, Any]]:
    """The model's own mean gap in each sub-suite with a 95 % interval, before anything is trained."""
    gates = bias_gates(policy)
    found = gap_outcomes(outcomes, gates)
    rows = []
    for suite in gates:
        seen = [(-one.value, one.cluster) for one in found if one.suite == suite and one.value is not None]
        if not seen:
            continue
        mean = clustered_mean(np.array([gap for gap, _ in seen]), [cluster for _, cluster in seen])
        ends = mean.interval(SEARCH_CONFIDENCE)
        known = mean.n_clusters > 1
        rows.append(
            {
                "suite": suite,
                "gap": mean.estimate,
                "low": max(0.0, ends.low) if known and ends.low is not None else None,
                "high": ends.high if known else None,
                "n_clusters": mean.n_clusters,
            }
        )
    return rows


def table_of(judged: Judged, gates: Sequence[GateResult]) -> list[dict[str, Any]]:
    """One row a measure: what was to fall, then what it cost.

    part: `bias` or `elsewhere`; better: `lower` or `higher`; required: whether it decides; change: after minus before; low, high: its ends
    """
    fall = judged.fall
    rows = [
        _row("bias", "all of these, mean gap", "lower", fall, required=True, unit="nats", margin=0.0, reason=fall.reason),
        *(
            _row("bias" if gap.suite in judged.targets else "elsewhere", f"{gap.suite}, gap", "lower", gap, required=True, unit="nats",
                 margin=gap.margin, reason=gap.reason)
            for gap in judged.gaps
        ),
        *(_gate_row(gate) for gate in gates),
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row["part"])  # stable: bias before elsewhere


def _row(
    part: str, name: str, better: str, found: Fall | GapResult, *, required: bool, unit: str, margin: float, reason: str
) -> dict[str, Any]:
    plain = to_plain(found)
    return {
        "part": part,
        "name": name,
        "unit": unit,
        "better": better,
        **{key: plain[key] for key in ("before", "after", "change", "low", "high", "n_clusters", "verdict")},
        "margin": margin,
        "required": required,
        "reason": reason,
    }


def _gate_row(gate: GateResult) -> dict[str, Any]:
    is_told = gate.kind in BIAS_KINDS
    return {
        "part": "elsewhere",
        "name": f"{gate.name}, as a change" if is_told else gate.name,
        "unit": gate.unit,
        "better": "" if is_told else "higher",
        "before": gate.level,
        "after": gate.level_candidate,
        "change": gate.delta,
        "low": gate.low,
        "high": gate.high,
        "n_clusters": gate.n_clusters,
        "verdict": gate.verdict,
        "margin": gate.margin,
        "required": gate.required,
        "reason": "; ".join(gate.reasons),
    }
