"""A Ray cluster of several nodes on one machine, for tests and benchmarks: a head and raylets as processes of their own.

Every node is one `ray start --block` with the CPUs, memory and resources it is given, so that it can be lost like a machine: `kill` ends
all of its processes at once by SIGKILL, `drop` lets it take its leave. With `in_namespaces` every node has a network of its own (root and
`ip` are needed): nodes reach each other, and this process reaches them, only through a bridge.
"""

import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

STARTING_S = 300.0
"""On a machine that is busy with other things a node takes many times the usual six seconds."""
MB = 2**20
ALIVE = 0
"""In the GCS's table of nodes."""
PATIENT_START = f"""
import time
from ray._private import services
asked = services.get_node

def get_node(*words):
    until_s = time.monotonic() + {STARTING_S}
    while True:
        try:
            return asked(*words)
        except RuntimeError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.5)

services.get_node = get_node
import sys
if sys.argv[-1] == "--no-client":
    sys.argv.pop()
    from ray._private.node import Node
    Node.start_ray_client_server = lambda node: None
from ray.scripts.scripts import main
main()
"""
"""`ray start`, but a raylet may take longer than 30 s to start, and there is no server for clients where none is wanted."""
NAMED = "named_"
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_AUTH_MODE": "disabled",  # else a token that somebody keeps on this machine decides, and those who have none are refused
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
    "GRPC_ENABLE_FORK_SUPPORT": "0",  # else one in ten of the processes that the head forks for clients dies, see core/ray_join.py
    # A node that is gone is noticed in about five seconds; one that is only slow has longer.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "10000",
    "RAY_health_check_failure_threshold": "5",
}


@dataclass(frozen=True, kw_only=True)
class NodeShape:
    """What a node offers.

    resources: of its own naming, such as {"pool_cpu": 1}; env: variables of its processes, over this one's
    cores: of this machine that its processes keep to, such as `0` or `0-3`; empty = all
    """

    cpus: int = 1
    memory_bytes: int = 2048 * MB
    object_store_bytes: int = 80 * MB
    resources: Mapping[str, float] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    cores: str = ""


