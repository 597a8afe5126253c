"""A tiny model, batches with everything that is hard about them, and steps on any layout: what the checks of the trainer share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from trimtab.core.training import TrainConfig, TrainData, TrainLayout, TrainModel, TrainOptimizer, TrainRun
from trimtab.train.batch import MicroBatch
from trimtab.train.config import resolved
from trimtab.train.masks import check_masks
from trimtab.train.objectives import next_token
from trimtab.train.processes import Processes
from trimtab.train.worker import model_for, stepper_for

VOCABULARY = 97
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def write_shape(folder: Path, **changes: Any) -> Path:
    """A directory with a Llama's config.json, no weights, and what stands for a tokenizer where none is opened."""
    from transformers import LlamaConfig

    LlamaConfig(**{**SHAPE, **changes}).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def sequences(seed: int, count: int, n_tokens: int, *, packed: bool) -> MicroBatch:
    """`count` sequences: several documents in one, padding at the end, weights that differ, some 0."""
    random = np.random.default_rng([seed, count, n_tokens])
    ids = random.integers(0, VOCABULARY, (count, n_tokens + 1))
    weights = random.choice(np.float32([0.0, 0.5, 1.0, 3.0]), (count, n_tokens))
    positions, documents = np.zeros((count, n_tokens), np.int64), np.zeros((count, n_tokens), np.int32)
    for row in range(count):
        text = int(random.integers(2, n_tokens + 1))
        starts = sorted({0, *random.integers(1, n_tokens, 2).tolist()}) if packed else [0]
        for number, start in enumerate(starts):
            positions[row, start:] = np.arange(n_tokens - start)
            documents[row, start:] = number
        positions[row, text:], documents[row, text:], weights[row, text:] = 0, -1, 0.0
        weights[row, 0] = 1.0
    targets = np.where(weights != 0, ids[:, 1:], 0)
    return MicroBatch(input_ids=ids[:, :-1].copy(), target_ids=targets, weights=weights, position_ids=positions, document_ids=documents)


def rows(batch: MicroBatch, part: slice) -> MicroBatch:
    """Some sequences of a batch."""
    names = ("input_ids", "target_ids", "weights", "position_ids", "document_ids")
    return MicroBatch(**{name: getattr(batch, name)[part] for name in names})


def share(batch: MicroBatch, config: TrainConfig, processes: Processes) -> list[MicroBatch]:
    """This process's micro-batches of a step's sequences."""
    size, accum = config.train.micro_batch_seqs, config.train.grad_accum
    first = processes.rank * size * accum
    return [rows(batch, slice(first + number * size, first + (number + 1) * size)) for number in range(accum)]


@dataclass(frozen=True)
class Trained:
    """What steps led to: losses and norms of each, gradients of the first, weights after the last; whole tensors by name."""

    losses: list[float]
    norms: list[float]
    gradients: Mapping[str, torch.Tensor]
    weights: Mapping[str, torch.Tensor]
    local_share: float
    model: torch.nn.Module


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def train(config: TrainConfig, steps: Sequence[MicroBatch], processes: Processes) -> Trained:
    """Take a step with each of these global batches."""
    config = resolved(config, processes.world)
    model = model_for(config, processes)
    stepper = stepper_for(model, config, processes, next_token)
    check_masks(stepper.learner, model, config, processes.device)
    losses, norms, first = [], [], {}
    for batch in steps:
        gradient = stepper.gradient(share(batch, config, processes))
        first = first or {name: whole(value.grad) for name, value in model.named_parameters() if value.grad is not None}
        stepper.apply(gradient, config.optimizer.lr)
        losses.append(gradient.loss)
        norms.append(gradient.norm)
    own = sum((value.to_local() if isinstance(value, DTensor) else value).numel() for value in model.parameters())
    weights = {name: whole(value) for name, value in model.named_parameters()}
    return Trained(losses, norms, first, weights, own / sum(value.numel() for value in model.parameters()), model)


Told = Mapping[str, Any] | None


def config_for(
    folder: Path, *, model: Told = None, layout: Told = None, optimizer: Told = None, **run: Any
) -> TrainConfig:  # fmt: skip
    return TrainConfig(
        model=TrainModel(source=str(folder), **({"init": "random"} | dict(model or {}))),
        data=TrainData(files=("none",)),
        train=TrainRun(**({"global_batch_seqs": 8, "steps": 1} | run)),
        optimizer=TrainOptimizer(**({"name": "sgd", "lr": 0.3} | dict(optimizer or {}))),
        layout=TrainLayout(**dict(layout or {})),
    )


def apart(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """Largest difference of any tensor, relative to that tensor's largest value."""
    assert one.keys() == other.keys()
    return max(
        float((one[name].double() - other[name].double()).abs().max() / other[name].double().abs().max().clamp_min(1e-30)) for name in one
    )
