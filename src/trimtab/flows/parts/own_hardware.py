"""Devices as a user may name them: the catalog, and files of their own."""

from pathlib import Path

from trimtab.core.planning import Device

THIS_MACHINE = "this-machine"
"""What `plan measure` calls the machine that it measured."""


def own_hardware() -> Path:
    """TRIMTAB_HOME/hardware: one TOML a device, this machine's among them; it need not exist. Raises InputError for a bad TRIMTAB_HOME."""
    from trimtab.record.home import state_dir

    return state_dir() / "hardware"


def find_device(name: str) -> Device:
    """A device of the user's own files or of the catalog. Raises InputError with near names if there is none."""
    from trimtab.plan.devices import device

    return device(name, own_hardware())


def usual_hardware() -> str:
    """What is planned for where nobody says: this machine if `plan measure` was run, else the device that most services run on."""
    return THIS_MACHINE if (own_hardware() / f"{THIS_MACHINE}.toml").exists() else "h100-sxm"
