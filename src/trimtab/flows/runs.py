"""`runs list|show|diff|rm`: run directories as they lie on the disk, and what their measurements say to other questions.

Reads without locking; only `remove_runs` changes anything.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trimtab.core.errors import InputError, TrimtabError
from trimtab.core.phrases import is_number
from trimtab.decide.cost import Cost, Tariff, costs
from trimtab.decide.standing import candidate_rows, is_positive
from trimtab.decide.what_if import WhatIfAnswer, answer_what_if
from trimtab.plan.slo import parse_what_if
from trimtab.record.explain import levels_of
from trimtab.record.lock import is_locked
from trimtab.record.run import Removed, check_is_run, read_candidates, read_decision, read_evaluation, read_run, read_step_keys, remove_run

DEEP = 2  # runs/<run> and runs/<project>/<run>
TRAINING = "train.toml"
State = Literal["finished", "unfinished", "in use", "damaged"]


VERB_OF_INPUT = {"a": "compare", "lock": "certify", "candidates": "optimize", "suites": "evaluate"}
"""What tells a verb by what it was asked, the first that fits."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run directory holds. decision: None until there is one; candidates: by id, each as it was last written.

    evaluation: what `evaluate` leaves instead of a decision
    """

    path: Path
    state: State
    head: Mapping[str, Any]
    decision: Mapping[str, Any] | None
    evaluation: Mapping[str, Any] | None
    candidates: Mapping[str, Mapping[str, Any]]
    step_keys: tuple[str, ...]

    @property
    def verb(self) -> str:
        """The verb that made the run: what its request is tells."""
        if self.decision and self.decision.get("kind"):
            return str(self.decision["kind"])
        return next((verb for key, verb in VERB_OF_INPUT.items() if key in self.head["inputs"]), "optimize")


def load_run(path: Path) -> Run:
    """A run directory, also an unfinished one or one in use. Raises InputError (no run there, damaged, of a newer trimtab)."""
    check_is_run(path.resolve())
    try:
        head = read_run(path)
        in_use = is_locked(path)
        decision = read_decision(path) if (path / "decision.json").exists() and head["finished"] else None
        evaluation = read_evaluation(path) if (path / "evaluation.json").exists() and head["finished"] else None
        candidates, step_keys = read_candidates(path), tuple(read_step_keys(path))
        if not isinstance(head["inputs"], dict) or not isinstance(head["digests"], dict) or not isinstance(head["started"], str):
            raise InputError(f"{path / 'run.json'} is damaged: inputs, digests or the start are not of their kind.")
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path / 'run.json'} is damaged: it lacks {error}.") from error
    if decision is not None:
        candidates = {str(row["id"]): row for row in decision.get("candidates") or () if isinstance(row, dict) and "id" in row}
    state: State = "in use" if in_use else "unfinished" if decision is evaluation is None else "finished"
    return Run(path=path, state=state, head=head, decision=decision, evaluation=evaluation, candidates=candidates, step_keys=step_keys)


def list_runs(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """A row a run directory in the folders or up to two levels below them, newest first; a damaged one has its reason in `problem`.

    Folders that are links are not entered. Raises InputError for a folder that is not there.
    """
    rows: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; name one that holds runs.")
        for path, problem in find_runs(folder):
            rows.setdefault(path.resolve(), _damaged(path, problem) if problem else _row(path))
    return sorted(rows.values(), key=lambda row: (row["started"] or "", row["path"]), reverse=True)


def find_runs(folder: Path, deep: int = DEEP) -> list[tuple[Path, str]]:
    """Run directories, each with an empty text, and folders that cannot be read, each with the reason; up to `deep` levels down.

    Trainings are none: nothing was compared in them.
    """
    try:
        if (folder / "run.json").is_file():
            return [] if (folder / TRAINING).is_file() else [(folder, "")]
        below = sorted(Path(item.path) for item in os.scandir(folder) if item.is_dir(follow_symlinks=False) and item.name[0] != ".")
    except OSError as error:
        return [(folder, f"it cannot be read ({error.strerror or error})")]
    return [found for path in below for found in find_runs(path, deep - 1)] if deep else []


def _row(path: Path) -> dict[str, Any]:
    try:
        return summary(load_run(path))
    except TrimtabError as error:
        return _damaged(path, str(error))
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # edited by hand into another shape
        return _damaged(path, f"a file of it has another shape than trimtab writes ({type(error).__name__}: {error})")


def _damaged(path: Path, problem: str) -> dict[str, Any]:
    empty = dict.fromkeys(("verb", "started", "finished", "model", "workload", "policy", "verdict", "chosen", "speedup_low"))
    return {"path": str(path), "state": "damaged", **empty, "problem": problem}


def summary(run: Run) -> dict[str, Any]:
    """One row of the list; `evaluate` has no verdict.

    speedup_low: by concurrency, the low end of the chosen or compared one's ratio over the baseline
    """
    inputs, decision = run.head["inputs"], run.decision or {}
    model = inputs.get("model") or " vs ".join(str(inputs[side]) for side in ("a", "b") if side in inputs)
    chosen, baseline = decision.get("chosen") or {}, decision.get("baseline") or {}
    over = {} if chosen and chosen.get("id") == baseline.get("id") else (decision.get("speedup") or {}).get("over_baseline") or {}
    lows = {level: (over[level].get("e2e_ms_p50") or {}).get("low") for level in levels_of(over)}
    return {
        "path": str(run.path),
        "state": run.state,
        "verb": run.verb,
        "started": run.head["started"],
        "finished": run.head["finished"],
        "model": model,
        "workload": inputs.get("workload"),
        "policy": inputs.get("policy"),
        "verdict": decision.get("verdict"),
        "chosen": chosen.get("id"),
        "speedup_low": {level: low for level, low in lows.items() if is_number(low)},
        "problem": "",
    }


def ask(run: Run, questions: Sequence[str], price_per_hour: float | None = None) -> list[WhatIfAnswer]:
    """Answers to other demands, concurrencies and objectives (`plan.slo.parse_what_if`), from what the run measured.

    Raises InputError for a question that cannot be meant, for a run without a decision and for one of `compare`.
    """
    asked = [parse_what_if(text) for text in questions]
    decision = _decision_of_optimize(run, "--what-if")
    return [answer_what_if(decision, question, price_per_hour) for question in asked]


def prices(run: Run, tariff: Tariff) -> dict[str, tuple[Cost, ...]]:
    """What tokens cost on each deployment that was timed, by id, a row each concurrency.

    Raises InputError where the run has no decision, timed nothing, or has no power for the tariff's price of a kWh.
    """
    decision = _decision_of_optimize(run, "A price")
    workload = decision.get("workload") or {}
    found = {
        str(row["id"]): by_level
        for row in candidate_rows(decision)
        if (by_level := costs(row.get("measurement"), workload["prompt_tokens"], workload["output_tokens"], tariff))
    }
    if not found:
        raise InputError(f"{run.path} timed nothing, so nothing is known of what tokens cost.")
    if tariff.price_per_kwh is not None and any(cost.power_w is None for by_level in found.values() for cost in by_level):
        raise InputError("--price-per-kwh needs the power of the machine, which this run could not measure; give --power-watts.")
    return found


def _decision_of_optimize(run: Run, what: str) -> Mapping[str, Any]:
    if run.verb != "optimize":
        raise InputError(f"{what} needs a run of `trimtab optimize`; {run.path} is one of `trimtab {run.verb}`.")
    if run.decision is None:
        raise InputError(f"{what} needs a finished run; {run.path} is {run.state}.")
    return run.decision


def tariff_of(price_per_hour: float | None, power_w: float | None, price_per_kwh: float | None) -> Tariff | None:
    """What was said of prices; None if nothing was. Raises InputError for what is not above zero."""
    given = {"--price-per-hour": price_per_hour, "--power-watts": power_w, "--price-per-kwh": price_per_kwh}
    for flag, value in given.items():
        if value is not None and not is_positive(value):
            raise InputError(f"{flag} must be a number above zero, not {value!r}.")
    if all(value is None for value in given.values()):
        return None
    if price_per_hour is None and price_per_kwh is None:
        raise InputError("--power-watts says nothing of a price; give --price-per-hour, --price-per-kwh or both beside it.")
    return Tariff(price_per_hour=price_per_hour or 0.0, power_w=power_w, price_per_kwh=price_per_kwh)


def remove_runs(paths: Sequence[Path], *, dry_run: bool = False) -> list[Removed]:
    """Remove run directories, all of them looked at before the first is touched. Raises InputError or MissingError; see `remove_run`."""
    unique = list({path.absolute(): path for path in paths}.values())
    found = [remove_run(path, dry_run=True) for path in unique]
    return found if dry_run else [remove_run(path) for path in unique]


def diff_runs(a: Run, b: Run) -> dict[str, Any]:
    """What differs between two runs, as JSON types.

    asked: rows (what, a, b) for inputs, digests, seed, versions, machine
    answer: rows for verdict and chosen, also where they are equal
    candidates: rows for candidates of both whose status, verdict, weights, settings or engine build differ; only_a, only_b: ids
    gates: per candidate judged in both, its gates' changes with intervals, and `apart`: each change lies outside the other's interval
    speed: per candidate timed in both, ratios over the baseline (None for the baseline itself; comparable if the baselines are the same
        deployment) and medians; `one_session`: both runs took these from one and the same session, through the cache
    """
    both = [key for key in a.candidates if key in b.candidates]
    return {
        "a": summary(a),
        "b": summary(b),
        "asked": _asked(a, b),
        "answer": [_pair(key, summary(a)[key], summary(b)[key]) for key in ("verdict", "chosen")],
        "candidates": [row for key in both for row in _of_candidate(key, a.candidates[key], b.candidates[key])],
        "only_a": [key for key in a.candidates if key not in b.candidates],
        "only_b": [key for key in b.candidates if key not in a.candidates],
        "gates": _gates(a, b),
        "speed": [row for key in both for row in _speed(key, a, b)],
        "same_baseline": _same_baseline(a, b),
    }


def _pair(what: str, a: Any, b: Any) -> dict[str, Any]:
    return {"what": what, "a": a, "b": b}


def _asked(a: Run, b: Run) -> list[dict[str, Any]]:
    rows = [] if a.head.get("seed") == b.head.get("seed") else [_pair("seed", a.head.get("seed"), b.head.get("seed"))]
    for name in ("inputs", "digests", "versions", "machine"):
        mine, other = (_machine(run) if name == "machine" else run.head.get(name) or {} for run in (a, b))
        keys = [*mine, *(key for key in other if key not in mine)]
        rows += [_pair(f"{name}: {key}", mine.get(key), other.get(key)) for key in keys if mine.get(key) != other.get(key)]
    return rows


def _machine(run: Run) -> Mapping[str, Any]:
    """What the machine is. Its measured rates differ from run to run and are left out."""
    machine = (run.decision or {}).get("machine") or run.head.get("machine") or {}
    return {key: value for key, value in machine.items() if key in ("cpu", "n_cores", "memory_bytes", "flags", "accelerators", "system")}


def _of_candidate(key: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [{"id": key, **_pair(what, a.get(what), b.get(what))} for what in ("status", "verdict")]
    details = (a.get("details") or {}), (b.get("details") or {})
    if all(side.get("deployment_sha256") for side in details):  # else one of them was never resolved: nothing to compare
        rows += [{"id": key, **_pair(what, *(side.get(what) for side in details))} for what in ("weights_sha256", "settings", "build")]
    return [row for row in rows if row["a"] != row["b"]]


def _judged(run: Run) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Gates by the candidate they judged. The decision's own are those of its chosen, or of the one compared."""
    found = {key: gates for key, row in run.candidates.items() if (gates := (row.get("evidence") or {}).get("gates"))}
    decision = run.decision or {}
    name = (decision.get("chosen") or {}).get("id") or (next(iter(run.candidates), None) if run.verb != "optimize" else None)
    if name and decision.get("gates"):
        found.setdefault(name, decision["gates"])
    return found


