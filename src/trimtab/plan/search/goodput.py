"""What failures and checkpoints leave of a training run's time.

The interval between checkpoints is Daly's (J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps",
Future Generation Computer Systems 22, 2006, eq. 37), which is Young's sqrt(2 d M) (Comm. ACM 17, 1974) where d is far below M; the share of
useful time is his eq. 20, for failures that come at random with one mean time between them.
"""

import math
from dataclasses import dataclass

from trimtab.core.errors import InputError
from trimtab.plan.search.feed import bytes_per_second

BYTES_PER_PARAM = 14.0
"""Of a checkpoint that training goes on from: 2 for weights in 16 bit, 4 each for the master copy and Adam's two moments. Published ones
have 13.1 (BLOOM-176B, 2.3 TB) and 13.8 (Megatron's 1T, 13.8 TB)."""

RESTART_S = 600.0
"""From a failure to the first step again, apart from the reading of the checkpoint: to notice, to swap the node, to start all processes.
An assumption; measure your own."""


@dataclass(frozen=True, kw_only=True)
class FailureRate:
    """How often a training run was interrupted. source: where that is published; what: what was counted."""

    failures: float
    days: float
    n_devices: int
    what: str
    source: str

    @property
    def per_device_hour(self) -> float:
        return self.failures / (self.days * 24.0 * self.n_devices)


FAILURE_RATES = {
    "llama3": FailureRate(
        failures=419,
        days=54,
        n_devices=16384,
        what="unexpected interruptions of Llama 3 405B on H100",
        source="arXiv:2407.21783, section 3.3.4",
    ),
    "opt": FailureRate(
        failures=35 + 70,
        days=60,
        n_devices=992,
        what="manual and automatic restarts of OPT-175B on A100, in about two months",
        source="arXiv:2205.01068, section 2.5",
    ),
    "bloom": FailureRate(
        failures=1.5,
        days=7,
        n_devices=384,
        what="failed GPUs a week (1 to 2) of BLOOM-176B on A100",
        source="arXiv:2211.05100, section 3.2.6",
    ),
}
DEFAULT_RATE = "llama3"


@dataclass(frozen=True, kw_only=True)
class Storage:
    """What takes checkpoints. write_bytes_s, read_bytes_s: of the whole run together, or of each of its devices."""

    name: str
    write_bytes_s: float
    read_bytes_s: float
    source: str
    per_device: bool = False


STORAGES = {
    "usual": Storage(
        name="usual",
        write_bytes_s=122e6,
        read_bytes_s=122e6,
        per_device=True,
        source="122 MB/s a device, the middle of three published systems (arXiv:2104.04473: 89, arXiv:2407.21783: 122, BLOOM: 150)",
    ),
    "tectonic": Storage(
        name="tectonic",
        write_bytes_s=2e12,
        read_bytes_s=2e12,
        source="arXiv:2407.21783, section 3.3.1: 2 TB/s sustained",
    ),
    "gpfs-nvme": Storage(
        name="gpfs-nvme",
        write_bytes_s=2.3e12 / 40.0,
        read_bytes_s=2.3e12 / 40.0,
        source="BLOOM-176B: 2.3 TB saved in 40 s (stas00/ml-engineering, storage); reading taken to be as fast",
    ),
    "parallel-nvme": Storage(
        name="parallel-nvme",
        write_bytes_s=273e9,
        read_bytes_s=1000e9,
        source="arXiv:2104.04473, section 5.10: 273 GB/s written, 1 TB/s read at most",
    ),
}
DEFAULT_STORAGE = "usual"


def parse_failures(text: str, flag: str = "--failures") -> FailureRate:
    """A name of `FAILURE_RATES`, or a number of failures a device and hour of one's own, such as `1e-5`. Raises InputError."""
    if text in FAILURE_RATES:
        return FAILURE_RATES[text]
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < 1:
        raise InputError(
            f"{flag}: {text!r} is neither one of {', '.join(FAILURE_RATES)} nor a number of failures a device and hour, like 1e-5."
        )
    return FailureRate(failures=rate * 24.0, days=1.0, n_devices=1, what="told", source=flag)


