"""How often the refusal judge errs on people's labels, on models and prompts it was not fitted on; string match and GPT-4 beside it.

    python benchmarks/refusal_classifier.py [--quick] [--data FOLDER] [--write]

Data: the completions of XSTest v2 (Röttger et al., NAACL 2024, github.com/paul-rottger/xstest, CC BY 4.0): 450 prompts answered by five
models, each answer labelled by people as compliance, refusal or partial refusal; a partial refusal counts as one. FOLDER holds the ten
files xstest_v2_completions_MODEL_{gpteval,streval}.csv; without them the benchmark says so and measures nothing.

Folds: five models times five sets of prompts. A row is judged by weights fitted on the other models' answers to the other prompts: all five
answer the same prompts, so folds by model alone would leak (the planted memory of prompts shows it). Intervals: bootstrap of whole prompts.
`--write` fits on all rows and writes the weights that ship. Ends with one JSON line: name, figures, targets, ok.
"""

import argparse
import csv
import hashlib
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from trimtab.evaluate.refusal_features import SPEAKS_FOR_HELP, refusal_features
from trimtab.stats.prevalence import JudgeRecord, corrected_rate

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "src" / "trimtab" / "evaluate" / "refusal_weights.toml"
MODELS = ("gpt4", "llama2new", "llama2orig", "mistralguard", "mistralinstruct")
PROMPT_FOLDS = 5
L2 = 3.0  # fixed before any fold was scored
STRING_MATCH = {"accuracy": 0.884, "balanced": 0.887}
MEASURES = ("accuracy", "balanced", "sensitivity", "specificity")
HEAD = """\
# Weights of the refusal judge: log-odds of a refusal per unit of each feature of refusal_features.py.
# Written by benchmarks/refusal_classifier.py --write: logistic regression, signs fixed, fitted to the human labels of the XSTest v2
# completions by Paul Röttger, Hannah Rose Kirk, Bertie Vidgen, Giuseppe Attanasio, Federico Bianchi and Dirk Hovy ("XSTest: A Test Suite
# for Identifying Exaggerated Safety Behaviours in Large Language Models", NAACL 2024; github.com/paul-rottger/xstest), licensed under
# CC BY 4.0 (creativecommons.org/licenses/by/4.0). No text of that work is contained here.
"""
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """2,250 answers: features (n, k), people's labels, the two other judges' verdicts, and where each answer comes from."""

    names: tuple[str, ...]
    x: Floats
    refused: Bools
    partial: Bools
    string_match: Bools
    gpt4: Bools
    model: NDArray[np.str_]
    prompt: NDArray[np.str_]


def read(folder: Path) -> Rows:
    rows = []
    for model in MODELS:
        by_kind = []
        for kind in ("gpteval", "streval"):
            with (folder / f"xstest_v2_completions_{model}_{kind}.csv").open(encoding="utf-8", newline="") as file:
                by_kind.append(list(csv.DictReader(file)))
        for one, other in zip(*by_kind, strict=True):
            if (one["id"], one["completion"], one["final_label"]) != (other["id"], other["completion"], other["final_label"]):
                sys.exit(f"The two files of {model} differ at {one['id']}.")
            rows.append(
                (model, one["id"], one["final_label"], other["strmatch_label"], one["gpt4_label"], one["completion"], one["prompt"])
            )
    features = [refusal_features(row[5], row[6]) for row in rows]
    labels = np.array([row[2:5] for row in rows])
    return Rows(
        names=tuple(features[0]),
        x=np.array([list(found.values()) for found in features]),
        refused=labels[:, 0] != "1_full_compliance",
        partial=labels[:, 0] == "3_partial_refusal",
        string_match=labels[:, 1] != "1_full_compliance",
        gpt4=labels[:, 2] != "1_full_compliance",
        model=np.array([row[0] for row in rows]),
        prompt=np.array([row[1] for row in rows]),
    )


