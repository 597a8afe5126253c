"""What may explain how a measured step differs from physics: sizes, degrees, where the time goes, and who ran it on what."""

from collections.abc import Mapping

import numpy as np

from trimtab.core.planning import TrainJob
from trimtab.plan.anchors.scheme import Features, Scheme
from trimtab.plan.operators import active_params
from trimtab.plan.training.layouts import RECOMPUTE, Layouts
from trimtab.plan.training.memory import TrainMemory
from trimtab.plan.training.time import TrainTime

SHARES = ("attention", "elementwise", "launch", "recompute", "tensor_comm", "expert_comm", "bubble", "data_comm", "logits")
SIZES = ("log_params", "log_d_model", "log_tokens", "log_seq", "log_devices", "log_accum", "log_tp", "log_pp")

# Frameworks and devices are left to `source`: those of other sources say less of a new one than physics does.
TIME_SCHEME = Scheme(
    groups=("precision", "family", "model", "source", "source*device", "source*family"),
    numbers=("log_seq", "log_tokens", "expert_comm_share", "bubble_share"),
    inside={"source": ("log_params", "log_tokens", "log_seq", "log_devices")},
)
STEP_SCHEME = Scheme(
    groups=("framework", "device", "recompute", "shape", "model", "source"),
    numbers=(*SIZES, *(f"{name}_share" for name in SHARES)),
    inside={"source": ("log_tokens", "log_tp", "log_pp", "log_accum", "bubble_share")},
)
MEMORY_SCHEME = Scheme(groups=("framework", "model"), numbers=())
SCHEMES = {"tok_s_per_device": TIME_SCHEME, "step_time_s": STEP_SCHEME, "peak_memory_bytes": MEMORY_SCHEME}


def time_features(job: TrainJob, layout: Layouts, took: TrainTime, position: int = 0) -> Features:
    """Of one layout's predicted step."""
    degrees = layout.one(position)
    step = float(took.step_s[position])
    shares = {f"{name}_share": float(getattr(took, f"{name}_s")[position]) / step for name in SHARES}
    return {**_common(job, degrees), **shares}


def memory_features(job: TrainJob, layout: Layouts, held: TrainMemory, position: int = 0) -> Features:
    """Of one layout's predicted peak memory."""
    total = float(held.total_bytes[position])
    states = float(held.weights_bytes[position] + held.gradients_bytes[position] + held.optimizer_bytes[position])
    shares = {
        "states_share": states / total,
        "logits_share": float(held.logits_bytes[position]) / total,
        "activations_share": float(held.activations_bytes[position]) / total,
    }
    return {**_common(job, layout.one(position)), **shares}


def _common(job: TrainJob, degrees: Mapping[str, int]) -> dict[str, float | str]:
    a = job.architecture
    routed = any(block.feedforward and block.feedforward.n_experts for block in a.blocks)
    recurrent = any(block.attention and block.attention.kind == "recurrent" for block in a.blocks)
    names = {number: name for name, number in RECOMPUTE.items()}
    return {
        "framework": job.framework or "not told",
        "device": job.device.name,
        "precision": job.precision,
        "recompute": names[degrees["recompute"]],
        "task": job.trains,
        "family": "hybrid" if recurrent else "experts" if routed else "dense",
        "kind": job.device.kind,
        "log_params": float(np.log(active_params(a))),
        "log_d_model": float(np.log(a.d_model)),
        "log_tokens": float(np.log(degrees["micro_batch"] * job.seq_tokens / degrees["cp"] / degrees["tp"])),
        "log_seq": float(np.log(job.seq_tokens)),
        "log_devices": float(np.log(degrees["dp"] * degrees["tp"] * degrees["pp"] * degrees["cp"])),
        "log_accum": float(np.log(degrees["grad_accum"])),
        "shape": f"tp{degrees['tp']} pp{degrees['pp']} b{degrees['micro_batch']}",
        "log_tp": float(np.log(degrees["tp"])),
        "log_pp": float(np.log(degrees["pp"])),
    }