def parse_storage(text: str, flag: str = "--checkpoint-storage") -> Storage:
    """A name of `STORAGES`, or a rate of one's own at which the whole run writes and reads, such as `20GB/s`. Raises InputError."""
    if text in STORAGES:
        return STORAGES[text]
    if not text[:1].isdigit():
        raise InputError(f"{flag}: {text!r} is neither one of {', '.join(STORAGES)} nor a rate such as 20GB/s.")
    rate = bytes_per_second(text, flag)
    return Storage(name=text, write_bytes_s=rate, read_bytes_s=rate, source=f"{flag} {text}")


@dataclass(frozen=True, kw_only=True)
class Goodput:
    """share: of the wall clock that goes into steps that stay; interval_s: of work between two checkpoints."""

    mtbf_s: float
    checkpoint_bytes: float
    pause_s: float
    restart_s: float
    interval_s: float
    share: float
    why: str


def goodput(
    n_params: float,
    n_devices: int,
    *,
    rate: FailureRate = FAILURE_RATES[DEFAULT_RATE],
    storage: Storage = STORAGES[DEFAULT_STORAGE],
    restart_s: float = RESTART_S,
    pause_s: float | None = None,
    bytes_per_param: float = BYTES_PER_PARAM,
) -> Goodput:
    """What is left of the time of `n_devices` that train `n_params` parameters together.

    restart_s: without the reading of the checkpoint, which comes on top; pause_s: for which training stands still for one checkpoint,
    if it is not the whole time of writing (asynchronous checkpoints). Raises InputError for numbers that nothing can have.
    """
    if n_devices < 1 or n_params <= 0:
        raise InputError(f"A run of {n_params:g} parameters on {n_devices} devices is none; give at least one of each.")
    if restart_s < 0 or (pause_s is not None and pause_s < 0):
        raise InputError("The time of a restart and the pause for a checkpoint cannot be below zero seconds.")
    mtbf_s = 3600.0 / (rate.per_device_hour * n_devices)
    checkpoint_bytes = n_params * bytes_per_param
    devices = n_devices if storage.per_device else 1
    pause = checkpoint_bytes / (storage.write_bytes_s * devices) if pause_s is None else pause_s
    restart = restart_s + checkpoint_bytes / (storage.read_bytes_s * devices)
    interval = best_interval_s(pause, mtbf_s)
    return Goodput(
        mtbf_s=mtbf_s,
        checkpoint_bytes=checkpoint_bytes,
        pause_s=pause,
        restart_s=restart,
        interval_s=interval,
        share=useful_share(interval, pause, restart, mtbf_s),
        why=f"a failure every {mtbf_s / 3600.0:.3g} h, as {rate.what} ({rate.source}); checkpoints by {storage.source}",
    )


def best_interval_s(pause_s: float, mtbf_s: float) -> float:
    """Seconds of work between two checkpoints. Daly's eq. 37; a pause of nothing asks for a checkpoint at every step, and gets a second."""
    if pause_s >= 2.0 * mtbf_s:
        return mtbf_s
    ratio = pause_s / (2.0 * mtbf_s)
    return max(math.sqrt(2.0 * pause_s * mtbf_s) * (1.0 + math.sqrt(ratio) / 3.0 + ratio / 9.0) - pause_s, 1.0)


def useful_share(interval_s: float, pause_s: float, restart_s: float, mtbf_s: float) -> float:
    """Work over wall clock, 0 to 1 (Daly's eq. 20: wall = M exp(R/M) (exp((t+d)/M) - 1) for every t of work)."""
    exponent = restart_s / mtbf_s + (interval_s + pause_s) / mtbf_s
    if exponent > 700.0:  # beyond what a float holds: no step ever stays
        return 0.0
    wall = mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1((interval_s + pause_s) / mtbf_s)
    return interval_s / wall