def _gates(a: Run, b: Run) -> list[dict[str, Any]]:
    mine, other = _judged(a), _judged(b)
    rows = []
    for key in mine:
        theirs = {gate["name"]: gate for gate in other.get(key) or ()}
        for gate in mine[key]:
            if gate["name"] in theirs:
                now = theirs[gate["name"]]
                rows.append({"id": key, "gate": gate["name"], "a": _gate(gate), "b": _gate(now), "apart": apart(gate, now)})
    return rows


def _gate(gate: Mapping[str, Any]) -> dict[str, Any]:
    return {key: gate.get(key) for key in ("delta", "low", "high", "confidence", "margin", "unit", "n", "verdict")}


def apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool | None:
    """Whether each change lies outside the other's interval; None where one of them was not measured or the units differ."""
    values = [row.get(key) for row in (a, b) for key in ("delta", "low", "high")]
    if a.get("unit") != b.get("unit") or not all(is_number(value) for value in values):
        return None
    return not b["low"] <= a["delta"] <= b["high"] and not a["low"] <= b["delta"] <= a["high"]


def _speed(key: str, a: Run, b: Run) -> list[dict[str, Any]]:
    rows = []
    sides = [(_over_baseline(run, key), _medians(run, key)) for run in (a, b)]
    (ratios_a, medians_a), (ratios_b, medians_b) = sides
    for level in sorted(medians_a.keys() & medians_b.keys(), key=int):
        one_session = level in ratios_a and (medians_a[level], ratios_a[level]) == (medians_b[level], ratios_b.get(level))
        rows.append(
            {
                "id": key,
                "concurrency": int(level),
                "one_session": one_session,
                "a": {"e2e_ms_p50": medians_a[level], "over_baseline": ratios_a.get(level)},
                "b": {"e2e_ms_p50": medians_b[level], "over_baseline": ratios_b.get(level)},
            }
        )
    return rows


