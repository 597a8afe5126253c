"""All layouts that one replica of a service may have on a device, in a fixed order."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from trimtab.core.planning import Architecture, Device, ServeJob
from trimtab.plan.operators import is_moe

POWERS = tuple(2**power for power in range(11))
MOST_STAGES = 8
NODES_OF_EXPERTS = 4
"""Data-parallel attention spreads a layer's experts over so many nodes at most."""


def replica_layouts(
    architecture: Architecture, device: Device, pinned: Mapping[str, int], max_devices: int
) -> list[tuple[int, int, int, int]]:
    """(tp, pp, ep, attention_dp). Tensor ranks lie in one node and divide the heads; experts go over all ranks of a layer or none.

    pinned: degrees with their only value; max_devices: of the replica, 0 = any
    """
    per_node, heads, moe = max(device.devices_per_node, 1), common_heads(architecture), is_moe(architecture)
    most_ranks = NODES_OF_EXPERTS * per_node
    found = []
    for tp in _values(pinned, "tp", [tp for tp in POWERS if tp <= per_node and heads % tp == 0]):
        for attention_dp in _values(pinned, "attention_dp", [dp for dp in POWERS if dp == 1 or (moe and tp * dp <= most_ranks)]):
            ranks = tp * attention_dp
            for ep in _values(pinned, "ep", sorted({1, ranks} if moe and _experts(architecture) % ranks == 0 else {1})):
                if ep == 1 and ranks > per_node and "ep" not in pinned:
                    continue  # split experts would be reduced over the network
                most = MOST_STAGES if ranks >= per_node or "tp" in pinned else 1
                for pp in _values(pinned, "pp", [pp for pp in POWERS if pp <= most and architecture.n_layers % pp == 0]):
                    if not max_devices or ranks * pp <= max_devices:
                        found.append((tp, pp, ep, attention_dp))
    return found


def _values(pinned: Mapping[str, int], name: str, free: Sequence[int]) -> Sequence[int]:
    return [pinned[name]] if name in pinned else free


def common_heads(architecture: Architecture) -> int:
    """What tensor ranks must divide: the largest number of heads that divides those of every layer."""
    counts = [block.attention.n_heads for block in architecture.blocks if block.attention]
    return math.gcd(*counts) if counts else 1


def _experts(architecture: Architecture) -> int:
    return max((block.feedforward.n_experts for block in architecture.blocks if block.feedforward), default=0)


def disaggregated(plain: ServeJob) -> list[ServeJob]:
    """The same layout with prefill apart: one replica's worth of devices decodes, and as many, half, or twice as many prefill."""
    size = plain.tp * plain.pp * plain.attention_dp
    return [replace(plain, prefill_devices=size * before, decode_devices=size * after) for before, after in ((1, 1), (1, 2), (2, 1))]
