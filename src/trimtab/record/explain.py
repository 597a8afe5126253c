"""A decision in a few plain sentences: the report's headline and what the terminal and Python's `explain()` say."""

from collections.abc import Mapping
from typing import Any

from trimtab.core.phrases import MISSING, decimals_for, ended, fixed, interval, is_number, line, rounded_down, times, times_interval
from trimtab.record.demands import NOTHING_BETTER, objective_claim, unmet, untold


def explain(decision: Mapping[str, Any]) -> str:
    """What was decided and why, a few sentences of plain text without line breaks."""
    sentences = [headline(decision)]
    chosen = decision.get("chosen")
    measured = _measured((decision.get("speedup") or {}).get("over_baseline") or {})
    if measured:
        sentences.append(f"Measured: {measured}.")
    best = (decision.get("speedup") or {}).get("over_best_of_baseline_engine") or {}
    if chosen and best.get("id"):
        gains = speed_claims(best)
        if gains:
            sentences.append(f"Against the best passing candidate of the baseline's own engine, {line(best['id'])}, it is {gains}.")
    gates = [_gate_sentence(gate) for gate in decision.get("gates") or () if gate.get("verdict") != "pass"]
    sentences += gates
    is_kept = not chosen or chosen.get("id") == (decision.get("baseline") or {}).get("id")
    if (decision.get("verdict") != "pass" or (is_kept and decision.get("kind") == "optimize")) and not gates:
        sentences += [ended(reason) for reason in decision.get("reasons") or ()]
    if noise := noise_told(decision):
        sentences.append(ended(noise))
    return " ".join(sentences)


def noise_told(decision: Mapping[str, Any]) -> str:
    """That the machine was noisy while timing, and why; empty if it was not."""
    noise = decision.get("noise") or {}
    if not noise.get("noisy"):
        return ""
    why = str(noise.get("why") or "the cause is not known").removeprefix("The machine was noisy: ")
    return f"The machine was noisy while timing: {why}"


def headline(decision: Mapping[str, Any]) -> str:
    """The answer in one sentence."""
    return _compare_headline(decision) if decision.get("kind") != "optimize" else _optimize_headline(decision)


def speed_claims(by_concurrency: Mapping[str, Any], over: str = "") -> str:
    """`at least 1.97x as fast [as over] end to end with 1 request in flight and 2.76x with 4`; empty if not timed.

    What is claimed is the interval's low end, rounded down.
    """
    claims: list[str] = []
    for level, ratio in _end_to_end(by_concurrency):
        low = times(rounded_down(ratio["low"]))
        if claims:
            claims.append(f"{low} with {level}")
        else:
            fast = f"as fast as {over} end to end" if over else "as fast end to end"
            claims.append(f"{low} {fast} with {level} request{'' if level == '1' else 's'} in flight")
    return f"at least {_listed(claims)}" if claims else ""


def _measured(by_concurrency: Mapping[str, Any]) -> str:
    """`2.06x [1.97x, 2.15x] with 1 request in flight and ...`; empty if not timed."""
    found = [
        f"{times(ratio['ratio'])} {times_interval(ratio['low'], ratio.get('high'))} with {level} in flight"
        for level, ratio in _end_to_end(by_concurrency)
    ]
    return _listed(found) if found else ""


