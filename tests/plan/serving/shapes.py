"""Hand-made models and devices with round numbers."""

from dataclasses import replace

from trimtab.core.planning import Architecture, Attention, Block, Device, Feedforward, ServeJob

DENSE = Architecture(
    name="dense-8b",
    d_model=4096,
    vocab_size=128256,
    blocks=(
        Block(n_layers=32, attention=Attention(kind="full", n_heads=32, n_kv_heads=8, head_dim=128), feedforward=Feedforward(d_ff=14336)),
    ),
    context_tokens=131072,
)
SLIDING = replace(
    DENSE,
    name="sliding-8b",
    blocks=(
        Block(
            n_layers=16,
            attention=Attention(kind="sliding", n_heads=32, n_kv_heads=8, head_dim=128, window_tokens=1024),
            feedforward=Feedforward(d_ff=14336),
        ),
        Block(n_layers=16, attention=Attention(kind="full", n_heads=32, n_kv_heads=8, head_dim=128), feedforward=Feedforward(d_ff=14336)),
    ),
)
LATENT = Architecture(
    name="latent-moe",
    d_model=7168,
    vocab_size=129280,
    blocks=(
        Block(
            n_layers=60,
            attention=Attention(
                kind="mla", n_heads=128, n_kv_heads=128, head_dim=192, value_dim=128, q_rank=1536, kv_rank=512, rope_dim=64
            ),
            feedforward=Feedforward(d_ff=2048, n_experts=256, n_experts_used=8, d_shared=2048),
        ),
    ),
)
DEVICE = Device(
    name="round-80gb",
    vendor="test",
    kind="gpu",
    year=2022,
    peak_flop_s={"bf16": 1e15, "fp8": 2e15},
    memory_bytes=80e9,
    memory_bytes_s=3e12,
    link_bytes_s=450e9,
    devices_per_node=8,
    network_bytes_s=50e9,
)


def job(**changes: object) -> ServeJob:
    base = ServeJob(architecture=DENSE, device=DEVICE, engine="vllm", weights="bf16", concurrency=8, prompt_tokens=1024, output_tokens=256)
    return replace(base, **changes)  # type: ignore[arg-type]
