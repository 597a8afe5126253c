"""Published training runs as jobs with a layout and what was measured.

Reads rows with the columns of a table of published runs (`model`, `device`, `n_devices`, `tp`, `tok_s_per_device`, ...) and those of
vTrain's validation files. What a row leaves out is inferred, else taken as its framework does it (`published`); a row that cannot be
predicted is `Refused` with the reason.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from trimtab.core.errors import InputError
from trimtab.core.planning import Architecture, Device, Feedforward, TrainJob
from trimtab.plan.anchors.scheme import Anchor
from trimtab.plan.architectures import architecture_from_shape, find_architecture
from trimtab.plan.devices import device as find_device
from trimtab.plan.flops import DEFAULT, convention_of, tokens_per_s
from trimtab.plan.operators import n_params
from trimtab.plan.training.features import memory_features, time_features
from trimtab.plan.training.layouts import Layouts, layouts
from trimtab.plan.training.memory import peak
from trimtab.plan.training.published import (
    Degrees,
    framework_of,
    fused_attention,
    offload_of,
    precision_of,
    recompute_of,
    sequence_parallel_of,
    smallest_split,
    zero_stage_of,
)
from trimtab.plan.training.time import TrainTime, step

Cells = Mapping[str, str]
VTRAIN = {
    "# GPUs": "n_devices", "global batch": "global_batch_seqs", "micro batch": "micro_batch", "hidden size": "d_model",
    "attention heads": "n_heads", "# layers": "n_layers", "sequence length": "seq_len", "tensor parallelism": "tp",
    "data parallelism": "dp", "pipeline parallelism": "pp",
}  # fmt: skip
VTRAIN_SOURCE = "vTrain, one node"
UNTOLD = ("", "-", "—", "?", "n/a", "na", "nan", "none", "null", "unknown", "auto")
SCALES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
MOST_OF_PEAK, MOST_OF_MEMORY = 1.05, 1.1
GIB = 2.0**30
MEMORY_UNITS = {"GB": 1e9, "GiB": GIB, "MiB": 2.0**20, "MB": 1e6, "": 1e9}
USUAL_EXPERTS = 8
"""Of those a token passes, where a row tells only how many parameters are active."""
BATCH_TOKENS = 4.0e6
"""Of a step, where neither the batch nor what makes it up is told: usual for models of billions of parameters."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A row that cannot be predicted, and why in one sentence."""

    id: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """One published run.

    kind: as the row says: `measured`, or what else it is
    measured: by quantity: `tok_s_per_device`, `step_time_s`, `peak_memory_bytes`
    assumed: fields that the row did not tell and that were not inferable; derived: how tokens/s came from what was told, "" = it was told
    setting: equal for rows of one configuration; release: the framework as the row names it
    """

    id: str
    model: str
    source: str
    kind: str
    job: TrainJob
    layout: Layouts
    measured: Mapping[str, float]
    setting: str
    release: str = ""
    derived: str = ""
    assumed: tuple[str, ...] = ()


def read(rows: Iterable[Cells]) -> tuple[tuple[Run, ...], tuple[Refused, ...]]:
    """Every row as a run or a refusal, in order."""
    runs: list[Run] = []
    refused: list[Refused] = []
    for number, cells in enumerate(rows, 1):
        plain = _plain(cells, number)
        try:
            runs.append(_run(plain))
        except InputError as error:
            refused.append(Refused(id=plain["id"], why=str(error)))
    return tuple(runs), tuple(refused)


def anchors(rows: Iterable[Cells]) -> tuple[tuple[Anchor, ...], tuple[Refused, ...]]:
    """One anchor a measured number, beside what physics says of it, and the rows that cannot be predicted."""
    runs, unread = read(rows)
    found: list[Anchor] = []
    refused = list(unread)
    for run in runs:
        try:
            found += anchors_of(run)
        except InputError as error:
            refused.append(Refused(id=run.id, why=str(error)))
    return tuple(found), tuple(refused)


