"""What a failed certification leaves to be mended: which gates, by how much, and at which level remedies are judged. Pure.

Every remedy is one more candidate on the same certify items. Those tried share evenly in what the attempts before them left of alpha,
and their number is fixed before the first of them is looked at, so that all attempts together keep the policy's alpha (Bonferroni).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.core.decision import Decision
from trimtab.core.evidence import Evidence, Outcome
from trimtab.core.policy import GateSpec, Policy
from trimtab.decide.decide import gate_levels, judge_gate

UNMENDABLE = ("parity", "generation")
"""Gates on the served path: what they catch does not lie in single weights."""
BOTH_WAYS = ("equivalence", "equivalence_by_group")


def gates_to_mend(policy: Policy, decision: Decision) -> tuple[GateSpec, ...]:
    """The required gates on items that failed, or, if none failed, those that could not tell although they would notice a loss."""
    found = {gate.name: gate for gate in decision.gates if gate.required and gate.kind not in UNMENDABLE}
    failed = {name for name, gate in found.items() if gate.verdict == "fail"}
    open_ = {name for name, gate in found.items() if gate.verdict == "inconclusive" and gate.informative}
    return tuple(spec for spec in policy.gates if spec.name in (failed or open_))


@dataclass(frozen=True, kw_only=True)
class GateLoss:
    """How far a gate is off on some items. delta, low, high: in its unit, None = unknown; margins: the loss over the margin."""

    gate: str
    group: str
    delta: float | None
    low: float | None
    high: float | None
    margins: float
    n_clusters: int


def gate_loss(spec: GateSpec, policy: Policy, reference: Sequence[Outcome], candidate: Sequence[Outcome]) -> GateLoss:
    """The gate's figure on these items: the group that is off most where it judges groups, else the mean; better than it was is no loss.

    Not a verdict: the items may be few, and are those of the search.
    """
    level = gate_levels(policy, looks=(1.0,), look=1)[spec.name]
    seen = judge_gate(spec, Evidence(use="fixed_n", reference=tuple(reference), candidate=tuple(candidate)), level)
    both_ways = spec.kind in BOTH_WAYS
    parts = [("", seen.delta, seen.low, seen.high)] if seen.delta is not None and spec.kind != "equivalence_by_group" else []
    parts += [(one.group, one.delta, one.low, one.high) for one in seen.groups if both_ways]
    if not parts:
        return GateLoss(gate=spec.name, group="", delta=None, low=None, high=None, margins=0.0, n_clusters=seen.n_clusters)
    lost = [abs(part[1]) if both_ways else max(-part[1], 0.0) for part in parts]
    worst = lost.index(max(lost))
    group, delta, low, high = parts[worst]
    return GateLoss(
        gate=spec.name, group=group, delta=delta, low=low, high=high, margins=lost[worst] / spec.margin, n_clusters=seen.n_clusters
    )


def policy_for_remedies(policy: Policy, *, n_used: int, n_planned: int) -> Policy | None:
    """The same gates at the level that each of n_planned remedies is judged at; None if the attempts are used up.

    n_used: attempts made on these items before. Where as many attempts are left as remedies are planned, this is no stricter than the
    policy itself.
    """
    n_left = policy.max_attempts - n_used
    if n_left <= 0 or n_planned <= 0:
        return None
    n_shared = max(n_left, n_planned)
    return dataclasses.replace(
        policy,
        name=f"{policy.name}, {n_planned} {'remedy' if n_planned == 1 else 'remedies'} after {n_used}",
        alpha=policy.alpha * n_left / policy.max_attempts,
        max_attempts=n_shared,
    )
