"""The files of a training run, as its processes write them: steps.jsonl, events.jsonl, result.json, error.json, checkpoints."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.training import StepRecord, TrainResult


def read_result(out: Path) -> TrainResult | None:
    """`result.json` of a run; None while there is none."""
    try:
        document = json.loads((out / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise InputError(f"{out / 'result.json'} is damaged; start the run anew with --fresh.") from None
    names = {field.name for field in fields(TrainResult)}
    told: dict[str, Any] = {key: tuple(value) if key == "notes" else value for key, value in document.items() if key in names}
    return TrainResult(**told)


class Lines:
    """New whole lines of a JSON lines file that grows. A run taken up again replaces it by the lines that stay; those are not new."""

    def __init__(self, path: Path) -> None:
        self.path, self.at, self.file = path, 0, (0, 0)
        self.known: set[bytes] = set()

    def new(self) -> list[dict[str, Any]]:
        """Those since the last call."""
        try:
            stat = self.path.stat()
            if (stat.st_dev, stat.st_ino) != self.file or stat.st_size < self.at:
                self.at, self.file = 0, (stat.st_dev, stat.st_ino)
            if stat.st_size == self.at:
                return []
            with self.path.open("rb") as file:
                file.seek(self.at)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self.at += len(whole)
        lines = [line for line in whole.splitlines() if line not in self.known]
        self.known.update(lines)
        return [parsed for line in lines if (parsed := _object(line)) is not None]


def _object(line: bytes) -> dict[str, Any] | None:
    """A line that a crash cut is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def step_record(row: Mapping[str, Any]) -> StepRecord:
    """A line of steps.jsonl. A loss that is no number was written as null."""
    told: dict[str, Any] = {field.name: row.get(field.name) for field in fields(StepRecord)}
    values: dict[str, Any] = {key: float("nan") if value is None else value for key, value in told.items()}
    return StepRecord(**values)


def read_steps(out: Path) -> list[StepRecord]:
    """Every step of a run in order; a step that was done again after a resume or a rollback counts once, as it was done last."""
    steps: dict[int, StepRecord] = {}
    for row in Lines(out / "steps.jsonl").new():
        step = step_record(row)
        steps = {number: one for number, one in steps.items() if number < step.step} if step.step in steps else steps
        steps[step.step] = step
    return list(steps.values())


def read_events(out: Path) -> list[dict[str, Any]]:
    """Every line of events.jsonl."""
    return Lines(out / "events.jsonl").new()


def told_error(out: Path) -> tuple[int, str] | None:
    """(exit code, sentence) of error.json, None if no process told one."""
    try:
        found = json.loads((out / "error.json").read_text(encoding="utf-8"))
        return int(found["exit_code"]), str(found["message"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def kept_steps(out: Path) -> list[int]:
    """Steps whose checkpoints are in the folder, oldest first."""
    return sorted(int(path.name.removeprefix("step-")) for path in (out / "checkpoints").glob("step-*") if path.name[5:].isdigit())
