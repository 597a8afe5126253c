"""Spikes found, noise left alone, and a run that is led back after its model was hurt."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab.core.training import TrainCheckpoints, TrainWatch
from trimtab.train.spikes import SpikeWatch, batches_to_leave_out

NOISE = {
    "normal": lambda rng, n: rng.normal(size=n),
    "student t, 3 degrees": lambda rng, n: rng.standard_t(3, size=n) / math.sqrt(3),
    "lognormal": lambda rng, n: (np.exp(0.5 * rng.normal(size=n)) - math.exp(0.125)) / 0.604,
}


def losses(kind: str, spread: float, n: int, seed: int) -> np.ndarray:
    """A falling loss with noise of this standard deviation, nats."""
    at = np.arange(n)
    return 2.5 + 4.0 * np.exp(-at / 60) + 1.5 * np.exp(-at / 600) + spread * NOISE[kind](np.random.default_rng(seed), n)


def verdicts(watch: SpikeWatch, seen: np.ndarray) -> list[str]:
    return [watch.judge(float(loss), 1.0) for loss in seen]


def verdicts_kept(seen: np.ndarray) -> list[float]:
    watch = SpikeWatch(TrainWatch())
    verdicts(watch, seen)
    return watch.fine_losses


@pytest.mark.parametrize("kind", NOISE)
def test_noise_is_no_spike(kind: str) -> None:
    for seed, spread in enumerate((0.01, 0.1, 0.3)):
        assert "spike" not in verdicts(SpikeWatch(TrainWatch()), losses(kind, spread, 600, seed))


@pytest.mark.parametrize("kind", NOISE)
def test_a_loss_half_as_high_again_is_found_at_its_second_step(kind: str) -> None:
    found = 0
    for seed in range(16):
        start = int(np.random.default_rng(seed).integers(40, 200))
        seen = losses(kind, 0.05, start + 4, seed)
        seen[start:] += 0.5 * seen[start - 1]
        told = verdicts(SpikeWatch(TrainWatch()), seen)
        assert "spike" not in told[:start]
        found += told[start : start + 2] == ["suspect", "spike"]
    assert found >= 15


def test_one_odd_batch_is_no_spike_and_is_not_learnt_from() -> None:
    watch = SpikeWatch(TrainWatch())
    seen = losses("normal", 0.02, 100, 1)
    seen[60] += 3.0
    told = verdicts(watch, seen)
    assert told[60:62] == ["suspect", "fine"]
    assert told.count("suspect") == 1
    assert watch.fine_losses == seen[-TrainWatch().spike_window :].tolist()
    assert seen[60] not in verdicts_kept(seen[:62])


def test_what_is_no_number_is_found_at_once() -> None:
    watch = SpikeWatch(TrainWatch())
    assert watch.judge(math.nan, 1.0) == watch.judge(1.0, math.inf) == watch.judge(math.inf, 1.0) == "nan"
    assert watch.judge(1.0, 1.0) == "fine"


def test_a_resumed_watch_comes_to_the_same_verdicts() -> None:
    seen = losses("lognormal", 0.3, 400, 3)
    seen[300:] += 2.5
    watch = SpikeWatch(TrainWatch())
    verdicts(watch, seen[:250])
    resumed = SpikeWatch(TrainWatch(), json.loads(json.dumps(watch.fine_losses)))
    assert verdicts(watch, seen[250:]) == verdicts(resumed, seen[250:])


def test_still_losses_may_wiggle() -> None:
    """A loss that has not moved at all has no deviation; a hundredth of it counts as one."""
    watch = SpikeWatch(TrainWatch(), [2.0] * 32)
    assert verdicts(watch, np.array([2.1, 2.1, 2.15])) == ["fine", "fine", "fine"]
    assert verdicts(watch, np.array([2.6, 2.6])) == ["suspect", "spike"]


def test_what_may_have_hurt_is_left_out() -> None:
    assert batches_to_leave_out("nan", 7, []) == [7]
    assert batches_to_leave_out("nan", 7, [2, 9]) == [8]
    assert batches_to_leave_out("spike", 7, []) == [5, 6, 7]
    assert batches_to_leave_out("spike", 7, [6]) == [5, 7, 8]
    assert batches_to_leave_out("spike", 1, []) == [0, 1]


HARMFUL = 25


class Harm:
    """A stream of numbers and the steps taken on it; what the batch at HARMFUL teaches throws the weights about."""

    n_sequences, digest = 64, "harm"

    def __init__(self) -> None:
        self.taken: list[int] = []

    def steps(self, *, first_step: int, rank: int, world: int, micro_batch_seqs: int, grad_accum: int, leave_out: Any) -> Iterator[Any]:
        from tiny import sequences

        for position in [one for one in range(1000) if one not in leave_out][first_step:]:
            self.taken.append(position)
            yield [sequences(position % 4, micro_batch_seqs, 16, packed=True)]

    def close(self) -> None:
        pass


@pytest.mark.slow
def test_a_hurt_model_goes_back_and_the_run_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harm comes just before a checkpoint, so that going back once is not enough."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    sys.path.insert(0, str(Path(__file__).parent / "parts"))
    from dataclasses import replace

    from tiny import config_for, write_shape

    from trimtab.core.errors import InfeasibleError
    from trimtab.train import worker

    folder = write_shape(tmp_path / "model")
    (folder / "tokenizer.json").write_text("{}")
    stream = Harm()
    applied = worker.Stepper.apply

    def harmful(self: Any, gradient: Any, lr: float) -> None:
        applied(self, gradient, lr)
        if stream.taken[-1] == HARMFUL:
            with torch.no_grad():
                for parameter in self.parameters:
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))

    monkeypatch.setattr(worker.Stepper, "apply", harmful)
    made = config_for(folder, steps=40, global_batch_seqs=4, micro_batch_seqs=4, optimizer={"name": "adamw", "lr": 1e-3})
    made = replace(made, checkpoint=TrainCheckpoints(every_steps=13, keep=2))
    done = worker.run(made, tmp_path / "run", data=lambda _: stream)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["kind"] for event in events if event["kind"] != "data-bound"] == ["spike", "rollback", "spike", "rollback"]
    assert [event["step"] for event in events if event["kind"] == "rollback"] == [26, 13]
    assert HARMFUL not in stream.taken[stream.taken.index(13, stream.taken.index(27)) :]
    assert done.rollbacks == 2
    assert done.last_loss < done.first_loss
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 41))
    stream.taken.clear()
    with pytest.raises(InfeasibleError, match="far above the ones before, after 1 rollback"):
        worker.run(replace(made, watch=TrainWatch(rollbacks=1)), tmp_path / "strict", data=lambda _: stream)