def anchors_of(run: Run) -> tuple[Anchor, ...]:
    """One anchor for each quantity that the run measured. InputError for a measurement that cannot be."""
    took = step(run.job, run.layout)
    held = peak(run.job, run.layout)
    _check(run, took)
    physics = {
        "tok_s_per_device": float(took.tok_s_per_device[0]),
        "step_time_s": float(took.step_s[0]),
        "peak_memory_bytes": float(held.total_bytes[0]),
    }
    on_time = time_features(run.job, run.layout, took)
    on_memory = memory_features(run.job, run.layout, held)
    return tuple(
        Anchor(
            quantity=quantity,
            features=on_memory if quantity == "peak_memory_bytes" else on_time,
            log_ratio=math.log(measured / physics[quantity]),
            setting=run.setting,
            model=run.job.architecture.name,
            source=run.source,
            id=run.id,
            measured=measured,
        )
        for quantity, measured in run.measured.items()
    )


def _check(run: Run, took: TrainTime) -> None:
    """A device cannot be faster than its peak, nor hold more than its memory (sold sizes may be in powers of two)."""
    name, device = run.job.architecture.name, run.job.device
    most = run.job.global_batch_seqs * run.job.seq_tokens / float(took.light_s[0]) / run.job.n_devices
    rate = run.measured.get("tok_s_per_device", 0.0)
    if rate > MOST_OF_PEAK * most:
        raise InputError(
            f"{rate:.6g} tokens/s of {name} are more than the peak of a {device.name} allows ({most:.4g}); one of them is wrong."
        )
    held = run.measured.get("peak_memory_bytes", 0.0)
    if held > MOST_OF_MEMORY * device.memory_bytes > 0:
        raise InputError(
            f"{held / 1e9:.4g} GB are more than a {device.name} has ({device.memory_bytes / 1e9:.4g} GB); one of them is wrong."
        )


def _plain(cells: Cells, number: int) -> dict[str, str]:
    """The row with our column names; vTrain's are translated."""
    told = {name: (value or "").strip() for name, value in cells.items() if name is not None}
    if "# GPUs" not in told:
        return {**told, "id": told.get("id") or f"row {number}"}
    made = {ours: told.get(theirs, "") for theirs, ours in VTRAIN.items()}
    milliseconds = told.get("iteration time (ms)", "")
    shape = f"GPT-{made['d_model']}x{made['n_layers']}"
    return {
        **made, "id": told.get("id") or f"row {number}", "model": shape, "device": "A100-SXM-80GB", "precision": "fp16",
        "framework": "Megatron-DeepSpeed", "act_ckpt": "none", "kind": "measured", "source": VTRAIN_SOURCE,
        "step_time_s": f"{milliseconds}e-3" if milliseconds else "",
    }  # fmt: skip


