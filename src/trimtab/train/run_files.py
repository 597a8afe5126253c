"""The files of a run folder that its processes write: run.json, steps.jsonl, events.jsonl, result.json. Process 0 writes, all may read."""

import json
import math
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import canonical_json, to_plain, write_atomic
from trimtab.core.training import StepRecord, TrainResult
from trimtab.record.disk import sentences

RUN_SCHEMA = "trimtab.train/1"
LIBRARIES = ("trimtab", "torch", "transformers", "torchao", "peft", "numpy")


class RunFiles:
    """One run folder. writes: this is the process that does; the others' calls change nothing."""

    def __init__(self, out: Path, *, writes: bool) -> None:
        self.out, self.writes = out, writes
        self.noted: list[str] = []
        self._steps, self._events = out / "steps.jsonl", out / "events.jsonl"
        if writes:
            with sentences(out, "write"):
                out.mkdir(parents=True, exist_ok=True)

    def begin(self, facts: Mapping[str, Any], bound: Mapping[str, str]) -> None:
        """Write run.json, or hold a run that is taken up again to what it began with.

        facts: kept as they are; bound: digests by name that must be the same. Raises InputError that names the first that differs.
        """
        path = self.out / "run.json"
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8")).get("digests", {})
            for name, digest in bound.items():
                if before.get(name, digest) != digest:
                    raise InputError(
                        f"{self.out} holds a run whose {name} is another; choose another folder, or give it what it began with."
                    )
        elif self.writes:
            document = {
                "schema": RUN_SCHEMA,
                "started": _now(),
                "digests": dict(bound),
                "versions": {name: found for name in LIBRARIES if (found := _version(name))},
                "system": f"{platform.system()} {platform.release()} {platform.machine()}",
                **facts,
            }
            write_atomic(path, json.dumps(to_plain(document), indent=1, sort_keys=True) + "\n")

    def note(self, kind: str, text: str, **more: Any) -> None:
        """One line of events.jsonl."""
        if self.writes:
            self._append(self._events, {"time": _now(), "kind": kind, "text": text, **more})
            self.noted.append(text)

    def add_step(self, record: StepRecord) -> None:
        """One line of steps.jsonl. It is the system's once this returns, so a killed run keeps it; a power cut may cost the last ones."""
        if self.writes:
            self._append(self._steps, record)

    def keep_steps(self, last: int) -> list[float]:
        """Drop the lines of steps after `last` and what a kill cut short. Returns the losses that stay, in order."""
        kept: dict[int, dict[str, Any]] = {}
        for line in self._steps.read_text(encoding="utf-8").splitlines() if self._steps.exists() else []:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row["step"] <= last:
                kept[row["step"]] = row
        if self.writes and self._steps.exists():
            write_atomic(self._steps, "".join(canonical_json(row) + "\n" for row in kept.values()))
        return [math.nan if row["loss"] is None else row["loss"] for row in kept.values()]

    def first_loss(self) -> float:
        """Of the first step that is written; NaN if none is."""
        with self._steps.open(encoding="utf-8") as file:
            return float(json.loads(file.readline())["loss"])

    def result(self) -> TrainResult | None:
        """Of a run that has ended."""
        path = self.out / "result.json"
        if not path.exists():
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
        return TrainResult(**{**found, "notes": tuple(found["notes"])})

    def end(self, result: TrainResult) -> None:
        """Write result.json, the last of all."""
        if self.writes:
            write_atomic(self.out / "result.json", json.dumps(to_plain(result), indent=1) + "\n")

    def _append(self, path: Path, row: Any) -> None:
        with sentences(path, "write"), path.open("a", encoding="utf-8") as file:
            file.write(canonical_json(row) + "\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
