"""One run folder: records, stopping, going on, refusing what does not belong, the exported model. One process, a stream of numbers."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

sys.path.insert(0, str(Path(__file__).parent / "parts"))

from tiny import apart, config_for, rows, sequences, write_shape  # noqa: E402

from trimtab.core.errors import InfeasibleError, InputError, StoppedError  # noqa: E402
from trimtab.core.training import TrainCheckpoints, TrainConfig, TrainWatch  # noqa: E402
from trimtab.train.batch import MicroBatch  # noqa: E402
from trimtab.train.checkpoint_manifest import manifest_text, read_manifest  # noqa: E402
from trimtab.train.models import load_model  # noqa: E402
from trimtab.train.worker import run, total_steps  # noqa: E402

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


class Numbers:
    """A stream whose step k is sequences of seed k. At `stop_at` it is told to stop; at `bad` weights are infinite; `skip` never come."""

    n_sequences, digest = 64, "numbers"

    def __init__(self, stop_at: int = -1, bad: tuple[int, ...] = (), skip: tuple[int, ...] = ()) -> None:
        self.stop_at, self.bad, self.skip, self.closed = stop_at, bad, skip, False

    def steps(self, *, first_step: int, rank: int, world: int, micro_batch_seqs: int, grad_accum: int, leave_out: Any) -> Iterator[Any]:
        order = [position for position in range(1000) if position not in leave_out and position not in self.skip]
        for position in order[first_step:]:
            if position == self.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            batch = sequences(position, micro_batch_seqs * grad_accum, 16, packed=True)
            if position in self.bad:
                batch = replace(batch, weights=np.where(batch.weights, np.float32("inf"), np.float32(0)))
            yield self._cut(batch, micro_batch_seqs)

    def _cut(self, batch: MicroBatch, size: int) -> list[MicroBatch]:
        return [rows(batch, slice(first, first + size)) for first in range(0, len(batch.input_ids), size)]

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_shape(tmp_path_factory.mktemp("tiny") / "model")


def config(folder: Path, **run_settings: Any) -> TrainConfig:
    made = config_for(
        folder, **({"steps": 6, "global_batch_seqs": 4, "micro_batch_seqs": 2} | run_settings), optimizer={"name": "adamw", "lr": 3e-3}
    )
    return replace(made, checkpoint=TrainCheckpoints(every_steps=0, background=False))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(out: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(out / "model" / "model.safetensors")


def test_a_stopped_run_goes_on_to_the_same_end(folder: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    straight = run(config(folder), tmp_path / "a", data=lambda _: Numbers())
    stream = Numbers(stop_at=2)
    with pytest.raises(StoppedError, match="after step 3 of 6"):
        run(config(folder), tmp_path / "b", data=lambda _: stream)
    assert stream.closed
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "b" / "result.json").exists()
    (kept,) = (tmp_path / "b" / "checkpoints").iterdir()
    manifest = read_manifest(kept)
    spent = {**manifest.extra, "wall_s": 1000.0, "cpu_s": 2000.0}
    (kept / "manifest.json").write_text(manifest_text(replace(manifest, extra=spent)))
    resumed = run(config(folder), tmp_path / "b", data=lambda _: Numbers())
    assert resumed.wall_s > 1000.0, "what earlier starts took counts"
    assert resumed.cpu_s > 2000.0
    assert apart(weights(tmp_path / "a"), weights(tmp_path / "b")) == 0.0
    assert (resumed.last_loss, resumed.tokens_seen, resumed.resumed) == (straight.last_loss, straight.tokens_seen, 1)
    steps = lines(tmp_path / "b" / "steps.jsonl")
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert resumed.first_loss == steps[0]["loss"]
    assert [row["kind"] for row in lines(tmp_path / "b" / "events.jsonl")] == ["stopped", "resumed"]
    assert resumed.last_loss < resumed.first_loss + 1.0
    again = run(config(folder), tmp_path / "b", data=lambda _: pytest.fail("a run that has ended is not done again"))
    assert again == resumed


def test_batches_of_which_nothing_counts_are_passed_over(folder: Path, tmp_path: Path) -> None:
    class Silent(Numbers):
        """Two of its batches, or all, count for nothing."""

        def __init__(self, silent: range | tuple[int, ...]) -> None:
            super().__init__()
            self.silent = silent

        def steps(self, *, leave_out: Any, **asked: Any) -> Iterator[Any]:
            order = [position for position in range(1000) if position not in leave_out]
            for position, batches in zip(order[asked["first_step"] :], super().steps(leave_out=leave_out, **asked), strict=False):
                silent = position in self.silent
                yield [replace(batch, weights=np.zeros_like(batch.weights)) if silent else batch for batch in batches]

    told = run(config(folder), tmp_path / "a", data=lambda _: Silent((0, 3)))
    assert told.steps == 6
    assert [row["leave_out"] for row in lines(tmp_path / "a" / "events.jsonl")] == [[0], [3]]
    skipping = run(config(folder), tmp_path / "b", data=lambda _: Numbers(skip=(0, 3)))
    assert apart(weights(tmp_path / "a"), weights(tmp_path / "b")) == 0.0
    assert (told.first_loss, told.last_loss) == (skipping.first_loss, skipping.last_loss)
    with pytest.raises(InputError, match="No token of all the data counts"):
        run(config(folder), tmp_path / "c", data=lambda _: Silent(range(1000)))


def test_another_run_does_not_go_on_in_a_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        run(config(folder), tmp_path, data=lambda _: Numbers(stop_at=0))
    other = Numbers()
    other.digest = "other"
    with pytest.raises(InputError, match="whose data is another"):
        run(config(folder), tmp_path, data=lambda _: other)
    with pytest.raises(InputError, match="whose settings is another"):
        run(config(folder, seed=1), tmp_path, data=lambda _: Numbers())


def test_a_batch_that_gives_no_number_is_left_out_or_ends_the_run(folder: Path, tmp_path: Path) -> None:
    done = run(config(folder), tmp_path / "a", data=lambda _: Numbers(bad=(2,)))
    assert (done.steps, done.rollbacks) == (6, 1)
    assert [row["kind"] for row in lines(tmp_path / "a" / "events.jsonl")] == ["spike", "rollback"]
    strict = replace(config(folder), watch=TrainWatch(rollbacks=0))
    with pytest.raises(InfeasibleError, match="loss of step 3 is no number"):
        run(strict, tmp_path / "b", data=lambda _: Numbers(bad=(2,)))


def test_the_exported_model_computes_what_was_trained(folder: Path, tmp_path: Path) -> None:
    """Adapters are merged; transformers reads the directory by itself."""
    lora = config_for(
        folder, steps=3, global_batch_seqs=4, micro_batch_seqs=4, model={"lora_rank": 2}, optimizer={"name": "adamw", "lr": 1e-2}
    )
    run(lora, tmp_path, data=lambda _: Numbers())
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    start = load_model(lora, folder, CPU, meta=False)
    ids = torch.arange(12)[None]
    assert not any("lora" in name for name, _ in exported.named_parameters())
    with torch.no_grad():
        assert float((exported(ids).logits - start(input_ids=ids).logits).abs().max()) > 1e-3
    plain = load_model(config_for(tmp_path / "model", model={"init": "weights"}), tmp_path / "model", CPU, meta=False)
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=ids).logits, exported(ids).logits)


def test_files_that_do_not_belong_together_are_refused(folder: Path, tmp_path: Path) -> None:
    given = config_for(folder, model={"init": "weights"})
    with pytest.raises(InputError, match=r"holds no config\.json"):
        load_model(given, tmp_path, CPU, meta=False)
    with pytest.raises(InputError, match=r"holds no model\.safetensors"):
        load_model(given, folder, CPU, meta=False)
    model = load_model(config_for(folder), folder, CPU, meta=False)
    model.save_pretrained(tmp_path / "model")
    write_shape(tmp_path / "model", hidden_size=64)
    with pytest.raises(InputError, match="they belong to two models"):
        load_model(given, tmp_path / "model", CPU, meta=False)
    write_shape(tmp_path / "model", num_hidden_layers=3)
    with pytest.raises(InputError, match="hold no tensor"):
        load_model(given, tmp_path / "model", CPU, meta=False)
    with pytest.raises(InputError, match="lora_targets names nothing"):
        load_model(config_for(folder, model={"lora_rank": 2, "lora_targets": ("nothing",)}), folder, CPU, meta=False)


def test_steps_of_a_run(folder: Path) -> None:
    def steps(**asked: Any) -> int:
        return total_steps(config_for(folder, **({"steps": 0, "seq_tokens": 100, "global_batch_seqs": 8} | asked)), 20)

    assert steps(steps=7) == 7
    assert steps(tokens=801) == 2
    assert steps(epochs=2.0) == 5