def _end_to_end(by_concurrency: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    ratios = [(level, by_concurrency[level].get("e2e_ms_p50") or {}) for level in levels_of(by_concurrency)]
    return [(level, ratio) for level, ratio in ratios if is_number(ratio.get("ratio")) and is_number(ratio.get("low"))]


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def levels_of(by_concurrency: Mapping[str, Any]) -> list[str]:
    """The concurrency levels among the keys, in order of size."""
    return sorted((key for key, value in by_concurrency.items() if key.isdecimal() and isinstance(value, Mapping)), key=int)


def gate_change(gate: Mapping[str, Any]) -> str:
    """`−0.0048 [−0.0079, −0.0017] nats/token`, or that it was not measured."""
    if not is_number(gate.get("delta")):
        return MISSING
    low, high = gate.get("low"), gate.get("high")
    half = (high - low) / 2 if is_number(low) and is_number(high) else None
    decimals = decimals_for(gate.get("margin"), half)
    return f"{fixed(gate['delta'], decimals)} {interval(low, high, decimals)} {line(gate.get('unit', ''))}".rstrip()


def gates_in_words(gates: Any) -> str:
    """`all 7 required gates`, `the one required gate`, or how many of them passed."""
    required = [gate for gate in gates or () if gate.get("required")]
    passed = sum(gate.get("verdict") == "pass" for gate in required)
    if passed == len(required):
        return "the one required gate" if passed == 1 else f"all {passed} required gates"
    return f"{passed} of {len(required)} required gates"


def _optimize_headline(decision: Mapping[str, Any]) -> str:
    chosen, baseline, verdict = decision.get("chosen"), decision.get("baseline") or {}, decision.get("verdict")
    name = line(baseline.get("id", "the baseline"))
    if verdict == "pass" and chosen and chosen.get("id") != baseline.get("id"):
        speed = speed_claims((decision.get("speedup") or {}).get("over_baseline") or {}, name)
        speed = objective_claim(decision) or speed
        fast = f"{speed}, and it" if speed else "its speed-up was not measured; it"
        return f"Run {line(chosen['id'])}: {fast} passed {gates_in_words(decision.get('gates'))} against the reference."
    if verdict == "pass":
        better = NOTHING_BETTER.get(str((decision.get("objective") or {}).get("name")), "nothing faster")
        return f"Keep {name}: {better} was shown to be no worse than the reference."
    if verdict == "fail" and unmet(decision):
        return "No: nothing that was timed here meets what is demanded."
    if verdict == "inconclusive" and chosen and untold(decision):
        return f"Cannot tell yet whether {line(chosen.get('id', '?'))} meets what is demanded."
    if verdict == "inconclusive":
        return f"Cannot tell yet: the evidence is not enough to replace {name}."
    return f"No: no candidate that can replace {name} passed."


def _compare_headline(decision: Mapping[str, Any]) -> str:
    rows = decision.get("candidates") or [{}]
    candidate = line(rows[0].get("id", "the candidate"))
    reference = line((decision.get("reference") or {}).get("id", "the reference"))
    speed = speed_claims((decision.get("speedup") or {}).get("over_baseline") or {})
    verdict = decision.get("verdict")
    fast = f", {'and' if verdict == 'pass' else 'but'} is {speed}" if speed else ""
    if verdict == "pass":
        return f"{candidate} is no worse than {reference}: it passed {gates_in_words(decision.get('gates'))}{fast}."
    if verdict == "fail" and not decision.get("gates"):
        return f"{candidate} was not compared with {reference}: it could not be run."
    failed = [line(gate.get("name", "")) for gate in decision.get("gates") or () if gate.get("verdict") == "fail"]
    if verdict == "fail":
        return f"{candidate} is worse than {reference}{' on ' + ' and '.join(failed) if failed else ''}{fast}."
    return f"Cannot tell whether {candidate} is no worse than {reference}{fast}."


def _gate_sentence(gate: Mapping[str, Any]) -> str:
    """Why a gate did not pass."""
    name, verdict = line(gate.get("name", "?")), line(gate.get("verdict", "?"))
    word = {"fail": "failed", "inconclusive": "is inconclusive"}.get(verdict, verdict)
    margin = f", margin {fixed(gate.get('margin'), decimals_for(gate.get('margin')))}"
    advisory = "" if gate.get("required", True) else " (advisory)"
    reasons = " ".join(ended(reason) for reason in gate.get("reasons") or ())
    return f"Gate {name}{advisory} {word}: change {gate_change(gate)}{margin}. {reasons}".rstrip()