def _run(cells: dict[str, str]) -> Run:
    device = _device(cells)
    architecture = _architecture(cells)
    framework = framework_of(cells.get("framework", ""))
    assumed = ["shape"] if architecture.source == "shape" and not cells.get("d_model") else []
    n_devices = _count(cells, "n_devices") or _inferred_devices(cells)
    if not n_devices:
        assumed.append("n_devices")
        n_devices = _usual_devices(architecture)
    zero = zero_stage_of(cells.get("sharding", ""), framework, device)
    split = _split(cells, architecture, device, n_devices, zero, assumed)
    dp, left = divmod(n_devices, split.tp * split.pp * split.cp)
    if left or not dp:
        raise InputError(f"tp={split.tp} x pp={split.pp} x cp={split.cp} does not divide the {n_devices} devices of the row.")
    seq = _count(cells, "seq_len")
    if not seq:
        assumed.append("seq_len")
        seq = 2048 if framework in ("maxtext", "levanter") else min(architecture.context_tokens or 4096, 8192)
    micro, accum = _batch(cells, framework, split, dp, seq, architecture, assumed)
    fused = fused_attention(framework, device)
    precision = precision_of(cells.get("precision", ""), framework, device)
    told = cells.get("act_ckpt", "")
    layout = layouts(
        dp=dp, tp=split.tp, pp=split.pp, cp=split.cp, ep=split.ep, vp=_chunks(cells, architecture, framework, split.pp, accum),
        zero_stage=zero, recompute=recompute_of(told, framework, device, fused=fused), micro_batch=micro, grad_accum=accum,
        sequence_parallel=int(sequence_parallel_of(told, framework, device, split.tp)),
        grad_sync_each=int(zero >= 2 and split.pp == 1), flash_attention=int(fused),
        offload=offload_of(cells.get("sharding", "")),
    )  # fmt: skip
    job = TrainJob(
        architecture=architecture, device=device, n_devices=dp * split.tp * split.pp * split.cp, seq_tokens=seq,
        global_batch_seqs=dp * micro * accum, precision=precision, framework=framework,
        trains="adapters" if re.search(r"\blora\b|adapter", cells.get("notes", ""), re.IGNORECASE) else "all",
    )  # fmt: skip
    measured, derived = _measured(cells, job)
    if not measured:
        raise InputError(
            f"The row tells nothing measured of {cells.get('model')}: no tokens/s, step time, TFLOP/s, MFU, device hours or memory."
        )
    return Run(
        id=cells["id"],
        model=_family(cells.get("model", "")),
        source=cells.get("source", ""),
        kind=cells.get("kind", ""),
        job=job,
        layout=layout,
        measured=measured,
        setting=setting_of(job, layout),
        release=cells.get("framework", ""),
        derived=derived,
        assumed=tuple(assumed),
    )


def _family(model: str) -> str:
    """The model's name without remarks in brackets: `DeepSeekV3 (w/o MTP)` is left out with `DeepSeekV3`."""
    return re.sub(r"\s*\(.*?\)", "", model).strip()


def setting_of(job: TrainJob, layout: Layouts) -> str:
    """What repeats of one configuration share, as anchors name it."""
    degrees = layout.one(0)
    parts = [job.architecture.name, job.device.name, job.n_devices, job.seq_tokens, job.global_batch_seqs, job.precision, job.trains]
    parts += [*degrees.values()]
    return "|".join(map(str, parts))


def _device(cells: Cells) -> Device:
    name = cells.get("device", "")
    if not name:
        raise InputError("The row names no device.")
    return find_device(name)


def _architecture(cells: Cells) -> Architecture:
    """By shape where the row tells one, else by name."""
    name = cells.get("model", "")
    found = find_architecture(name) if name else None
    shape = tuple(_count(cells, key) for key in ("d_model", "n_layers", "n_heads"))
    if found is not None and re.search(r"w/o\s*mtp", name, re.IGNORECASE):
        found = replace(found, predict_layers=0)
    if found is not None and (not all(shape) or (found.d_model, found.n_layers) == shape[:2]):
        return found
    if all(shape):
        d_model, n_layers, n_heads = shape
        vocab = re.search(r"vocab\w*\s*=?\s*(\d{4,})", cells.get("notes", ""))
        return architecture_from_shape(
            d_model=d_model, n_layers=n_layers, n_heads=n_heads, vocab_size=int(vocab[1]) if vocab else 51200, name=name
        )
    if found is not None:
        return found
    if n_all := _number(cells, "params_b") * 1e9:
        return _of_size(name, n_all, _number(cells, "active_params_b") * 1e9 or n_all)
    raise InputError(f"No architecture of the catalog is called {name!r}, and the row tells neither its shape nor its size.")


