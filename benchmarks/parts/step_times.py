"""Step times of a served model, measured from outside: what its streams' token times say of decoding, prompts, and both in one step."""

import asyncio
import itertools
import json
import random
import statistics
import time
from dataclasses import dataclass, replace

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


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is timed: (sequences that decode, prompt of each), prompts alone, (sequences that decode, prompt beside them)."""

    decoding: tuple[tuple[int, int], ...] = (*((batch, 16) for batch in (1, 2, 3, 4, 6, 8)), (1, 600), (4, 400), (8, 150))
    alone: tuple[int, ...] = (24, 96, 192, 384, 640)
    beside: tuple[tuple[int, int], ...] = ((2, 48), (2, 256), (6, 128), (6, 384))

    @property
    def batches(self) -> list[int]:
        return sorted({batch for batch, _ in self.decoding})


QUICK = Settings(decoding=((1, 16), (8, 16), (1, 300)), alone=(24, 300), beside=((4, 200),))
DECODED = 40


def observed_steps(url: str, model: str, vocab: int, settings: Settings, *, seed: int) -> list[Observed]:
    """Timed steps, each setting once, with fresh prompts."""
    draw, rows = random.Random(seed), []

    def ask(group: list[Asked]) -> list[Stream]:
        found = asyncio.run(streams(url, model, group, draw, vocab))
        if errors := {stream.error for stream in found if stream.error}:
            raise RuntimeError(f"a calibrating request was not answered: {sorted(errors)[0]}")
        return found

    ask([Asked(prompt_tokens=16, output_tokens=8)] * max(settings.batches))
    rows += [_decoding(ask([Asked(prompt_tokens=prompt, output_tokens=DECODED)] * batch)) for batch, prompt in settings.decoding]
    for prompt in settings.alone:
        stream = ask([Asked(prompt_tokens=prompt, output_tokens=2)])[0]
        rows.append(Observed(seconds=stream.times_s[0] - stream.due_s, prompt_tokens=prompt))
    for others, prompt in settings.beside:
        late = Asked(prompt_tokens=prompt, output_tokens=2, at_s=0.5)
        rows.append(_beside(ask([*[Asked(prompt_tokens=16, output_tokens=60)] * others, late])))
    return rows


def medians(rounds: list[list[Observed]]) -> list[Observed]:
    """Each setting's median over rounds: a disturbed step does not count."""
    return [replace(rows[0], seconds=statistics.median(row.seconds for row in rows)) for rows in zip(*rounds, strict=True)]


def _decoding(found: list[Stream]) -> Observed:
    """The time per token of whoever got its first token last: all others decoded beside it to the end but for a step or two.

    Pieces of a stream may hold several tokens, or none, but the first and the last come with theirs.
    """
    last = max(found, key=lambda stream: stream.times_s[0])
    seconds = (last.times_s[-1] - last.times_s[0]) / (last.asked.output_tokens - 1)
    return Observed(seconds=seconds, batch=len(found), mean_context=last.asked.prompt_tokens + last.asked.output_tokens / 2)


def _beside(found: list[Stream]) -> Observed:
    """The step that a late prompt shared with the others: the longest gap between their pieces, of whom it is shortest."""
    *others, late = found
    longest = [max(b - a for a, b in itertools.pairwise(stream.times_s)) for stream in others]
    return Observed(seconds=min(longest), batch=len(others), mean_context=40.0, prompt_tokens=late.asked.prompt_tokens)
