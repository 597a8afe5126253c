"""Steps on other people's pages: what TensorBoard and MLflow read back, and a page that breaks and ends nothing."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from trimtab.core.training import TrainWatch
from trimtab.testing.training_steps import step_of
from trimtab.train.boards import numbers, open_boards

STEP = step_of(loss=3.0)


def test_what_is_no_number_is_left_out() -> None:
    found = numbers(replace(STEP, loss=math.nan))
    assert "train/loss" not in found
    assert found["train/tokens_per_s"] == 200.0


@pytest.mark.slow
def test_tensorboard_reads_what_was_written_also_after_a_step_was_done_again(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    choice = TrainWatch(tensorboard=True)
    for first, loss in ((1, 3.0), (2, 1.0)):
        (board,) = open_boards(choice, tmp_path, lambda kind, text: None)
        for step in range(first, 4):
            board.step(replace(STEP, step=step, loss=loss))
        board.close()
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("train/loss")] == [(1, 3.0), (2, 1.0), (3, 1.0)]


def test_mlflow_keeps_one_run_over_two_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    address = (tmp_path / "store").as_uri()
    (tmp_path / "run").mkdir()
    for step in (1, 2):
        (board,) = open_boards(TrainWatch(mlflow=address), tmp_path / "run", lambda kind, text: None)
        board.step(replace(STEP, step=step, loss=4.0 - step))
        board.close()
    client = mlflow.MlflowClient(tracking_uri=address)
    run_id = (tmp_path / "run" / "mlflow-run").read_text().strip()
    assert [(one.step, one.value) for one in client.get_metric_history(run_id, "train/loss")] == [(1, 3.0), (2, 2.0)]


def test_a_page_that_breaks_is_told_once_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    notes: list[str] = []
    (board,) = open_boards(TrainWatch(mlflow=(tmp_path / "s").as_uri()), tmp_path, lambda kind, text: notes.append(text))
    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", lambda *told, **more: 1 / 0)
    board.step(STEP)
    board.step(STEP)
    board.close()
    assert len(notes) == 1
    assert "the training goes on" in notes[0]