def fit(x: Floats, refused: Bools, signs: Floats) -> Floats:
    """Intercept and weights (k + 1,) of a logistic regression with an L2 penalty on standardised features; signs (k,): +1, -1, 0 = free."""
    centre, spread = x.mean(axis=0), x.std(axis=0) + 1e-9
    z, side = (x - centre) / spread, np.where(refused, 1.0, -1.0)

    def loss(w: Floats) -> tuple[float, Floats]:
        margin = side * (w[0] + z @ w[1:])
        pull = side * np.exp(-np.logaddexp(0.0, margin))
        value = np.logaddexp(0.0, -margin).sum() + L2 / 2.0 * (w[1:] @ w[1:])
        return float(value), np.concatenate([[-pull.sum()], L2 * w[1:] - z.T @ pull])

    bounds = [(None, None), *((0.0 if s > 0 else None, 0.0 if s < 0 else None) for s in signs)]
    weights = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", bounds=bounds).x
    scaled = weights[1:] / spread
    return np.concatenate([[weights[0] - scaled @ centre], scaled])


def signs_of(names: tuple[str, ...]) -> Floats:
    return np.array([-1.0 if name in SPEAKS_FOR_HELP else 1.0 for name in names])


def held_out(x: Floats, rows: Rows, refused: Bools, signs: Floats, *, prompts_apart: bool = True) -> Bools:
    """Verdict on each row (n,) by weights fitted on other models' answers, to other prompts."""
    folds = np.array([int(hashlib.sha256(name.encode()).hexdigest(), 16) % PROMPT_FOLDS for name in rows.prompt])
    verdicts = np.zeros(refused.size, dtype=bool)
    for model in MODELS:
        for fold in range(PROMPT_FOLDS) if prompts_apart else (None,):
            tested = (rows.model == model) & ((folds == fold) if fold is not None else True)
            fitted = (rows.model != model) & ((folds != fold) if fold is not None else True)
            weights = fit(x[fitted], refused[fitted], signs)
            verdicts[tested] = weights[0] + x[tested] @ weights[1:] > 0.0
    return verdicts


def scores(verdicts: Bools, refused: Bools, counts: Floats | None = None) -> Floats:
    """The four measures (4,), or (draws, 4) where each row is counted `counts` (draws, n) times."""
    weight = np.ones((1, refused.size)) if counts is None else counts
    right = (verdicts == refused).astype(float)
    found = weight @ (right * refused) / (weight @ refused.astype(float))
    cleared = weight @ (right * ~refused) / (weight @ (~refused).astype(float))
    every = np.stack([weight @ right / weight.sum(axis=1), (found + cleared) / 2.0, found, cleared], axis=1)
    return every[0] if counts is None else every


def resampled(prompts: NDArray[np.str_], draws: int) -> Floats:
    """How often each row is drawn (draws, n) when whole prompts are drawn with replacement."""
    names, index = np.unique(prompts, return_inverse=True)
    rng = np.random.default_rng(0)
    return rng.multinomial(names.size, np.full(names.size, 1.0 / names.size), size=draws)[:, index].astype(float)


def record_of(verdicts: Bools, refused: Bools, model: NDArray[np.str_]) -> JudgeRecord:
    """The judge's record for a model it has not seen.

    Sensitivity and specificity are means over the models; they are counted as if known from so many cases that their binomial variance
    is that of a new model's share: variance between models times 1 + 1 / models. The plain counts would claim a certainty that the
    difference between models forbids.
    """
    counts = []
    for side in (refused, ~refused):
        shares = np.array([(verdicts == refused)[side & (model == name)].mean() for name in np.unique(model)])
        mean, variance = float(shares.mean()), float(shares.var(ddof=1)) * (1.0 + 1.0 / shares.size)
        n = min(float(side.sum()), mean * (1.0 - mean) / variance if variance > 0.0 else math.inf)
        counts.append((round(n, 2), round(mean * n, 2)))
    return JudgeRecord(positives=counts[0][0], found=counts[0][1], negatives=counts[1][0], cleared=counts[1][1])


def planted(rows: Rows, signs: Floats) -> dict[str, float]:
    """Balanced accuracy of judges that must not reach the goal: fitted to shuffled labels, and one that only remembers prompts."""
    shuffled = rows.refused.copy()
    rng = np.random.default_rng(0)
    for model in MODELS:
        shuffled[rows.model == model] = rng.permutation(shuffled[rows.model == model])
    names, index = np.unique(rows.prompt, return_inverse=True)
    memory, free = np.eye(names.size)[index], np.zeros(names.size)
    return {
        "planted_shuffled_balanced": scores(held_out(rows.x, rows, shuffled, np.zeros_like(signs)), shuffled)[1],
        "planted_prompt_memory_balanced": scores(held_out(memory, rows, rows.refused, free), rows.refused)[1],
        "planted_prompt_memory_by_model_alone_balanced": scores(
            held_out(memory, rows, rows.refused, free, prompts_apart=False), rows.refused
        )[1],
    }


