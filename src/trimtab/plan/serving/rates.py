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
        prompt_mixer_s: what a layer of latent or recurrent attention adds to it; stream_steps: decode steps until it is sent; wave: share
        of the other requests' prompts that it waits for, because requests start together; of n others n ** wave_power count
    """

    memory: float = 0.8
    cache: float = 0.72
    product: float = 0.85
    four_bit: float = 0.94
    attention: float = 0.5
    link: float = 0.37
    half_tokens: float = 60.0
    expert_half_tokens: float = 8.0
    layer_s: float = 17e-6
    prefill_layer_s: float = 110e-6
    moe_layer_s: float = 35e-6
    mixer_layer_s: float = 8e-6
    index_layer_s: float = 60e-6
    step_s: float = 0.48e-3
    sequence_s: float = 2.2e-6
    hop_s: float = 15e-6
    request_s: float = 20e-3
    prompt: float = 2.0
    prompt_mixer_s: float = 0.3e-3
    stream_steps: float = 1.0
    wave: float = 0.08
    wave_power: float = 0.86


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
    prompt_mixer_s=0.0,
    stream_steps=0.0,
    wave=0.5,
    wave_power=1.0,
)
"""One sequence at a time, without graphs: llama.cpp's published runs."""

ENGINES = {
    "trtllm": replace(
        SERVER,
        memory=0.853,
        cache=0.769,
        product=0.752,
        four_bit=0.93,
        attention=0.557,
        link=0.416,
        layer_s=19.8e-6,
        prefill_layer_s=131e-6,
        moe_layer_s=22.9e-6,
        index_layer_s=50e-6,
        step_s=0.51e-3,
        sequence_s=2e-6,
        hop_s=16.2e-6,
        request_s=46.6e-3,
        prompt=1.26,
        prompt_mixer_s=1.03e-3,
        stream_steps=2.1,
        wave=0.163,
        wave_power=0.74,
    ),
    "vllm": replace(
        SERVER,
        memory=0.732,
        cache=0.793,
        product=0.9,
        four_bit=0.93,
        link=0.374,
        layer_s=16.8e-6,
        prefill_layer_s=99e-6,
        moe_layer_s=29.6e-6,
        index_layer_s=50e-6,
        step_s=0.43e-3,
        sequence_s=2.3e-6,
        hop_s=19.3e-6,
        request_s=4.7e-3,
        prompt=1.9,
        prompt_mixer_s=0.29e-3,
        stream_steps=0.35,
        wave=0.05,
        wave_power=0.91,
    ),
    "sglang": replace(
        SERVER,
        memory=0.82,
        cache=0.609,
        product=0.9,
        four_bit=0.95,
        attention=0.478,
        link=0.335,
        layer_s=13.1e-6,
        prefill_layer_s=109e-6,
        moe_layer_s=66.9e-6,
        index_layer_s=80e-6,
        step_s=0.5e-3,
        sequence_s=2.3e-6,
        hop_s=10.5e-6,
        request_s=77e-3,
        prompt=2.75,
        prompt_mixer_s=0.02e-3,
        stream_steps=0.41,
        wave=0.128,
        wave_power=0.92,
    ),
    "llamacpp": LOCAL,
    "openvino": LOCAL,
    "ortgenai": LOCAL,
    "ctranslate2": LOCAL,
    "transformers": replace(LOCAL, layer_s=200e-6),
    "mlx": replace(LOCAL, layer_s=60e-6),
    "gpt-fast": replace(LOCAL, layer_s=60e-6),
    "fastertransformer": replace(LOCAL, layer_s=60e-6),
}


def rates_of(engine: str) -> Rates:
    return ENGINES.get(engine, SERVER)
