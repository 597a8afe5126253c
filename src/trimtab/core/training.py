"""What a training run is told and what it tells: the tables of `train.toml`, one record a step, and the result.

A batch is `global_batch_seqs` sequences of `seq_tokens` tokens each; every process takes `grad_accum` micro-batches of `micro_batch_seqs`
of them, so that `global_batch_seqs == dp * grad_accum * micro_batch_seqs`. The loss of a step is the weighted mean over all target tokens
of the whole batch, whatever is padded, packed or accumulated.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Precision = Literal["fp64", "fp32", "bf16"]
Recompute = Literal["none", "selective", "full"]


@dataclass(frozen=True, kw_only=True)
class TrainModel:
    """Table [model].

    source: any model source; what is no Hugging Face directory is converted to one
    init: `weights` as they are, or `random` of the same shape
    grid: weights see this grid in the forward pass (`Q4_0`, `int4-sym-g64`, ...; see compress/grids.py), gradients pass straight through;
        "" = none
    tensors: patterns of weights' names to a grid of their own or `keep`
    lora_rank: 0 = all weights are trained; else low-rank adapters beside frozen ones
    lora_targets: names of the projections that get adapters; () = all linear layers of the blocks
    """

    source: str
    init: Literal["weights", "random"] = "weights"
    grid: str = ""
    tensors: Mapping[str, str] = field(default_factory=dict)
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainData:
    """Table [data].

    files: paths, patterns or addresses of .jsonl, .txt, .parquet, or folders of prepared shards
    layout: `packed` puts documents one after another until a sequence is full; `padded` gives each document sequences of its own
    mask_documents: a token attends to its own document only
    chat: documents hold `messages`; only what the assistant says is learnt
    weight: name of a field that multiplies the loss of a document, "" = all count alike
    shuffle: in a new order each epoch, from the seed; off = in the order of the files
    prefetch_steps: batches made ready ahead; cache_bytes: of the local cache of shards at most
    """

    files: tuple[str, ...]
    layout: Literal["packed", "padded"] = "packed"
    mask_documents: bool = True
    chat: bool = False
    weight: str = ""
    shuffle: bool = True
    prefetch_steps: int = 2
    cache_bytes: int = 2**34


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """Table [train]. Exactly one of tokens, steps and epochs is given (not 0).

    grad_sync: gradients are summed over processes after `each` micro-batch (less memory) or after the `last` of a step (less traffic)
    grad_accum: 0 = whatever global_batch_seqs asks for
    precision: of the matrix products; weights and optimizer states are float32 under `bf16` and `fp32`, float64 under `fp64`
    offload: states live in the host's memory between steps
    """

    seq_tokens: int = 512
    global_batch_seqs: int = 8
    micro_batch_seqs: int = 1
    grad_accum: int = 0
    grad_sync: Literal["each", "last"] = "last"
    tokens: int = 0
    steps: int = 0
    epochs: float = 0.0
    precision: Precision = "fp32"
    recompute: Recompute = "none"
    offload: bool = False
    compile: bool = False
    deterministic: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainOptimizer:
    """Table [optimizer].

    name: `adamw`, `adamw8bit` (torchao's 8-bit states), `sgd`
    schedule: after warm-up `cosine` falls to the end, `wsd` stays and falls linearly over the last `decay_share`, `constant` stays
    end_lr_share: of `lr`, where it ends; clip_norm: largest global norm of the gradient, 0 = not clipped
    """

    name: Literal["adamw", "adamw8bit", "sgd"] = "adamw"
    lr: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup_steps: int = 0
    decay_share: float = 0.2
    end_lr_share: float = 0.1


@dataclass(frozen=True, kw_only=True)
class TrainLayout:
    """Table [layout]: how the run lies on `dp` processes.

    zero_stage: 0 = every process holds everything (DDP; with dp = 1 a plain model); 2 = gradients and optimizer states are sharded and
        weights after the forward pass stay whole; 3 = weights are sharded too (both FSDP2)
    dp: 0 = as many as torchrun starts
    """

    dp: int = 0
    zero_stage: Literal[0, 2, 3] = 3


@dataclass(frozen=True, kw_only=True)
class TrainObjective:
    """Table [objective].

    kind: `next-token`: cross-entropy with the text; `distil`: KL divergence of the student from the teacher, token by token;
        `paired`: rows two by two are one text about two groups (train/debias/pairing.py)
    teacher: its source; top_k: of its probabilities are kept a token, the rest is one class; 0 = it runs along and all count
    text_share: of the loss that is cross-entropy with the text, under `distil`
    pair_weight: of the penalty on what a pair differs by, under `paired`
    """

    kind: Literal["next-token", "distil", "paired"] = "next-token"
    teacher: str = ""
    top_k: int = 0
    text_share: float = 0.0
    pair_weight: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrainCheckpoints:
    """Table [checkpoint]. every_steps: 0 = only at the end and when stopped; keep: newest ones that stay on the disk."""

    every_steps: int = 50
    keep: int = 2
    background: bool = True


@dataclass(frozen=True, kw_only=True)
class TrainWatch:
    """Table [watch].

    spike_factor: a loss so many robust deviations above those of the last `spike_window` steps is a spike; NaN always is
    rollbacks: so often a run goes back to a good checkpoint and leaves out the batch that hurt it, before it gives up
    tensorboard: write event files; mlflow: address of a tracking server, "" = none
    """

    spike_factor: float = 8.0
    spike_window: int = 32
    rollbacks: int = 2
    tensorboard: bool = False
    mlflow: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All of `train.toml`.

    hardware: table [hardware], `device` (name in the planner's catalog) and `n_devices`; for the prediction only
    """

    model: TrainModel
    data: TrainData
    train: TrainRun = field(default_factory=TrainRun)
    optimizer: TrainOptimizer = field(default_factory=TrainOptimizer)
    layout: TrainLayout = field(default_factory=TrainLayout)
    objective: TrainObjective = field(default_factory=TrainObjective)
    checkpoint: TrainCheckpoints = field(default_factory=TrainCheckpoints)
    watch: TrainWatch = field(default_factory=TrainWatch)
    hardware: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One line of `steps.jsonl`, written by process 0 when a step is done.

    step: from 1; tokens: target tokens of this step that count, over all processes; tokens_seen: since the beginning
    loss: weighted mean over the step's target tokens, nats; grad_norm: before clipping
    step_s: from batch to batch; data_wait_s: of it, spent waiting for data, the slowest process
    peak_memory_bytes: of the largest process: resident on a CPU, allocated on an accelerator
    """

    step: int
    tokens: int
    tokens_seen: int
    loss: float
    grad_norm: float
    lr: float
    step_s: float
    data_wait_s: float
    peak_memory_bytes: int
    time: str


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """`result.json` of a finished run.

    wall_s, cpu_s: of all starts; without what was done after a checkpoint and lost
    model: folder of the exported Hugging Face directory, relative to the run's; resumed: how often the run was taken up again
    """

    steps: int
    tokens_seen: int
    first_loss: float
    last_loss: float
    wall_s: float
    cpu_s: float
    world: int
    model: str
    peak_memory_bytes: int
    resumed: int = 0
    rollbacks: int = 0
    notes: tuple[str, ...] = ()
