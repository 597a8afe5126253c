"""From nothing to ready: weights from a storage tier to the devices, and the engine's own start."""

import math
from dataclasses import dataclass

from trimtab.core.errors import InputError
from trimtab.core.planning import ServeJob
from trimtab.plan import operators
from trimtab.plan.serving.loads import check
from trimtab.plan.storage import loader as loader_named
from trimtab.plan.storage import loaders, tier

START_S = {
    "vllm": 30.0, "sglang": 30.0, "trtllm": 40.0, "llamacpp": 0.5, "mlx": 1.0, "openvino": 2.0, "ortgenai": 4.0, "ctranslate2": 1.0,
    "transformers": 8.0,
}  # fmt: skip
"""Process, libraries, warm-up and captured graphs. Assumptions; `trimtab optimize` measures it for engines that run here."""
OTHER_START_S = 30.0


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """weights_bytes: of the whole replica; bytes_s: the slower of storage and loader, which overlap; total_s = load_s + start_s"""

    weights_bytes: float
    bytes_s: float
    load_s: float
    start_s: float
    why: str

    @property
    def total_s(self) -> float:
        return self.load_s + self.start_s


def cold_start(job: ServeJob, *, storage: str = "local-nvme", loader: str = "", start_s: float | None = None) -> ColdStart:
    """Of one replica. loader: "" = the usual one; start_s: known better than by engine.

    InputError for a storage or loader that is not known, or whose reads are not.
    """
    check(job)
    where, how = tier(storage), loader_named(loader) if loader else loaders()[0]
    if where.read_bytes_s is None:
        raise InputError(f"How fast {where.name} is read is not known; name another storage.")
    n_devices = job.tp * job.pp * job.attention_dp
    nodes = math.ceil(n_devices / max(1, job.device.devices_per_node)) if where.per == "node" else 1
    read = where.read_bytes_s.value * nodes
    copied = how.read_bytes_s.value * (n_devices if how.per_device else 1)
    weights = operators.weight_bytes(job.architecture, job.weights)
    begun = start_s if start_s is not None else START_S.get(job.engine, OTHER_START_S)
    slower = f"{where.name} at {read / 1e9:.1f} GB/s" if read <= copied else f"the loader {how.name} at {copied / 1e9:.1f} GB/s"
    return ColdStart(
        weights_bytes=weights,
        bytes_s=min(read, copied),
        load_s=weights / min(read, copied),
        start_s=begun,
        why=f"{weights / 1e9:.1f} GB of weights by {slower}, then {begun:g} s until the engine is ready.",
    )
