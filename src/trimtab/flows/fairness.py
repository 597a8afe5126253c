"""Are decisions about people alike for every group? Any model's decisions, read from a table, judged by a policy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.core.decision import Verdict
from trimtab.core.errors import InputError
from trimtab.core.files import canonical_json, sha256_file, to_plain, write_atomic
from trimtab.decide.calibration import GroupCalibration, are_probabilities, area_under_curve, group_calibration
from trimtab.decide.counterfactual import CounterfactualGap, counterfactual_gaps
from trimtab.decide.decision_table import DecisionTable
from trimtab.decide.fairness_policy import FairnessPolicy, GapSpec, load_fairness_policy
from trimtab.decide.group_gates import (
    GapResult,
    calibration_evidence,
    change_evidence,
    counterfactual_evidence,
    joint_verdict,
    judge_gap,
    rate_evidence,
)
from trimtab.decide.group_rates import axis_rates, overall_rates
from trimtab.decide.mitigation import LEGAL_NOTE, Criterion, accuracy_change, decided, fit_thresholds, reweighing
from trimtab.flows.events import Event, OnEvent, ignore
from trimtab.flows.parts.decision_counts import Columns, Counted, count_decisions
from trimtab.flows.parts.refit import refit, write_row_weights
from trimtab.record.disk import sentences
from trimtab.sources.table import Table, open_table

SCHEMA = "trimtab.fairness/1"
MITIGATIONS = ("reweighing", "parity-thresholds", "odds-thresholds")
_CRITERIA: dict[str, Criterion] = {"parity-thresholds": "demographic_parity", "odds-thresholds": "equalised_odds"}
_LABELLED = frozenset({"tpr", "fpr", "ppv", "accuracy", "equalised_odds", "equalised_odds_change", "calibration"})
_FIT_SHARE = 0.8  # of the gap that is allowed, so that the half that judges has some room for chance


def fairness(
    path: str | Path,
    *,
    decision: str = "",
    label: str = "",
    groups: Sequence[str],
    positive: Sequence[str] = (),
    positive_label: Sequence[str] = (),
    score: str = "",
    threshold: float | None = None,
    before: str = "",
    pair: str = "",
    cluster: str = "",
    policy: str = "standard",
    mitigate: Sequence[str] = (),
    features: Sequence[str] = (),
    drop_missing: bool = False,
    out: Path | None = None,
    seed: int = 0,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Judge the decisions of a table and, with `out`, write fairness.json, report.html and, for reweighing, weights.csv.

    decision, label, groups, score, before (an earlier decision on the same rows), pair, cluster: columns; see `trimtab fairness --help`
    Returns the document (schema trimtab.fairness/1) as JSON types. Raises InputError, MissingError.
    """
    rules = load_fairness_policy(policy)
    columns = Columns(
        decision=decision,
        label=label,
        groups=tuple(groups),
        score=score,
        before=before,
        pair=pair,
        cluster=cluster,
        threshold=threshold,
        positive=tuple(positive),
        positive_label=tuple(positive_label),
        drop_missing=drop_missing,
    )
    _check(columns, mitigate, features)
    table = open_table(path)
    table.need(features)
    on_event(Event(phase="read", message=f"reading {table.path.name}"))
    counted = count_decisions(table, columns, seed=seed, on_rows=lambda n: on_event(Event(phase="read", message=f"{n:,} rows", done=n)))
    on_event(Event(phase="judge", message=f"judging {counted.n_rows:,} rows"))
    document = _document(table, columns, counted, rules, seed)
    document["mitigation"] = [
        _mitigated(name, table, columns, counted, rules, features=tuple(features), out=out, seed=seed) for name in dict.fromkeys(mitigate)
    ]
    if out is not None:
        from trimtab.record.fairness_report import write_fairness_report

        with sentences(out, "write"):
            write_atomic(out / "fairness.json", canonical_json(document) + "\n")
        write_fairness_report(out / "report.html", document)
    return document


