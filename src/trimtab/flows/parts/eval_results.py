"""Levels of an evaluation as the Hugging Face hub's `.eval_results/*.yaml`, for sub-suites whose items are a set on the hub.

https://huggingface.co/docs/hub/eval-results. Only shares of right answers are exported, with what they are in the notes: likelihoods are no
leaderboard's metric. Tasks of other tools have no entry here: what a figure of theirs is, is for them to say.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import sha256_file
from trimtab.evaluate.suites.public import public_sets
from trimtab.flows.parts.outside import split_names

Places = Mapping[str, Mapping[str, str]]
"""Sub-suite -> dataset and task on the hub."""
HOW = {
    "nats/token": "0-shot, most likely option per token",
    "nats/byte": "0-shot, most likely option per byte",
    "share": "0-shot, asked for the letter of the option and answered greedily",
}
"""How an answer was found, by the unit of its value."""


def places_on_hub(suites: Sequence[str]) -> Places:
    """Where those of these suites, as typed, have their place: to be known before anything is scored. Raises InputError if none has one."""
    found = {}
    for suite in split_names(suites)[0]:
        name, _, file = suite.partition(":")
        hub = public_sets().get(name, {}).get("hub", {})
        task = hub.get("task") or _task_of_file(hub.get("task_by_sha256", {}), Path(file))
        if task:
            found[name] = {"dataset": hub["dataset"], "task": task}
    if not found:
        known = sorted(name for name, row in public_sets().items() if "hub" in row)
        raise InputError(
            f"None of these suites has a place on the hub; those that have are {', '.join(known)}, arc in the files as they were published."
        )
    return found


def _task_of_file(tasks: Mapping[str, str], path: Path) -> str:
    """Of a set with several tasks: which of them a file is; empty for one that is not as published."""
    return tasks.get(sha256_file(path), "") if tasks and path.is_file() else ""


def eval_results_yaml(evaluation: Mapping[str, Any], places: Places) -> str:
    """YAML of an evaluation.json. Raises InputError if no sub-suite with a place has right answers."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries = [
        EvalResultEntry(
            dataset_id=places[row["suite"]]["dataset"],
            task_id=places[row["suite"]]["task"],
            value=round(row["share_correct"]["value"], 4),
            date=evaluation["finished"],
            notes=_notes(evaluation, row),
        )
        for row in evaluation["levels"]
        if row["share_correct"] is not None and row["suite"] in places
    ]
    if not entries:
        raise InputError(f"There is no share of right answers on {', '.join(places)} to be written for the hub.")
    text: str = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
    return text


def _notes(evaluation: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    level, model = row["share_correct"], evaluation["model"]
    interval = f", 95 % interval {level['low']:.4f} to {level['high']:.4f}" if level["low"] is not None else ""
    by = " ".join(filter(None, (model["engine"], model["build"]["version"])))
    recipe = f", recipe {model['recipe']}" if model["recipe"] else ""
    return f"{HOW[row['unit']]}, {level['n']} items{interval}; {by}{recipe}, suite version {evaluation['suite']['version']}"
