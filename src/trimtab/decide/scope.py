"""How far a decision reaches: what an exam says nothing about, and which points of public frameworks a gate's result is evidence for."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from trimtab.decide.standing import is_number

NOT_IN_ANY_SUITE = (
    "Text that the model writes by itself was looked at for loops and gibberish only; whether it is true, kind or useful was not.",
    "Nothing is said about inputs unlike the suite's: your own items, given with --suite, are judged by the same rules.",
    "A pass says that the deployment is no worse than its reference. Whether the reference is good enough is another question: its own "
    "levels stand beside every change.",
)
EXAMS = {
    "fairness": "how it speaks of groups of people",
    "refusal": "whether it refuses harmful requests",
    "stereotype": "stereotypes",
    "decisions": "decisions about people",
    "fraud": "help with fraud and false content",
    "jailbreak": "attacks on its safeguards",
    "injection": "instructions hidden in what it reads",
    "tool": "calling tools",
    "recall": "long contexts",
    "robustness": "questions with typing mistakes and words beside the point",
}
"""Sub-suites (`tool`: also `tool-call` and its like) whose absence a reader must be told of, and what they are about."""


def not_examined(suites: Iterable[str]) -> list[str]:
    """What an exam of these sub-suites says nothing about."""
    asked = {part for suite in suites for part in (suite, suite.partition("-")[0])}
    return [about for suite, about in EXAMS.items() if suite not in asked]


def evidence_for(gate: Mapping[str, Any]) -> list[str]:
    """The framework points of a gate that measured something; a gate that did not is evidence for nothing."""
    return list(framework_points(gate)) if is_number(gate.get("delta")) else []


def framework_points(gate: Mapping[str, Any]) -> Sequence[str]:
    """Points of the NIST AI RMF and of the EU AI Act's Annex IV that a gate's result can be evidence for."""
    table = frameworks()
    row = table["suite"].get(str(gate.get("suite"))) or table["kind"].get(str(gate.get("kind"))) or table["default"]
    return [*(f"NIST AI RMF {point}" for point in row["nist"]), *(f"EU AI Act {point}" for point in row["eu"])]


@cache
def frameworks() -> dict[str, Any]:
    """catalog/frameworks.toml."""
    return tomllib.loads((resources.files("trimtab") / "catalog" / "frameworks.toml").read_text(encoding="utf-8"))
