"""What the residual fit is told of a serving job, and what physics says of each quantity."""

import math

from trimtab.core.errors import InputError
from trimtab.core.planning import ServeJob
from trimtab.plan.anchors.scheme import Anchor, Features, Scheme
from trimtab.plan.serving.loads import weight_bytes_per_device
from trimtab.plan.serving.memory import budget
from trimtab.plan.serving.rows import Case
from trimtab.plan.serving.time import ServeTime, StepModel, predict

SCHEMES = {
    "tpot_ms": Scheme(groups=("engine*device", "engine*model", "model*device*engine*weights*layout"), numbers=("batch", "share_prompts")),
    "ttft_ms": Scheme(groups=("engine", "form", "model*device*engine*weights*layout"), numbers=("concurrency",)),
    "decode_tok_s": Scheme(groups=("device", "engine*weights"), numbers=("context",)),
    "prefill_tok_s": Scheme(groups=("engine", "device", "engine*weights"), numbers=("prompt", "devices"), inside={"device": ("prompt",)}),
    "output_tok_s": Scheme(groups=("engine*load", "engine*device", "engine*model"), numbers=("prompt", "output", "devices")),
}
"""What tells models apart is no number here: its effect on a model that was not measured would be a guess."""


def steady(job: ServeJob) -> ServeTime:
    """What a published run did: it ran, so its weights and requests fitted, unless the weights alone exceed the devices."""
    memory = budget(job)
    if memory.fits:
        return predict(job)
    if weight_bytes_per_device(job) > job.device.memory_bytes:
        raise InputError(f"Its weights, {weight_bytes_per_device(job) / 1e9:.0f} GB a device, do not fit {job.device.name}.")
    return predict(job, most=max(1, job.concurrency))


def physics(case: Case, quantity: str) -> float:
    """The quantity by physics alone, in its own unit. InputError where it cannot be said."""
    job = case.job
    if quantity == "decode_tok_s" and case.decode_context:
        return 1.0 / StepModel(job).decode_s(1.0, case.decode_context)
    told = steady(job)
    if quantity == "decode_tok_s":
        return 1000.0 / told.tpot_ms
    if quantity == "prefill_tok_s":
        return told.prefill_tok_s
    if quantity == "output_tok_s":
        return told.output_tok_s * case.n_replicas
    return told.ttft_ms if quantity == "ttft_ms" else told.tpot_ms


def anchor_of(case: Case, quantity: str) -> Anchor:
    """One measured number beside physics. InputError as `physics`."""
    said, measured = physics(case, quantity), case.measured[quantity]
    ratio = measured / said
    return Anchor(
        quantity=quantity,
        features=features(case, quantity),
        log_ratio=math.log(ratio),
        setting=case.setting,
        model=case.job.architecture.name,
        source=case.source,
        id=case.id,
        measured=measured,
    )


def features(case: Case, quantity: str) -> Features:
    """What `SCHEMES` name, whatever the quantity: words of the setting, and logarithms of sizes."""
    job, told = case.job, steady(case.job)
    workers = max(1.0, job.decode_devices / (job.tp * job.pp * job.attention_dp))
    return {
        "engine": job.engine,
        "device": job.device.name,
        "weights": job.weights,
        "form": case.form,
        "layout": f"tp{job.tp} pp{job.pp} ep{job.ep} dp{job.attention_dp}",
        "load": case.told.get("load", ""),
        "concurrency": math.log(job.concurrency),
        "batch": math.log(max(1.0, told.batch / workers / job.attention_dp)),
        "prompt": math.log(job.prompt_tokens),
        "output": math.log(job.output_tokens),
        "context": math.log(case.decode_context or job.prompt_tokens + job.output_tokens / 2.0),
        "devices": math.log(job.tp * job.pp * job.attention_dp),
        "share_prompts": told.prefill_share,
    }
