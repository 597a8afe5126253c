"""A first look at one candidate: is it close to the reference on a few texts, and how fast is a short turn beside the baseline?"""

import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from trimtab.core.deployment import Candidate, Machine
from trimtab.core.files import digest_of, to_plain
from trimtab.core.policy import Policy
from trimtab.core.workload import Workload
from trimtab.decide.standing import surely_lost
from trimtab.engines.base import ScoreRequest, ScoreResult
from trimtab.engines.client import WorkerClient
from trimtab.engines.protocol import score_result_from
from trimtab.evaluate.screen import ScreenResult, candidate_screen_requests, reference_screen_requests, screen
from trimtab.flows.parts.exam import Exam, check_vocabulary
from trimtab.flows.parts.session import Session
from trimtab.flows.parts.timing import Probe, probe, served
from trimtab.measure.session import MakePrompts

AS_FAST = 0.95
"""Speeds that differ by less than this share cannot be told apart by a short turn."""


@dataclass(kw_only=True)
class Screening:
    """Screens candidates one after the other. The baseline's worker, which probes run beside, is started when it is first needed."""

    session: Session
    reference: Candidate
    baseline: Candidate
    exam: Exam
    workload: Workload
    machine: Machine
    make_prompts: MakePrompts
    stack: AsyncExitStack
    requests: list[ScoreRequest] = field(default_factory=list)
    results: list[ScoreResult] = field(default_factory=list)
    beside: WorkerClient | None = None

    async def score_reference(self) -> float | None:
        """Score the search texts with the reference; returns its scoring rate in tokens per second, None if there are no texts."""
        self.requests = reference_screen_requests(self.exam.search)
        if not self.requests:
            return None

        async def compute() -> dict[str, Any]:
            self.session.say("screen", "reference on the search texts")
            async with self.session.workers.lent(self.reference, "score") as client:
                start_s = time.monotonic()
                results = await client.score(self.requests)
                seconds = time.monotonic() - start_s
            return {"results": results, "tok_s": self.exam.search.only(["text"]).n_tokens / seconds}

        plain = await self.session.once("screen_reference", [self.reference.numeric_sha256, self.requests], compute)
        self.results = [score_result_from(one) for one in plain["results"]]
        return float(plain["tok_s"])

    async def look_at(self, candidate: Candidate, number: int) -> tuple[ScreenResult | None, Probe]:
        """Quality and speed of one candidate. Raises InfeasibleError if it cannot be started, scored or served."""
        keys = self._keys(candidate)
        known = {kind: self.session.cache.get_json(kind, digest_of([kind, key])) for kind, key in keys.items()}
        if None not in known.values():
            self.session.n_known += len(known)
            return (ScreenResult(**known["screen"] or {}) if self.requests else None), Probe(**known["probe"] or {})
        ahead = known.get("screen")  # another machine may have been here before the timing
        quality = ScreenResult(**ahead) if ahead is not None else None
        client = await WorkerClient.start(candidate.engine, candidate.snapshot, candidate.settings)
        try:
            await check_vocabulary(client, self.exam, candidate)
            if self.requests and quality is None:
                await client.load("score")
                quality = screen(self.results, await client.score(candidate_screen_requests(self.requests, self.results)))
            await client.load("serve")
            speed = await probe(client, await self._baseline_worker(), self.workload, self.make_prompts, self.session.seed * 100 + number)
        finally:
            await client.close()
        self.session.n_computed += len(known)  # one that cannot run leaves nothing, and is tried again the next time
        for (kind, key), value in zip(keys.items(), [quality, speed] if self.requests else [speed], strict=True):
            self.session.cache.put_json(kind, digest_of([kind, key]), to_plain(value))
        return quality, speed

    async def ahead(self, candidates: Sequence[Candidate]) -> None:
        """Have other machines screen all of these at once, so that only short turns are left to do here."""
        if self.session.fan is None or not self.requests:
            return
        await self.session.workers.end_all()
        await self.session.fan.screens(
            {digest_of(["screen", self._keys(one)["screen"]]): one for one in candidates},
            self.requests,
            self.results,
            vocab_size=self.exam.vocab_size,
            on_done=lambda title, done, total: self.session.say("screen", f"{title}, on the cluster", done, total),
        )

    def _keys(self, candidate: Candidate) -> dict[str, Any]:
        """What each part of a look depends on."""
        beside = ["lowest and highest", self.machine.digest, self.workload, candidate.deployment.digest, self.baseline.deployment.digest]
        if not self.requests:
            return {"probe": beside}
        return {"screen": [candidate.numeric_sha256, self.reference.numeric_sha256, self.requests], "probe": beside}

    async def _baseline_worker(self) -> WorkerClient:
        if self.beside is None:
            self.beside = await self.stack.enter_async_context(served(self.baseline))
        return self.beside


