"""What physics leaves open in the time of a step: shares and counts, fitted once on published runs of many kinds."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TimeTerms:
    """Every term is a share of a rate of the device, a multiple of an ideal amount, or a fixed time.

    matmul_share: of the measured matmul rate (or, where none is known, of `unmeasured_share` of the peak) in the middle of a training step
    traffic: bytes a matrix product moves, over reading and writing its operands once
    attention_share: of the same rate, of flash attention; backward_attention: its backward pass over its forward
    score_bytes: moved a head, query and key where scores are written
    elementwise, elementwise_old: values moved a value kept for the backward pass, by fused kernels and by those before flash attention
    cast: bytes moved an operand value that is quantised first
    host_s, host_old_s: a layer's forward pass takes the host to launch, now and then; compiled programs (TPU) take none
    link_share, network_share: of a link's bandwidth that collectives reach
    overlap: exponent of how well gathering weights and reducing gradients hide (1 = not at all); tensor_exposed, expert_exposed: shares
        of those collectives that are waited for
    imbalance: of the fullest expert rank over the mean
    optimizer_bytes: moved a parameter updated; step_fixed_s: a step; straggling: slow-down a doubling of nodes
    """

    matmul_share: float = 0.94
    unmeasured_share: float = 0.917
    low_share: float = 1.24
    traffic: float = 0.427
    attention_share: float = 0.313
    backward_attention: float = 2.53
    score_bytes: float = 7.89
    elementwise: float = 4.73
    elementwise_old: float = 5.76
    cast: float = 3.16
    host_s: float = 0.000232
    host_old_s: float = 0.00128
    link_share: float = 0.933
    network_share: float = 1.28
    overlap: float = 7.24
    tensor_exposed: float = 1.24
    expert_exposed: float = 1.11
    imbalance: float = 1.41
    optimizer_bytes: float = 80.2
    step_fixed_s: float = 0.00994
    straggling: float = 0.00538


TERMS = TimeTerms()
