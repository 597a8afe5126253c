"""Levels of an evaluation as the Hugging Face hub's `.eval_results/*.yaml`, for sub-suites whose items are a set on the hub.

https://huggingface.co/docs/hub/eval-results. Only shares of right answers are exported, with what they are in the notes: likelihoods are no
leaderboard's metric.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.core.errors import InputError
from trimtab.evaluate.suites.public import public_sets


def eval_results_yaml(evaluation: Mapping[str, Any]) -> str:
    """YAML of an evaluation.json. Raises InputError if no sub-suite of it has right answers and a place on the hub."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries = [
        EvalResultEntry(
            dataset_id=place["dataset"],
            task_id=place["task"],
            value=round(row["share_correct"]["value"], 4),
            date=evaluation["finished"],
            notes=_notes(evaluation, row),
        )
        for row in evaluation["levels"]
        if row["share_correct"] is not None and (place := public_sets().get(row["suite"], {}).get("hub"))
    ]
    if not entries:
        raise _no_place()
    text: str = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
    return text


def check_place(suites: Sequence[str]) -> None:
    """Raises InputError where none of these suites, as typed, can have an entry: before they are scored and not after."""
    asked = {one.partition(":")[0].strip() for name in suites for one in name.split(",")}
    if not any(public_sets().get(name, {}).get("hub") for name in asked):
        raise _no_place()


def _no_place() -> InputError:
    known = sorted(name for name, row in public_sets().items() if "hub" in row)
    return InputError(f"None of these sub-suites has a place on the hub; those that have are {', '.join(known)}.")


def _notes(evaluation: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    level, model = row["share_correct"], evaluation["model"]
    interval = f", 95 % interval {level['low']:.4f} to {level['high']:.4f}" if level["low"] is not None else ""
    return (
        f"0-shot, most likely option per token, {level['n']} items{interval}; {model['engine']} {model['build']['version']}, recipe "
        f"{model['recipe']}, suite version {evaluation['suite']['version']}"
    )