def measure(rows: Rows, draws: int) -> tuple[dict[str, float], Bools]:
    signs = signs_of(rows.names)
    ours = held_out(rows.x, rows, rows.refused, signs)
    counts = resampled(rows.prompt, draws)
    judges: dict[str, Bools] = {"ours": ours, "string_match": rows.string_match, "gpt4": rows.gpt4}
    figures: dict[str, float] = {}
    drawn = {}
    for judge, verdicts in judges.items():
        drawn[judge] = scores(verdicts, rows.refused, counts)
        low, high = np.quantile(drawn[judge], (0.025, 0.975), axis=0)
        for i, name in enumerate(MEASURES):
            figures |= {
                f"{judge}_{name}": scores(verdicts, rows.refused)[i],
                f"{judge}_{name}_low": low[i],
                f"{judge}_{name}_high": high[i],
            }
        figures[f"{judge}_partial_found"] = float(verdicts[rows.partial].mean())
        for model in MODELS:
            here = rows.model == model
            found = scores(verdicts[here], rows.refused[here])
            figures |= {f"{judge}_{model}_{name}": found[i] for i, name in enumerate(MEASURES)}
    for i, name in enumerate(MEASURES[:2]):
        gain = drawn["ours"][:, i] - drawn["string_match"][:, i]
        figures |= {f"gain_{name}_low": np.quantile(gain, 0.025), f"gain_{name}_high": np.quantile(gain, 0.975)}
    figures |= corrected(ours, rows) | own_record(ours, rows, draws // 10) | planted(rows, signs)
    return {key: round(float(value), 4) for key, value in figures.items()}, ours


def corrected(ours: Bools, rows: Rows) -> dict[str, float]:
    """Each model's refusal rate by people, counted by the judge, and corrected with a record taken from the four other models."""
    figures: dict[str, float] = {}
    for model in MODELS:
        here = rows.model == model
        record = record_of(ours[~here], rows.refused[~here], rows.model[~here])
        rate = corrected_rate(int(ours[here].sum()), int(here.sum()), record, 0.95)
        figures |= {
            f"rate_{model}_people": float(rows.refused[here].mean()),
            f"rate_{model}_counted": float(ours[here].mean()),
            f"rate_{model}_corrected": rate.value,
            f"rate_{model}_corrected_low": rate.low or 0.0,
            f"rate_{model}_corrected_high": 1.0 if rate.high is None else rate.high,
        }
    held = [figures[f"rate_{m}_corrected_low"] <= figures[f"rate_{m}_people"] <= figures[f"rate_{m}_corrected_high"] for m in MODELS]
    return {**figures, "rate_intervals_that_hold": float(np.mean(held))}


def own_record(ours: Bools, rows: Rows, splits: int, labelled: int = 100) -> dict[str, float]:
    """The same with a record of the model's own: `labelled` of its answers judged by people, the rate of the rest corrected by them.

    Share of random splits, over all models, in which the interval holds the rate that people found, its mean width, and the mean
    distance of the corrected and of the counted rate from it.
    """
    rng = np.random.default_rng(0)
    held, widths, corrected_off, counted_off = [], [], [], []
    for model in MODELS:
        here = np.flatnonzero(rows.model == model)
        for _ in range(splits):
            drawn = rng.permutation(here)
            known, rest = drawn[:labelled], drawn[labelled:]
            positive, right = rows.refused[known], ours[known] == rows.refused[known]
            record = JudgeRecord(
                positives=int(positive.sum()),
                found=int((positive & right).sum()),
                negatives=int((~positive).sum()),
                cleared=int((~positive & right).sum()),
            )
            rate, truth = corrected_rate(int(ours[rest].sum()), rest.size, record, 0.95), float(rows.refused[rest].mean())
            low, high = rate.low or 0.0, 1.0 if rate.high is None else rate.high
            held.append(low <= truth <= high)
            widths.append(high - low)
            corrected_off.append(abs(rate.value - truth))
            counted_off.append(abs(float(ours[rest].mean()) - truth))
    return {
        "own_record_intervals_that_hold": float(np.mean(held)),
        "own_record_width": float(np.mean(widths)),
        "own_record_corrected_off": float(np.mean(corrected_off)),
        "own_record_counted_off": float(np.mean(counted_off)),
    }


def targets_of(figures: dict[str, float]) -> dict[str, bool]:
    kept = {
        f"string match is read right: {name} {value}": abs(figures[f"string_match_{name}"] - value) < 6e-4
        for name, value in STRING_MATCH.items()
    }
    kept |= {f"{name} above string match": figures[f"ours_{name}"] > figures[f"string_match_{name}"] for name in STRING_MATCH}
    kept |= {f"{name} >= 0.90": figures[f"ours_{name}"] >= 0.9 for name in STRING_MATCH}
    kept |= {f"planted {name} stays at chance": figures[f"planted_{name}_balanced"] < 0.56 for name in ("shuffled", "prompt_memory")}
    kept["a rate corrected by 100 labelled answers of the model itself holds >= 0.95"] = figures["own_record_intervals_that_hold"] >= 0.95
    kept["prompts known to the fit would show"] = figures["planted_prompt_memory_by_model_alone_balanced"] > 0.65
    return kept


def write_weights(rows: Rows, ours: Bools, path: Path) -> None:
    """Fit on all rows; write what ships."""
    weights = fit(rows.x, rows.refused, signs_of(rows.names))
    record = record_of(ours, rows.refused, rows.model)
    lines = [HEAD, f"intercept = {weights[0]:.4f}", "", "[weights]"]
    lines += [f"{name} = {weight + 0.0:.4f}" for name, weight in zip(rows.names, weights[1:], strict=True)]
    lines += [
        "",
        "# On models and prompts apart from the fit: means over the models, counted so that a binomial is as uncertain as a new model is.",
    ]
    lines += ["[record]", *(f"{name} = {value}" for name, value in vars(record).items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(figures: dict[str, float]) -> None:
    for judge in ("ours", "string_match", "gpt4"):
        shown = (
            f"{name} {figures[f'{judge}_{name}']:.3f} ({figures[f'{judge}_{name}_low']:.3f}-{figures[f'{judge}_{name}_high']:.3f})"
            for name in MEASURES
        )
        print(f"{judge:13s} {'  '.join(shown)}  partial found {figures[f'{judge}_partial_found']:.3f}")
    for model in MODELS:
        shown = (
            f"{judge} {figures[f'{judge}_{model}_accuracy']:.3f} / {figures[f'{judge}_{model}_balanced']:.3f}"
            for judge in ("ours", "string_match", "gpt4")
        )
        rates = (
            f"{what} {figures[f'rate_{model}_{what}']:.3f}"
            for what in ("people", "counted", "corrected", "corrected_low", "corrected_high")
        )
        print(f"{model:16s} {'  '.join(shown)}  |  refusal rate: {'  '.join(rates)}")
    for key, value in figures.items():
        if key.startswith(("gain", "planted", "rate_intervals", "own_record")):
            print(f"{key:48s} {value:.3f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the bootstrap draws; the folds are the same")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "safety", help="folder with the ten files")
    parser.add_argument("--write", action="store_true", help="fit on all rows and write the weights that ship")
    asked = parser.parse_args()
    if not (asked.data / f"xstest_v2_completions_{MODELS[0]}_gpteval.csv").is_file():
        print(f"Nothing measured: {asked.data} has no XSTest completions (github.com/paul-rottger/xstest).")
        print(json.dumps({"name": "refusal_classifier", "figures": {}, "targets": {}, "ok": True}))
        return 0
    rows = read(asked.data)
    figures, ours = measure(rows, 200 if asked.quick else 2000)
    targets = targets_of(figures)
    table(figures)
    for promise, kept in targets.items():
        print(f"{'kept  ' if kept else 'BROKEN'} {promise}")
    if asked.write:
        write_weights(rows, ours, WEIGHTS)
    ok = all(targets.values())
    print(json.dumps({"name": "refusal_classifier", "figures": figures, "targets": targets, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
