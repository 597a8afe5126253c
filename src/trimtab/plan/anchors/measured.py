"""A user's own measurements: kept in one file, and used to correct the fit and to narrow its intervals.

TRIMTAB_HOME/planner/measurements.jsonl, one JSON object a line, appended and synced before `remember` returns. A line that a crash cut
short, or that another release wrote, is passed over and counted.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from trimtab.core.errors import InputError
from trimtab.core.files import canonical_json, parsed_json
from trimtab.plan.anchors.scheme import UNITS, Anchor, Features, setting_key
from trimtab.plan.anchors.stored import Published

VERSION = 1
OWN = "own"
# A measurement this many times off from physics is a slip of a unit, not a slow machine.
LARGEST_RATIO = 100.0


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One own measurement.

    value, physics: in `unit`; setting: as the planner names it; when: ISO date; conditions: what else is known of it
    """

    quantity: str
    unit: str
    value: float
    physics: float
    features: Features
    setting: str
    model: str
    when: str
    conditions: Mapping[str, str] = field(default_factory=dict)


def remember(path: Path, measurement: Measurement) -> None:
    """Append a measurement; it is on the disk when this returns. Raises `InputError` for one that cannot be meant, and OSError."""
    check(measurement)
    line = canonical_json({"version": VERSION, **asdict(measurement)}).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        os.write(handle, b"\n" + line if torn else line)
        os.fsync(handle)
    finally:
        os.close(handle)


def check(measurement: Measurement) -> None:
    """Raises `InputError` where the quantity, the unit or the value cannot be meant."""
    unit = UNITS.get(measurement.quantity)
    if unit is None:
        raise InputError(f"{measurement.quantity!r} is nothing that the planner predicts; it is one of {', '.join(UNITS)}.")
    if measurement.unit != unit:
        raise InputError(f"{measurement.quantity} is kept in {unit}, not in {measurement.unit or 'no unit'}; convert it first.")
    for name, value in (("value", measurement.value), ("physics", measurement.physics)):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"The {name} of {measurement.quantity} is {value}, and must be above 0.")
    ratio = measurement.value / measurement.physics
    if not 1 / LARGEST_RATIO <= ratio <= LARGEST_RATIO:
        raise InputError(
            f"{measurement.quantity} of {measurement.value:g} {unit} is {ratio:.2g} times what physics allows for here; is it in {unit}?"
        )


@dataclass(frozen=True)
class Kept:
    """What the file holds. n_unread: lines that are no measurement of this release."""

    measurements: tuple[Measurement, ...]
    n_unread: int


def kept(path: Path) -> Kept:
    """All own measurements, oldest first; none where there is no file. Raises `InputError` if it cannot be read."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return Kept((), 0)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); mend or move it.") from None
    found, n_unread = [], 0
    for line in lines:
        if not line.strip():
            continue
        try:
            found.append(_read(line))
        except (ValueError, TypeError, KeyError, AttributeError, InputError):
            n_unread += 1
    return Kept(tuple(found), n_unread)


def _read(line: bytes) -> Measurement:
    plain = parsed_json(line.decode())
    if plain.pop("version") != VERSION:
        raise ValueError("another release's")
    measurement = Measurement(**plain)
    check(measurement)
    return measurement


def with_own(fit: Published, measurements: Sequence[Measurement]) -> Published:
    """The fit corrected by the own measurements of its quantity. They are a source of their own, called `own`: give it as the feature
    `source` for predictions on the machines that were measured."""
    own = [measurement for measurement in measurements if measurement.quantity == fit.quantity]
    if not own:
        return fit
    keys = np.array([setting_key(measurement.setting) for measurement in own], dtype=np.uint64)
    return replace(
        fit, residual=fit.residual.updated([anchor_of(measurement) for measurement in own]), settings=np.union1d(fit.settings, keys)
    )


def anchor_of(measurement: Measurement) -> Anchor:
    return Anchor(
        quantity=measurement.quantity,
        features=measurement.features,
        log_ratio=math.log(measurement.value / measurement.physics),
        setting=measurement.setting,
        model=measurement.model,
        source=OWN,
        measured=measurement.value,
    )
