"""`trimtab serve` as a process of its own, until a block ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from parts.kept_process import kept

from trimtab.record.home import cache_dir


@dataclass(frozen=True, kw_only=True)
class Running:
    """url ends in /v1; admin_url is empty where the site has no admin port."""

    pid: int
    url: str
    admin_url: str

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1].split("/")[0])


@contextlib.contextmanager
def gateway(site: Path, *, home: Path, admin_port: int = 0, options: Sequence[str] = ()) -> Iterator[Running]:
    """Serve a site file on a free port. Raises RuntimeError if it does not come up, or does not end well.

    home: where its log and state go; models that are built already are used from where they are; options: more of `trimtab serve`
    """
    command = [sys.executable, "-m", "trimtab", "serve", str(site), "--port", "0", "--json", "-q"]
    command += ["--admin-port", str(admin_port)] if admin_port else []
    command += options
    environment = {**os.environ, "TRIMTAB_HOME": str(home), "TRIMTAB_CACHE": str(cache_dir())}
    with kept(command, stdout=subprocess.PIPE, env=environment) as keeper:
        assert keeper.stdout is not None
        line = keeper.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(command)} did not come up")
        said = json.loads(line)
        process = next(one for one in psutil.Process(keeper.pid).children() if "serve" in one.cmdline())
        yield Running(pid=process.pid, url=said["url"], admin_url=said["admin_url"])
        process.send_signal(signal.SIGTERM)
        if keeper.wait(60) != 0:
            raise RuntimeError(f"the gateway ended with {keeper.returncode}")
