"""Answers to "what if" as texts, for the terminal and the page. Pure."""

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trimtab.core.phrases import fixed, is_number, line, times
from trimtab.record.demands import quantity

if TYPE_CHECKING:
    from trimtab.decide.what_if import WhatIfAnswer

OUTCOME_WORDS = {
    "certified": "certified",
    "baseline": "baseline kept",
    "to_certify": "to be certified",
    "cannot_tell": "cannot tell",
    "none": "nothing meets it",
    "not_measured": "not measured",
}
OUTCOME_VERDICTS = {"certified": "pass", "baseline": "pass", "to_certify": "inconclusive", "cannot_tell": "inconclusive", "none": "fail"}
_OBJECTIVES = {
    "latency": "if the time of a request mattered most",
    "throughput": "if tokens a second mattered most",
    "memory": "if memory mattered most",
    "energy": "if energy mattered most",
    "cost": "if the price of tokens mattered most",
}
_BETTER = {
    "latency": "as fast as",
    "throughput": "the throughput of",
    "memory": "smaller than",
    "energy": "more frugal than",
    "cost": "cheaper than",
}


def standard_answers(decision: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows for what most people ask next; empty for `compare`, which has one candidate, and where too little was timed."""
    from trimtab.decide.what_if import answer_what_if, standard_questions

    if decision.get("kind") == "compare":
        return []
    rows = []
    for question in standard_questions(decision):
        row = answer_row(answer_what_if(decision, question))
        if question.objective:
            row["asked"] = _OBJECTIVES[question.objective]
        elif question.concurrency:
            row["asked"] = f"if only {question.concurrency} in flight counted"
        else:
            row["asked"] = f"with less than {question.text.partition('<')[2].replace('MiB', ' MiB')} of memory"
        rows.append(row)
    return rows


def answer_row(answer: "WhatIfAnswer") -> dict[str, Any]:
    """One answer: question, asked, outcome, word, verdict, id, is_chosen, figures, reason, command, untimed; empty where it has none."""
    command = shlex.join(["trimtab", "compare", *answer.compare]) if answer.compare else ""
    if answer.outcome == "to_certify" and not command:
        command = "trimtab compare ORIGINAL CANDIDATE"
    few = f"{answer.n_untimed} candidate{' was' if answer.n_untimed == 1 else 's were'} not timed" if answer.n_untimed else ""
    return {
        "question": line(answer.question),
        "asked": line(answer.question),
        "outcome": answer.outcome,
        "word": OUTCOME_WORDS[answer.outcome],
        "verdict": OUTCOME_VERDICTS.get(answer.outcome, ""),
        "id": line(answer.id or ""),
        "is_chosen": answer.is_chosen,
        "figures": "; ".join(_figures(answer)),
        "reason": _without(line(answer.reason), line(answer.id or "")),
        "command": line(command),
        "untimed": few,
    }


def _without(reason: str, name: str) -> str:
    """The sentences without the deployment's name in front, which stands beside them."""
    rest = reason.removeprefix(f"{name}: ")
    return rest[:1].upper() + rest[1:] if name and rest != reason else reason


def _figures(answer: "WhatIfAnswer") -> list[str]:
    """The objective's number, what that is over the baseline, and what the demands were judged on."""
    if answer.value is None:
        return []
    at = f" with {answer.at} in flight" if answer.at else ""
    found = [f"{quantity(answer.value, answer.unit)}{f' {answer.unit}' if answer.objective == 'cost' else ''}{at}"]
    if answer.gain is not None and fixed(answer.gain, 2) != "1.00":
        found.append(f"{times(answer.gain)} {_BETTER[answer.objective]} the baseline")
    told = {line(row.term): quantity(row.value, row.unit) for row in answer.slo if is_number(row.value) and row.metric != answer.objective}
    return found + [f"{value} ({term})" for term, value in told.items()]


def untimed_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """That some candidates were never timed, once for all rows; empty if all were."""
    found = next((row["untimed"] for row in rows if row["untimed"]), "")
    return f"{found} and not found worse either: nothing is known of them here." if found else ""
