"""A chosen layout as configuration that something runs: trimtab under torchrun, torchtitan, Megatron-LM.

What a format cannot say is told in `notes`, never left out in silence. Names of options: torchtitan 0.2 (`torchtitan/config/job_config.py`;
later versions take their configuration in Python), Megatron-LM (`megatron/training/arguments.py`), torchrun (`torch.distributed.run`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from trimtab.core.errors import InputError
from trimtab.core.planning import Architecture, Attention, Device, Feedforward, TrainJob

MOST_IN_A_HOST, IN_HOST_OF_A_DOMAIN = 16, 4
"""Boards of NVL72 racks and hosts of TPU pods have four."""
RECOMPUTE = ("none", "selective", "full")
SHARDING = ("no_shard", "optim", "optim_grads", "optim_grads_params")
"""Of a ZeRO stage, in the words of Megatron-LM's `--data-parallel-sharding-strategy`."""


TORCHTITAN_MODELS = {
    "llama-3-8b": "llama3 8B",
    "llama-3-70b": "llama3 70B",
    "llama-3.1-8b": "llama3 8B",
    "llama-3.1-70b": "llama3 70B",
    "llama-3.1-405b": "llama3 405B",
    "llama-3.3-70b": "llama3 70B",
    "deepseek-v3": "deepseek_v3 671B",
    **{f"qwen3-{size.lower()}": f"qwen3 {size}" for size in ("0.6B", "1.7B", "4B", "8B", "14B", "32B")},
}
"""Shapes that torchtitan has by name (`torchtitan/models/*/__init__.py`)."""


@dataclass(frozen=True, kw_only=True)
class Emitted:
    """files: text by file name; notes: what these files cannot say of the layout, and what must be filled in."""

    files: Mapping[str, str]
    notes: tuple[str, ...] = ()


def toml_text(tables: Mapping[str, Mapping[str, object]]) -> str:
    """Tables of plain values (text, numbers, truths, lists of these), in the order given."""
    lines = []
    for name, values in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_toml_value(value)}" for key, value in values.items()), ""]
    return "\n".join(lines)


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(one) for one in value) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text) + '"'


def per_host(device: Device) -> int:
    """Devices that one operating system sees; a scale-up domain may join several hosts."""
    if device.devices_per_node <= MOST_IN_A_HOST:
        return max(device.devices_per_node, 1)
    return IN_HOST_OF_A_DOMAIN


def _nodes(job: TrainJob) -> tuple[int, int]:
    """(hosts, devices of each). A run smaller than a host is one host."""
    per_node = min(per_host(job.device), job.n_devices)
    if job.n_devices % per_node:
        raise InputError(f"{job.n_devices} devices are not whole nodes of {per_node} {job.device.name}; plan for a multiple of {per_node}.")
    return job.n_devices // per_node, per_node


def torchrun(job: TrainJob, program: str) -> str:
    """The line that every node starts. HEAD_NODE is the name of one of them."""
    nodes, per_node = _nodes(job)
    where = "--standalone" if nodes == 1 else "--rdzv-backend=c10d --rdzv-endpoint=$HEAD_NODE:29500"
    return f"torchrun --nnodes={nodes} --nproc-per-node={per_node} {where} {program}"


TRIMTAB_SPLITS, TRIMTAB_ZERO = ("tp", "pp", "cp", "ep"), (0, 2, 3)
TRIMTAB_PRECISIONS, TRIMTAB_OPTIMIZERS = ("bf16", "fp32"), {"adamw": "adamw", "adamw-8bit": "adamw8bit", "sgd": "sgd"}