@dataclass(kw_only=True)
class RayNode:
    """A node that was started. ip: its address in the cluster; namespace: its network, empty = this machine's; log: what it printed"""

    name: str
    ip: str
    namespace: str
    shape: NodeShape
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def last_words(self) -> str:
        """The end of what it printed, for a person who looks for the reason."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-2000:] if self.log.exists() else ""


def can_have_namespaces() -> bool:
    """Whether this process may make networks of its own."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"tt{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made


class RayNodes:
    """A cluster. Use `with RayNodes(...) as nodes:`; it needs the package ray[serve], takes about six seconds and 1 GB of memory.

    address: of the head's GCS, for processes on a node (`ray.init(address=...)`, `ray start --address`)
    client_address: `ray://host:port`, for processes anywhere
    """

    def __init__(
        self, shapes: Sequence[NodeShape] = (), *, head: NodeShape | None = None, in_namespaces: bool = False, has_client: bool = True
    ) -> None:
        """shapes: of the nodes beside the head. head: default one without CPUs, which no work is given to.

        has_client: there is a `client_address`; without, the cluster starts sooner
        """
        self.has_client = has_client
        self.head_shape = head or NodeShape(cpus=0)
        self.in_namespaces = in_namespaces
        self.head: RayNode | None = None
        self.nodes: list[RayNode] = []
        self._auth_mode: str | None = None
        self._shapes = list(shapes)
        self._numbers = itertools.count(1)
        self._id = secrets.token_hex(2)
        self._folder = Path(tempfile.mkdtemp(prefix="ttray-", dir="/tmp"))  # short: the paths of Unix sockets have 107 bytes
        self._network = _Network(self._id) if in_namespaces else None
        self._port, self._client_port = (6379, 10001) if in_namespaces else (_free_port(), _free_port())

    @property
    def address(self) -> str:
        return f"{self._head_ip}:{self._port}"

    @property
    def client_address(self) -> str:
        return f"ray://{self._head_ip}:{self._client_port}"

    @property
    def _head_ip(self) -> str:
        return self._network.ip_of(1) if self._network else _own_ip()

    def start_head(self) -> RayNode:
        """Start the head, also again after it was killed: it then knows nothing of the nodes from before."""
        options = [
            "--head",
            f"--port={self._port}",
            f"--ray-client-server-port={self._client_port}",
            "--include-dashboard=false",
            "--no-monitor",
            f"--temp-dir={self._folder / f'h{next(self._numbers)}'}",
            *([] if self.has_client else ["--no-client"]),
        ]
        self.head = self._up("head", 1, self.head_shape, options, self._head_answers)
        return self.head

    def add(self, shape: NodeShape | None = None) -> RayNode:
        """Start one more node. It is in the cluster when this returns."""
        number = next(self._numbers) + 1
        name = f"node{number}"
        node = self._up(name, number, shape or NodeShape(), [f"--address={self.address}"], lambda: name in self._alive())
        self.nodes.append(node)
        return node

    def kill(self, node: RayNode) -> None:
        """End a node as a power cut would: all its processes, at once. Its network is gone too."""
        _kill_all(node.process.pid)
        node.process.wait()
        if self._network:
            self._network.remove(node.namespace)
        self.nodes = [other for other in self.nodes if other is not node]

    def drop(self, node: RayNode) -> None:
        """Let a node take its leave; what runs on it ends."""
        node.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.process.wait(20)
        self.kill(node)

    def kill_head(self) -> None:
        """End the head as a power cut would."""
        assert self.head is not None
        self.kill(self.head)
        self.head = None

    def n_alive(self) -> int:
        """Nodes that the head counts as alive, itself among them; 0 while it does not answer."""
        return len(self._alive())

    def _alive(self) -> list[str]:
        """Their names, each of which is a resource of its node."""
        from ray._raylet import GcsClient  # type: ignore[attr-defined, unused-ignore]  # its stub lacks it

        try:
            rows = GcsClient(address=self.address).get_all_node_info(timeout=20).values()
        except Exception:  # Ray has several for a head that is not there
            return []
        return [next(key[len(NAMED) :] for key in row.resources_total if key.startswith(NAMED)) for row in rows if row.state == ALIVE]

    def __enter__(self) -> Self:
        self._auth_mode = os.environ.get("RAY_AUTH_MODE")
        os.environ["RAY_AUTH_MODE"] = QUIET["RAY_AUTH_MODE"]  # of drivers here and in children
        try:
            self.start_head()
            for shape in self._shapes:
                self.add(shape)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        for node in [*self.nodes, *([self.head] if self.head else [])]:
            self.kill(node)
        if self._network:
            self._network.remove_all()
        shutil.rmtree(self._folder, ignore_errors=True)
        os.environ.pop("RAY_AUTH_MODE", None)
        if self._auth_mode is not None:
            os.environ["RAY_AUTH_MODE"] = self._auth_mode

    def _started(self, name: str, number: int, shape: NodeShape, options: Sequence[str]) -> RayNode:
        namespace = self._network.add(number) if self._network else ""
        ip = self._network.ip_of(number) if self._network else _own_ip()
        command = [
            *(["ip", "netns", "exec", namespace] if namespace else []),
            *(["taskset", "--cpu-list", shape.cores] if shape.cores else []),
            sys.executable,
            "-c",
            PATIENT_START,
            "start",
            "--block",
            "--disable-usage-stats",
            f"--node-ip-address={ip}",
            f"--num-cpus={shape.cpus}",
            "--num-gpus=0",
            f"--memory={shape.memory_bytes}",
            f"--object-store-memory={shape.object_store_bytes}",
            f"--resources={json.dumps({**shape.resources, NAMED + name: 1})}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--include-log-monitor=false",
            *options,
        ]
        log = self._folder / f"{name}-{next(self._numbers)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | QUIET | dict(shape.env), start_new_session=True
            )
        return RayNode(name=name, ip=ip, namespace=namespace, shape=shape, process=process, log=log)

    def _head_answers(self) -> bool:
        return self._answers(self._port) and (not self.has_client or self._answers(self._client_port)) and "head" in self._alive()

    def _answers(self, port: int) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self._head_ip, port), timeout=1):
            return True
        return False

    def _up(self, name: str, number: int, shape: NodeShape, options: Sequence[str], is_up: Callable[[], bool]) -> RayNode:
        """A node that is up; one that ended while it started is started again."""
        until_s = time.monotonic() + STARTING_S
        node = self._started(name, number, shape, options)
        while not is_up():
            if time.monotonic() > until_s:
                self.kill(node)
                raise RuntimeError(f"Ray's {name} did not come up within {STARTING_S:g} s. It said: {node.last_words()}")
            if not node.is_alive:
                self.kill(node)
                node = self._started(name, number, shape, options)
            time.sleep(0.3)
        return node


def _own_ip() -> str:
    """This machine's address as Ray takes it: of the way out, which is not asked. Ray replaces 127.0.0.1 by it in some places."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        try:
            way.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(way.getsockname()[0])


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _kill_all(pid: int) -> None:
    """A process and all that it started, held first so that none starts another."""
    try:
        parent = psutil.Process(pid)
        found = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for name in ("suspend", "kill"):
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, name)()
    psutil.wait_procs(found[1:], timeout=10)


class _Network:
    """Networks of nodes, joined by a bridge on which this machine has an address too."""

    def __init__(self, key: str) -> None:
        self._bridge = f"ttb{key}"
        self._key = key
        self._names: set[str] = set()
        self._net = f"10.{200 + int(key[:2], 16) % 50}.{int(key[2:], 16)}"
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self._net}.254/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    def ip_of(self, number: int) -> str:
        return f"{self._net}.{number}"

    def add(self, number: int) -> str:
        """A network with this number; one of the same number from before is replaced."""
        name, outside, inside = f"tt{self._key}n{number}", f"tto{self._key}{number}", f"tti{self._key}{number}"
        self.remove(name)
        subprocess.run(["ip", "link", "del", outside], capture_output=True, check=False)  # the kernel may not have come to it yet
        _ip("netns", "add", name)
        self._names.add(name)
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside)
        _ip("link", "set", inside, "netns", name)
        _ip("link", "set", outside, "master", self._bridge)
        _ip("link", "set", outside, "up")
        for command in (
            ["addr", "add", f"{self.ip_of(number)}/24", "dev", inside],
            ["link", "set", inside, "up"],
            ["link", "set", "lo", "up"],
        ):
            _ip("-n", name, *command)
        _ip("-n", name, "route", "add", "default", "via", f"{self._net}.254")
        return name

    def remove(self, name: str) -> None:
        if name in self._names:
            self._names.discard(name)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def remove_all(self) -> None:
        for name in list(self._names):
            self.remove(name)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True, check=False)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
