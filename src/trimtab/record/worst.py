"""How the numbers of the chosen deployment were confirmed, as sentences: timed again after it was chosen, and at its worst. Pure."""

from collections.abc import Mapping
from typing import Any

from trimtab.core.phrases import count, ended, is_number, line, megabytes, milliseconds, times, times_interval


def confirmation_lines(decision: Mapping[str, Any]) -> list[str]:
    """Empty where nothing was chosen in the baseline's place, or where the decision is older than these checks."""
    return [*_again(decision.get("retimed")), *_worst(decision.get("worst_case"))]


def _again(retimed: Mapping[str, Any] | None) -> list[str]:
    if not retimed:
        return []
    if retimed.get("why"):
        why = ended(retimed["why"])
        return [f"Not timed again after the choice, so that luck in the session it was chosen by may be in these ratios: {why}"]
    return ["Timed again after the choice, in fresh processes: these ratios are of that second session."]


def _worst(worst: Mapping[str, Any] | None) -> list[str]:
    if not worst:
        return []
    lines = [_case(case) for case in worst.get("cases") or ()]
    if worst.get("why"):
        lines.append(f"{'Not every worst case was' if lines else 'Its worst cases were not'} tried: {ended(worst['why'])}")
    return lines


def _case(case: Mapping[str, Any]) -> str:
    """`With every slot full to the last token (4 at once, 960 + 64 tokens): 3.10x [2.9x, 3.3x], 3.1 s against 9.6 s, 700 MB, ...`"""
    chosen, base = case.get("chosen") or {}, case.get("baseline") or {}
    shape = f"{count(case.get('concurrency'))} at once, {count(case.get('prompt_tokens'))} + {count(case.get('output_tokens'))} tokens"
    ratio = case.get("ratio") or {}
    parts = []
    if is_number(ratio.get("ratio")):
        parts.append(f"{times(ratio['ratio'])} {times_interval(ratio.get('low'), ratio.get('high'))}")
    if is_number(chosen.get("e2e_ms")):
        against = f" against {milliseconds(base['e2e_ms'])}" if is_number(base.get("e2e_ms")) else ""
        parts.append(f"{milliseconds(chosen['e2e_ms'])}{against}")
    if is_number(chosen.get("peak_memory_bytes")):
        parts.append(megabytes(chosen["peak_memory_bytes"]))
    failed = chosen.get("failed")
    parts.append("no request failed" if failed == 0 else f"{count(failed)} of {count(chosen.get('n_requests'))} requests failed")
    what = line(case.get("what", ""))
    return f"{what[:1].upper()}{what[1:]} ({shape}): {', '.join(parts)}."
