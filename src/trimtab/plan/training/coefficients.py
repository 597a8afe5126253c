"""What physics leaves open in the time of a step: shares and counts, fitted once on published runs of many kinds."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TimeTerms:
    """Every term is a share of a rate of the device, a multiple of an ideal amount, or a fixed time.

    matmul_share: of the measured matmul rate in the middle of a training step; where none is known, of `unmeasured_share` of the peak, on
        GPUs of `unmeasured_gpu_share`, what the measured ones reach of theirs
    low_share: the same again for products in 8 and 4 bits
    traffic: bytes a matrix product moves, over reading and writing its operands once
    attention_share: of the same rate, of flash attention; backward_attention: its backward pass over its forward
    score_bytes: moved a head, query and key where scores are written
    elementwise, elementwise_old, elementwise_fused: values moved a value kept for the backward pass: by usual kernels, those before flash
        attention, and those of `FUSED` frameworks
    cast: bytes moved an operand value that is quantised first
    host_s, host_old_s: a layer's forward pass takes the host to launch, now and then; compiled programs (TPU) take none
    link_share, network_share: of a link's bandwidth that collectives reach
    overlap: exponent of how well gathering weights and reducing gradients hide (1 = not at all); tensor_exposed, expert_exposed: shares
        of those collectives that are waited for
    imbalance: of the fullest expert rank over the mean
    optimizer_bytes: moved a parameter updated; step_fixed_s: a step; straggling: slow-down a doubling of nodes
    """

    matmul_share: float = 0.907
    unmeasured_share: float = 0.92
    unmeasured_gpu_share: float = 0.828
    low_share: float = 1.14
    traffic: float = 0.607
    attention_share: float = 0.365
    backward_attention: float = 2.47
    score_bytes: float = 8.12
    elementwise: float = 5.78
    elementwise_old: float = 5.45
    elementwise_fused: float = 4.16
    cast: float = 2.61
    host_s: float = 0.000246
    host_old_s: float = 0.00127
    link_share: float = 0.9
    network_share: float = 0.7
    overlap: float = 6.59
    tensor_exposed: float = 1.28
    expert_exposed: float = 1.04
    imbalance: float = 1.63
    optimizer_bytes: float = 75.6
    step_fixed_s: float = 0.0097
    straggling: float = 0.00524


TERMS = TimeTerms()