def _of_size(name: str, n_all: float, n_active: float) -> Architecture:
    """A usual decoder of so many parameters: as many layers as 128s in its width, heads of 64. Few active of many: experts."""
    d_model = max(128, 128 * round((n_active * 128 / 12) ** (1 / 3) / 128))
    n_layers = max(1, round(n_active / (12 * d_model**2)))
    plain = architecture_from_shape(d_model=d_model, n_layers=n_layers, n_heads=d_model // 64, name=name or f"{n_all / 1e9:.3g}B")
    if n_all < 1.5 * n_active:
        return replace(plain, n_params=round(n_all))
    n_experts = max(2 * USUAL_EXPERTS, round(USUAL_EXPERTS * (1 + (n_all - n_active) / (8 * d_model**2 * n_layers))))
    experts = Feedforward(d_ff=4 * d_model // USUAL_EXPERTS, gated=False, n_experts=n_experts, n_experts_used=USUAL_EXPERTS)
    return replace(plain, blocks=(replace(plain.blocks[0], feedforward=experts),))


def _inferred_devices(cells: Cells) -> int:
    told = [_count(cells, key) for key in ("dp", "tp", "pp")]
    return math.prod(told) * max(1, _count(cells, "cp")) if all(told) else 0


def _usual_devices(a: Architecture) -> int:
    """As many as train 50 million parameters each, in whole nodes: runs that keep silent are of this size within a few times."""
    return int(max(8, min(2048, 2 ** round(math.log2(max(1.0, n_params(a) / 3.5e7))))))


def _split(cells: Cells, a: Architecture, device: Device, n_devices: int, zero: int, assumed: list[str]) -> Degrees:
    told = {name: _count(cells, name) for name in ("tp", "pp", "cp", "ep")}
    if not told["tp"] or not told["pp"]:
        usual = smallest_split(a, device, n_devices, n_params(a), zero)
        if not told["tp"] and not told["pp"]:
            assumed.append("tp, pp")
        told["tp"] = told["tp"] or (1 if told["pp"] else usual.tp)
        told["pp"] = told["pp"] or (1 if cells.get("tp") else usual.pp)
    experts = max((block.feedforward.n_experts for block in a.blocks if block.feedforward), default=0)
    cp = max(1, told["cp"])
    ranks = n_devices // (told["tp"] * told["pp"])
    ep = told["ep"]
    if experts and not ep:
        assumed.append("ep")
        ep = math.gcd(experts, max(1, ranks)) if zero < 3 else 1
    return Degrees(tp=told["tp"], pp=told["pp"], cp=cp, ep=max(1, ep) if experts else 1)


def _chunks(cells: Cells, a: Architecture, framework: str, pp: int, accum: int) -> int:
    """Model chunks of a pipeline rank. Who tells neither them nor a framework is taken to interleave where the bubble would be large."""
    told = _count(cells, "vp")
    if told or pp == 1:
        return max(1, told) if pp > 1 else 1
    return -(-a.n_layers // pp) if not framework and accum < 4 * pp else 1


def _batch(cells: Cells, framework: str, split: Degrees, dp: int, seq: int, a: Architecture, assumed: list[str]) -> tuple[int, int]:
    """(sequences at a time, how many times a step) of one replica."""
    micro, accum, batch = (_count(cells, key) for key in ("micro_batch", "grad_accum", "global_batch_seqs"))
    if not batch:
        tokens = re.search(r"tokens(?:/| per )step\)?\s*=?\s*(\d+)", cells.get("notes", ""))
        batch = round(int(tokens[1]) / seq) if tokens else 0
    if framework == "torchtitan" and split.pp > 1 and micro:
        micro, accum = max(1, micro // split.pp), min(micro, split.pp)  # its pipeline splits the local batch into as many as stages
    if not batch and not (micro and accum):
        if not micro:
            assumed.append("global_batch_seqs")
        batch = dp * micro if micro else max(dp, round(BATCH_TOKENS / seq / dp) * dp)
    if not micro:
        assumed.append("micro_batch")
        each = max(1, batch // dp) if batch else 1
        small = n_params(a) < 2e10
        micro = each if framework in ("maxtext", "levanter") else math.gcd(each, 4 if small and split.pp == 1 else 1)
    if not accum:
        accum = max(1, round(batch / (dp * micro)))
    return micro, accum


def _measured(cells: Cells, job: TrainJob) -> tuple[dict[str, float], str]:
    """What was measured, and how tokens/s was derived where they are not told."""
    found: dict[str, float] = {}
    rate, derived = _rate(cells, job)
    if rate > 0 and cells.get("source") != VTRAIN_SOURCE:  # there a step's time is the number, and tokens/s would say it twice
        found["tok_s_per_device"] = rate
    seconds = _number(cells, "step_time_s")
    if seconds > 0 and _count(cells, "global_batch_seqs") and _count(cells, "seq_len"):
        found["step_time_s"] = seconds
    memory = _number(cells, "peak_mem_value")
    if memory > 0:
        found["peak_memory_bytes"] = memory * MEMORY_UNITS.get(cells.get("peak_mem_unit", ""), 1e9)
    return found, derived


def _rate(cells: Cells, job: TrainJob) -> tuple[float, str]:
    """Tokens/s of a device, from what is nearest to it, and how; (0, "") where the row tells none."""
    told = _number(cells, "tok_s_per_device")
    if told > 0:
        return told, ""
    seconds, batch, seq, devices = (_number(cells, key) for key in ("step_time_s", "global_batch_seqs", "seq_len", "n_devices"))
    if min(seconds, batch, seq, devices) > 0:
        return batch * seq / seconds / devices, "step time"
    found = _rate_of_flops(cells, job)
    if found[0] > 0:
        return found
    hours, tokens = _number(cells, "device_hours"), _number(cells, "total_tokens")
    return (tokens / hours / 3600, "device hours") if hours > 0 and tokens > 0 else (0.0, "")


def _rate_of_flops(cells: Cells, job: TrainJob) -> tuple[float, str]:
    """From TFLOP/s, MFU or HFU by the convention of who counted."""
    peak = job.device.peak_flop_s.get("bf16") or job.device.peak_flop_s.get("fp16", 0.0)
    kind = cells.get("tflops_kind", "")
    assumed = ""
    for column, counted, flop_s in (
        ("tflops_per_device", kind, 1e12),
        ("mfu_pct", "model", peak / 100),
        ("hfu_pct", "hardware", peak / 100),
    ):
        value = _number(cells, column)
        if value <= 0:
            continue
        hint = f"{cells.get('source', '')} {cells.get('notes', '')}"
        name, _ = convention_of(cells.get("framework", ""), counted, hint, cells.get("model", ""))
        if not name:  # who counted does not say how: within a few percent of this, most do
            name, assumed = ("megatron-hfu-full", " (assumed)") if counted.startswith("hardware") else (DEFAULT, " (assumed)")
        return tokens_per_s(job.architecture, job.seq_tokens, value * flop_s, name), f"{column} as {name}{assumed}"
    return 0.0, ""


def _count(cells: Cells, name: str) -> int:
    value = _number(cells, name)
    return int(value) if value >= 1 and value == int(value) else 0


def _number(cells: Cells, name: str) -> float:
    """0 where the cell is empty or says that nothing is known. InputError where it holds something else than a number."""
    text = cells.get(name, "").split("(")[0].strip().lstrip("~≈").replace(",", "")
    if text.lower() in UNTOLD:
        return 0.0
    found = re.fullmatch(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([kmbt%x]?)\+?", text, re.IGNORECASE)
    if not found:
        raise InputError(f"Column {name} holds {text[:40]!r}, which is no number.")
    value = float(found[1]) * SCALES.get(found[2].lower(), 1.0)
    if value < 0:
        raise InputError(f"Column {name} holds {text[:40]!r}, which is below zero.")
    return value if math.isfinite(value) else 0.0
