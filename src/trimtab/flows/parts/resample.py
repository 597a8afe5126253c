"""A fresh random sample of clusters, and whether outcomes of an earlier run are found again on one."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimtab.core.evidence import Outcome
from trimtab.core.policy import Policy
from trimtab.decide.pairs import pair_outcomes
from trimtab.evaluate.requests import PreparedSuite
from trimtab.stats.paired import clustered_mean


def fresh_sample(prepared: PreparedSuite, share: float, seed: int, least: Mapping[str, int]) -> PreparedSuite:
    """Whole clusters drawn at random within each sub-suite: `share` of them, at least `least` of the sub-suite (or all it has).

    The draw depends on the seed and on names alone, never on outcomes, so means over it are unbiased for the suite.
    """
    clusters: dict[str, set[str]] = {}
    for one in prepared.requests:
        clusters.setdefault(one.suite, set()).add(one.cluster)
    chosen = set()
    for suite, names in clusters.items():
        drawn = sorted(names, key=lambda name: (hashlib.sha256(f"check\0{seed}\0{suite}\0{name}".encode()).digest(), name))
        wanted = max(math.ceil(share * len(drawn)), least.get(suite, 1))
        chosen |= {(suite, name) for name in drawn[:wanted]}
    return PreparedSuite(requests=tuple(one for one in prepared.requests if (one.suite, one.cluster) in chosen))


@dataclass(frozen=True, kw_only=True)
class Reproduced:
    """Whether known outcomes were found again. worst: the largest share of what a gate tolerates that was used up."""

    ok: bool
    n_items: int
    worst: float
    sentence: str


def reproduced(policy: Policy, stored: Sequence[Outcome], now: Sequence[Outcome]) -> Reproduced:
    """Known-answer check: mean change plus one standard error of every gate within the noise floor that its margin allows.

    That is margin / noise_multiple, the largest floor under which the policy accepts the margin at all. An item that had a value and has
    none now is a change.
    """
    known = {one.item_id for one in stored}
    asked = [one for one in now if one.item_id in known]
    missing = [one for one in asked if one.value is None]
    worst, gate_name = 0.0, ""
    for gate in policy.gates:
        if not gate.suite:
            continue
        pairs = pair_outcomes(gate.suite, stored, asked, weight=gate.weight, sample=True)
        if pairs.n_clusters < 2:
            continue
        mean = clustered_mean(pairs.changes, pairs.clusters, pairs.weights)
        used = (abs(mean.estimate) + mean.se) / (gate.margin / policy.noise_multiple)
        if used > worst:
            worst, gate_name = used, gate.name
    n = len(asked)
    if not n:
        return Reproduced(ok=False, n_items=0, worst=math.inf, sentence="No stored outcome is about an item of the sample.")
    if missing:
        why = missing[0].error or "no value"
        return Reproduced(ok=False, n_items=n, worst=math.inf, sentence=f"{len(missing)} of {n} known items could not be scored ({why}).")
    if worst > 1.0:
        sentence = f"The certified outcomes are not found again on {n} items: {gate_name} moved {worst:.1f} times what noise may move it."
        return Reproduced(ok=False, n_items=n, worst=worst, sentence=sentence)
    words = f"{n} stored outcomes were found again, using {100 * worst:.0f} % of what noise may move them."
    return Reproduced(ok=True, n_items=n, worst=worst, sentence=words)
