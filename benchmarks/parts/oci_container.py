"""An image in an OCI layout as a running container, with the tools of others: umoci unpacks it, runc runs it on a root it may not write.

The container shares this machine's network, so that it can be asked from here, and gets no rights and no root; limits and cgroups are left
out, because a container inside a container may not have them.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

STATE = "/var/lib/trimtab"
USER = 65532


@dataclass(frozen=True, kw_only=True)
class Container:
    """name: for `runc exec`; root: where runc keeps its state; began_s: of the clock when it was started"""

    name: str
    root: Path
    process: subprocess.Popen[bytes]
    began_s: float

    def processes(self) -> list[psutil.Process]:
        """All processes inside, the first one first."""
        state = subprocess.run(["runc", "--root", str(self.root), "state", self.name], check=True, capture_output=True, text=True)
        first = psutil.Process(json.loads(state.stdout)["pid"])
        return [first, *first.children(recursive=True)]

    def run_inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["runc", "--root", str(self.root), "exec", self.name, *command], check=False, capture_output=True, text=True)


def unpack(layout: Path, tag: str, bundle: Path, home: Path) -> None:
    """Unpack an image with umoci and write down how it is run. home: the folder that it may write to"""
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:{tag}", str(bundle)], check=True, stdout=sys.stderr, stderr=subprocess.STDOUT)
    path = bundle / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["root"]["readonly"] = True
    process = config["process"]
    process["terminal"] = False
    process["noNewPrivileges"] = True
    process["capabilities"] = {}
    process.pop("rlimits", None)
    linux = config["linux"]
    linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] not in ("network", "cgroup", "user")]
    for key in ("resources", "cgroupsPath", "uidMappings", "gidMappings"):
        linux.pop(key, None)
    config["mounts"] = [one for one in config["mounts"] if one["type"] != "cgroup" and one["destination"] != STATE]
    config["mounts"] += [
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "size=64m"]},
        {"destination": STATE, "type": "bind", "source": str(home), "options": ["bind", "rw"]},
    ]
    path.write_text(json.dumps(config), encoding="utf-8")


@contextlib.contextmanager
def running(bundle: Path, name: str, log: Path) -> Iterator[Container]:
    """Run an unpacked image until the block ends; it is then asked to end, and killed if it does not."""
    root = bundle.parent / "runc"
    with log.open("wb") as said:
        began_s = time.perf_counter()
        process = subprocess.Popen(["runc", "--root", str(root), "run", "-b", str(bundle), name], stdout=said, stderr=said)
        try:
            yield Container(name=name, root=root, process=process, began_s=began_s)
        finally:
            for signal in ("TERM", "KILL"):
                subprocess.run(["runc", "--root", str(root), "kill", name, signal], check=False, capture_output=True)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=45 if signal == "TERM" else 10)
                    break
            subprocess.run(["runc", "--root", str(root), "delete", "--force", name], check=False, capture_output=True)


def give_home(home: Path) -> None:
    """Let the container's user own the folder that it writes to."""
    for path in (home, *home.rglob("*")):
        os.chown(path, USER, USER)


def ask(url: str, key: str, body: dict[str, Any], *, limit_s: float) -> dict[str, Any]:
    """Post a request until it is answered: before the server listens, nobody answers. Raises TimeoutError with what was last said."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}, method="POST"
    )
    end_s = time.perf_counter() + limit_s
    last = ""
    while time.perf_counter() < end_s:
        try:
            with urllib.request.urlopen(request, timeout=limit_s) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            last = error.read().decode(errors="replace")
            if error.code != 503:
                break
        except OSError as error:
            last = str(error)
        time.sleep(0.05)
    raise TimeoutError(f"{url} gave no answer within {limit_s:.0f} s: {last}")


def missing_tools() -> list[str]:
    """Programs of others that are needed and not here."""
    return [name for name in ("mmdebstrap", "skopeo", "umoci", "runc") if shutil.which(name) is None]
