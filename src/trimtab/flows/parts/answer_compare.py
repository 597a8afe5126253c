"""Two sides judged by what they answer: servers, or a file and a server, or two files on prompts of one's own."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.core.decision import CandidateResult, Decision, Verdict
from trimtab.core.errors import InputError
from trimtab.core.evidence import Item, Outcome
from trimtab.core.files import canonical_json, digest_of, to_plain
from trimtab.core.workload import Workload, WorkloadRequest
from trimtab.decide.decide import decide
from trimtab.decide.policies import load_policy, policy_sha256
from trimtab.evaluate.answers import AskedPrompt, asked_prompts
from trimtab.evaluate.generation import generation_prompts
from trimtab.evaluate.requests import PreparedSuite
from trimtab.evaluate.suites.registry import Suite
from trimtab.flows.events import OnEvent
from trimtab.flows.parts.answer_evidence import Gathered, evidence_of, gates_read, gather
from trimtab.flows.parts.answer_timing import time_sides
from trimtab.flows.parts.answering import EndpointSide, Side
from trimtab.flows.parts.certify import Certified
from trimtab.flows.parts.document import decision_document, noise_row, versions, write_files
from trimtab.flows.parts.exam import Exam, load_suites
from trimtab.flows.parts.session import Session, open_run
from trimtab.flows.parts.sides import open_sides
from trimtab.flows.parts.timing import Timed
from trimtab.measure.machine import machine as this_machine
from trimtab.plan.requests import read_prompts
from trimtab.stats.rates import paired_rate_change

POLICY = "answers"
ANSWER_TOKENS, SHORT_TOKENS = 128, 48
"""Most tokens of an answer to the shipped prompts: to open questions, and to instructions."""
CONCURRENCY = (1, 4)
TIMING_S = 60.0


async def compare_answers(
    a: str,
    b: str,
    *,
    policy: str,
    suites: Sequence[str],
    prompts: str | None,
    timing: bool,
    out: Path,
    fresh: bool,
    offline: bool,
    limit_s: float,
    seed: int,
    on_event: OnEvent,
) -> dict[str, Any]:
    """Judge B's answers against A's, write the run directory, and return decision.json as JSON types.

    policy: `standard` means `answers`. suites: their plain texts are scored where both sides give log-probabilities of given text.
    Raises InputError, MissingError; InfeasibleError or ExchangeFailed if a side cannot be asked at all.
    """
    loaded = load_suites(suites)
    workload = workload_of(prompts, loaded)
    asked = asked_prompts([(request.messages, request.output_tokens) for request in workload.requests])
    chosen = load_policy(POLICY if policy == "standard" else policy)
    digests = {
        "candidates": digest_of([a, b]),
        "policy": policy_sha256(chosen),
        "workload": digest_of(workload),
        "suite": digest_of([suite.digest for suite in loaded]),
        "kind": "answers",
    }
    inputs = {"a": a, "b": b, "policy": chosen.name, "workload": workload.name}
    async with (
        open_run(
            out=out,
            digests=digests,
            inputs=inputs,
            versions=versions(),
            fresh=fresh,
            offline=offline,
            limit_s=limit_s,
            seed=seed,
            on_event=on_event,
        ) as session,
        # Lengths are guesses until a tokenizer has counted: four characters a token is too few for some languages, so there is room.
        open_sides(session, {"A": a, "B": b}, slots=max(workload.concurrency), context_tokens=2 * workload.context_tokens) as (
            reference,
            candidate,
        ),
    ):
        kept, notes = gates_read(chosen, reference, candidate, asked)
        session.say("power", _what_n_can_show(len(asked), kept.alpha / kept.max_attempts))
        texts = [item for suite in loaded for item in suite.items if item.scorer == "nats_per_token" and not item.chat and not item.prompt]
        found = await gather(session, reference, candidate, asked)
        evidence = await evidence_of(session, reference, candidate, asked, texts, kept, found)
        timed: dict[str, Timed] = {}
        if timing:
            timed, left = await time_sides(session, reference, candidate, asked, workload.concurrency, TIMING_S)
            notes += left
        for side in (reference, candidate):
            if isinstance(side, EndpointSide):
                await side.look_again()
        decision = with_changes(decide(kept, evidence), [side.changed() for side in (reference, candidate)])
        certified = Certified(decision=decision, reference=evidence.reference, candidate=evidence.candidate, evidence=evidence)
        _write_answers(session, asked, found)
        return _finish(session, reference, candidate, certified, timed, workload, kept, loaded, asked, texts, notes, a)


def workload_of(prompts: str | None, suites: Sequence[Suite]) -> Workload:
    """The user's prompts, or those that ship: open questions, and the instructions of the suites. Raises InputError."""
    if prompts is not None:
        path = Path(prompts)
        if not path.is_file():
            raise InputError(f'{path} does not exist; give a file with one JSON object a line, such as {{"prompt": "..."}}.')
        return read_prompts(path)
    told = [(text, ANSWER_TOKENS) for text in generation_prompts()]
    told += [(item.prompt, SHORT_TOKENS) for suite in suites for item in suite.items if item.chat and item.suite == "instruct"]
    requests = tuple(WorkloadRequest(prompt_tokens=0, output_tokens=most, messages=(("user", text),)) for text, most in told)
    return Workload(
        name="shipped prompts",
        title=f"{len(requests)} shipped prompts",
        prompt_tokens=32,
        output_tokens=ANSWER_TOKENS,
        concurrency=CONCURRENCY,
        requests=requests,
    )


