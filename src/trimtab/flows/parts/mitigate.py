"""Remedies for a candidate that did not pass, each held against the same reference by the same gates, with its cost."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from trimtab.core.decision import CandidateResult, Decision
from trimtab.core.deployment import Candidate
from trimtab.core.errors import InfeasibleError
from trimtab.core.files import to_plain
from trimtab.core.policy import Policy
from trimtab.core.workload import Workload
from trimtab.decide.remedies import policy_for_remedies
from trimtab.evaluate.screen import ScreenResult
from trimtab.flows.parts.certify import Certified, certify
from trimtab.flows.parts.document import subject, write_judged
from trimtab.flows.parts.evidence import outcomes_on
from trimtab.flows.parts.reference import PromptMaker
from trimtab.flows.parts.remedies import Mending, Remedy, remedies_for
from trimtab.flows.parts.screening import Screening, screen_evidence
from trimtab.flows.parts.timing import Probe
from trimtab.measure.machine import machine as this_machine

SCHEMA = "trimtab.mitigation/1"
FIRST_PROBE = 900
"""Where the seeds of the probes' prompts begin: no other step uses these."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a deployment costs beside the one to mend. screen: divergence from the reference; probe: a short turn beside it."""

    screen: ScreenResult | None
    probe: Probe | None


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One remedy and what came of it. policy: what it was judged by; certified: None where it was not, with the reason."""

    remedy: Remedy
    cost: Cost | None = None
    search: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    certified: Certified | None = None
    policy: Policy | None = None
    why_not: str = ""

    @property
    def passed(self) -> bool:
        return self.certified is not None and self.certified.decision.verdict == "pass"


@dataclass(frozen=True, kw_only=True)
class Mitigation:
    """tried: every remedy; best: what passed with the fewest bytes, None if nothing did; document: schema trimtab.mitigation/1"""

    tried: tuple[Tried, ...]
    best: Tried | None
    document: dict[str, Any]

    def rows(self) -> list[CandidateResult]:
        """The remedies that were built, as candidates of a decision."""
        return [_row(one) for one in self.tried if one.remedy.candidate is not None]


async def mitigate(mending: Mending, failed: Decision, workload: Workload, *, attempts: Sequence[str], concurrency: int) -> Mitigation:
    """Try all remedies and judge those that can be built.

    attempts: digests of the deployments that were tried on these items so far, the one to mend among them
    """
    session = mending.session
    for number, digest in enumerate(attempts, 1):
        session.run.step(f"attempt/{digest}", partial(int, number))  # whoever judges by this folder later counts them too
    if not mending.gates:
        return _nothing_to_mend(mending, failed, attempts)
    remedies = await remedies_for(mending)
    new = [one.candidate.deployment.digest for one in remedies if one.candidate and one.candidate.deployment.digest not in attempts]
    policy = policy_for_remedies(mending.bench.policy, n_used=len(attempts), n_planned=len(set(new)))
    tried: list[Tried] = []
    async with AsyncExitStack() as stack:
        screening = Screening(
            session=session,
            reference=mending.bench.reference,
            baseline=mending.candidate,
            exam=mending.bench.exam,
            workload=workload,
            machine=this_machine(),
            make_prompts=stack.enter_context(PromptMaker(mending.bench.reference, workload)),
            stack=stack,
        )
        await screening.score_reference()
        own = await _cost(screening, mending.candidate, 0)
        costs = {
            one.name: await _cost(screening, one.candidate, number) for number, one in enumerate(remedies, 1) if one.candidate is not None
        }
    before = await _on_search(mending, mending.candidate)
    for remedy in remedies:
        if remedy.candidate is None:
            tried.append(Tried(remedy=remedy, why_not=remedy.why_not))
            continue
        seen = Tried(remedy=remedy, cost=costs[remedy.name], search=await _on_search(mending, remedy.candidate))
        tried.append(await _judge(mending, seen, policy, attempts=attempts, new=new, concurrency=concurrency))
    best = min((one for one in tried if one.passed), key=_bytes_of, default=None)
    document = {
        **_head(mending, failed, attempts),
        "attempts": _attempts_row(mending.bench.policy, policy, attempts, new),
        "before": {**_cost_row(own), "size_bytes": mending.candidate.snapshot.size_bytes, "search": to_plain(before)},
        "remedies": [_remedy_row(one, mending) for one in tried],
        "best": best.remedy.name if best else None,
    }
    return Mitigation(tried=tuple(tried), best=best, document=document)


async def _judge(
    mending: Mending, seen: Tried, policy: Policy | None, *, attempts: Sequence[str], new: Sequence[str], concurrency: int
) -> Tried:
    """The full gate on one remedy: one of the run's own attempts again, or one more that shares in what is left of alpha."""
    session, candidate = mending.session, seen.remedy.candidate
    assert candidate is not None
    digest = candidate.deployment.digest
    by = mending.bench.policy if digest in attempts else policy
    if by is None:
        return dataclasses.replace(seen, why_not=f"the policy allows {len(attempts)} attempts on these items, and they are used up")
    if session.seconds_left <= 0:
        return dataclasses.replace(seen, why_not="the time limit left no room to judge it")
    number = attempts.index(digest) + 1 if digest in attempts else list(dict.fromkeys(new)).index(digest) + 1
    # Written before the remedy is looked at: an attempt of a run that was killed still counts.
    session.run.step(f"attempt/{digest}", partial(int, len(attempts) + number))
    try:
        certified = await certify(
            session,
            dataclasses.replace(mending.bench, policy=by),
            candidate,
            attempt=number,
            concurrency=concurrency,
            swapped=mending.bench.swapped_for(candidate),
        )
    except InfeasibleError as error:
        return dataclasses.replace(seen, why_not=f"it cannot run: {error}")
    write_judged(session, candidate, mending.bench.reference, certified)
    return dataclasses.replace(seen, certified=certified, policy=by)


