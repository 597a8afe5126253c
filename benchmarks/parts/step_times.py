"""Step times of a served model, measured from outside: what its streams' token times say of decoding, prompts, and both in one step."""

import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass

import aiohttp

from trimtab.plan.fleet.steps import Observed

FIRST_TOKEN_ID = 300
"""Prompts are random ids from here on: below lie bytes and special tokens."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request; at_s after the start of its group."""

    prompt_tokens: int
    output_tokens: int
    at_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Stream:
    """When it was due and when its pieces came, seconds on one clock. error: empty if it was answered."""

    asked: Asked
    due_s: float
    times_s: tuple[float, ...]
    error: str = ""


async def streams(url: str, model: str, group: list[Asked], draw: random.Random, vocab: int) -> list[Stream]:
    """Send each when it is due, whatever became of the others."""
    began_s = time.monotonic() + 0.05
    prompts = [[draw.randrange(FIRST_TOKEN_ID, vocab) for _ in range(asked.prompt_tokens)] for asked in group]

    async def one(session: aiohttp.ClientSession, asked: Asked, prompt: list[int]) -> Stream:
        due_s = began_s + asked.at_s
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        body = {"model": model, "prompt": prompt, "max_tokens": asked.output_tokens, "ignore_eos": True, "stream": True}
        times = []
        try:
            async with session.post(f"{url}/completions", data=json.dumps(body), headers={"Content-Type": "application/json"}) as response:
                if response.status != 200:
                    return Stream(asked=asked, due_s=due_s, times_s=(), error=(await response.text())[:200])
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        times.append(time.monotonic())
        except aiohttp.ClientError as error:
            return Stream(asked=asked, due_s=due_s, times_s=(), error=str(error))
        return Stream(asked=asked, due_s=due_s, times_s=tuple(times))

    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        return list(await asyncio.gather(*(one(session, asked, prompt) for asked, prompt in zip(group, prompts, strict=True))))


def observed_steps(url: str, model: str, vocab: int, *, batches: list[int], rounds: int) -> list[Observed]:
    """Timed steps, all with fresh prompts: decoding by batch and context, prompts alone, a prompt beside others that decode."""
    draw, rows = random.Random(1), []

    def ask(group: list[Asked]) -> list[Stream]:
        found = asyncio.run(streams(url, model, group, draw, vocab))
        if errors := {stream.error for stream in found if stream.error}:
            raise RuntimeError(f"a calibrating request was not answered: {sorted(errors)[0]}")
        return found

    ask([Asked(prompt_tokens=16, output_tokens=8)] * max(batches))
    for _ in range(rounds):
        for batch in batches:
            for prompt in (16, 200):
                rows.append(_decoding(ask([Asked(prompt_tokens=prompt, output_tokens=40)] * batch)))
        for prompt in (24, 96, 192, 384, 640):
            stream = ask([Asked(prompt_tokens=prompt, output_tokens=2)])[0]
            rows.append(Observed(seconds=stream.times_s[0] - stream.due_s, prompt_tokens=prompt))
        for others, prompt in ((2, 48), (2, 256), (6, 128), (6, 384)):
            late = Asked(prompt_tokens=prompt, output_tokens=2, at_s=0.5)
            rows.append(_beside(ask([*[Asked(prompt_tokens=16, output_tokens=60)] * others, late])))
    return rows


def _decoding(found: list[Stream]) -> Observed:
    """The mean gap between tokens while all of a group decode."""
    begin_s, end_s = max(stream.times_s[0] for stream in found), min(stream.times_s[-1] for stream in found)
    gaps, contexts = [], []
    for stream in found:
        inside = [place for place, at_s in enumerate(stream.times_s) if begin_s <= at_s <= end_s]
        if len(inside) > 2:
            gaps.append((stream.times_s[inside[-1]] - stream.times_s[inside[0]]) / (len(inside) - 1))
            contexts.append(stream.asked.prompt_tokens + (inside[0] + inside[-1]) / 2)
    return Observed(seconds=statistics.median(gaps), batch=len(found), mean_context=statistics.fmean(contexts))


def _beside(found: list[Stream]) -> Observed:
    """The step that a late prompt shared with the others: the longest gap between tokens of each of them."""
    *others, late = found
    longest = [max(b - a for a, b in zip(stream.times_s, stream.times_s[1:], strict=False)) for stream in others]
    return Observed(seconds=statistics.median(longest), batch=len(others), mean_context=40.0, prompt_tokens=late.asked.prompt_tokens)