def with_changes(decision: Decision, changes: Sequence[str]) -> Decision:
    """The decision, or that nothing was decided because a side was not one model from beginning to end."""
    told = tuple(change for change in changes if change)
    if not told:
        return decision
    return dataclasses.replace(decision, verdict="inconclusive", reasons=(*told, *decision.reasons))


def _what_n_can_show(n: int, alpha: float) -> str:
    """What a number of prompts can tell of yes-or-no outcomes, before anything is asked."""
    least = -(paired_rate_change(0, 0, n, 1.0 - 2.0 * alpha).low or 0.0) if n else 1.0
    return f"{n} prompts: with none newly broken they exclude that more than {100 * least:.0f} % break"


def _write_answers(session: Session, prompts: Sequence[AskedPrompt], found: Gathered) -> None:
    """answers.jsonl: what was asked and answered, for people to read."""
    rows = [
        {"id": prompt.id, "messages": prompt.plain, "reference": _said(first), "reference_again": _said(again), "candidate": _said(other)}
        for prompt, first, again, other in zip(prompts, found.first.answers, found.second.answers, found.candidate.answers, strict=True)
    ]
    session.run.write_text("answers.jsonl", "".join(canonical_json(row) + "\n" for row in rows))


def _said(answer: Any) -> dict[str, Any]:
    return {"text": answer.text, "finish": answer.finish, "n_tokens": answer.n_tokens, "n_tries": answer.n_tries, "error": answer.error}


def _finish(
    session: Session,
    reference: Side,
    candidate: Side,
    certified: Certified,
    timed: dict[str, Timed],
    workload: Workload,
    policy: Any,
    suites: Sequence[Suite],
    prompts: Sequence[AskedPrompt],
    texts: Sequence[Item],
    notes: Sequence[str],
    source: str,
) -> dict[str, Any]:
    """decision.json and the other files."""
    decision = certified.decision
    verdict: Verdict = decision.verdict
    named = candidate.document()
    found = timed.get(candidate.id)
    row = CandidateResult(
        id=candidate.id,
        engine=named["engine"],
        recipe=named["recipe"],
        settings=named["settings"],
        status="certified",
        verdict=verdict,
        reasons=decision.reasons,
        measurement=found.measurement if found else None,
        evidence={"gates": to_plain(decision.gates)},
        details=named,
    )
    session.run.put_candidate(row)
    for side, outcomes in ((reference, certified.reference), (candidate, certified.candidate)):
        for suite in dict.fromkeys(one.suite for one in outcomes):
            session.run.put_outcomes(side.digest, suite, [one for one in outcomes if one.suite == suite])
    base = timed.get(reference.id)
    exam = _exam(suites, prompts, texts, (*certified.reference, *certified.candidate))
    document = decision_document(
        session,
        kind="compare",
        verdict=verdict,
        reasons=decision.reasons,
        reference={**reference.document(), "source": source, "provenance": f"{source}, as given"},
        baseline={**reference.document(), "measurement": base.measurement if base else None},
        chosen=None,
        speedup={"over_baseline": found.ratios.get(reference.id, {}) if found else {}},
        certified=certified,
        candidates=[row],
        workload=workload,
        policy=policy,
        exam=exam,
        machine=this_machine(),
        noise=noise_row(None),
        skipped=[{"what": note.partition(": ")[0], "why": note.partition(": ")[2]} for note in notes],
    )
    document["judged_by"] = "answers"
    write_files(session, document, None, exam.items)
    return document


def _exam(suites: Sequence[Suite], prompts: Sequence[AskedPrompt], texts: Sequence[Item], outcomes: Sequence[Outcome]) -> Exam:
    """What was asked, in the form that documents are made from: an item for each prompt and each thing looked at in its answer."""
    empty = PreparedSuite(requests=())
    asked = {prompt.id: prompt.text.strip() for prompt in prompts}
    items = {
        one.item_id: Item(
            id=one.item_id, suite=one.suite, cluster=one.cluster, scorer="nats_per_token", options=("",), prompt=asked.get(one.cluster, "")
        )
        for one in outcomes
    }
    return Exam(
        name="prompts" + (f"+{'+'.join(suite.name for suite in suites)} texts" if texts else ""),
        version="+".join(suite.version for suite in suites),
        digest=digest_of([[(prompt.messages, prompt.max_tokens) for prompt in prompts], [suite.digest for suite in suites]]),
        items=items,
        search=empty,
        parts=(),
        sample=empty,
        pilot=empty,
        chat_prompts=(),
        chat_texts=(),
        vocab_size=0,
    )
