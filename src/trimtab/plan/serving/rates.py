"""What engines reach of published rates, and what they add: one set an engine, least squares over published measurements.

Single runs scatter around them; the residual (`plan.anchors`) takes that up as far as it can. Latencies are of captured graphs, the usual
way to serve. PEAK reaches everything and adds nothing: the speed of light.
"""

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of a peak: memory (weights), cache (KV), product (large matrix products), four_bit (of product, with 4-bit operands),
    attention, link (collectives).

    half_tokens: rows of a product at which half the rate is reached; expert_half_tokens: of one expert's
    layer_s: launches and small kernels of a layer in a step; prefill_layer_s: the same in a prefill, where graphs seldom help;
        moe_layer_s, mixer_layer_s, index_layer_s: what routing, latent or recurrent attention, and an indexer add to a layer
    step_s: scheduler and sampler, a step; sequence_s: a sequence of the batch; hop_s: one collective's latency
    of a first token as a client sees it: request_s: tokenizer and admission; prompt: a prompt's time beside that of its products;
        stream_steps: decode steps until it is sent; wave: share of the other requests' prompts that it waits for, because requests start
        together
    """

    memory: float = 0.82
    cache: float = 0.72
    product: float = 0.8
    four_bit: float = 0.89
    attention: float = 0.47
    link: float = 0.56
    half_tokens: float = 60.0
    expert_half_tokens: float = 8.0
    layer_s: float = 32e-6
    prefill_layer_s: float = 68e-6
    moe_layer_s: float = 24e-6
    mixer_layer_s: float = 8e-6
    index_layer_s: float = 65e-6
    step_s: float = 0.6e-3
    sequence_s: float = 2.9e-6
    hop_s: float = 8.2e-6
    request_s: float = 30e-3
    prompt: float = 1.8
    stream_steps: float = 1.5
    wave: float = 0.08


PEAK = Rates(
    **{
        field.name: 1.0 if field.name in ("memory", "cache", "product", "four_bit", "attention", "link", "prompt") else 0.0
        for field in fields(Rates)
    }
)
SERVER = Rates()
LOCAL = replace(
    SERVER,
    memory=0.9,
    cache=0.47,
    product=0.68,
    attention=0.3,
    half_tokens=0.0,
    layer_s=110e-6,
    prefill_layer_s=900e-6,
    step_s=0.2e-3,
    request_s=2e-3,
    prompt=1.0,
    stream_steps=0.0,
    wave=0.5,
)
"""One sequence at a time, without graphs: llama.cpp's published runs."""

ENGINES = {
    "trtllm": replace(
        SERVER,
        memory=0.92,
        cache=0.79,
        product=0.675,
        four_bit=0.85,
        link=0.64,
        layer_s=36.7e-6,
        moe_layer_s=8.6e-6,
        index_layer_s=56e-6,
        step_s=0.68e-3,
        request_s=52e-3,
        prompt=1.44,
        stream_steps=5.9,
        wave=0.061,
    ),
    "vllm": replace(
        SERVER,
        memory=0.764,
        cache=0.74,
        product=0.89,
        four_bit=0.91,
        link=0.5,
        layer_s=42e-6,
        moe_layer_s=25e-6,
        index_layer_s=56e-6,
        step_s=0.485e-3,
        request_s=13e-3,
        prompt=2.03,
        stream_steps=0.86,
        wave=0.078,
    ),
    "sglang": replace(
        SERVER,
        memory=0.822,
        cache=0.64,
        product=0.9,
        four_bit=0.91,
        link=0.54,
        layer_s=16.7e-6,
        moe_layer_s=60e-6,
        index_layer_s=90e-6,
        request_s=160e-3,
        prompt=2.1,
        stream_steps=0.1,
        wave=0.28,
    ),
    "llamacpp": LOCAL,
    "openvino": LOCAL,
    "mlx": replace(LOCAL, layer_s=60e-6),
    "gpt-fast": replace(LOCAL, layer_s=60e-6),
    "fastertransformer": replace(LOCAL, layer_s=60e-6),
}
"""TensorRT-LLM's first tokens wait for several steps because its sweeps stream every tenth (`stream_interval`)."""


def rates_of(engine: str) -> Rates:
    return ENGINES.get(engine, SERVER)
