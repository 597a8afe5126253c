"""Time of collectives by latency and bandwidth on nodes of fast links joined by a slower network.

Ranks are placed as frameworks do: tensor ranks next to each other, then context, then data, pipeline stages farthest apart. `stride`
is how many devices lie between neighbours of a group. Groups that share a node each have their own devices' share of the network.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.core.planning import Device

FloatArray = NDArray[np.float64]
LINK_LATENCY_S = 4e-6
NETWORK_LATENCY_S = 12e-6


@dataclass(frozen=True, kw_only=True)
class Wires:
    """What a device reaches in collectives: bytes/s over its links and its share of the network, and how many devices the links join."""

    link: float
    network: float
    node: int


def wires(device: Device, link_share: float, network_share: float) -> Wires:
    """A rate that is not known is taken from the next slower way there is."""
    link = device.link_bytes_s or device.host_link_bytes_s or device.network_bytes_s
    network = device.network_bytes_s or device.host_link_bytes_s or device.link_bytes_s
    return Wires(link=max(link, 1.0) * link_share, network=max(network, 1.0) * network_share, node=max(1, device.devices_per_node))


def local_ranks(by: Wires, ranks: ArrayLike, stride: ArrayLike) -> FloatArray:
    """How many of a group's ranks sit in one node."""
    room = np.maximum(1, by.node // np.maximum(1, _floats(stride)))
    return np.asarray(np.minimum(_floats(ranks), room), float)


def ring_s(by: Wires, byte: ArrayLike, ranks: ArrayLike, stride: ArrayLike) -> FloatArray:
    """One pass around the ring: a reduce-scatter or an all-gather of `byte` bytes in all. An all-reduce is two of them.

    Between nodes a ring goes as fast as what its members in a node bring together, and no faster than their link.
    """
    group = np.maximum(1.0, _floats(ranks))
    local = local_ranks(by, group, stride)
    rate = np.where(group <= local, by.link, np.minimum(by.link, by.network * local))
    latency = LINK_LATENCY_S * np.log2(local) + NETWORK_LATENCY_S * np.log2(np.maximum(1.0, group / local))
    return np.where(group > 1, _floats(byte) * (group - 1) / group / rate + latency, 0.0)


def all_to_all_s(by: Wires, byte: ArrayLike, ranks: ArrayLike) -> FloatArray:
    """Every rank sends `byte` bytes, spread evenly over the group, which is packed into nodes."""
    group = np.maximum(1.0, _floats(ranks))
    local = local_ranks(by, group, 1)
    inside = _floats(byte) * (local - 1) / group / by.link
    outside = _floats(byte) * (group - local) / group / by.network
    latency = np.where(group > local, NETWORK_LATENCY_S, LINK_LATENCY_S) * np.log2(np.maximum(group, 2))
    return np.where(group > 1, np.maximum(inside, outside) + latency, 0.0)


def send_s(by: Wires, byte: ArrayLike, stride: ArrayLike) -> FloatArray:
    """One message to a neighbour `stride` devices away."""
    inside = _floats(stride) < by.node
    return np.where(inside, _floats(byte) / by.link + LINK_LATENCY_S, _floats(byte) / by.network + NETWORK_LATENCY_S)


def _floats(values: ArrayLike) -> FloatArray:
    return np.asarray(values, float)
