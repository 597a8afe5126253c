"""Rows, folds and fits of the guards' linear judges, for guard_classifier.py and guards.py."""

import base64
import csv
import functools
import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from trimtab.guard.linear import BUCKETS, LEAST_FEATURES, LinearModel, features, tokens, windows

ROOT = Path(__file__).resolve().parents[2]
SUITES = ROOT / "src" / "trimtab" / "evaluate" / "suites"
FOLDS = 5
L2 = 0.1  # fixed before any fold was scored, like all below
SAME = 0.5  # cosine of feature sets above which two texts of a source are one cluster
SAME_MADE = 0.75  # the same for texts made from templates, which would else all be one
MADE = ("shells", "roles", "groups")
MOST_NEGATIVE_WINDOWS = 4
FALSE_FIND_RATE = 0.04  # of the held-out benign texts of each source of NEAR: the thresholds are put where none has more
NEAR = ("written", "shells", "roles", "groups", "sounds-bad", "moderation-clean")
HARD = ("written", "groups", "shells", "roles", "sounds-bad", "own-clean")  # benign texts that look like bad ones; in a fit they count more
HARD_WEIGHT = 3.0
# Kinds of injection that only the prompt before them makes one: out of it they are plain questions, and no fit may learn these as attacks.
PLAIN_ALONE = frozenset(
    {"different_user_input_language", "output_formatting_manipulation", "indirect_reference", "hypothetical_scenario"}
    | {"overload_with_information", "payload_splitting"}
)
ORDINARY = 600  # texts of each ordinary source
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Row:
    text: str
    bad: bool
    source: str


def read_rows(data: Path, judge: str) -> list[Row]:
    """All texts that a judge is fitted to. None is of XSTest or of the Jigsaw templates: those stay unseen by every fit."""
    return [*(_injection_rows(data) if judge == "injection" else _hazard_rows(data)), *_ordinary_rows(data)]


def _injection_rows(data: Path) -> list[Row]:
    jailbreaks = json.loads((data / "safety" / "inthewild_jailbreaks.json").read_text(encoding="utf-8"))
    injections = json.loads((data / "safety" / "prompt_injection.json").read_text(encoding="utf-8"))
    wrappers = tomllib.loads((SUITES / "safety" / "wrappers.toml").read_text(encoding="utf-8"))
    hidden = tomllib.loads((SUITES / "safety" / "injection.toml").read_text(encoding="utf-8"))["items"]
    return [
        *(Row(text=text, bad=True, source="jailbreaks") for text in jailbreaks),
        *(Row(text=row["user_input"], bad=True, source="injections") for row in injections if row["injection_variant"] not in PLAIN_ALONE),
        *(Row(text=text.format(request=""), bad=True, source="own") for kind in wrappers.values() for text in kind if "{request}" in text),
        *(Row(text=item[2], bad=True, source="own") for item in hidden),
        *(Row(text=f"{item[0]} {item[1]}", bad=False, source="own-clean") for item in hidden),
        *(Row(text=row["prompt"], bad=False, source="moderation") for row in moderation(data)),
        *(Row(text=text, bad=False, source="harmful-plain") for text in _harmful(data)),
    ]


def plain_alone(data: Path) -> list[str]:
    """Injections that no judge is fitted to, for they read like plain questions."""
    injections = json.loads((data / "safety" / "prompt_injection.json").read_text(encoding="utf-8"))
    return [row["user_input"] for row in injections if row["injection_variant"] in PLAIN_ALONE]


def _hazard_rows(data: Path) -> list[Row]:
    return [
        *(Row(text=row["prompt"], bad=is_bad(row), source="moderation" if is_bad(row) else "moderation-clean") for row in moderation(data)),
        *(Row(text=text, bad=True, source="requests") for text in _harmful(data)),
    ]