def why_screened_out(found: ScreenResult | None, policy: Policy) -> str:
    """Why a candidate is surely beyond the text margin, by figures; empty if it may pass or the policy has no such gate."""
    gate = next((gate for gate in policy.gates if gate.suite == "text" and gate.required), None)
    if found is None or gate is None:
        return ""
    if not surely_lost(found.delta_nats_per_token, found.delta_se, gate.margin):
        return ""
    return (
        f"It loses {-found.delta_nats_per_token:.3f} ± {found.delta_se:.3f} nats per token on {found.n_tokens:,} tokens of search texts "
        f"(margin {gate.margin:g}; KL at least {found.kl_nats:.3f}, same first choice in {100 * found.top1_agreement:.0f} % of places)."
    )


def screen_evidence(found: ScreenResult | None) -> dict[str, Any] | None:
    """The screen as the documents show it: loss with a two-standard-error interval."""
    if found is None:
        return None
    plain: dict[str, Any] = to_plain(found)
    return plain | {
        "low": found.delta_nats_per_token - 2 * found.delta_se,
        "high": found.delta_nats_per_token + 2 * found.delta_se,
    }


def pick_finalists(
    probes: Mapping[str, Probe],
    losses: Mapping[str, float],
    passing: Sequence[str],
    engines: Mapping[str, str],
    *,
    baseline: str,
    same_file: Sequence[str],
    n_rivals: int,
    weights: Mapping[str, str] | None = None,
) -> list[str]:
    """Which candidates are timed against the baseline, most important first, at most `n_rivals`.

    The fastest that may pass; the fastest of the baseline's own engine that may pass; the fastest that reads the very file the user has
    but was screened out, because that is what a comparison of speeds alone would have picked; the fastest of other weights than the first,
    because weights that fail a gate fail it with other settings too; then the rest by speed.
    weights: candidate -> recipe, so that those can be told apart
    losses: divergence from the reference on the search texts; of several that are about as fast, the closest to it goes first
    """
    ranked = sorted((name for name in passing if name != baseline), key=lambda name: -probes[name].ratio)
    own = [name for name in ranked if engines[name] == engines[baseline]]
    lost = sorted((name for name in same_file if name not in passing and name in probes), key=lambda name: -probes[name].ratio)
    tempting = [name for name in lost if not ranked or probes[name].ratio > 1.0]
    first = _closest(ranked, probes, losses)
    others = [name for name in ranked if weights and first and weights[name] != weights[first[0]] and engines[name] != engines[baseline]]
    order = [*first, *_closest(own, probes, losses), *tempting[:1], *_closest(others, probes, losses), *ranked]
    return list(dict.fromkeys(order))[:n_rivals]


def _closest(ranked: Sequence[str], probes: Mapping[str, Probe], losses: Mapping[str, float]) -> list[str]:
    """Of those that are as fast as the first within what a short turn can tell, the one that is closest to the reference."""
    near = [name for name in ranked if probes[name].ratio >= AS_FAST * probes[ranked[0]].ratio]
    return sorted(near, key=lambda name: losses.get(name, 0.0))[:1]
