"""What benchmarks start ends with them, also when they are killed: the gateway, its workers, and all that these started."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SERVER = Path(__file__).with_name("server_child.py")
CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from parts.gateway_process import gateway
with gateway(Path(sys.argv[2]), home=Path(sys.argv[3])) as running:
    print(running.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_killed_benchmark_leaves_nothing_running(tmp_path: Path) -> None:
    hows = (signal.SIGTERM, signal.SIGKILL)
    started = []
    for how in hows:
        command = json.dumps([sys.executable, str(SERVER), "{port}", "--deaf", "--pids", str(tmp_path / how.name)])
        site = tmp_path / f"{how.name}.toml"
        site.write_text(f'audit = "off"\n[[models]]\nname = "m"\ncommand = {command}\nmin_replicas = 1\n')
        arguments = [sys.executable, "-c", CHILD, str(BENCHMARKS), str(site), str(tmp_path / f"home-{how.name}")]
        started.append(subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env={**os.environ, "TRIMTAB_CACHE": str(tmp_path)}))
    for how, process in zip(hows, started, strict=True):
        with process:
            assert process.stdout is not None
            gateway = psutil.Process(int(process.stdout.readline()))
            below = [gateway, *gateway.children(recursive=True)]
            pids = tmp_path / how.name
            while len(words := pids.read_text().split() if pids.exists() else []) < 3:
                assert gateway.is_running()
                time.sleep(0.05)
            below += [psutil.Process(int(word)) for word in words]
            process.send_signal(how)
        gone, left = psutil.wait_procs(below, timeout=20)
        assert not left
        assert len(gone) >= 4