def _over_baseline(run: Run, key: str) -> dict[str, Any]:
    """Ratio, low and high by concurrency."""
    decision = run.decision or {}
    baseline = str((decision.get("baseline") or {}).get("id"))
    over = ((run.candidates[key].get("details") or {}).get("speed_over_baseline") or {}).get(baseline) or {}
    if not over and key == (decision.get("chosen") or {}).get("id"):
        over = (decision.get("speedup") or {}).get("over_baseline") or {}
    ratios = {level: over[level].get("e2e_ms_p50") or {} for level in levels_of(over)}
    return {level: {end: ratio.get(end) for end in ("ratio", "low", "high")} for level, ratio in ratios.items() if ratio}


def _medians(run: Run, key: str) -> dict[str, float]:
    """Median end-to-end milliseconds of a request by concurrency."""
    points = (run.candidates[key].get("measurement") or {}).get("points") or ()
    found = {str(point["concurrency"]): (point.get("e2e_ms") or {}).get("p50") for point in points}
    return {level: p50 for level, p50 in found.items() if is_number(p50)}


def _same_baseline(a: Run, b: Run) -> bool:
    """Whether both runs timed against the same weights, settings and engine build."""
    digests = [((run.decision or {}).get("baseline") or {}).get("deployment_sha256") for run in (a, b)]
    return bool(digests[0]) and digests[0] == digests[1]
