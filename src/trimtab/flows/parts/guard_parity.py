"""`evaluate --suite guard-parity`: do guards stop harmless texts about one group of people more often than the same texts about others?

What is asked is guards, not a model: those that a site file names, or those that ship. A template in which only the group changes is one
case; a group's gap is judged as `trimtab fairness` judges decisions about the same case with another identity, by its standard policy.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.core.decision import Verdict
from trimtab.core.errors import InputError
from trimtab.core.files import canonical_json, digest_of, to_plain, write_atomic
from trimtab.core.guarding import Side
from trimtab.core.site import GuardUse
from trimtab.decide.counterfactual import CounterfactualGap, PairedRows, counterfactual_gaps
from trimtab.decide.fairness_policy import FairnessPolicy, GapSpec, load_fairness_policy
from trimtab.decide.group_gates import GapResult, counterfactual_evidence, judge_gap
from trimtab.flows.events import Event, OnEvent
from trimtab.flows.parts.document import versions
from trimtab.guard.parity import Counterpart, shipped_counterparts
from trimtab.guard.pipeline import Guards
from trimtab.record.disk import sentences
from trimtab.record.run import now
from trimtab.stats.rates import exact_rate

SUITE = "guard-parity"
VERSION = "1"
SHIPPED = "guards"
SCHEMA = "trimtab.guard-parity/1"
POLICY = "standard"
ALONE = ("personal", "secrets", "injection", "hazards", "output", "unicode", "loops")
"""Shipped guards that need neither options nor anything outside this process."""
CONTROL_EVERY = 3
"""The planted control stops one group's text in so many of the templates that pass: one in three."""
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Route:
    """Guards of one side, as they stand before or behind these models."""

    models: tuple[str, ...]
    side: Side
    guards: tuple[str, ...]
    judge: Guards


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a route did with one text. stopped: it was blocked, or changed; by: guard that did it; error: why a guard could not judge"""

    text: str
    template: str
    group: str
    stopped: bool
    by: str = ""
    error: str = ""


def guard_parity(target: str, *, out: Path, limit_s: float, on_event: OnEvent) -> dict[str, Any]:
    """Ask the guards about every template and group, write `out`, and return guard-parity.json as JSON types.

    target: a site.toml, or `guards` for those that ship
    Raises InputError for another target, or one without guards; MissingError if a guard's package is not installed.
    """
    began_s, started = time.monotonic(), now()
    rules = load_fairness_policy(POLICY)
    spec = next(gate for gate in rules.gates if gate.metric == "counterfactual")
    texts = list(shipped_counterparts())
    routes = routes_of(target)
    asked = [list(_asked(route, texts, ends_s=began_s + limit_s, on_event=on_event)) for route in routes]
    judged = [route_answer(route, answers, len(texts), spec, rules) for route, answers in zip(routes, asked, strict=True)]
    verdict = _joint([one["verdict"] for one in judged])
    document = {
        "schema": SCHEMA,
        "verdict": verdict,
        "headline": _headline(verdict, len(texts)),
        "target": target,
        "routes": judged,
        "policy": {
            "name": rules.name,
            "version": rules.version,
            "digest": rules.digest,
            "gate": to_plain(spec),
            "min_pairs": rules.min_pairs,
        },
        "suite": {
            "name": SUITE,
            "version": VERSION,
            "digest": digest_of([[one.text, one.template, one.group] for one in texts]),
            "n_items": len(texts),
            "n_templates": len({one.template for one in texts}),
            "n_groups": len({one.group for one in texts}),
        },
        "versions": versions(),
        "started": started,
        "finished": now(),
        "seconds": round(time.monotonic() - began_s, 1),
    }
    rows = [
        {"models": list(route.models), "side": route.side, **to_plain(one)}
        for route, found in zip(routes, asked, strict=True)
        for one in found
    ]
    with sentences(out, "write"):
        write_atomic(out / "texts.jsonl", "".join(canonical_json(row) + "\n" for row in rows))
        write_atomic(out / "guard-parity.json", canonical_json(document) + "\n")
    return document


def routes_of(target: str) -> list[Route]:
    """The guards of a target by side; models whose guards are alike are asked once. Raises InputError, MissingError."""
    if target == SHIPPED:
        return list(_sides((SHIPPED,), tuple(GuardUse(name=name) for name in ALONE)))
    if Path(target).suffix != ".toml":
        raise InputError(f"{SUITE} asks guards, not a model: give the site.toml that names them, or `{SHIPPED}` for those that ship.")
    from trimtab.serve.site import read_site

    site = read_site(Path(target))
    found: list[Route] = []
    alike: list[tuple[tuple[GuardUse, ...], list[str]]] = []
    for model in site.models:
        names = next((names for uses, names in alike if uses == model.guards), None)
        if names is not None:
            names.append(model.name)
        elif model.guards:
            alike.append((model.guards, [model.name]))
    for uses, names in alike:
        found += _sides(tuple(names), uses)
    if not found:
        raise InputError(
            f"{target} names no guards, so nothing is stopped; add [[models.guards]] to a site.toml, or ask those that ship: `{SHIPPED}`."
        )
    return found


def _sides(models: tuple[str, ...], uses: tuple[GuardUse, ...]) -> Iterator[Route]:
    judge = Guards(uses)
    if judge.reads_input:
        yield Route(models=models, side="in", guards=judge.names("in"), judge=judge)
    if judge.reads_output:
        yield Route(models=models, side="out", guards=judge.names("out"), judge=judge)


def _asked(route: Route, texts: Sequence[Counterpart], *, ends_s: float, on_event: OnEvent) -> Iterator[Answer]:
    """Answers in the order of the templates, so that what is cut off by time is whole templates."""
    where = f"{', '.join(route.models)}, {route.side}"
    places = {template: place for place, template in enumerate(dict.fromkeys(one.template for one in texts))}
    for number, one in enumerate(sorted(texts, key=lambda one: places[one.template])):
        if time.monotonic() > ends_s:
            return
        if number % 100 == 0:
            on_event(Event(phase=SUITE, message=where, done=number, total=len(texts)))
        found = route.judge.inspect([one.text], route.side)
        errors = [verdict.error for verdict in found.verdicts if verdict.error]
        by = next((verdict.guard for verdict in found.verdicts if verdict.action in ("block", "redact")), "")
        stopped = found.blocked is not None or found.texts[0] != one.text
        yield Answer(
            text=one.text, template=one.template, group=one.group, stopped=stopped, by=by if stopped else "", error="; ".join(errors)
        )
    on_event(Event(phase=SUITE, message=where, done=len(texts), total=len(texts)))


def route_answer(route: Route, answers: Sequence[Answer], n_asked: int, spec: GapSpec, rules: FairnessPolicy) -> dict[str, Any]:
    """Rates and gaps of the groups on one route, and what the gate says, as JSON types."""
    whole = _whole_templates(answers, n_asked)
    n_missing = n_asked - len(whole)
    found: dict[str, Any] = {"models": list(route.models), "side": route.side, "guards": list(route.guards)}
    found |= {"n": len(whole), "n_missing": n_missing}
    why_missing = next((one.error for one in answers if one.error), "there was no time to ask")
    missing = [f"{n_missing:,} of {n_asked:,} texts have no answer, or lie in a template where one has none: {why_missing}"] * bool(
        n_missing
    )
    if not whole:
        return found | {"verdict": "inconclusive", "reasons": missing, "stopped": None, "groups": [], "gate": None, "control": None}
    gaps, gate = _judged(whole, spec, rules)
    control = _planted(whole, spec, rules)
    verdict, reasons = gate.verdict, [*gate.reasons, *missing]
    if verdict == "pass" and control.verdict != "fail":
        verdict = "inconclusive"
        reasons.append("not informative: one group stopped in a third of the templates that pass would not be seen")
    elif verdict == "pass" and n_missing:
        verdict = "inconclusive"
    by_template: dict[str, bool] = {}
    for one in whole:
        by_template[one.template] = by_template.get(one.template, False) or one.stopped
    return found | {
        "verdict": verdict,
        "reasons": reasons,
        "stopped": {
            "share_of_texts": sum(one.stopped for one in whole) / len(whole),
            "templates": to_plain(exact_rate(sum(by_template.values()), len(by_template), CONFIDENCE)),
        },
        "groups": [_row(gap, whole) for gap in sorted(gaps, key=lambda gap: -abs(gap.value))],
        "gate": to_plain(gate),
        "control": {"what": f"the first group stopped in every {CONTROL_EVERY}rd template that passes", **to_plain(control)},
    }


def _whole_templates(answers: Sequence[Answer], n_asked: int) -> list[Answer]:
    """Answers of the templates in which every group has one: only there are groups compared on the same texts."""
    by_template: dict[str, list[Answer]] = {}
    for one in answers:
        by_template.setdefault(one.template, []).append(one)
    n_groups = max((len(found) for found in by_template.values()), default=0)
    return [one for found in by_template.values() if len(found) == n_groups and not any(each.error for each in found) for one in found]


def _judged(answers: Sequence[Answer], spec: GapSpec, rules: FairnessPolicy) -> tuple[list[CounterfactualGap], GapResult]:
    cases = {template: number for number, template in enumerate(dict.fromkeys(one.template for one in answers))}
    groups = {group: number for number, group in enumerate(dict.fromkeys(one.group for one in answers))}
    case = np.array([cases[one.template] for one in answers], np.int64)
    rows = PairedRows(
        case=case,
        cluster=case,
        groups={"group": np.array([groups[one.group] for one in answers], np.int64)},
        values={"group": tuple(groups)},
        outcomes={"stopped": np.array([one.stopped for one in answers], np.float64)},
    )
    gaps = counterfactual_gaps(rows, "stopped")
    return gaps, judge_gap(spec, counterfactual_evidence(gaps, spec, rules), rules, required=True)


def _planted(answers: Sequence[Answer], spec: GapSpec, rules: FairnessPolicy) -> GapResult:
    """The gate's answer where one group's texts are stopped more often: a gate that does not fail then could never fail."""
    group = answers[0].group
    passing = [number for number, one in enumerate(answers) if one.group == group and not one.stopped]
    planted = set(passing[::CONTROL_EVERY])
    biased = [
        Answer(text=one.text, template=one.template, group=one.group, stopped=one.stopped or number in planted)
        for number, one in enumerate(answers)
    ]
    return _judged(biased, spec, rules)[1]


def _row(gap: CounterfactualGap, answers: Sequence[Answer]) -> dict[str, Any]:
    own = [one.stopped for one in answers if one.group == gap.group]
    return {
        "group": gap.group,
        "stopped": to_plain(exact_rate(sum(own), len(own), CONFIDENCE)),
        "gap": {"value": gap.value, "low": gap.low, "high": gap.high},
        "p_holm": gap.p_holm,
        "n_templates": gap.n_clusters,
    }


def _joint(verdicts: Sequence[Verdict]) -> Verdict:
    if "fail" in verdicts:
        return "fail"
    return "pass" if all(verdict == "pass" for verdict in verdicts) else "inconclusive"


def _headline(verdict: Verdict, n_texts: int) -> str:
    return {
        "pass": f"{n_texts:,} harmless texts: no group's are stopped more or less often than the policy allows.",
        "fail": f"{n_texts:,} harmless texts: those about some group are stopped more or less often than the policy allows.",
        "inconclusive": "Cannot tell whether harmless texts about every group are treated alike.",
    }[verdict]
