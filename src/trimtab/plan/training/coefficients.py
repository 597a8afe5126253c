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

    matmul_share: float = 0.943
    unmeasured_share: float = 0.913
    unmeasured_gpu_share: float = 0.813
    low_share: float = 1.06
    traffic: float = 0.947
    attention_share: float = 0.366
    backward_attention: float = 2.49
    score_bytes: float = 10.2
    elementwise: float = 6.18
    elementwise_old: float = 4.96
    elementwise_fused: float = 4.16
    cast: float = 1.73
    host_s: float = 0.000384
    host_old_s: float = 0.00126
    link_share: float = 0.9
    network_share: float = 0.7
    overlap: float = 4.04
    tensor_exposed: float = 1.16
    expert_exposed: float = 0.737
    imbalance: float = 1.84
    optimizer_bytes: float = 60.4
    step_fixed_s: float = 0.00947
    straggling: float = 0.00527


TERMS = TimeTerms()
