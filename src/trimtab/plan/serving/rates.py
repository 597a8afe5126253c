"""What engines reach of published rates, and what they add: medians over published measurements, one set an engine.

Fitted by `benchmarks/planner_fit.py`'s serving part on rows of many models and devices; single runs scatter around them, which the residual
(`plan.anchors`) takes up as far as it can. PEAK reaches everything and adds nothing: the speed of light.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of a peak: memory (weights), cache (KV), product (large matrix products), attention, link (collectives).

    half_tokens: rows of a product at which half the rate is reached; expert_half_tokens: of one expert's
    layer_s: launches and small kernels of a layer in a step; prefill_layer_s: the same in a prefill, where graphs seldom help
    step_s: scheduler and sampler, a step; sequence_s: a sequence of the batch; hop_s: one collective's latency; request_s: tokenizer,
        admission and first answer of a request
    wave: share of the other requests' prefills that a request waits for, because requests start together
    """

    memory: float = 0.75
    cache: float = 0.6
    product: float = 0.7
    attention: float = 0.4
    link: float = 0.6
    half_tokens: float = 64.0
    expert_half_tokens: float = 8.0
    layer_s: float = 12e-6
    prefill_layer_s: float = 60e-6
    step_s: float = 1e-3
    sequence_s: float = 8e-6
    hop_s: float = 10e-6
    request_s: float = 15e-3
    wave: float = 0.06


PEAK = Rates(
    memory=1.0,
    cache=1.0,
    product=1.0,
    attention=1.0,
    link=1.0,
    half_tokens=0.0,
    expert_half_tokens=0.0,
    layer_s=0.0,
    prefill_layer_s=0.0,
    step_s=0.0,
    sequence_s=0.0,
    hop_s=0.0,
    request_s=0.0,
    wave=0.0,
)
SERVER = Rates()
LOCAL = replace(SERVER, step_s=0.3e-3, request_s=2e-3, wave=0.5)
ENGINES = {"llamacpp": LOCAL, "mlx": LOCAL, "gpt-fast": LOCAL, "openvino": LOCAL}


def rates_of(engine: str) -> Rates:
    return ENGINES.get(engine, SERVER)
