"""Layouts of a training job over its devices: many at once, as equally long arrays, so that a search can weigh thousands a millisecond."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import InputError
from trimtab.core.planning import Architecture, TrainJob

IntArray = NDArray[np.int64]
RECOMPUTE = {"none": 0, "selective": 1, "full": 2}
OFFLOAD = {"none": 0, "optimizer": 1, "all": 2}  # all: weights and gradients too
SCHEDULES = {"1f1b": 0, "zero-bubble": 1, "gpipe": 2}
SPARE_LAYERS = 3  # embedding, loss and a prediction head may fill places of layers, so that 61 layers go over 64


@dataclass(frozen=True, kw_only=True)
class Layouts:
    """Equally long arrays; one position is one layout.

    dp, tp, pp, cp: replicas, tensor, pipeline and context ranks; their product is the number of devices
    vp: model chunks of a pipeline rank (interleaving); ep: ranks that share one layer's experts, taken from tp * cp * dp
    zero_stage: 0 nothing, 1 optimizer states, 2 gradients too, 3 weights too (FSDP) are sharded over dp * cp
    recompute: `RECOMPUTE`; schedule: `SCHEDULES`, interleaved where vp > 1
    micro_batch: sequences of one replica at a time; grad_accum: of them in one step (a pipeline's micro-batches)
    sequence_parallel: norms and residuals are split over tp too; offload: `OFFLOAD`, what lies in the host's memory
    grad_sync_each: gradients are reduced after every micro-batch, not after the last
    flash_attention: scores are never written to memory
    """

    dp: IntArray
    tp: IntArray
    pp: IntArray
    vp: IntArray
    cp: IntArray
    ep: IntArray
    zero_stage: IntArray
    recompute: IntArray
    micro_batch: IntArray
    grad_accum: IntArray
    sequence_parallel: IntArray
    offload: IntArray
    grad_sync_each: IntArray
    schedule: IntArray
    flash_attention: IntArray

    def __len__(self) -> int:
        return len(self.dp)

    def take(self, index: Any) -> "Layouts":
        """Those at `index` (positions, a mask or a slice)."""
        return Layouts(**{field.name: np.atleast_1d(getattr(self, field.name)[index]) for field in fields(self)})

    def one(self, position: int) -> dict[str, int]:
        """One layout as plain numbers, by name."""
        return {field.name: int(getattr(self, field.name)[position]) for field in fields(self)}


DEFAULTS = {
    **dict.fromkeys(("dp", "tp", "pp", "vp", "cp", "ep", "micro_batch", "grad_accum", "flash_attention"), 1),
    **dict.fromkeys(("zero_stage", "recompute", "sequence_parallel", "offload", "grad_sync_each", "schedule"), 0),
}
ALIASES = {"zero": "zero_stage", "mbs": "micro_batch", "accum": "grad_accum", "sp": "sequence_parallel", "flash": "flash_attention"}
SWITCHES = ("sequence_parallel", "grad_sync_each", "flash_attention")


def layouts(**degrees: Any) -> Layouts:
    """Layouts from numbers or arrays by name, spread to one length; what is not told is 1 or off (attention is flash attention)."""
    arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(degrees.get(name, value), np.int64)) for name, value in DEFAULTS.items()))
    return Layouts(**{name: np.ascontiguousarray(array) for name, array in zip(DEFAULTS, arrays, strict=True)})


def parse_layout(text: str, flag: str = "--layout") -> dict[str, int]:
    """The degrees that `tp=8,pp=4,recompute=full` tells, by name. InputError says what is wrong with which part of which option."""
    told: dict[str, int] = {}
    for part in filter(None, re.split(r"[,\s]+", text)):
        name, _, value = part.partition("=")
        name = ALIASES.get(name, name)
        if name not in DEFAULTS:
            raise InputError(f"{flag} knows no {name!r}; it takes {', '.join(DEFAULTS)}.")
        if name in told:
            raise InputError(f"{flag} tells {name} twice; keep one.")
        told[name] = _degree(name, value or ("1" if name in SWITCHES else ""), flag)
    return told


def _degree(name: str, value: str, flag: str) -> int:
    words: Mapping[str, int] = {"recompute": RECOMPUTE, "schedule": SCHEDULES, "offload": OFFLOAD}.get(name, {})
    if name in SWITCHES:
        words = {"true": 1, "yes": 1, "on": 1, "false": 0, "no": 0, "off": 0}
    if value in words:
        return words[value]
    least, most = (0, 3) if name == "zero_stage" else (0, max(words.values())) if words else (1, 2**31)
    if not value.isdecimal() or not least <= int(value) <= most:
        kinds = f" or {', '.join(words)}" if words else ""
        raise InputError(f"{flag}: {name}={value} is not a number from {least} to {most}{kinds}.")
    return int(value)


def refusals(job: TrainJob, many: Layouts) -> list[tuple[NDArray[np.bool_], str]]:
    """What cannot run: for each rule the layouts that break it, and the rule with the job's numbers.

    Fields of a layout stand in braces in the rule's words, for `check` to fill in.
    """
    a = job.architecture
    heads, experts = _heads(a), _experts(a)
    slots = many.pp * many.vp
    places = -(-a.n_layers // slots) * slots
    rules = [
        (
            many.dp * many.tp * many.pp * many.cp != job.n_devices,
            f"dp={{dp}} x tp={{tp}} x pp={{pp}} x cp={{cp}} does not make {job.n_devices} devices",
        ),
        (
            many.dp * many.micro_batch * many.grad_accum != job.global_batch_seqs,
            "dp={dp} x micro_batch={micro_batch} x grad_accum={grad_accum} "
            f"does not make a batch of {job.global_batch_seqs} sequences",
        ),
        (heads % many.tp != 0, f"tp={{tp}} does not divide the {heads} attention heads of {a.name}"),
        (a.d_model % many.tp != 0, f"tp={{tp}} does not divide the width {a.d_model} of {a.name}"),
        (
            places - a.n_layers > SPARE_LAYERS * (slots > 1),
            f"pp={{pp}} x vp={{vp}} does not divide the {a.n_layers} layers of {a.name}",
        ),
        ((many.vp > 1) & (many.pp == 1), "vp={vp} interleaves a pipeline, and pp=1 is none"),
        (job.seq_tokens % many.cp != 0, f"cp={{cp}} does not divide a sequence of {job.seq_tokens} tokens"),
        (many.ep > max(experts, 1), f"ep={{ep}} is more than the {experts} experts of {a.name}"),
        (max(experts, 1) % many.ep != 0, f"ep={{ep}} does not divide the {experts} experts of {a.name}"),
        ((many.dp * many.cp * many.tp) % many.ep != 0, "ep={ep} does not divide the dp={dp} x cp={cp} x tp={tp} ranks of a pipeline stage"),
        (
            (many.sequence_parallel == 1) & (job.seq_tokens % (many.cp * many.tp) != 0),
            f"tp={{tp}} does not divide the {job.seq_tokens} tokens",
        ),
    ]
    return [(np.asarray(broken, bool), words) for broken, words in rules]


def possible(job: TrainJob, many: Layouts) -> NDArray[np.bool_]:
    """Which layouts divide heads, layers, experts, devices and the batch."""
    return np.asarray(~np.logical_or.reduce([broken for broken, _ in refusals(job, many)]), np.bool_)


def check(job: TrainJob, many: Layouts) -> None:
    """InputError for the first layout that cannot run, with what does not divide what."""
    for broken, words in refusals(job, many):
        if broken.any():
            raise InputError(f"The layout cannot run: {words.format(**many.one(int(np.argmax(broken))))}; change one of them.")


def _heads(a: Architecture) -> int:
    found = [block.attention.n_heads for block in a.blocks if block.attention and block.attention.kind != "recurrent"]
    return int(np.gcd.reduce(found)) if found else a.d_model


def _experts(a: Architecture) -> int:
    found = [block.feedforward.n_experts for block in a.blocks if block.feedforward]
    return max(found, default=0)
