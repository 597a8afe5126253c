"""Layouts that the makers of large models published, and what they had to choose from: facts of their papers, cited."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from trimtab.core.planning import Device
from trimtab.plan.architectures import architecture
from trimtab.plan.devices import device
from trimtab.plan.search.space import Space
from trimtab.plan.search.train import TrainAsk


@dataclass(frozen=True, kw_only=True)
class Published:
    """One run. layout: what the paper tells of it, the rest is free; space: what their framework could do then.

    network_bytes_s: of one device's share of the network, where theirs was not the usual one
    """

    name: str
    source: str
    model: str
    device: str
    n_devices: int
    seq_tokens: int
    global_batch_seqs: int
    precision: str
    framework: str
    layout: Mapping[str, int]
    space: Space
    network_bytes_s: float = 0.0


# Megatron-LM of 2021: whole layers computed again, no sequence or context parallelism, no sharded optimizer, no flash attention.
MEGATRON_2021 = Space(cp=(1,), zero_stage=(0,), recompute=(2,), sequence_parallel=(0,), grad_sync_each=(0,), flash_attention=(0,))
# Megatron-DeepSpeed of 2022: the same with ZeRO 1, without interleaving.
BIGSCIENCE_2022 = replace(MEGATRON_2021, vp=(1,), zero_stage=(0, 1))
# Meta's trainer of 2024: FSDP under an interleaved pipeline. At 8K tokens no layer was computed again and tensors were freed early instead,
# which here comes nearest to selective recomputation.
LLAMA_2024 = Space(zero_stage=(1, 2), recompute=(0, 1), vp=(1, 2, 4, 8), sharded_pipelines=True)
# T5X and Pathways of 2022: sharded data and tensor parallelism, no pipelines.
PATHWAYS_2022 = Space(pp=(1,), cp=(1,), recompute=(2,), sequence_parallel=(0, 1), flash_attention=(0,))

PUBLISHED = (
    Published(
        name="Llama 3.1 405B, 8K tokens",
        source="arXiv:2407.21783, table 4",
        model="llama-3.1-405b",
        device="h100-sxm",
        n_devices=16384,
        seq_tokens=8192,
        global_batch_seqs=2048,
        precision="bf16",
        framework="megatron",
        layout={"tp": 8, "pp": 16, "cp": 1, "dp": 128},
        space=LLAMA_2024,
    ),
    Published(
        name="Llama 3.1 405B, 128K tokens",
        source="arXiv:2407.21783, table 4",
        model="llama-3.1-405b",
        device="h100-sxm",
        n_devices=16384,
        seq_tokens=131072,
        global_batch_seqs=128,
        precision="bf16",
        framework="megatron",
        layout={"tp": 8, "pp": 16, "cp": 16, "dp": 8},
        space=replace(LLAMA_2024, recompute=(0, 1, 2)),
    ),
    Published(
        name="Megatron 530B",
        source="arXiv:2104.04473, table 1",
        model="megatron-530b",
        device="a100-sxm-80gb",
        n_devices=2520,
        seq_tokens=2048,
        global_batch_seqs=2520,
        precision="fp16",
        framework="megatron",
        layout={"tp": 8, "pp": 35, "dp": 9},
        space=MEGATRON_2021,
    ),
    Published(
        name="Megatron 1T",
        source="arXiv:2104.04473, table 1",
        model="megatron-1t",
        device="a100-sxm-80gb",
        n_devices=3072,
        seq_tokens=2048,
        global_batch_seqs=3072,
        precision="fp16",
        framework="megatron",
        layout={"tp": 8, "pp": 64, "dp": 6},
        space=MEGATRON_2021,
    ),
    Published(
        name="BLOOM 176B",
        source="arXiv:2211.05100, section 3.2; four 100 Gb/s Omni-Path links a node",
        model="bloom-176b",
        device="a100-sxm-80gb",
        n_devices=384,
        seq_tokens=2048,
        global_batch_seqs=2048,
        precision="bf16",
        framework="deepspeed",
        layout={"tp": 4, "pp": 12, "dp": 8, "micro_batch": 2, "zero_stage": 1},
        space=BIGSCIENCE_2022,
        network_bytes_s=6.25e9,
    ),
    Published(
        name="PaLM 540B",
        source="arXiv:2204.02311, section 4: 12 ways over the model, 256 over the data of each of two pods",
        model="palm-540b",
        device="tpu-v4",
        n_devices=6144,
        seq_tokens=2048,
        global_batch_seqs=512,  # section 5: what the run began with; it ended with 2048, which divides whatever 512 does
        precision="bf16",
        framework="maxtext",
        layout={"tp": 12, "pp": 1, "dp": 512},
        space=PATHWAYS_2022,
    ),
)


def device_of(run: Published) -> Device:
    plain = device(run.device)
    return replace(plain, network_bytes_s=run.network_bytes_s) if run.network_bytes_s else plain


def ask_of(run: Published) -> TrainAsk:
    """The question that the authors had: the fastest step on what they had."""
    return TrainAsk(
        architecture=architecture(run.model),
        devices=(device_of(run),),
        counts=(run.n_devices,),
        seq_tokens=run.seq_tokens,
        global_batch_seqs=run.global_batch_seqs,
        precisions=(run.precision,),
        framework=run.framework,
        optimizer="adafactor" if run.model.startswith("palm") else "adamw",
        space=run.space,
        memory_margin=0.0,
    )
