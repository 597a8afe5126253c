"""Devices, shapes and questions for tests of the search, made by hand."""

from trimtab.core.planning import Architecture, Attention, Block, Device, Feedforward, TrainJob

GB80 = Device(
    name="test-80gb",
    vendor="test",
    kind="gpu",
    year=2022,
    peak_flop_s={"bf16": 989e12, "fp8": 1979e12},
    matmul_flop_s={"bf16": 794e12},
    memory_bytes=80e9,
    memory_bytes_s=3.35e12,
    link_bytes_s=450e9,
    devices_per_node=8,
    network_bytes_s=50e9,
    host_link_bytes_s=64e9,
    power_w=700,
)


def dense(
    name: str = "test-8b",
    n_layers: int = 32,
    d_model: int = 4096,
    n_heads: int = 32,
    n_kv_heads: int = 8,
    d_ff: int = 14336,
    vocab_size: int = 128256,
    n_experts: int = 0,
    n_experts_used: int = 0,
    gated: bool = True,
) -> Architecture:
    attention = Attention(kind="full", n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=d_model // n_heads)
    feed = Feedforward(d_ff=d_ff, gated=gated, n_experts=n_experts, n_experts_used=n_experts_used)
    return Architecture(
        name=name, d_model=d_model, vocab_size=vocab_size, blocks=(Block(n_layers=n_layers, attention=attention, feedforward=feed),)
    )


def train_job(
    architecture: Architecture | None = None, *, device: Device = GB80, n: int = 16, seq: int = 4096, batch: int = 64
) -> TrainJob:
    return TrainJob(architecture=architecture or dense(), device=device, n_devices=n, seq_tokens=seq, global_batch_seqs=batch, tokens=1e12)
