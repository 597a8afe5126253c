"""`trimtab evaluate` of a server: scored where it gives log-probabilities of given text, else asked and judged by what it answers.

Both sides of one evaluation are put the same questions in the same way, so that a change is a change of the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trimtab.core.endpoint import Answer
from trimtab.core.errors import InputError
from trimtab.core.evidence import Item, Outcome
from trimtab.core.files import digest_of
from trimtab.evaluate.answers import AskedPrompt
from trimtab.evaluate.as_text import UNIT_ASKED, UNIT_SCORED, answered_outcome, question_of, scored_outcome, texts_to_score
from trimtab.evaluate.suites.core import is_request
from trimtab.evaluate.suites.registry import Suite
from trimtab.flows.events import OnEvent
from trimtab.flows.parts.answering import EndpointSide, Side
from trimtab.flows.parts.document import versions
from trimtab.flows.parts.evaluated import suite_row, write_evaluated
from trimtab.flows.parts.opening import own_recipes_digest
from trimtab.flows.parts.refusing import Requests, refusals_in_answers, refusals_of, requests_to_answer
from trimtab.flows.parts.session import Session, open_run
from trimtab.flows.parts.sides import open_sides
from trimtab.sources.endpoint import is_endpoint

SLOTS = 4
TEXTS_AT_ONCE = 64
"""What is scored or answered between two looks at the clock, and kept together for a run that goes on."""
Way = Literal["scored", "answered", "left out"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the items of one sub-suite are put to all sides. n_left_out: items that cannot be asked, of an answered one; why: not scored."""

    suite: str
    way: Way
    items: tuple[Item, ...]
    questions: tuple[AskedPrompt, ...] = ()
    n_left_out: int = 0
    why: str = ""

    @property
    def unit(self) -> str:
        return UNIT_ASKED if self.way == "answered" else UNIT_SCORED[self.items[0].scorer]

    @property
    def document(self) -> dict[str, Any]:
        return {"suite": self.suite, "way": self.way, "n": len(self.items), "n_left_out": self.n_left_out, "why": self.why}


async def evaluate_answers(
    model: str,
    reference: str,
    *,
    suites: Sequence[Suite],
    out: Path,
    fresh: bool,
    offline: bool,
    limit_s: float,
    seed: int,
    on_event: OnEvent,
) -> dict[str, Any]:
    """Levels of a server, or of a file beside one, on suites; written to `out`, and returned as JSON types.

    reference: empty = none. Raises InputError, MissingError, InfeasibleError; ExchangeFailed if a server answers no chat request.
    """
    specs = {"": model} | ({"reference": reference} if reference else {})
    files = [spec for spec in specs.values() if not is_endpoint(spec)]
    async with (
        open_run(
            out=out,
            digests={
                "models": digest_of(list(specs.values())),
                "suite": digest_of([suite.digest for suite in suites]),
                "kind": "answers",
                **own_recipes_digest(files),
            },
            inputs={"model": model, "reference": reference, "suites": [suite.name for suite in suites]},
            versions=versions(),
            fresh=fresh,
            offline=offline,
            limit_s=limit_s,
            seed=seed,
            on_event=on_event,
        ) as session,
        open_sides(session, specs, slots=SLOTS) as sides,
    ):
        plans = plans_for([item for suite in suites for item in suite.items], sides)
        found, answers = await _gathered(session, sides, plans)
        refusals = await _refusals(session, sides, plans, answers)
        for side in sides:
            if isinstance(side, EndpointSide):
                await side.look_again()
        asked = {item.id: item for plan in plans for item in plan.items if plan.way != "left out"}
        for side, outcomes in zip(sides, found, strict=True):
            for name in dict.fromkeys(one.suite for one in outcomes):
                session.run.put_outcomes(side.digest, name, [one for one in outcomes if one.suite == name])
        return write_evaluated(
            session,
            model=sides[0].document(),
            reference=sides[1].document() if reference else None,
            outcomes=found[0],
            before=found[1] if reference else None,
            units={plan.suite: plan.unit for plan in plans},
            items=asked,
            kinds={key: kind for suite in suites for key, kind in suite.kinds.items()},
            suite=suite_row(suites, digest_of([suite.digest for suite in suites]), asked, (item.language for item in asked.values())),
            refusals=refusals,
            more={"asked": [plan.document for plan in plans], "changed": [told for side in sides if (told := side.changed())]},
        )