async def _cost(screening: Screening, candidate: Candidate, number: int) -> Cost:
    """Divergence and a short turn beside the one to mend; unknown where it cannot run."""
    screening.session.say("mitigate", f"cost of {candidate.id}")
    try:
        screen, probe = await screening.look_at(candidate, FIRST_PROBE + number)
    except InfeasibleError:
        return Cost(screen=None, probe=None)
    return Cost(screen=screen, probe=probe)


async def _on_search(mending: Mending, candidate: Candidate) -> dict[str, Any]:
    """How far the gates are off on the search's items."""
    session, items = mending.session, mending.searched
    reference = await outcomes_on(session, mending.bench.reference, items, phase="mitigate", what="reference on search items")
    try:
        own = await outcomes_on(session, candidate, items, phase="mitigate", what=f"{candidate.id} on search items")
    except InfeasibleError:
        return {}
    return dict(mending.losses(reference, own))


def _bytes_of(one: Tried) -> int:
    return one.remedy.candidate.snapshot.size_bytes if one.remedy.candidate else 0


def _nothing_to_mend(mending: Mending, failed: Decision, attempts: Sequence[str]) -> Mitigation:
    why = "what it did not pass lies in no weights: gates on the served path, items too few, or controls that were not caught"
    document = {**_head(mending, failed, attempts), "remedies": [], "best": None, "why_not": why}
    return Mitigation(tried=(), best=None, document=document)


def _head(mending: Mending, failed: Decision, attempts: Sequence[str]) -> dict[str, Any]:
    names = [gate.name for gate in mending.gates]
    return {
        "schema": SCHEMA,
        "of": subject(mending.candidate),
        "policy": mending.bench.policy.name,
        "gates": names,
        "gates_before": [to_plain(gate) for gate in failed.gates],
        "attempts": {"used": len(attempts), "allowed": mending.bench.policy.max_attempts, "planned": 0, "alpha_each": None},
    }


def _attempts_row(policy: Policy, shared: Policy | None, attempts: Sequence[str], new: Sequence[str]) -> dict[str, Any]:
    alpha_each = shared.alpha / shared.max_attempts if shared else None
    return {"used": len(attempts), "allowed": policy.max_attempts, "planned": len(set(new)), "alpha_each": alpha_each}


def _cost_row(cost: Cost | None) -> dict[str, Any]:
    screen, probe = (cost.screen, cost.probe) if cost else (None, None)
    return {"screen": screen_evidence(screen), "speed": probe.ratio if probe else None}


def _remedy_row(one: Tried, mending: Mending) -> dict[str, Any]:
    remedy, decision = one.remedy, one.certified.decision if one.certified else None
    size_bytes = remedy.candidate.snapshot.size_bytes if remedy.candidate else None
    return {
        "name": remedy.name,
        "what": remedy.what,
        "id": remedy.candidate.id if remedy.candidate else None,
        "recipe": to_plain(remedy.recipe),
        "why_not": one.why_not,
        "size_bytes": size_bytes,
        "extra_bytes": size_bytes - mending.candidate.snapshot.size_bytes if size_bytes is not None else None,
        **_cost_row(one.cost),
        "search": to_plain(one.search),
        "gates_after": [to_plain(gate) for gate in decision.gates] if decision else [],
        "verdict": decision.verdict if decision else None,
        "reasons": list(decision.reasons) if decision else [],
        "attempt": decision.attempt if decision else None,
        "policy": one.policy.name if one.policy else None,
        "details": to_plain(remedy.details),
    }


def _row(one: Tried) -> CandidateResult:
    candidate = one.remedy.candidate
    assert candidate is not None
    decision = to_plain(one.certified.decision) if one.certified else None
    evidence: dict[str, Any] = {"screen": screen_evidence(one.cost.screen) if one.cost else None}
    if decision is not None:
        evidence |= {"gates": decision.pop("gates"), "decision": decision}
    return CandidateResult(
        id=candidate.id,
        engine=candidate.engine,
        recipe=candidate.recipe,
        settings=candidate.settings.given(),
        status="certified" if one.certified else "screened",
        verdict=one.certified.decision.verdict if one.certified else None,
        reasons=tuple(one.certified.decision.reasons) if one.certified else (one.why_not,),
        evidence=evidence,
        details=subject(candidate),
    )