def _check(columns: Columns, mitigate: Sequence[str], features: Sequence[str]) -> None:
    unknown = [name for name in mitigate if name not in MITIGATIONS]
    if unknown:
        raise InputError(f"Unknown mitigation {unknown[0]!r}; there are {', '.join(MITIGATIONS)}.")
    if mitigate and not columns.label:
        raise InputError("A mitigation is judged by its errors; name the label with --label.")
    if any(name in _CRITERIA for name in mitigate) and not columns.score:
        raise InputError("Thresholds by group need a score; name its column with --score.")
    if features and "reweighing" not in mitigate:
        raise InputError("--features are for refitting after --mitigate reweighing; give both or none.")
    both = set(features) & {columns.decision, columns.label, columns.score, columns.before} - {""}
    if both:
        raise InputError(f"The feature {sorted(both)[0]!r} is the decision, label or score itself; a refitted model must not see it.")
    if columns.positive and not columns.decision and not columns.before:
        raise InputError("--positive names values of a decision; name its column with --decision.")
    if columns.positive_label and not columns.label:
        raise InputError("--positive-label names values of the label; name its column with --label.")
    threshold = columns.threshold
    if threshold is not None and not columns.score:
        raise InputError("--threshold cuts a score; name its column with --score.")
    if threshold is not None and columns.decision:
        raise InputError("Give --decision, or --score with --threshold: both say what the decision is.")


def _document(table: Table, columns: Columns, counted: Counted, rules: FairnessPolicy, seed: int) -> dict[str, Any]:
    decisions = counted.table
    _check_threshold(table, columns, decisions)
    calibrations = {axis: group_calibration(decisions, axis, rules.min_group, seed) for axis in decisions.axes}
    counterfactual: list[CounterfactualGap] = []
    if counted.paired is not None:
        for outcome in counted.paired.outcomes:
            counterfactual += counterfactual_gaps(counted.paired, outcome)
        if not counterfactual:
            raise InputError(
                f"No pair of column {columns.pair!r} holds two groups: there is no same case with another identity to compare."
            )
    gates = _gates(decisions, calibrations, counterfactual, rules)
    verdict = joint_verdict(gates)
    return {
        "schema": SCHEMA,
        "verdict": verdict,
        "headline": _headline(verdict, gates),
        "reasons": [reason for gate in gates if gate.required and gate.verdict == verdict for reason in gate.reasons],
        "input": {
            "path": str(table.path),
            "sha256": sha256_file(table.path),
            "rows": counted.n_rows,
            "rows_counted": int(decisions.n.sum()),
            "dropped": counted.dropped,
            "columns": to_plain(columns),
            "positive": list(counted.positive),
            "positive_label": list(counted.positive_label),
            "seed": seed,
        },
        "policy": to_plain(rules) | {"digest": rules.digest},
        "gates": to_plain(gates),
        "ability": {
            "rates": to_plain(overall_rates(decisions)),
            "before": to_plain(overall_rates(decisions, before=True)) if decisions.before is not None else None,
            "auc": to_plain(area_under_curve(decisions)),
        },
        "axes": [to_plain(axis_rates(decisions, axis, rules.min_group)) for axis in decisions.axes],
        "calibration": [{"axis": list(axis), "groups": to_plain(rows)} for axis, rows in calibrations.items() if rows],
        "counterfactual": [{k: v for k, v in to_plain(gap).items() if k not in ("mean", "is_bounded")} for gap in counterfactual],
        "notes": _notes(decisions, counted),
    }


def _check_threshold(table: Table, columns: Columns, decisions: DecisionTable) -> None:
    if columns.threshold is None or not decisions.level_values:
        return
    low, high = (0.0, 1.0) if are_probabilities(decisions) else (decisions.level_values[0], decisions.level_values[-1])
    if not low <= columns.threshold <= high:
        raise InputError(
            f"The threshold {columns.threshold:g} lies outside the scores of column {columns.score!r} in {table.path} ({low:g} to "
            f"{high:g}); every decision would be the same."
        )


def _gates(
    table: DecisionTable,
    calibrations: dict[tuple[str, ...], list[GroupCalibration]],
    counterfactual: Sequence[CounterfactualGap],
    rules: FairnessPolicy,
) -> list[GapResult]:
    """The gates for which the table holds what they read. With an earlier decision the change is judged, and the level is told."""
    found = []
    for spec in rules.gates:
        if spec.metric in _LABELLED and table.actual is None:
            continue
        if spec.is_change and table.before is None:
            continue
        if spec.metric == "calibration":
            if not are_probabilities(table):
                continue
            evidence = calibration_evidence(calibrations, spec, rules)
        elif spec.metric == "counterfactual":
            if not counterfactual:
                continue
            evidence = counterfactual_evidence(counterfactual, spec, rules)
        elif spec.is_change:
            evidence = change_evidence(table, spec, rules)
        else:
            evidence = rate_evidence(table, spec, rules)
        found.append(judge_gap(spec, evidence, rules, required=_is_required(spec, table)))
    if not any(gate.required for gate in found):
        raise InputError(f"Policy {rules.name} requires no gate that these columns allow to judge; name more columns, or another policy.")
    return found