def plans_for(items: Sequence[Item], sides: Sequence[Side]) -> list[Plan]:
    """How each sub-suite is put to these sides. Raises InputError where nothing of all of them can be."""
    by_suite: dict[str, list[Item]] = {}
    for item in items:
        by_suite.setdefault(item.suite, []).append(item)
    plans = [_plan(suite, found, sides) for suite, found in by_suite.items()]
    if all(plan.way == "left out" for plan in plans):
        raise InputError(
            f"Nothing of {', '.join(by_suite)} can be asked without log-probabilities: {plans[0].why}. Ask for core or safety."
        )
    return plans


def _plan(suite: str, items: Sequence[Item], sides: Sequence[Side]) -> Plan:
    is_chat = any(item.chat for item in items)
    silent = next((side for side in sides if not (side.scores_chats if is_chat else side.can_score)), None)
    if silent is None:
        return Plan(suite=suite, way="scored", items=tuple(items))
    why = f"{silent.id} gives no log-probabilities of {'answers in its chat template' if silent.can_score else 'given text'}"
    asked = [(item, question) for item in items if (question := question_of(item)) is not None]
    if not asked:
        return Plan(suite=suite, way="left out", items=tuple(items), n_left_out=len(items), why=why)
    kept, questions = zip(*asked, strict=True)
    return Plan(suite=suite, way="answered", items=kept, questions=questions, n_left_out=len(items) - len(kept), why=why)


Answers = Mapping[str, Answer]
"""By item id, of what was asked."""


async def _gathered(session: Session, sides: Sequence[Side], plans: Sequence[Plan]) -> tuple[list[tuple[Outcome, ...]], list[Answers]]:
    """Outcomes and answers of each side, in turns by portions, so that what changes with time meets all sides alike."""
    outcomes: list[list[Outcome]] = [[] for _ in sides]
    answers: list[dict[str, Answer]] = [{} for _ in sides]
    total = len(sides) * sum(len(plan.items) for plan in plans if plan.way != "left out")
    done = 0
    for plan in plans:
        for portion in _portions(plan):
            for place, side in enumerate(sides):
                if plan.way == "scored":
                    outcomes[place] += await _scored(side, portion.items)
                else:
                    given = await side.answers(portion.questions, 1)
                    answers[place] |= {item.id: answer for item, answer in zip(portion.items, given, strict=True)}
                    outcomes[place] += map(answered_outcome, portion.items, portion.questions, given)
                done += len(portion.items)
                session.say("evaluate", f"{plan.suite}: {plan.way}", done, total)
    return [tuple(found) for found in outcomes], list(answers)


def _portions(plan: Plan) -> list[Plan]:
    """The items in portions of about TEXTS_AT_ONCE texts, none of what is left out."""
    if plan.way == "left out":
        return []
    texts = max(1, len(plan.items[0].options)) if plan.way == "scored" else 1
    size = max(1, TEXTS_AT_ONCE // texts)
    starts = range(0, len(plan.items), size)
    return [
        Plan(suite=plan.suite, way=plan.way, items=plan.items[start : start + size], questions=plan.questions[start : start + size])
        for start in starts
    ]


async def _scored(side: Side, items: Sequence[Item]) -> list[Outcome]:
    texts = [texts_to_score(item) for item in items]
    scores = iter(await side.score([text for each in texts for text in each], may_recall=True))
    return [scored_outcome(item, [next(scores) for _ in each]) for item, each in zip(items, texts, strict=True)]


async def _refusals(session: Session, sides: Sequence[Side], plans: Sequence[Plan], answers: Sequence[Answers]) -> list[dict[str, Any]]:
    """Rows on refusals in answers: of all requests where they were asked anyway, else of a few."""
    items = [item for plan in plans for item in plan.items if is_request(item)]
    if not any(item.id in answers[0] for item in items):
        return await refusals_in_answers(session, sides[0], sides[1] if len(sides) > 1 else None, requests_to_answer(items))
    asked: Requests = requests_to_answer([item for item in items if item.id in answers[0]], most=len(items))
    own, *others = ({kind: [given[one.id] for one in prompts] for kind, prompts in asked.items()} for given in answers)
    return refusals_of(session, asked, own, others[0] if others else {})
