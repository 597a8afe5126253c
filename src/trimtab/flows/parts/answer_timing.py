"""Latency of two sides as their users see it: the same fresh prompts to both in turns, streamed, over the network where there is one."""

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from trimtab.core.endpoint import Answer
from trimtab.core.files import to_plain
from trimtab.core.measurement import LoadPoint, Measurement
from trimtab.evaluate.answers import AskedPrompt
from trimtab.evaluate.prompts import marked
from trimtab.flows.parts.answering import Side
from trimtab.flows.parts.session import Session
from trimtab.flows.parts.timing import Timed
from trimtab.stats.ratios import log_ratio_interval, percentiles

ROUNDS_LEAST, ROUNDS_MOST = 3, 8
PROMPTS_A_ROUND = 4
OUTPUT_TOKENS = 64
SEED = 41
"""Apart from other seeds of fresh prompts."""
Round = tuple[tuple[Answer, ...], float]
"""Answers of one closed loop, and its seconds."""


async def time_sides(
    session: Session, reference: Side, candidate: Side, prompts: Sequence[AskedPrompt], levels: Sequence[int], budget_s: float
) -> tuple[dict[str, Timed], list[str]]:
    """Both sides' numbers by their ids, and sentences about levels that were left out. Nothing is read from a cache."""
    rounds: dict[str, dict[int, list[Round]]] = {side.id: {} for side in (reference, candidate)}
    notes: list[str] = []
    for level in levels:
        narrow = next((side for side in (reference, candidate) if side.concurrency < level), None)
        if narrow is not None:
            notes.append(f"timing with {level} in flight: {narrow.id} is asked at most {narrow.concurrency} at once")
            continue
        why = await _time_level(session, (reference, candidate), prompts, level, budget_s / len(levels), rounds)
        notes += [f"timing with {level} in flight: {why}"] if why else []
    return {side.id: _timed(side, reference, rounds) for side in (reference, candidate)}, notes


async def _time_level(
    session: Session,
    sides: tuple[Side, Side],
    prompts: Sequence[AskedPrompt],
    level: int,
    budget_s: float,
    rounds: dict[str, dict[int, list[Round]]],
) -> str:
    """Rounds at one level until the budget is used; the first is a warm-up. Returns why there are none, empty if there are."""
    n = max(PROMPTS_A_ROUND, level)
    ends = time.monotonic() + budget_s
    for number in range(ROUNDS_MOST + 1):
        if (number > ROUNDS_LEAST and time.monotonic() > ends) or session.seconds_left <= 0:
            break
        asked = [prompts[(number * n + place) % len(prompts)] for place in range(n)]
        seeds = [SEED * 1_000_003 + session.seed * 10_007 + level * 1009 + number * n + place for place in range(n)]
        pair: dict[str, Round] = {}
        for side in sides if number % 2 == 0 else sides[::-1]:
            session.say("time", f"round {number} at {level} in flight: {side.id}", number, ROUNDS_MOST + 1)
            pair[side.id] = await _round(side, asked, seeds, level)
        if any(_finished(answers) == [] for answers, _ in pair.values()):
            return "no request of a round was answered whole"
        for name, found in pair.items() if number else ():
            rounds[name].setdefault(level, []).append(found)
    session.say("time", f"{level} in flight", 1, 1)
    return "" if any(level in by_level for by_level in rounds.values()) else "the time limit left no room for it"


async def _round(side: Side, prompts: Sequence[AskedPrompt], seeds: Sequence[int], level: int) -> Round:
    """Every prompt once, `level` in flight."""
    waiting: Iterator[tuple[AskedPrompt, int]] = iter(list(zip(prompts, seeds, strict=True)))
    found: list[Answer] = []

    async def user() -> None:
        for prompt, seed in waiting:
            found.append(await side.asked(marked(prompt.messages, seed), min(prompt.max_tokens, OUTPUT_TOKENS)))

    began = time.monotonic()
    await asyncio.gather(*(user() for _ in range(level)))
    return tuple(found), time.monotonic() - began


def _finished(answers: Sequence[Answer]) -> list[Answer]:
    """Streamed answers with at least two tokens: others have no time per token. A repeated request is timed from its last try."""
    return [answer for answer in answers if not answer.error and len(answer.piece_ns) > 1 and answer.n_tokens > 1]


def _ttft_ms(answer: Answer) -> float:
    return (answer.piece_ns[0] - answer.submit_ns) / 1e6


def _tpot_ms(answer: Answer) -> float:
    """By the server's count of tokens where it counts: one piece may hold several."""
    return (answer.piece_ns[-1] - answer.piece_ns[0]) / (answer.n_tokens - 1) / 1e6


def _e2e_ms(answer: Answer) -> float:
    return (answer.piece_ns[-1] - answer.submit_ns) / 1e6


METRICS: dict[str, Callable[[Answer], float]] = {"e2e_ms_p50": _e2e_ms, "ttft_ms_p50": _ttft_ms, "tpot_ms_p50": _tpot_ms}


def _timed(side: Side, reference: Side, rounds: dict[str, dict[int, list[Round]]]) -> Timed:
    own = rounds[side.id]
    if not own:
        return Timed(measurement=None, ratios={}, left="not timed")
    ratios: dict[str, dict[str, Any]] = {}
    if side is not reference:
        for level, found in own.items():
            base = rounds[reference.id][level]
            for name, value in METRICS.items():
                ratio = log_ratio_interval([_median(one, value) for one in base], [_median(one, value) for one in found])
                ratios.setdefault(str(level), {})[name] = to_plain(ratio)
    tokens = [answer.n_tokens for found in own.values() for answers, _ in found for answer in _finished(answers)]
    conditions = {
        "where": "as a client sees it, over the network where the side is a server",
        "answers": f"greedy, at most {OUTPUT_TOKENS} tokens, ended where the model ends them; median {statistics.median(tokens):.0f}",
    }
    points = tuple(_point(level, found) for level, found in sorted(own.items()))
    return Timed(measurement=to_plain(Measurement(points=points, conditions=conditions)), ratios={reference.id: ratios}, left="")


def _median(one: Round, value: Callable[[Answer], float]) -> float:
    return max(1e-6, statistics.median(value(answer) for answer in _finished(one[0])))


def _point(level: int, rounds: Sequence[Round]) -> LoadPoint:
    asked = [answer for answers, _ in rounds for answer in answers]
    finished = _finished(asked)
    gaps = [(after - before) / 1e6 for one in finished for before, after in zip(one.piece_ns, one.piece_ns[1:], strict=False)]
    tpot = percentiles([_tpot_ms(one) for one in finished], "ms")
    rates = tuple(sum(one.n_tokens for one in _finished(answers)) / seconds for answers, seconds in rounds)
    seconds = sum(seconds for _, seconds in rounds)
    return LoadPoint(
        concurrency=level,
        n_requests=len(asked),
        failed=len(asked) - len(finished),
        ttft_ms=percentiles([_ttft_ms(one) for one in finished], "ms"),
        tpot_ms=tpot,
        itl_ms=percentiles(gaps, "ms"),
        e2e_ms=percentiles([_e2e_ms(one) for one in finished], "ms"),
        prefill_tok_s=float("nan"),  # a server need not say how many tokens a prompt has
        decode_tok_s=1000 / max(1e-6, tpot.p50),
        output_tok_s=sum(one.n_tokens for one in finished) / seconds,
        round_tok_s=rates,
    )
