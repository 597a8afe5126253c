"""From what was measured to what is asked for: memory, time to start, and the sentences that say how it came about.

What is added to a measurement is stated here once, and again in every file that carries the sum.
"""

import math

from trimtab.core.release import Serving
from trimtab.core.site import ServedModel, Site
from trimtab.package.manifests.lock import judged

MIB = 2**20

HEAD_ROOM = 0.25
"""Added to the highest memory measured: other prompts than those of the workload, and the allocator's slack."""
GATEWAY_BYTES = 256 * MIB
"""For the gateway, beside the engine's process and not in what was measured: 110 MiB were resident, and 23 MiB in the child that renders
templates, after one chat; the rest is for requests under way."""

STARTS = 10
"""Cold starts that the whole start may take: files that are not in the page cache, a slower disk, digests of the weights."""
LEAST_START_S = 60
UNMEASURED_START_S = 600
"""Where no cold start was measured: Knative's own deadline, which is its default."""
PULL_S = 300
"""For fetching the image, where a deadline counts that too. It was not measured."""

DRAIN_S = 45
"""From the signal to the end: the gateway finishes what runs for 30 s, then ends its workers."""
REQUEST_S = int(Site.request_s)
"""The longest a request may last, as the gateway has it."""


ACCELERATOR = "nvidia.com/gpu"
"""What a container asks its cluster for where the engine was judged on accelerators. The lock does not name their vendor."""


def accelerators(serving: Serving) -> int:
    """Accelerators of one replica, by the settings that it was judged with; 0 = none."""
    settings = judged(serving).settings
    if settings.get("tensor_split"):
        return len(settings["tensor_split"])
    return 1 if settings.get("device_layers") else 0


def memory_mib(serving: Serving) -> int | None:
    """What to ask for, in MiB; None if it was not measured."""
    if serving.memory_bytes is None:
        return None
    return math.ceil((serving.memory_bytes * (1 + HEAD_ROOM) + GATEWAY_BYTES) / MIB)


def start_s(serving: Serving) -> int:
    """How long a start may take until it counts as failed."""
    if serving.cold_start_s is None:
        return UNMEASURED_START_S
    return max(LEAST_START_S, math.ceil(serving.cold_start_s * STARTS))


def queue_wait_s(serving: Serving) -> int | None:
    """How long a request may wait for a model that is loading, where the gateway's own patience is short for it; else None."""
    wanted = math.ceil((serving.cold_start_s or 0.0) * 4)
    return wanted if wanted > ServedModel.queue_wait_s else None


def resource_notes(serving: Serving) -> list[str]:
    """Where memory, processors, concurrency and the deadline come from."""
    memory = memory_mib(serving)
    if memory is None or serving.memory_bytes is None:
        notes = ["Memory: was not measured, so none is asked for; set it before others run on the same machine."]
    else:
        notes = [
            f"Memory: {memory} MiB = {math.ceil(serving.memory_bytes / MIB)} MiB, the highest measured, and {HEAD_ROOM:.0%} head room, and "
            f"{GATEWAY_BYTES // MIB} MiB for the gateway, which was not in it."
        ]
    notes.append(f"Processors: {serving.cpus}, as it was judged with. Requests at once: {serving.slots}, its slots.")
    if accelerators(serving):
        notes.append(
            f"Accelerators: {accelerators(serving)}, by its settings; {ACCELERATOR} is asked for: another vendor's have another name."
        )
    if serving.cold_start_s is None:
        notes.append(f"Start: was not measured; {UNMEASURED_START_S} s are allowed, which is Knative's default.")
    else:
        notes.append(
            f"Start: {serving.cold_start_s:.1f} s were measured from no process to the first token, files in the page cache; "
            f"{start_s(serving)} s are allowed ({STARTS} times that, {LEAST_START_S} s at least)."
        )
    return notes
