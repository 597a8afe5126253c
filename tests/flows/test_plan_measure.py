"""This machine, measured, is a device like any other; GPUs that the catalog knows keep what was not measured."""

from pathlib import Path
from typing import Any

import pytest

from trimtab.core.errors import InputError
from trimtab.flows.parts.own_hardware import find_device, own_hardware
from trimtab.flows.plan_hardware import list_hardware
from trimtab.flows.plan_measure import measure_this_machine
from trimtab.measure import matrix_rates
from trimtab.measure.matrix_rates import CudaDevice


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))


def gpu(name: str, **changed: Any) -> CudaDevice:
    rates = {"bf16": 700e12, "fp32": 50e12}
    return CudaDevice(
        **{"name": name, "count": 8, "memory_bytes": 84_900_000_000, "memory_bytes_s": 2.9e12, "matmul_flop_s": rates, **changed}
    )


def test_this_machine_is_written_found_and_listed() -> None:
    told: list[str] = []
    found = measure_this_machine(seconds=0.4, say=told.append)
    assert told == ["memory and matrix products", "disk", "GPUs"]
    assert found["files"] == [str(own_hardware() / "this-machine.toml")]
    here = find_device("This Machine")
    assert here.kind in ("cpu", "soc")
    assert here.memory_bytes_s > 1e8
    assert here.peak_flop_s["fp32"] == here.matmul_flop_s["fp32"] > 1e8
    assert {"disk_read_bytes_s", "disk_write_bytes_s", "n_cores"} <= set(here.facts)
    assert all(fact.source == "measured here" and fact.as_of for fact in here.facts.values())
    assert next(row["name"] for row in list_hardware()["devices"]) == "this-machine"
    assert measure_this_machine(seconds=0.2)["files"] == found["files"]


def test_a_known_gpu_keeps_what_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_rates, "cuda_devices", lambda *_: (gpu("NVIDIA H100 80GB HBM3"), gpu("Some GPU", count=1)))
    found = measure_this_machine(seconds=0.2)
    assert [row["name"] for row in found["devices"]] == ["this-machine", "this-machine-2", "this-machine-host"]
    h100 = find_device("this-machine")
    assert h100.peak_flop_s == find_device("h100-sxm").peak_flop_s
    assert h100.matmul_flop_s["bf16"] == 700e12
    assert h100.memory_bytes == 84_900_000_000
    assert h100.network_bytes_s == 50e9
    assert h100.facts["network_bytes_s"].source != "measured here"
    other = find_device("this-machine-2")
    assert other.peak_flop_s == {"fp32": 50e12, "bf16": 700e12}
    assert (other.memory_bytes_s, other.devices_per_node) == (2.9e12, 1)


def test_a_disk_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        measure_this_machine(seconds=0.2, disk=tmp_path / "absent")


def test_the_catalog_is_listed_by_vendor_kind_and_name() -> None:
    assert {row["vendor"] for row in list_hardware(vendor="google")["devices"]} == {"Google"}
    assert {row["kind"] for row in list_hardware(kind="cpu")["devices"]} == {"cpu"}
    (row,) = list_hardware(["H100"])["devices"]
    assert row["name"] == "h100-sxm"
    assert row["facts"]["bf16_flop_s"]["value"] == 989.5e12
    assert all(price["age_days"] > 0 for price in row["prices"])
    with pytest.raises(InputError, match="--vendor 'acme' makes none of the catalog's devices; there are AMD"):
        list_hardware(vendor="acme")
    with pytest.raises(InputError, match="of that vendor and kind"):
        list_hardware(vendor="google", kind="gpu")
    with pytest.raises(InputError, match="No device is called 'h1000'"):
        list_hardware(["h1000"])
