"""Memory, energy and clock meters on sample files, and on this process."""

import os
import subprocess
import sys

import pytest

from trimtab.measure.meters import (
    EnergyReading,
    MemoryReading,
    PeakMemory,
    clock_conditions,
    files_mapped_together,
    higher,
    joules_between,
    memory_of,
    parse_smaps,
    parse_smaps_rollup,
    process_tree,
    read_energy,
)

ROLLUP = """556ea35bc000-7ffebf127000 ---p 00000000 00:00 0                          [rollup]
Rss:                1744 kB
Pss:                 287 kB
Pss_Dirty:           116 kB
"""


def lay(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_smaps_rollup():
    assert parse_smaps_rollup(ROLLUP) == 287 * 1024
    with pytest.raises(ValueError):
        parse_smaps_rollup("Rss: 1 kB\n")


SMAPS = """7f0000000000-7f0000001000 r--s 00000000 fd:00 77 /models/my model.gguf
Size:                100 kB
Rss:                 100 kB
Pss:                  50 kB
VmFlags: rd mr mw me
7f0000002000-7f0000003000 rw-p 00000000 00:00 0 
Rss:                  30 kB
Pss:                  30 kB
7f0000004000-7f0000005000 r-xp 00000000 fd:00 78 /lib/libc.so
Rss:                   8 kB
Pss:                   2 kB
"""


def test_a_model_file_mapped_by_two_counts_wholly_for_each():
    assert parse_smaps(SMAPS, ()) == 82 * 1024
    assert parse_smaps(SMAPS, {"/models/my model.gguf"}) == 132 * 1024


def test_files_mapped_together(tmp_path):
    head = "7f0000000000-7f0000001000 r--s 00000000 fd:00 77 "
    lay(tmp_path, {"1/maps": head + "/models/my model.gguf\n" + head.rstrip() + "\n" + head + "[heap]\n" + head + "/only/one\n"})
    lay(tmp_path, {"2/maps": head + "/models/my model.gguf\n" * 2 + head + "[heap]\n"})
    assert files_mapped_together([1, 2, 3], tmp_path) == {"/models/my model.gguf"}
    assert files_mapped_together([1, 1], tmp_path) == frozenset()


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="this kernel tells no PSS")
def test_two_real_processes_that_map_one_file(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(30_000_000))
    script = (
        "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); "
        "print(sum(m[::4096]), flush=True); sys.stdin.read()"
    )
    workers = [subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for worker in workers:
            worker.stdout.readline()
        files = files_mapped_together([worker.pid for worker in workers])
        assert str(path) in files
        shared, alone = (memory_of(workers[0].pid, counted_fully=counted).bytes_used for counted in ((), files))
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert shared < 25_000_000
    assert alone > 30_000_000


def test_memory_of_a_tree_is_the_sum(tmp_path):
    lay(
        tmp_path,
        {
            "self/smaps_rollup": ROLLUP,
            "10/smaps_rollup": "Pss: 100 kB\n",
            "10/task/10/children": "11 12 ",
            "10/task/15/children": "13",
            "11/smaps_rollup": "Pss: 20 kB\n",
            "11/task/11/children": "",
            "12/smaps_rollup": "Pss: 3 kB\n",
            "99/smaps_rollup": "Pss: 5000 kB\n",
        },
    )
    assert sorted(process_tree(10, tmp_path)) == [10, 11, 12, 13]
    # 13 ended between the two reads.
    assert memory_of(10, tmp_path) == MemoryReading(bytes_used=123 * 1024, kind="pss")


def test_memory_that_cannot_be_read_is_not_zero(tmp_path):
    lay(tmp_path, {"self/smaps_rollup": ROLLUP})
    reading = memory_of(10, tmp_path)
    assert reading.bytes_used is None
    assert reading.reason == "the process is gone"


def test_without_pss_the_stand_in_is_named(tmp_path):
    reading = memory_of(os.getpid(), tmp_path)
    assert reading.kind in ("uss", "rss")
    assert reading.bytes_used > 1_000_000
    assert memory_of(2**22 + 5, tmp_path).bytes_used is None


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="this kernel tells no PSS")
def test_peak_sees_a_child_that_grew_and_shrank():
    script = (
        "import sys, time; sys.stdin.readline(); a = bytearray(80_000_000); time.sleep(0.3); del a; print(flush=True); sys.stdin.readline()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        with PeakMemory(process.pid, period_s=0.02) as peak:
            process.stdin.write("\n")
            process.stdin.flush()
            process.stdout.readline()
        after = memory_of(process.pid)
    finally:
        process.kill()
        process.wait()
    assert peak.reading.bytes_used > after.bytes_used + 60_000_000


def test_higher_keeps_what_was_measured():
    missing = MemoryReading(bytes_used=None, kind="pss", reason="gone")
    small, large = (MemoryReading(bytes_used=size, kind="pss") for size in (1, 2))
    assert higher(small, large) == higher(large, small) == large
    assert higher(missing, small) == higher(small, missing) == small
    assert higher(small, missing).bytes_used == 1
    assert higher(missing, missing).bytes_used is None


def test_rapl_sums_packages_and_memory_only(tmp_path):
    zones = {
        "intel-rapl:0": ("package-0", 1_000_000),
        "intel-rapl:0:0": ("core", 900_000),
        "intel-rapl:0:1": ("dram", 200_000),
        "intel-rapl:1": ("psys", 5_000_000),
    }
    for zone, (name, counter) in zones.items():
        lay(tmp_path / "class/powercap" / zone, {"name": name + "\n", "energy_uj": f"{counter}\n", "max_energy_range_uj": "10000000\n"})
    before = read_energy(tmp_path)
    assert set(before.counters_uj) == {"intel-rapl:0 package-0", "intel-rapl:0:1 dram"}
    lay(tmp_path / "class/powercap/intel-rapl:0", {"energy_uj": "4000000"})
    assert joules_between(before, read_energy(tmp_path)) == pytest.approx(3.0)
    # The package counter wraps at 10 J: from 4 J over 10 to 0.5 J is 6.5 J.
    middle = read_energy(tmp_path)
    lay(tmp_path / "class/powercap/intel-rapl:0", {"energy_uj": "500000"})
    assert joules_between(middle, read_energy(tmp_path)) == pytest.approx(6.5)


def test_amd_sockets(tmp_path):
    hwmon = tmp_path / "class/hwmon"
    lay(hwmon / "hwmon0", {"name": "k10temp"})
    lay(hwmon / "hwmon3", {"name": "amd_energy", "energy1_label": "Ecore000", "energy1_input": "5"})
    lay(hwmon / "hwmon3", {"energy9_label": "Esocket0", "energy9_input": "1000000"})
    before = read_energy(tmp_path)
    assert dict(before.counters_uj) == {"hwmon3 Esocket0": (1_000_000, 0)}
    lay(hwmon / "hwmon3", {"energy9_input": "3500000"})
    assert joules_between(before, read_energy(tmp_path)) == pytest.approx(2.5)
    lay(hwmon / "hwmon3", {"energy9_input": "0"})
    assert joules_between(before, read_energy(tmp_path)) is None


def test_energy_that_is_not_exposed_is_not_zero(tmp_path):
    nothing = read_energy(tmp_path)
    assert nothing.counters_uj == {}
    assert nothing.reason == "the machine exposes no energy counter"
    assert joules_between(nothing, nothing) is None
    still = EnergyReading(counters_uj={"package-0": (5, 10)})
    assert joules_between(still, still) is None


def test_clock_conditions(tmp_path):
    cpus = "devices/system/cpu"
    lay(tmp_path, {f"{cpus}/cpu0/cpufreq/scaling_cur_freq": "2000000", f"{cpus}/cpu1/cpufreq/scaling_cur_freq": "3000000"})
    lay(tmp_path, {"class/thermal/thermal_zone0/temp": "45000", "class/thermal/thermal_zone1/temp": "71600"})
    assert clock_conditions(tmp_path) == {"cpu_mhz": "2500", "temperature_c": "72"}
    assert clock_conditions(tmp_path / "nothing") == {}
