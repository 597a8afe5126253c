"""What physics leaves open in the time of a step: shares and counts, fitted once on published runs of many kinds."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TimeTerms:
    """Every term is a share of a rate of the device, a multiple of an ideal amount, or a fixed time.

    matmul_share: of the measured matmul rate (or, where none is known, of `unmeasured_share` of the peak) in the middle of a training step
    traffic: bytes a matrix product moves, over reading and writing its operands once
    attention_share: of the same rate, of flash attention; backward_attention: its backward pass over its forward
    score_bytes: moved a head, query and key where scores are written
    elementwise: values moved a value kept for the backward pass; cast: bytes moved an operand value that is quantised first
    launch_s: a kernel on the host; kernels: a layer's forward pass
    link_share, network_share: of a link's bandwidth that collectives reach
    overlap: exponent of how well gathering weights and reducing gradients hide (1 = not at all); tensor_exposed, expert_exposed: shares
        of those collectives that are waited for
    imbalance: of the fullest expert rank over the mean
    optimizer_bytes: moved a parameter updated; step_fixed_s: a step; straggling: slow-down a doubling of nodes
    """

    matmul_share: float = 0.92
    unmeasured_share: float = 0.78
    low_share: float = 0.8
    traffic: float = 1.3
    attention_share: float = 0.55
    backward_attention: float = 2.5
    score_bytes: float = 12.0
    elementwise: float = 2.5
    cast: float = 3.0
    launch_s: float = 5e-6
    kernels: float = 14.0
    link_share: float = 0.75
    network_share: float = 0.7
    overlap: float = 3.0
    tensor_exposed: float = 0.8
    expert_exposed: float = 0.7
    imbalance: float = 1.15
    optimizer_bytes: float = 34.0
    step_fixed_s: float = 5e-3
    straggling: float = 0.01


TERMS = TimeTerms()