def trimtab(job: TrainJob, layout: Mapping[str, int], model: str) -> Emitted:
    """train.toml of `trimtab train`'s worker, and the line that starts it. model: as the worker is to find it, e.g. `hf:org/name`.

    Raises InputError for a layout, precision or optimizer that this trainer has not.
    """
    _check_trimtab(job, layout)
    tables: dict[str, dict[str, object]] = {
        "model": {"source": model},
        "data": {"files": ["data/*.jsonl"]},
        "train": {
            "seq_tokens": job.seq_tokens,
            "global_batch_seqs": job.global_batch_seqs,
            "micro_batch_seqs": layout["micro_batch"],
            "grad_accum": layout["grad_accum"],
            "grad_sync": "each" if layout["grad_sync_each"] else "last",
            **({"tokens": round(job.tokens)} if job.tokens else {"epochs": 1.0}),
            "precision": job.precision,
            "recompute": RECOMPUTE[layout["recompute"]],
            "offload": layout["offload"] > 0,
        },
        "optimizer": {"name": TRIMTAB_OPTIMIZERS[job.optimizer]},
        "layout": {"dp": layout["dp"], "zero_stage": 3 if layout["offload"] and layout["dp"] == 1 else layout["zero_stage"]},
        "hardware": {"device": job.device.name, "n_devices": job.n_devices},
    }
    notes = ["Fill in [data] files and [optimizer] lr: the plan does not know them."]
    if layout["offload"] == 1:
        notes.append("trimtab moves weights and gradients to the host too where it moves optimizer states: it will be slower than planned.")
    start = torchrun(job, "-m trimtab.cli.train_worker train.toml")
    return Emitted(files={"train.toml": toml_text(tables), "train.sh": start + "\n"}, notes=tuple(notes))


def _check_trimtab(job: TrainJob, layout: Mapping[str, int]) -> None:
    """InputError that says who trains so, and how to plan for what trimtab has."""
    wrong = [f"{name}={layout[name]}" for name in TRIMTAB_SPLITS if layout[name] > 1]
    wrong += [f"zero={layout['zero_stage']}"] if layout["zero_stage"] not in TRIMTAB_ZERO else []
    wrong += ["zero=0 with offload"] if layout["offload"] and layout["zero_stage"] == 0 and layout["dp"] > 1 else []
    wrong += [job.precision] if job.precision not in TRIMTAB_PRECISIONS else []
    wrong += [job.optimizer] if job.optimizer not in TRIMTAB_OPTIMIZERS else []
    if wrong:
        raise InputError(
            f"trimtab trains data-parallel (DDP, FSDP2) in bf16 or fp32, with adamw, adamw-8bit or sgd; for {', '.join(wrong)} emit for "
            "torchtitan or megatron, or leave that open with --emit torchrun: it then plans what trimtab can run."
        )


