"""The simulated fleet: how fast it is, and how near to the real gateway with a real engine on a replayed trace.

usage: python benchmarks/planner_simulate.py [--quick] [--trace azure_llm_conv.csv] [--lock deploy.toml] [--seconds S] [--no-replay]

speed: --requests requests of a conversation's lengths on eight replicas of 64 slots at four fifths of what they can take, on one core.
replay: step times are measured through the gateway on requests made for that; then rows of the trace (default: a made-up one), their
lengths divided by --shrink, are sent when they are due for S seconds, at --load of what the fitted step times say one slot can take. The
simulation gets the same arrivals and lengths. TTFT and end to end, p50 and p95, simulated over real.

--quick: 100,000 requests, a replay of 20 s. The last line of stdout is one JSON object: name, figures, targets, ok.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from parts.demo_lock import write_demo_lock
from parts.gateway_process import gateway
from parts.step_times import QUICK, Asked, Settings, Stream, medians, observed_steps, streams

from trimtab.core import deployment
from trimtab.core.workload import Workload, WorkloadRequest
from trimtab.plan.fleet.events import simulate
from trimtab.plan.fleet.results import Latencies, latencies
from trimtab.plan.fleet.settings import Batching, Fleet, Kind, policy_of
from trimtab.plan.fleet.steps import AffineSteps, Observed, fitted, tabled
from trimtab.plan.fleet.traces import Trace, made_trace, read_fleet_trace

TARGETS = {"million_s": 60.0, "error": 0.15}
BATCH_TOKENS = 2048
"""What the llama.cpp engine takes into one step unless told otherwise."""
A_GPU = AffineSteps(fixed_s=0.008, sequence_s=3e-5, context_token_s=3e-8, prompt_token_s=6e-5)


def lengths(seed: int, n: int) -> tuple[WorkloadRequest, ...]:
    """Prompts and answers log-normal, as they roughly are in the published traces."""
    draw = random.Random(seed)
    pairs = [[max(8, round(draw.lognormvariate(middle, 0.8))) for middle in (6.6, 5.0)] for _ in range(n)]
    return tuple(WorkloadRequest(prompt_tokens=min(p, 8000), output_tokens=min(o, 1500)) for p, o in pairs)


def speed(n: int) -> dict[str, Any]:
    workload = Workload(name="conversation", prompt_tokens=700, output_tokens=150, concurrency=(1,), requests=lengths(0, 5000))
    batching = Batching(slots=64, batch_tokens=BATCH_TOKENS, kv_tokens=200_000)
    kind = Kind(name="gpu", steps=tabled(A_GPU, max_batch=64, batch_tokens=BATCH_TOKENS), batching=batching, max_replicas=8)
    rate = 64.0
    trace = made_trace(workload, rate=rate, seconds=n / rate)
    began_s = time.process_time()
    course = simulate(trace, Fleet(kinds=(kind,), policy=policy_of("fixed")))
    took_s = time.process_time() - began_s
    busy = sum(life.replica.busy_s for life in course.lives) / (8 * course.end_s)
    return {"requests": len(trace), "cpu_s": round(took_s, 2), "million_s": round(took_s / len(trace) * 1e6, 1), "busy": round(busy, 3)}


def shrunk(trace: Trace, shrink: float, context_tokens: int) -> list[tuple[float, int, int]]:
    """(arrival, prompt, output) with lengths divided and cut to the context."""
    outputs = np.clip(np.round(trace.output_tokens / shrink), 2, context_tokens // 2).astype(int)
    prompts = np.clip(np.round(trace.prompt_tokens / shrink), 16, context_tokens - outputs).astype(int)
    return list(zip(trace.arrival_s.tolist(), prompts.tolist(), outputs.tolist(), strict=True))


def chosen(rows: list[tuple[float, int, int]], steps: AffineSteps, seconds: float, load: float) -> list[Asked]:
    """Rows at even steps, as many as take `load` of the time if they ran one after another, played in `seconds`."""
    alone = [steps.prefill_s(p, 0.0) + (o - 1) * steps.decode_s(1, p + o / 2) for _, p, o in rows]
    n = max(8, min(len(rows), round(load * seconds / float(np.mean(alone)))))
    picked = [rows[round(place)] for place in np.linspace(0, len(rows) - 1, n)]
    first, last = picked[0][0], picked[-1][0]
    return [Asked(at_s=(at - first) * seconds / (last - first), prompt_tokens=p, output_tokens=o) for at, p, o in picked]


def simulated(asked: list[Asked], steps: AffineSteps, slots: int) -> Latencies:
    """What the simulation says of the same requests: trimtab's own llama.cpp server behind trimtab's gateway."""
    none = np.full(len(asked), -1)
    trace = Trace(
        name="replay",
        arrival_s=np.array([one.at_s for one in asked]),
        prompt_tokens=np.array([one.prompt_tokens for one in asked]),
        output_tokens=np.array([one.output_tokens for one in asked]),
        prefix=none,
        prefix_tokens=none * 0,
    )
    batching = Batching(slots=slots, batch_tokens=BATCH_TOKENS, reserve="whole", prefix_cache=False)
    kind = Kind(name="here", steps=tabled(steps, max_batch=slots, batch_tokens=BATCH_TOKENS, contexts=(16.0, 512.0)), batching=batching)
    fleet = Fleet(kinds=(kind,), policy=policy_of("fixed"), queue_at_gateway=True)
    return latencies(trace, fleet, simulate(trace, fleet))


def compared(real: list[Stream], guess: Latencies) -> dict[str, Any]:
    answered = [stream for stream in real if not stream.error]
    seen = {
        "ttft": [1e3 * (stream.times_s[0] - stream.due_s) for stream in answered],
        "e2e": [1e3 * (stream.times_s[-1] - stream.due_s) for stream in answered],
    }
    found: dict[str, Any] = {"n": len(real), "answered": len(answered)}
    for name, said in (("ttft", guess.ttft_ms), ("e2e", guess.e2e_ms)):
        for q in (50, 95):
            pair = [float(np.percentile(values, q)) for values in (seen[name], said)]
            found[f"{name}_p{q}"] = {
                "real_ms": round(pair[0], 1),
                "simulated_ms": round(pair[1], 1),
                "error": round(pair[1] / pair[0] - 1, 3),
            }
    return found


def fit_error(steps: AffineSteps, rows: list[Observed]) -> float:
    """Median relative error of the fitted step times on the timed ones."""
    errors = []
    for row in rows:
        if row.prompt_tokens and not row.batch:
            said = steps.prefill_s(row.prompt_tokens, row.context)
        elif row.prompt_tokens:
            said = steps.mixed_s(row.batch, row.mean_context, row.prompt_tokens)
        else:
            said = steps.decode_s(row.batch, row.mean_context)
        errors.append(abs(said / row.seconds - 1))
    return float(np.median(errors))


def replay(options: argparse.Namespace, seconds: float, folder: Path) -> dict[str, Any]:
    path = options.lock or folder / "deploy.toml"
    settings = deployment.Settings(slots=8, context_tokens=1024)
    if not options.lock:
        write_demo_lock(path, recipe="llamacpp-q8_0", settings=settings)
    site = folder / "site.toml"
    table = f'[[models]]\nname = "m"\nlock = "{path.absolute()}"\nallow_uncertified = true\nmin_replicas = 1\n'
    site.write_text(f"{table}queue_limit = 10000\nqueue_wait_s = 600\n")
    whole = (
        read_fleet_trace(options.trace)
        if options.trace
        else made_trace(
            Workload(name="made-up", prompt_tokens=1000, output_tokens=200, concurrency=(1,), requests=lengths(1, 3000)),
            rate=5.0,
            seconds=3000.0,
            burstiness=2.0,
        )
    )
    timed = QUICK if options.quick else Settings()
    with gateway(site, home=folder / "home") as running:
        rounds = [observed_steps(running.url, "m", options.vocab, timed, seed=k) for k in range(1 if options.quick else 2)]
        first = fitted(medians(rounds), knots=timed.batches)
        asked = chosen(shrunk(whole, options.shrink, 1024), first, seconds, options.load)
        print(f"{len(asked)} requests in {seconds:g} s", flush=True)
        real = asyncio.run(streams(running.url, "m", asked, random.Random(0), options.vocab))
        rounds += [observed_steps(running.url, "m", options.vocab, timed, seed=9)]  # the machine may have changed its pace meanwhile
    rows = medians(rounds)
    steps = fitted(rows, knots=timed.batches)
    print(f"step times from {len(rows)} settings, {len(rounds)} rounds; median error {fit_error(steps, rows):.1%}: {steps}", flush=True)
    found = compared(real, simulated(asked, steps, slots=8))
    for name, row in found.items():
        print(f"{name}: {row}")
    if options.keep:
        kept = [{**vars(stream.asked), "due_s": stream.due_s, "times_s": stream.times_s} for stream in real]
        options.keep.write_text(json.dumps({"steps": [[vars(row) for row in rows] for rows in rounds], "streams": kept}))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100,000 simulated requests, a replay of 20 s")
    parser.add_argument("--requests", type=int, default=None, help="to simulate [default: 1000000]")
    parser.add_argument("--trace", type=Path, default=None, help="TIMESTAMP,ContextTokens,GeneratedTokens")
    parser.add_argument(
        "--lock", type=Path, default=None, help="a deploy.toml of 8 slots and 1024 tokens of context [default: the demo model]"
    )
    parser.add_argument("--seconds", type=float, default=None, help="of the replay [default: 210]")
    parser.add_argument("--shrink", type=float, default=4.0, help="divide the trace's lengths [default: 4]")
    parser.add_argument("--load", type=float, default=0.8, help="of one request at a time [default: 0.8]")
    parser.add_argument("--vocab", type=int, default=49152, help="size of the model's vocabulary")
    parser.add_argument("--no-replay", action="store_true")
    parser.add_argument("--keep", type=Path, default=None, help="write every timed step and stream here")
    options = parser.parse_args()
    figures: dict[str, Any] = {"speed": speed(options.requests or (100_000 if options.quick else 1_000_000))}
    print(f"speed: {figures['speed']}", flush=True)
    ok = figures["speed"]["million_s"] <= TARGETS["million_s"]
    if not options.no_replay:
        with tempfile.TemporaryDirectory() as name:
            figures["replay"] = replay(options, options.seconds or (20.0 if options.quick else 210.0), Path(name))
        errors = [abs(row["error"]) for row in figures["replay"].values() if isinstance(row, dict)]
        ok = ok and figures["replay"]["answered"] == figures["replay"]["n"] and max(errors) <= TARGETS["error"]
    print(json.dumps({"name": "planner_simulate", "figures": figures, "targets": TARGETS, "ok": bool(ok)}))


if __name__ == "__main__":
    main()
