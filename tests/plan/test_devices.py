"""The catalog of devices: facts that are well known, names as people write them, physics that every entry obeys, and mistakes in a file."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.core.planning import Device
from trimtab.plan.device_files import RANGES, parse_device
from trimtab.plan.devices import device, devices, with_measured

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "planner"
NAMELESS = ("", "not visible in stored excerpt")
MIXED = "AMD Instinct MI300X 192GB HBM3 (x32), AMD Instinct MI325X 256GB HBM3e (x16)"
WHOLE = """
name = "mine"
vendor = "me"
kind = "gpu"
year = 2026
aliases = ["My Card 24GB"]
bf16_flop_s = { value = 100e12, source = "data sheet", verified = true, as_of = "2026-01-31" }
memory_bytes = { value = 24e9, source = "data sheet", verified = true }
"""

any_device = st.sampled_from(devices())


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("h100-sxm", {"bf16": 989.5e12, "memory": 3.35e12, "node": 8, "network": 50e9, "link": 450e9, "power": 700}),
        ("a100-sxm-80gb", {"bf16": 312e12, "memory": 2.039e12, "node": 8, "network": 25e9, "link": 300e9, "power": 400}),
        ("v100-sxm-32gb", {"fp16": 125e12, "memory": 0.9e12, "node": 8, "link": 150e9}),
        ("h200-sxm", {"bf16": 989.5e12, "memory": 4.8e12, "node": 8}),
        ("gb200", {"bf16": 2500e12, "memory": 8e12, "node": 72, "link": 900e9}),
        ("mi300x", {"bf16": 1300e12, "memory": 5.3e12, "node": 8}),
        ("tpu-v5e", {"bf16": 197e12, "memory": 820e9, "node": 256, "link": 180e9}),
        ("tpu-v5p", {"bf16": 459e12, "memory": 2.76e12, "node": 8960, "link": 540e9}),
        ("m4-max", {"memory": 546e9, "node": 1}),
    ],
)
def test_well_known_facts(name: str, numbers: dict[str, float]) -> None:
    known = device(name)
    told = {
        "bf16": known.peak_flop_s.get("bf16"),
        "fp16": known.peak_flop_s.get("fp16"),
        "memory": known.memory_bytes_s,
        "node": known.devices_per_node,
        "network": known.network_bytes_s,
        "link": known.link_bytes_s,
        "power": known.power_w,
    }
    assert {key: told[key] for key in numbers} == pytest.approx(numbers)


def test_a_type_that_is_not_native_is_absent() -> None:
    assert "bf16" not in device("V100").peak_flop_s
    assert "fp8" not in device("A100").peak_flop_s
    assert "fp4" not in device("H100").peak_flop_s


def test_peaks_that_were_never_told_are_not_those_of_the_ordinary_card() -> None:
    cut = device("H100-SXM-96GB-HBM2e-2.4TBps-500W")
    assert cut.peak_flop_s["bf16"] < device("h100-sxm").peak_flop_s["bf16"]
    assert (cut.memory_bytes_s, cut.power_w) == (2.4e12, 500)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("H100-SXM-80GB", "h100-sxm"),
        ("h100_sxm", "h100-sxm"),
        ("NVIDIA H100-SXM-80GB", "h100-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("H100 94GB", "h100-nvl"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"),
        ("A100 40GB", "a100-sxm-40gb"),
        ("A100", "a100-sxm-80gb"),
        ("A100-SXM-80GB (330W)", "a100-sxm-80gb-330w"),
        ("3090 24GB", "rtx-3090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("GB200-192GB", "gb200"),
        ("TPU v5e", "tpu-v5e"),
        ("M3 Max 40‑Core GPU 64GB", "apple-m3-max-64gb"),
        ("Apple-M2-Ultra-60c-GPU", "apple-m2-ultra-60c"),
        ("Intel(R) Xeon(R) Platinum 8480+", "xeon-8480"),
        ("AMD EPYC 9654 96-Core Processor", "epyc-9654"),
        ("Core i9-13900K, DDR5-6400 (8 threads)", "core-i9-13900k"),
        ("TPU-v3 (chip)", "tpu-v3"),
        ("v6e-8", "tpu-v6e"),
        ("v5litepod-16", "tpu-v5e"),
        ("NVIDIA B300 SXM6 AC", "b300-sxm"),
        ("AMD Instinct MI300X-NPS1-SPX-192GB-750W", "mi300x"),
        ("NVIDIA GH200 Grace Hopper Superchip 96GB", "gh200-96gb"),
        ("4080 16GB", "rtx-4080"),
        ("M1 7-Core GPU 8GB", "apple-m1-7c-8gb"),
    ],
)
def test_names_as_people_write_them(written: str, name: str) -> None:
    assert device(written).name == name


@pytest.mark.skipif(not DATA.is_dir(), reason="the public data are not here")
def test_every_device_of_the_published_runs_is_known() -> None:
    columns = {"hardware.csv": "device", "train.csv": "device", "infer.csv": "device", "infer_silicon.csv": "system"}
    for name, column in columns.items():
        with (DATA / name).open(encoding="utf-8") as file:
            for written in {row[column] for row in csv.DictReader(file)} - {*NAMELESS, MIXED}:
                assert isinstance(device(written), Device)
    for written in (*NAMELESS, MIXED):
        with pytest.raises(InputError):
            device(written)


def test_an_unknown_device_gets_near_names() -> None:
    with pytest.raises(InputError, match=r"'h1000'; near are h100-sxm"):
        device("h1000")
    with pytest.raises(InputError, match="plan hardware"):
        device("zzzzzzzzzz")
    for other in ("H100 40GB", "RTX 4090 Laptop GPU", "M4 Ultra", "L40-2"):
        with pytest.raises(InputError, match=other):
            device(other)


def test_memory_that_is_named_is_taken_less_what_the_system_keeps() -> None:
    small, large = device("m4-max-64gb"), device("m4-max")
    assert small.facts["memory_nominal_bytes"].value == 64 * 2**30
    assert small.memory_bytes == pytest.approx(0.75 * 64 * 2**30)
    assert large.memory_bytes > small.memory_bytes
    assert device("m4-24gb").memory_bytes == pytest.approx(16 * 2**30)
    assert small.memory_bytes_s == large.memory_bytes_s
    assert device("h100").memory_bytes < 80 * 2**30


def test_every_entry_is_found_by_each_of_its_names() -> None:
    for entry in devices():
        assert {device(name).name for name in (entry.name, *entry.aliases)} == {entry.name}


@given(
    entry=any_device,
    between=st.sampled_from([" ", "-", "_", "/", "  "]),
    upper=st.booleans(),
    before=st.sampled_from(["", "NVIDIA ", "gpu:"]),
)
def test_case_punctuation_and_vendor_do_not_matter(entry: Device, between: str, upper: bool, before: str) -> None:
    written = before + (entry.name.upper() if upper else entry.name).replace("-", between)
    assert device(written) == entry


def test_narrower_types_are_not_slower() -> None:
    for entry in devices():
        peaks = [entry.peak_flop_s[dtype] for dtype in ("fp32", "tf32", "bf16", "fp8", "fp4") if dtype in entry.peak_flop_s]
        assert peaks == sorted(peaks), entry.name
        assert entry.peak_flop_s.get("fp16", 1e18) >= entry.peak_flop_s.get("fp32", 0), entry.name
        for dtype, rate in entry.matmul_flop_s.items():
            assert 0.3 * entry.peak_flop_s[dtype] < rate <= entry.peak_flop_s[dtype], entry.name


def test_numbers_lie_where_such_devices_lie() -> None:
    reads = {"gpu": (190e9, 25e12), "tpu": (600e9, 10e12), "accelerator": (600e9, 5e12), "soc": (60e9, 1.3e12), "cpu": (80e9, 1e12)}
    for entry in devices():
        low, high = reads[entry.kind]
        assert low <= entry.memory_bytes_s <= high, entry.name
        assert 6e9 < entry.memory_bytes < 7e12, entry.name
        assert 2016 <= entry.year <= 2027, entry.name
        assert 0.5 < entry.memory_bytes / entry.facts["memory_nominal_bytes"].value < 1.09, entry.name
        assert entry.devices_per_node == 1 or entry.link_bytes_s > 0 or entry.kind == "cpu", entry.name
        assert entry.network_bytes_s <= entry.link_bytes_s or entry.devices_per_node == 1, entry.name
        assert entry.power_w == 0 or 15 <= entry.power_w <= 2500, entry.name
        for dtype, peak in entry.peak_flop_s.items():
            # FLOP a byte; far from what any chip has is a mistake in a unit.
            assert 5 < peak / entry.memory_bytes_s < 4000, (entry.name, dtype)


def test_every_number_says_where_it_is_from() -> None:
    for entry in devices():
        assert set(entry.facts) <= set(RANGES)
        assert {"memory_bytes", "memory_nominal_bytes", "memory_bytes_s"} <= set(entry.facts), entry.name
        for key, fact in entry.facts.items():
            assert len(fact.source) > 8, (entry.name, key)


def test_catalog_names_are_file_names() -> None:
    folder = Path(parse_device.__code__.co_filename).parents[1] / "catalog" / "hardware"
    assert {path.stem for path in folder.glob("*.toml")} == {entry.name for entry in devices()}
    assert len(devices()) >= 75


def test_a_file_of_a_users_own_wins(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(WHOLE)
    (tmp_path / "h100.toml").write_text(WHOLE.replace('"mine"', '"h100"').replace("My Card 24GB", "h100-sxm"))
    assert device("my card", tmp_path).peak_flop_s == {"bf16": 100e12}
    assert device("h100-sxm", tmp_path).memory_bytes == 24e9
    assert {entry.name for entry in devices(tmp_path)[:2]} == {"mine", "h100"}
    assert device("a100", tmp_path) == device("a100", tmp_path / "absent") == device("a100")


def test_measured_numbers_take_the_place_of_the_catalogs() -> None:
    better = with_measured(device("h100"), {"matmul_bf16_flop_s": 700e12, "memory_bytes_s": 3e12}, as_of="2026-11-27")
    assert better.matmul_flop_s["bf16"] == 700e12
    assert better.memory_bytes_s == 3e12
    assert better.facts["memory_bytes_s"].source == "measured here"
    assert better.peak_flop_s == device("h100").peak_flop_s
    with pytest.raises(InputError, match="'speed' is no number of a device"):
        with_measured(device("h100"), {"speed": 1.0})
    with pytest.raises(InputError, match="memory_bytes_s is 3, outside of"):
        with_measured(device("h100"), {"memory_bytes_s": 3.0})


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (WHOLE + "memory_gb = 24", "mine.toml has an unknown key 'memory_gb'; did you mean"),
        (WHOLE.replace("24e9", "24e12"), "memory_bytes is 2.4e\\+13, outside of 1e\\+08 to 1e\\+13; write bytes"),
        (WHOLE.replace("24e9", "24"), "memory_bytes is 24, outside"),
        (WHOLE.replace("24e9", "-24e9"), "memory_bytes is -2.4e\\+10, and must be above 0"),
        (WHOLE.replace("24e9", "'24 GB'"), "memory_bytes has no value that is a number"),
        (WHOLE.replace("24e9", "nan"), "memory_bytes has no value that is a number"),
        (WHOLE.replace("100e12", "100"), "bf16_flop_s is 100, outside .* write FLOP/s"),
        (WHOLE.replace('value = 24e9, source = "data sheet"', "value = 24e9"), "memory_bytes has no source"),
        (WHOLE.replace('24e9, source = "data sheet", verified = true', '24e9, source = "x", verified = "yes"'), "whether it is verified"),
        (WHOLE.replace("2026-01-31", "January"), "as_of 'January'; write a date"),
        (
            WHOLE.replace("verified = true }", "verified = true, unit = 'GB' }"),
            "bf16_flop_s has an unknown entry|memory_bytes has an unknown",
        ),
        (WHOLE.replace('"gpu"', '"npu"'), "kind 'npu' is none of gpu, tpu"),
        (WHOLE.replace("2026\n", '"2026"\n'), "year must be a year"),
        (WHOLE.replace('vendor = "me"\n', ""), "has no 'vendor'"),
        (WHOLE.replace('["My Card 24GB"]', '"My Card"'), "aliases must be a list"),
        (WHOLE + "devices_per_node = { value = 1.5, source = 'x', verified = false }", "devices_per_node is 1.5; write a whole number"),
        (WHOLE + "power_w = 300", "power_w must be a table such as"),
        (WHOLE + "= 3", "mine.toml is not valid TOML"),
    ],
)
def test_mistakes_in_a_file_are_told_in_a_sentence(wrong: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parse_device(wrong, "mine.toml")


def test_two_devices_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(WHOLE)
    (tmp_path / "b.toml").write_text(WHOLE.replace('"mine"', '"other"'))
    with pytest.raises(InputError, match="Two devices are called 'My Card 24GB'"):
        device("mine", tmp_path)
