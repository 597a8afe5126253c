"""What a machine is said to have: sample files, and this machine."""

import os

import pytest

from trimtab.core.model import KvLayers, ModelCard
from trimtab.measure.machine import (
    accelerators,
    available_cores,
    available_memory_bytes,
    cgroup_folders,
    machine,
    measure_rates,
    parse_cpuinfo,
    roofline_share,
)

GIB = 2**30


def lay(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_cpuinfo():
    x86 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse4_2 avx2 avx512_vnni\n\nprocessor\t: 1\nmodel name\t: other\n"
    assert parse_cpuinfo(x86) == ("AMD EPYC", ("avx2", "avx512_vnni", "sse4_2"))
    arm = "processor\t: 0\nFeatures\t: fp asimd i8mm\nCPU part\t: 0xd4f\n"
    assert parse_cpuinfo(arm) == ("Arm part 0xd4f", ("asimd", "i8mm"))


def test_memory_is_cut_by_any_cgroup_above_us(tmp_path):
    lay(tmp_path, {"proc/meminfo": "MemFree: 1 kB\nMemTotal: 16777216 kB\n", "proc/self/cgroup": "0::/a/b\n"})
    assert available_memory_bytes(tmp_path) == 16 * GIB
    lay(tmp_path, {"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": f"{4 * GIB}\n"})
    assert available_memory_bytes(tmp_path) == 4 * GIB
    # A container sees its own limit at the mount although its path is the host's.
    lay(tmp_path, {"sys/fs/cgroup/memory.max": f"{2 * GIB}\n"})
    assert available_memory_bytes(tmp_path) == 2 * GIB


def test_memory_of_cgroup_v1(tmp_path):
    lay(tmp_path, {"proc/meminfo": "MemTotal: 16777216 kB\n", "proc/self/cgroup": "9:pids:/\n4:memory:/job\n0::/\n"})
    lay(
        tmp_path, {"sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{3 * GIB}", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63}"}
    )
    assert available_memory_bytes(tmp_path) == 3 * GIB


@pytest.mark.parametrize(
    ("quota", "least"), [("max 100000", None), ("150000 100000", 2), ("20000 100000", 1), ("100000 100000", 1), ("-1 100000", None)]
)
def test_cores_are_cut_by_the_quota(tmp_path, quota, least):
    lay(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota})
    everything = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert available_cores(tmp_path) == (everything if least is None else min(everything, least))


def test_cores_of_cgroup_v1(tmp_path):
    lay(tmp_path, {"proc/self/cgroup": "3:cpu,cpuacct:/job\n"})
    lay(tmp_path / "sys/fs/cgroup/cpu,cpuacct/job", {"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"})
    assert available_cores(tmp_path) == 1


def test_cgroup_folders_stay_inside_the_mount(tmp_path):
    lay(tmp_path, {"proc/self/cgroup": "0::/a/b\n"})
    top = tmp_path / "sys/fs/cgroup"
    assert cgroup_folders(tmp_path, "cpu") == [top / "a/b", top / "a", top]
    assert cgroup_folders(tmp_path / "no", "cpu") == []


def test_accelerators(tmp_path):
    assert accelerators(tmp_path) == ()
    lay(tmp_path, {"dev/nvidia0": "", "dev/nvidiactl": "", "dev/dri/renderD128": "", "dev/dri/card0": ""})
    assert accelerators(tmp_path) == ("nvidia0", "dri/renderD128")
    lay(tmp_path, {"proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA H100\nIRQ: 5\n"})
    assert accelerators(tmp_path) == ("NVIDIA H100", "dri/renderD128")


def test_roofline_share():
    card = ModelCard(
        name="m",
        architecture="llama",
        format="gguf",
        quantization="gguf",
        n_params=10,
        active_params=10,
        n_params_by_part={},
        bytes_by_type={},
        size_bytes=100,
        decode_bytes_per_token=100_000_000,
        flops_per_token=20.0,
        attn_flops_per_token_per_context_token=0.0,
        n_layers=1,
        hidden_size=1,
        context_tokens=8,
        vocab_size=2,
        licence="",
        chat_template_sha256="",
        kv_layers=(KvLayers(kind="full", n_layers=10, values_per_token=5000),),
    )
    assert roofline_share(card, decode_tok_s=100, read_gb_s=20) == pytest.approx(0.5)
    # 200 tokens of context add 200 * 10 * 5000 values of 2 bytes = 20 MB a token.
    assert roofline_share(card, decode_tok_s=100, read_gb_s=20, context_tokens=200) == pytest.approx(0.6)


def test_this_machine():
    here = machine()
    assert here.n_cores >= 1
    assert here.memory_bytes > 100_000_000
    assert here.cpu
    assert here.read_gb_s is None
    assert here.digest == machine().digest


def test_rates_of_this_machine_are_plausible():
    read_gb_s, gflop_s = measure_rates(0.3)
    assert 0.5 < read_gb_s < 5000
    assert 0.5 < gflop_s < 100_000