def _is_required(spec: GapSpec, table: DecisionTable) -> bool:
    if table.before is not None and not spec.is_change and spec.metric != "counterfactual":
        return False
    return spec.required == "always" or (spec.required == "without_label" and table.actual is None)


def _headline(verdict: Verdict, gates: Sequence[GapResult]) -> str:
    names = ", ".join(gate.metric.replace("_", " ") for gate in gates if gate.required and gate.verdict == verdict)
    return {
        "pass": f"Every two groups are within the gap that the policy allows: {names}.",
        "fail": f"Groups are treated more unlike than the policy allows: {names}.",
        "inconclusive": f"Cannot tell whether groups are treated alike: {names}.",
    }[verdict]


def _notes(table: DecisionTable, counted: Counted) -> list[str]:
    notes = [
        "Each group is compared with all others of its axis, corrected over groups (Holm); the gates judge every two groups.",
        "Intervals of rates take rows as independent of each other.",
    ]
    if table.actual is not None:
        notes.append(
            "Where base rates differ, selection rates, error rates and predictive values cannot all be equal (Chouldechova 2017; Kleinberg "
            "et al. 2017): which of them must be is a decision of yours, not of statistics. A label that was made with a bias hides it."
        )
    if table.before is not None:
        notes.append(
            "An earlier decision was given, so the change is judged; the level is told, with what the decision is able to do beside it."
        )
    if counted.dropped:
        told = ", ".join(f"{n:,} without {name}" for name, n in counted.dropped.items())
        notes.append(f"Rows left out because a value is missing: {told}. If some groups lack more values than others, this is a bias too.")
    if table.is_grid:
        notes.append("Scores were counted in thousandths: means of scores are exact to 0.0005.")
    return notes


def _mitigated(
    name: str,
    table: Table,
    columns: Columns,
    counted: Counted,
    rules: FairnessPolicy,
    *,
    features: tuple[str, ...],
    out: Path | None,
    seed: int,
) -> dict[str, Any]:
    """One mitigation: what it is, and the same gates before and after on rows it was not fitted on, with the change of accuracy."""
    if name == "reweighing":
        weights = reweighing(counted.table)
        found: dict[str, Any] = {"name": name, "weights": to_plain(weights), "legal_note": ""}
        if out is not None:
            found["weights_file"] = write_row_weights(table, columns, counted, weights, out / "weights.csv")
        if not features:
            note = "Weights change a model only when it is trained again with them: train, decide anew, and run this command on the result."
            return found | {"note": note + " With --features a logistic regression shows what to expect."}
        held, selected = refit(table, columns, counted, weights, features, seed=seed)
        note = (
            "A logistic regression on the features, fitted on half of the rows without and with the weights, decides about the other half."
        )
        return found | {"note": note} | _before_and_after(held, selected, rules)
    criterion = _CRITERIA[name]
    metric = "selection_rate" if criterion == "demographic_parity" else "equalised_odds"
    allowed = next((spec.max_gap for spec in rules.gates if spec.metric == metric), 0.1)
    fitted = fit_thresholds(counted.table.of_half(0), criterion, tolerance=_FIT_SHARE * allowed, min_group=rules.min_group)
    held = counted.table.of_half(1)
    note = "Thresholds by group were fitted on a random half of the rows; everything below is of the other half."
    return {"name": name, "thresholds": to_plain(fitted), "legal_note": LEGAL_NOTE, "note": note} | _before_and_after(
        held, decided(held, fitted), rules
    )


def _before_and_after(held: DecisionTable, selected: Any, rules: FairnessPolicy) -> dict[str, Any]:
    after = held.only(held.n > 0, selected=selected)
    level = [spec for spec in rules.gates if not spec.is_change and spec.metric not in ("calibration", "counterfactual")]

    def judged(table: DecisionTable) -> list[GapResult]:
        return [judge_gap(spec, rate_evidence(table, spec, rules), rules, required=spec.required == "always") for spec in level]

    return {
        "rows_judged": int(held.n.sum()),
        "gates_before": to_plain(judged(held)),
        "gates_after": to_plain(judged(after)),
        "ability_before": to_plain(overall_rates(held)),
        "ability_after": to_plain(overall_rates(after)),
        "accuracy_change": to_plain(accuracy_change(held, after.selected)),
    }