def torchtitan(job: TrainJob, layout: Mapping[str, int], model: str = "") -> Emitted:
    """torchtitan.toml and the line that starts it. model: torchtitan's `NAME FLAVOR`, e.g. `llama3 8B`; "" = as it knows this shape."""
    name, _, flavor = (model or TORCHTITAN_MODELS.get(job.architecture.name, "")).partition(" ")
    sharded = layout["zero_stage"] >= 1
    per_rank = layout["micro_batch"] * (layout["grad_accum"] if layout["pp"] > 1 else 1)
    parallelism: dict[str, object] = {
        "data_parallel_replicate_degree": 1 if sharded else layout["dp"],
        "data_parallel_shard_degree": layout["dp"] if sharded else 1,
        "fsdp_reshard_after_forward": "always" if layout["zero_stage"] == 3 else "never",
        "tensor_parallel_degree": layout["tp"],
        "pipeline_parallel_degree": layout["pp"],
        "context_parallel_degree": layout["cp"],
        "expert_parallel_degree": layout["ep"],
    }
    if layout["pp"] > 1:
        parallelism["pipeline_parallel_schedule"] = "Interleaved1F1B" if layout["vp"] > 1 else "1F1B"
        per_stage, spare = _places(job, layout)
        parallelism["pipeline_parallel_layers_per_stage"] = per_stage
        parallelism["pipeline_parallel_first_stage_less_layers"] = spare // 2
        parallelism["pipeline_parallel_last_stage_less_layers"] = spare - spare // 2
        parallelism["pipeline_parallel_microbatch_size"] = layout["micro_batch"]
    tables: dict[str, dict[str, object]] = {
        "model": {"name": name, "flavor": flavor},
        "training": {
            "local_batch_size": per_rank,
            "global_batch_size": job.global_batch_seqs,
            "seq_len": job.seq_tokens,
            "enable_cpu_offload": bool(layout["offload"]),
        },
        "parallelism": parallelism,
        "activation_checkpoint": {"mode": RECOMPUTE[layout["recompute"]]},
    }
    if job.tokens:
        tables["training"]["steps"] = -(-int(job.tokens) // (job.seq_tokens * job.global_batch_seqs))
    if job.precision in ("fp8", "mxfp8"):
        converter = "quantize.linear.float8" if job.precision == "fp8" else "quantize.linear.mx"
        tables["model"]["converters"] = [converter]
        tables[converter] = {"filter_fqns": ["output"]}
    start = torchrun(job, "-m torchtitan.train --job.config_file torchtitan.toml")
    return Emitted(files={"torchtitan.toml": toml_text(tables), "train.sh": start + "\n"}, notes=_torchtitan_notes(job, layout, flavor))


def _places(job: TrainJob, layout: Mapping[str, int]) -> tuple[int, int]:
    """Layers of a full stage, and the places that no layer fills: those of the embedding and the loss."""
    stages = layout["pp"] * layout["vp"]
    per_stage = -(-job.architecture.n_layers // stages)
    return per_stage, per_stage * stages - job.architecture.n_layers


def _torchtitan_notes(job: TrainJob, layout: Mapping[str, int], flavor: str) -> tuple[str, ...]:
    notes = []
    if not flavor:
        notes.append("Fill in [model]: the name and flavor under which torchtitan knows this architecture.")
    if layout["zero_stage"] in (1, 2):
        notes.append(
            f"torchtitan has no ZeRO stage {layout['zero_stage']}: parameters that are not resharded after the forward pass come "
            "nearest, and shard gradients and optimizer states."
        )
    if layout["offload"] == 1:
        notes.append(
            "torchtitan moves weights and gradients to the host too where it moves optimizer states: it will be slower than planned."
        )
    if layout["tp"] > 1 and not layout["sequence_parallel"]:
        notes.append("torchtitan splits activations along the sequence wherever it splits tensors: it will need less memory than planned.")
    if layout["grad_accum"] > 1 and not layout["grad_sync_each"] and layout["pp"] == 1:
        notes.append("torchtitan 0.2 reduces sharded gradients at every micro-batch, not at the last one only: more is sent than planned.")
    if job.precision not in ("bf16", "fp32", "fp8", "mxfp8"):
        notes.append(f"torchtitan 0.2 has no setting here for {job.precision}; it will train in bf16.")
    return tuple(notes)


def megatron(job: TrainJob, layout: Mapping[str, int]) -> Emitted:
    """megatron.sh: torchrun and Megatron-LM's flags. Data, tokenizer and learning rate are the user's."""
    flags = [*_megatron_shape(job.architecture, job), *_megatron_layout(job, layout)]
    lines = " \\\n  ".join([torchrun(job, "pretrain_gpt.py"), *flags, '"$@"'])
    notes = ["Give data, tokenizer and learning rate on the command line: --data-path, --tokenizer-type, --lr and so on are not planned."]
    if _places(job, layout)[1] > 2:
        notes.append("Megatron-LM splits layers this unevenly only as --pipeline-model-parallel-layout tells it; write that one by hand.")
    if layout["offload"] == 2:
        notes.append("Megatron-LM moves optimizer states to the host only; weights and gradients stay, and need their memory.")
    if layout["grad_sync_each"]:
        notes.append("Megatron-LM reduces gradients at the last micro-batch of a step only.")
    if job.precision == "nvfp4":
        notes.append("NVFP4 needs Megatron-LM with Transformer Engine 2.8 or later.")
    return Emitted(files={"megatron.sh": lines + "\n"}, notes=tuple(notes))


def _megatron_layout(job: TrainJob, layout: Mapping[str, int]) -> list[str]:
    flags = [
        f"--tensor-model-parallel-size {layout['tp']}",
        f"--pipeline-model-parallel-size {layout['pp']}",
        f"--context-parallel-size {layout['cp']}",
        f"--expert-model-parallel-size {layout['ep']}",
        f"--micro-batch-size {layout['micro_batch']}",
        f"--global-batch-size {job.global_batch_seqs}",
        f"--seq-length {job.seq_tokens}",
    ]
    if job.tokens:
        flags.append(f"--train-samples {-(-int(job.tokens) // job.seq_tokens)}")
    if layout["vp"] > 1:
        flags.append(f"--num-virtual-stages-per-pipeline-rank {layout['vp']}")
    spare = _places(job, layout)[1]
    if spare in (1, 2):
        flags += ["--account-for-loss-in-pipeline-split", "--account-for-embedding-in-pipeline-split"][:spare]
    if layout["sequence_parallel"]:
        flags.append("--sequence-parallel")
    if layout["recompute"] == 1:
        flags.append("--recompute-granularity selective")
    elif layout["recompute"] == 2:
        flags += ["--recompute-granularity full", "--recompute-method uniform", "--recompute-num-layers 1"]
    if layout["zero_stage"] >= 1:
        flags.append("--use-distributed-optimizer")
    if layout["zero_stage"] >= 2:
        flags += [
            "--use-megatron-fsdp",
            f"--data-parallel-sharding-strategy {SHARDING[layout['zero_stage']]}",
            "--no-gradient-accumulation-fusion",
            "--ckpt-format fsdp_dtensor",
        ]
    if layout["offload"]:
        flags.append("--optimizer-cpu-offload")
    return flags + _PRECISIONS.get(job.precision, [])


_PRECISIONS = {
    "bf16": ["--bf16"],
    "fp16": ["--fp16"],
    "fp8": ["--bf16", "--fp8-format hybrid"],
    "mxfp8": ["--bf16", "--fp8-format e4m3", "--fp8-recipe mxfp8"],
    "nvfp4": ["--bf16", "--fp4-format e2m1"],
}


def _megatron_shape(architecture: Architecture, job: TrainJob) -> list[str]:
    """Raises InputError for what pretrain_gpt.py's flags cannot say: layers of several kinds, or kinds without flags."""
    attentions = {block.attention for block in architecture.blocks}
    feeds = {block.feedforward for block in architecture.blocks}
    attention, feed = next(iter(attentions)), next(iter(feeds))
    if len(attentions) > 1 or len(feeds) > 1 or attention is None or feed is None or attention.kind != "full":
        raise InputError(
            f"{architecture.name} has layers that Megatron-LM's plain flags cannot describe; emit it for torchtitan or trimtab, "
            "or use Megatron-LM's own recipe for this model with the sizes of the plan."
        )
    return [
        f"--num-layers {architecture.n_layers}",
        f"--hidden-size {architecture.d_model}",
        f"--max-position-embeddings {max(architecture.context_tokens, job.seq_tokens)}",
        *_megatron_attention(attention),
        *_megatron_feed(feed),
        *([] if architecture.tied else ["--untie-embeddings-and-output-weights"]),
    ]


def _megatron_attention(attention: Attention) -> list[str]:
    flags = [f"--num-attention-heads {attention.n_heads}", f"--kv-channels {attention.head_dim}"]
    if attention.n_kv_heads != attention.n_heads:
        flags += ["--group-query-attention", f"--num-query-groups {attention.n_kv_heads}"]
    return flags


def _megatron_feed(feed: Feedforward) -> list[str]:
    flags = [f"--ffn-hidden-size {feed.d_ff}", *(["--swiglu"] if feed.gated else [])]
    if feed.n_experts:
        flags += [f"--num-experts {feed.n_experts}", f"--moe-router-topk {feed.n_experts_used}"]
    if feed.d_shared:
        flags.append(f"--moe-shared-expert-intermediate-size {feed.d_shared}")
    return flags
