"""What a debiasing run was asked for, and how each method trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.core.errors import InputError
from trimtab.core.policy import Policy
from trimtab.core.training import (
    TrainCheckpoints,
    TrainConfig,
    TrainData,
    TrainLayout,
    TrainModel,
    TrainObjective,
    TrainOptimizer,
    TrainRun,
)
from trimtab.evaluate.suites.registry import Suite
from trimtab.train.debias.methods import METHODS, Method

PACKED_TOKENS = 256
STEPS_OF = 8
"""Lengths of padded sequences are multiples of it."""
LONGEST_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a method trains. tokens: of the rows of an epoch, about; lr: highest; strength: of the pair penalty; seqs: a step"""

    tokens: int
    lr: float
    strength: float
    seqs: int


WAYS: dict[Method, Way] = {
    "counterfactual": Way(tokens=30_000, lr=5e-4, strength=0.0, seqs=4),
    "balanced": Way(tokens=30_000, lr=1e-3, strength=0.2, seqs=16),
    "reweigh": Way(tokens=30_000, lr=5e-4, strength=0.0, seqs=4),
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options, checked. targets: sub-suites of the suites whose bias is to fall"""

    model: str
    method: Method
    suites: Sequence[Suite]
    targets: tuple[str, ...]
    policy: Policy
    notes: tuple[str, ...]
    files: tuple[str, ...]
    tokens: int
    strength: float
    lora_rank: int
    lr: float
    processes: int
    seed: int


def check_ways(method: str, *, lora_rank: int, strength: float, tokens: int, lr: float) -> Method:
    """The method, if these options go together. Raises InputError."""
    found = next((name for name in METHODS if name == method), None)
    if found is None:
        raise InputError(f"Unknown method {method!r}; the methods are {', '.join(METHODS)}.")
    if found == "balanced" and lora_rank < 1:
        raise InputError("balanced learns from the model without its adapters, so it needs some; give --lora 1 or more.")
    if strength and found != "balanced":
        raise InputError(f"--strength is of the penalty on pairs, which {found} does not have; leave it out, or take --method balanced.")
    if min(strength, tokens, lr) < 0.0:
        raise InputError("tokens, strength and lr cannot be below 0; leave them out for what the method has as its own.")
    return found


def config_for(asked: Asked, folder: Path, rows: Path, longest_tokens: int) -> TrainConfig:
    """How the rows are trained on, once each. folder: Hugging Face directory; longest_tokens: of a row. Raises InputError."""
    way, paired = WAYS[asked.method], asked.method == "balanced"
    seqs = way.seqs
    if longest_tokens > LONGEST_TOKENS and paired:
        raise InputError(
            f"A text has {longest_tokens} tokens; balanced takes at most {LONGEST_TOKENS}, so cut the texts into shorter ones."
        )
    at_once = 4 if paired else 1
    if seqs % (asked.processes * at_once):
        raise InputError(f"{asked.processes} processes do not share out {seqs} sequences a step; take 1, 2 or 4.")
    return TrainConfig(
        model=TrainModel(source=str(folder), lora_rank=asked.lora_rank, lora_alpha=2.0 * asked.lora_rank or 16.0),
        data=TrainData(
            files=(str(rows),),
            layout="padded" if paired else "packed",
            weight="weight",
            shuffle=not paired,  # pairs stand side by side
        ),
        train=TrainRun(
            seq_tokens=-(-longest_tokens // STEPS_OF) * STEPS_OF if paired else PACKED_TOKENS,
            global_batch_seqs=seqs,
            micro_batch_seqs=at_once,
            epochs=1.0,
            seed=asked.seed,
        ),
        optimizer=TrainOptimizer(lr=asked.lr or way.lr, warmup_steps=3, schedule="cosine"),
        layout=TrainLayout(zero_stage=0),
        objective=TrainObjective(kind="paired", pair_weight=asked.strength or way.strength) if paired else TrainObjective(),
        checkpoint=TrainCheckpoints(every_steps=25),
    )