def moderation(data: Path) -> list[dict[str, str]]:
    """OpenAI's moderation set (MIT)."""
    lines = (data / "guard" / "openai_moderation_1680.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def is_bad(row: dict[str, str]) -> bool:
    """Whether people gave it any label of harm."""
    return any(row.get(label) == 1 for label in ("S", "H", "V", "HR", "SH", "S3", "H2", "V2"))


def _harmful(data: Path) -> list[str]:
    """Plain harmful requests: HarmBench without those about copyright (MIT), SimpleSafetyTests (CC BY 4.0), the project's own."""
    bench, simple = (
        list(csv.DictReader((data / "safety" / name).open(encoding="utf-8", newline="")))
        for name in ("harmbench_behaviors.csv", "simplesafetytests.csv")
    )
    own = [tomllib.loads((SUITES / name).read_text(encoding="utf-8")) for name in ("core/refusal.toml", "safety/fraud.toml")]
    return [
        *(row["Behavior"] for row in bench if row["SemanticCategory"] != "copyright"),
        *(row["prompts_final"] for row in simple),
        *(text for kind in own[0].values() for text in kind["items"]),
        *(text for texts in own[1].values() for text in (texts if isinstance(texts, list) else texts["items"])),
    ]


def _ordinary_rows(data: Path) -> list[Row]:
    """Texts without harm: school questions, encyclopaedia, prose, the project's own requests, among them those that only sound bad."""
    over = tomllib.loads((SUITES / "core" / "overrefusal.toml").read_text(encoding="utf-8"))
    rows = [Row(text=text, bad=False, source="sounds-bad") for kind in over.values() for text in kind["items"]]
    rows += [Row(text=text, bad=False, source="roles") for text in _roles()]
    rows += [Row(text=text, bad=False, source="shells") for text in _shells()]
    rows += [Row(text=text, bad=False, source="groups") for text in _about_groups()]
    written = (ROOT / "benchmarks" / "parts" / "benign_prompts.txt").read_text(encoding="utf-8").splitlines()
    rows += [Row(text=text, bad=False, source="written") for text in written if text]
    for name in ("gsm8k_test", "arc_easy", "arc_challenge", "boolq", "lambada_openai"):
        lines = (data / "quality" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:ORDINARY]
        texts = (" ".join(value for value in json.loads(line).values() if isinstance(value, str)) for line in lines)
        rows += [Row(text=text, bad=False, source=name) for text in texts]
    asked = (data / "quality" / "boolq.jsonl").read_text(encoding="utf-8").splitlines()[ORDINARY : 2 * ORDINARY]
    rows += [Row(text=json.loads(line)["query"].rpartition("Question: ")[2], bad=False, source="questions") for line in asked]
    prose = (data / "text" / "wikitext2_test.txt").read_text(encoding="utf-8").splitlines()
    rows += [Row(text=line, bad=False, source="wikitext") for line in [line for line in prose if len(line) > 200][:ORDINARY]]
    return rows


def _shells() -> list[str]:
    """Plain wishes in the words in which people also ask for harm: without them a judge takes the asking for the harm."""
    acts = (
        "bake sourdough bread", "learn the guitar", "repair a bicycle tyre", "grow tomatoes on a balcony", "train for a marathon",
        "save money for a trip", "teach my dog to sit", "paint a wooden fence", "build a bookshelf", "write a cover letter",
        "sell my old car",
        "make soap at home", "brew beer in my kitchen", "set up a home network", "find a flat in a big city", "organise a street party",
        "get my child to sleep", "prepare for a job interview", "fix a dripping tap", "take better photos", "start a small business",
        "clean a cast iron pan", "plan a garden", "mix colours for a portrait", "install a printer", "pass the driving test",
        "quit smoking", "apologise to a friend", "run a book club", "create a budget", "make a rocket out of paper", "win at draughts",
        "catch a trout", "cut my own hair", "get rid of moss", "beat the traffic", "trick my cat into taking its pill", "mask a bad smell",
    )  # fmt: skip
    kinds = (
        "short biography of a painter", "persuasive article about cycling to work", "speech for a wedding", "blog post on spring flowers",
        "letter to the town council about a playground", "script for a school play", "message to my team about the holidays",
        "story about a lost key",
        "song about the sea", "review of a restaurant", "product description for a lamp", "press release about a new library",
        "fake dialogue between two clouds",
        "guide for new neighbours", "post that invites people to a concert", "joke about Mondays", "essay on why museums matter",
        "tweet about our bakery",
    )  # fmt: skip
    asks = (
        "How do I {act}?", "How can I {act} without spending much?", "Give me step-by-step instructions to {act}.",
        "What is the best way to {act}?",
        "Create a detailed plan to {act} in a month.", "Teach me how to {act}.", "I want to {act}. What do I need?",
        "Explain how to {act} to a beginner.",
        "List the materials and tools that I need to {act}.", "Develop a strategy that helps people to {act}.", "Can you help me {act}?",
        "Which mistakes should I avoid when I {act}?",
    )  # fmt: skip
    forms = ("Write a {kind}.", "Please draft a {kind} of about 200 words.", "Help me to write a {kind}.", "Generate a convincing {kind}.")
    return [
        *(form.format(act=act) for number, act in enumerate(acts) for form in asks[number % 2 :: 2]),
        *(form.format(kind=kind) for kind in kinds for form in forms),
    ]


def _about_groups() -> list[str]:
    """Harmless texts that name groups of people: without them a judge learns from hate alone who is talked about."""
    bias = [tomllib.loads((SUITES / "bias" / name).read_text(encoding="utf-8")) for name in ("questions.toml", "decisions.toml")]
    axes = bias[1].pop("axes")
    words = [words if isinstance(words, str) else words[0] for axis in axes.values() for _, words in axis["groups"]]
    cases = [(topic["person"], case) for topic in bias[1].values() for case in topic["cases"]]
    return [
        *(f"{scene[0]} {answer}" for scenes in bias[0].values() for scene in scenes for answer in scene[4:6]),
        *(f"The {person} {words[number % len(words)]}. {case}" for number, (person, case) in enumerate(cases)),
        *(ROOT / "benchmarks" / "parts" / "benign_groups.txt").read_text(encoding="utf-8").splitlines(),
    ]


def _roles() -> list[str]:
    """Roles that people honestly ask a model to play."""
    forms = (
        "I want you to act as a {role}. I will tell you my problem and you will {task}. My first request is: I need help with {need}.",
        "You are a {role}. Your task is to {task}. Always stay friendly and keep to the topic of {need}.",
        "From now on act as my {role} and {task}. Do not write explanations, only the result. Let us begin with {need}.",
        "Pretend to be a {role} in a story. {need} has gone wrong and you {task} until the evening comes.",
    )
    roles = (
        "personal trainer", "chef", "career coach", "historian", "poet", "gardener", "football commentator", "tax adviser",
        "language teacher", "spreadsheet", "Python interpreter", "stand-up comedian", "mathematics teacher", "doctor", "journalist",
        "librarian", "pirate captain", "time traveller", "detective", "philosopher", "film critic", "statistician",
        "interior decorator", "nutritionist", "developer relations consultant",
        "software architect", "security consultant", "magician", "astronomer", "lawyer", "storyteller", "robot from the future",
    )  # fmt: skip
    tasks = (
        "give advice in short steps",
        "correct my mistakes",
        "ask me one question at a time",
        "answer in rhymes",
        "explain what to do next",
    )
    needs = (
        "a plan for the week",
        "my first essay",
        "a broken recipe",
        "an old computer",
        "a trip to the sea",
        "my notes from the lecture",
    )
    return [
        form.format(role=role, task=tasks[(2 * number + at) % 5], need=needs[(number + at) % 6])
        for number, role in enumerate(roles)
        for at, form in enumerate(forms)
    ]


@functools.lru_cache(maxsize=32_768)
def buckets_of(text: str) -> tuple[NDArray[np.int64], ...]:
    """Features of each window of a text. Kept: every fold asks for them."""
    return tuple(np.array(sorted(features(window)), dtype=np.int64) for window in windows(tokens(text)))


def matrix_of(buckets: Sequence[NDArray[np.int64]]) -> "csr_matrix[np.float64]":
    """Features of windows (n, BUCKETS), each row of length 1, or less for a short one."""
    columns = np.concatenate([*buckets, np.zeros(0, dtype=np.int64)])
    counts = np.array([len(row) for row in buckets])
    values = np.repeat(1.0 / np.sqrt(np.maximum(LEAST_FEATURES, counts)), counts)
    return csr_matrix((values, columns, np.concatenate([[0], counts.cumsum()])), shape=(len(buckets), BUCKETS))


def folds_of(rows: Sequence[Row]) -> NDArray[np.int64]:
    """A fold (n,) for each row; near-duplicates of a source share theirs."""
    folds = np.zeros(len(rows), dtype=np.int64)
    for source in {row.source for row in rows}:
        index = np.array([number for number, row in enumerate(rows) if row.source == source])
        x = matrix_of([buckets_of(rows[number].text)[0] for number in index])
        x = x.multiply(1.0 / np.sqrt(np.maximum(1e-12, x.multiply(x).sum(axis=1)))).tocsr()
        near = x @ x.T
        near.data[near.data < (SAME_MADE if source in MADE else SAME)] = 0.0
        near.eliminate_zeros()
        _, cluster = connected_components(near, directed=False)
        folds[index] = [int(hashlib.sha256(f"{source} {one}".encode()).hexdigest(), 16) % FOLDS for one in cluster]
    return folds


def fit(rows: Sequence[Row]) -> LinearModel:
    """Weights by logistic regression, rounded to bytes; threshold 0. A source counts as the square root of its rows."""
    parts: list[NDArray[np.int64]] = []
    bad: list[bool] = []
    weight: list[float] = []
    sizes = {source: sum(row.source == source for row in rows) for source in {row.source for row in rows}}
    for row in rows:
        shown = buckets_of(row.text)[: 1 if row.bad else MOST_NEGATIVE_WINDOWS]
        parts += shown
        bad += [row.bad] * len(shown)
        own = sizes[row.source] ** -0.5 * (HARD_WEIGHT if row.source in HARD else 1.0)
        weight += [own / len(shown)] * len(shown)
    x, side, w = matrix_of(parts), np.where(bad, 1.0, -1.0), np.array(weight)
    for sign in (1.0, -1.0):
        w[side == sign] *= 0.5 * len(rows) / w[side == sign].sum()

    def loss(beta: Floats) -> tuple[float, Floats]:
        margin = side * (beta[0] + x @ beta[1:])
        pull = w * side * np.exp(-np.logaddexp(0.0, margin))
        value = (w * np.logaddexp(0.0, -margin)).sum() + L2 / 2.0 * (beta[1:] @ beta[1:])
        return float(value), np.concatenate([[-pull.sum()], L2 * beta[1:] - x.T @ pull])

    beta = minimize(loss, np.zeros(BUCKETS + 1), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    scale = float(np.abs(beta[1:]).max()) / 127.0
    return LinearModel(
        intercept=float(beta[0]), scale=scale, threshold=0.0, weights=tuple(round(one) for one in (beta[1:] / scale).tolist())
    )


def threshold_of(scores: Floats, rows: Sequence[Row]) -> float:
    """Where at most FALSE_FIND_RATE of the benign rows of each source that is nearest to bad texts are found."""
    source = np.array([row.source for row in rows])
    return max(float(np.quantile(scores[source == name], 1.0 - FALSE_FIND_RATE)) for name in NEAR if (source == name).any())


def with_threshold(model: LinearModel, threshold: float) -> LinearModel:
    return LinearModel(intercept=model.intercept, scale=model.scale, threshold=threshold, weights=model.weights)


def fitted_apart(rows: Sequence[Row], folds: NDArray[np.int64]) -> tuple[list[LinearModel], Floats]:
    """A model a fold, fitted to the other folds, and each row's score (n,) by the model of its own fold."""
    models, scores = [], np.zeros(len(rows))
    for fold in range(FOLDS):
        models.append(fit([row for row, one in zip(rows, folds, strict=True) if one != fold]))
        for number in np.flatnonzero(folds == fold):
            scores[number] = score(models[-1], rows[number].text)
    return models, scores


@functools.lru_cache(maxsize=4)
def _array(model: LinearModel) -> NDArray[np.int64]:
    return np.asarray(model.weights)


def score(model: LinearModel, text: str) -> float:
    """The model's own score of a text, from features that are kept."""
    weights = _array(model)
    return (
        max(model.intercept + model.scale * weights[one].sum() / np.sqrt(max(LEAST_FEATURES, one.size)) for one in buckets_of(text))
        - model.threshold
    )


def auc(scores: Floats, bad: NDArray[np.bool_]) -> float:
    """Area under the ROC curve; ties count half."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2.0
    n_bad = int(bad.sum())
    return float((ranks[inverse][bad].sum() - n_bad * (n_bad + 1) / 2.0) / (n_bad * (bad.size - n_bad)))


def average_precision(scores: Floats, bad: NDArray[np.bool_]) -> float:
    """Area under the precision-recall curve, as the mean precision at each bad text."""
    sorted_bad = bad[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(sorted_bad) / np.arange(1, bad.size + 1))[sorted_bad].mean())


def encoded(model: LinearModel) -> list[str]:
    """Weights as lines of base 85."""
    text = base64.b85encode(bytes(one & 0xFF for one in model.weights)).decode()
    return [text[at : at + 130] for at in range(0, len(text), 130)]
