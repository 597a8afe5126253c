"""Steps of a training on other people's pages: TensorBoard event files in the run folder, and MLflow. Process 0 writes.

Trouble with a page is told once and never ends a training.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from trimtab.core.errors import MissingError
from trimtab.core.training import StepRecord, TrainWatch

TENSORBOARD = "tensorboard"
SHOWN = ("loss", "grad_norm", "lr", "step_s", "data_wait_s", "peak_memory_bytes", "tokens_seen")


class Board(Protocol):
    """One page."""

    def step(self, record: StepRecord) -> None: ...

    def close(self) -> None: ...


def open_boards(choice: TrainWatch, out: Path, note: Callable[[str, str], None]) -> list[Board]:
    """Those that [watch] names. note: takes kind and text of an event. Raises MissingError for a package that is not installed."""
    boards: list[Board] = []
    if choice.tensorboard:
        boards.append(_Once("TensorBoard", TensorBoard(out / TENSORBOARD), note))
    if choice.mlflow:
        boards.append(_Once("MLflow", MLflow(choice.mlflow, out), note))
    return boards


def numbers(record: StepRecord) -> dict[str, float]:
    """What is shown of a step; what is no number is left out, and tokens a second are added."""
    found = {f"train/{name}": float(getattr(record, name)) for name in SHOWN}
    if record.step_s > 0:
        found["train/tokens_per_s"] = record.tokens / record.step_s
    return {name: value for name, value in found.items() if math.isfinite(value)}


class TensorBoard:
    """Event files (torch.utils.tensorboard). Steps that are done again after a resume take the place of the old ones."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingError(
                f"[watch] tensorboard needs a package that is not installed ({error}).", "pip install tensorboard"
            ) from error
        self._open: Callable[[int], Any] = lambda step: SummaryWriter(str(folder), purge_step=step)
        self._writer: Any = None

    def step(self, record: StepRecord) -> None:
        if self._writer is None:
            self._writer = self._open(record.step)
        for name, value in numbers(record).items():
            self._writer.add_scalar(name, value, record.step)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class MLflow:
    """One MLflow run, found again by the file `mlflow-run` of the run folder when a training is taken up again."""

    def __init__(self, address: str, out: Path) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise MissingError(f"[watch] mlflow needs a package that is not installed ({error}).", "pip install mlflow-skinny") from error
        try:
            self._client = MlflowClient(tracking_uri=address)
            self._run = self._found_run(out)
        except (MlflowException, ImportError) as error:
            said = str(error).partition(". ")[0].rstrip(".")
            raise MissingError(f"MLflow cannot open {address}: {said}.", "give another address in [watch] mlflow, or none.") from error

    def _found_run(self, out: Path) -> str:
        kept = out / "mlflow-run"
        if kept.exists():
            return kept.read_text(encoding="utf-8").strip()
        found = self._client.get_experiment_by_name("trimtab")
        experiment = found.experiment_id if found else self._client.create_experiment("trimtab")
        run_id = str(self._client.create_run(experiment, run_name=out.name).info.run_id)
        kept.write_text(run_id + "\n", encoding="utf-8")
        return run_id

    def step(self, record: StepRecord) -> None:
        from mlflow.entities import Metric

        at_ms = _milliseconds(record.time)
        self._client.log_batch(self._run, metrics=[Metric(name, value, at_ms, record.step) for name, value in numbers(record).items()])

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _milliseconds(moment: str) -> int:
    from datetime import datetime

    return round(datetime.fromisoformat(moment).timestamp() * 1000)


class _Once:
    """A page whose trouble is told once; it is then left alone."""

    def __init__(self, name: str, board: Board, note: Callable[[str, str], None]) -> None:
        self._name, self._board, self._note = name, board, note
        self._well = True

    def step(self, record: StepRecord) -> None:
        self._tried(lambda: self._board.step(record))

    def close(self) -> None:
        self._tried(self._board.close)

    def _tried(self, action: Callable[[], None]) -> None:
        if not self._well:
            return
        try:
            action()
        except Exception as error:
            self._well = False
            self._note("note", f"{self._name} takes no more steps ({type(error).__name__}: {error}); the training goes on.")
