"""Healing in a search: the fastest candidate that only its loss ruled out is trained back towards the reference, and looked at again.

What comes out is a row like any other: screened, timed beside the baseline and certified, or not. It is trained on text that the reference
writes, never on items.
"""

import asyncio
import threading
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

from trimtab.core.errors import InfeasibleError, InputError, MissingError, StoppedError, TrimtabError
from trimtab.core.training import TrainConfig, TrainResult
from trimtab.flows.events import Event
from trimtab.flows.parts.heal_training import LOSS, Lessons, export, prepare
from trimtab.flows.parts.opening import AS_SHIPPED, recipe_named
from trimtab.flows.parts.reference import PromptMaker
from trimtab.flows.parts.screening import why_screened_out
from trimtab.flows.parts.search import Row, Search, build_plan, keep_s, look, screening_of
from trimtab.flows.parts.session import Session
from trimtab.flows.parts.space import Plan
from trimtab.flows.parts.train_launch import Follow, launch
from trimtab.flows.parts.train_told import told_by

LEAST_TOKENS, MOST_TOKENS = 16_384, 200_000
FLOPS_PER_WEIGHT = 7.0
"""Of a token trained: 6 for the student (Kaplan et al. 2020, arXiv:2001.08361), and half of the teacher's 2, which is asked in the first of
two passes only."""
START_TOKENS = 16_384
"""Rounding with compensation, and opening who writes the text, cost about as much as training on so many tokens."""
TRAINING_SHARE = 0.7
"""Of the time, for training. Writing its text takes a quarter of that (measured on two cores), and what is stopped before its end by the
time limit was for nothing in this run."""
WHAT = "healing"


async def heal_fastest(search: Search, make_prompts: PromptMaker) -> None:
    """Add a row for the healed form of the fastest candidate that was screened out, or say why there is none."""
    if not search.policy.healing:
        _skip(search, f"policy {search.policy.name!r} allows no trained weights")
        return
    rows = _lossy(search)
    if not rows:
        _skip(search, "no candidate that its loss ruled out is faster than all that may pass")
        return
    tokens = affordable_tokens(search.session.seconds_left - keep_s(search), search.card.n_params, search.machine.matmul_gflop_s)
    if tokens < LEAST_TOKENS and not search.session.run.steps("heal/"):  # a run that is taken up again has begun with enough
        _skip(
            search, f"the time limit leaves room for {max(tokens, 0):,} tokens to train on, less than the {LEAST_TOKENS:,} that are of use"
        )
        return
    for row in rows:
        try:
            healed = await _heal(search, row, tokens)
        except (InfeasibleError, InputError, MissingError, StoppedError) as error:
            _skip(search, f"{row.plan.id}: {error}")
            continue
        await _look(search, make_prompts, row, healed)
        return


def affordable_tokens(seconds: float, n_params: int, matmul_gflop_s: float | None) -> int:
    """Tokens that can be trained on in so much time, at the measured float32 rate of matrix products; 0 where that is not known."""
    token_s = FLOPS_PER_WEIGHT * n_params / ((matmul_gflop_s or 0.0) * 1e9) if matmul_gflop_s else float("inf")
    return min(MOST_TOKENS, int(TRAINING_SHARE * seconds / token_s) - START_TOKENS)


def _lossy(search: Search) -> list[Row]:
    """What is faster than the baseline and than everything that may still pass, and was ruled out by its loss alone; fastest first."""
    open_ratios = [row.probe.ratio for row in search.rows.values() if row.probe and not row.reasons]
    bar = max([1.0, *open_ratios])
    found = [
        row
        for row in search.rows.values()
        if row.candidate is not None
        and row.probe is not None
        and row.probe.ratio > bar
        and row.reasons == [why_screened_out(row.screen, search.policy)]
    ]
    return sorted(found, key=lambda row: -row.probe.ratio if row.probe else 0.0)


async def _heal(search: Search, row: Row, tokens: int) -> Path:
    """The trained file. Raises InfeasibleError for what lies on no grid, StoppedError at the time limit: the same command goes on."""
    assert row.candidate is not None
    session = search.session
    folder = session.run.path / WHAT / row.candidate.deployment.digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    # So many tokens as the first start had time for: a run that is taken up again is the same run.
    tokens = int(session.run.step(f"heal/{folder.name}", lambda: tokens))
    session.say("heal", f"{row.plan.id} on {tokens:,} tokens")
    student, config = await prepare(session, search.opened, row.candidate.snapshot, Lessons(tokens=tokens), folder)
    result = await _trained(session, config, folder / "train", session.seconds_left - keep_s(search))
    return export(student, result, folder)


async def _trained(session: Session, config: TrainConfig, out: Path, limit_s: float) -> TrainResult:
    """The training, in processes that a thread follows; who interrupts this one stops them with a checkpoint."""
    loop = asyncio.get_running_loop()
    interrupted = threading.Event()

    def say(event: Event) -> None:
        loop.call_soon_threadsafe(session.say, "heal", event.message)

    tell = told_by(say, LOSS)

    def follow(news: Follow) -> None:
        tell(news)
        if interrupted.is_set():
            interrupted.clear()
            raise KeyboardInterrupt

    running = loop.run_in_executor(None, partial(launch, config, out, processes=1, time_limit_s=max(1.0, limit_s), follow=follow))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        interrupted.set()
        with suppress(TrimtabError):
            await running
        raise


async def _look(search: Search, make_prompts: PromptMaker, row: Row, healed: Path) -> None:
    """Screen and probe the healed file as a row of its own, with the settings of the candidate that it was."""
    assert row.candidate is not None
    recipe = recipe_named(AS_SHIPPED if healed.is_file() else "gguf", row.plan.engine)
    plan = Plan(id=f"{row.plan.id}, healed", engine=row.plan.engine, recipe=recipe, extra=row.plan.extra, source=str(healed))
    own = Row(plan=plan)
    search.rows[plan.id] = own
    async with AsyncExitStack() as stack:
        screening = screening_of(search, make_prompts, stack)
        await screening.score_reference()
        try:
            own.candidate = await build_plan(search, plan)
            await look(search, screening, own, len(search.rows))
        except (InfeasibleError, MissingError) as error:
            search.note(own, "infeasible", str(error))
            return
    search.note(own, "screened", why_screened_out(own.screen, search.policy))


def _skip(search: Search, why: str) -> None:
    search.session.say("heal", f"not done: {why}")
    search.skipped.append({"what": WHAT, "why": why})
