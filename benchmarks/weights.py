"""Weights to many nodes: `trimtab weights` beside plain copying from one source, each node behind a link of its own.

    python benchmarks/weights.py [--quick] [--nodes N] [--megabytes N] [--mbit N]

Nodes are network namespaces on one bridge; each link sends and receives at most so many Mbit/s (tc tbf). Needs root, `ip`, `tc` and `curl`.
Plain copying: curl on every node at once, from one HTTP server. Then `weights serve` on the same node and `weights fetch --stay` on all
others at once. Last, one node is killed with kill -9 in the middle and started again. All nodes share this machine's cores.

seconds: from the start of all nodes to the last byte on the last one; origin_times_size: bytes that left the source's link, by the size of
the weights; resumed_times_size: bytes that came to the killed node after its second start, by the size

The last line of stdout is one JSON object: name, figures, targets, ok.
"""

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGETS = {"times_faster_at_least": 2.0, "origin_times_size_at_most": 4.0, "resumed_times_size_at_most": 0.9}
EXIT_MISSING = 3
TRIMTAB = [sys.executable, "-m", "trimtab"]


@dataclass(frozen=True, kw_only=True)
class Node:
    """A namespace behind a link of its own."""

    name: str
    host: str

    def run(self, *command: str | Path) -> list[str]:
        return ["ip", "netns", "exec", self.name, *map(str, command)]

    def bytes(self, direction: str) -> int:
        """Sent (`tx`) or received (`rx`) over the link so far."""
        path = f"/sys/class/net/eth0/statistics/{direction}_bytes"
        return int(subprocess.run(self.run("cat", path), check=True, capture_output=True, text=True).stdout)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _slow(device: str, mbit: int, *inside: str) -> None:
    limit = ["rate", f"{mbit}mbit", "burst", "128kb", "latency", "200ms"]
    subprocess.run([*inside, "tc", "qdisc", "add", "dev", device, "root", "tbf", *limit], check=True, capture_output=True)


@contextlib.contextmanager
def network(n_nodes: int, mbit: int) -> Iterator[list[Node]]:
    """So many nodes on a bridge, until the block ends."""
    tag = secrets.token_hex(2)
    bridge, net = f"tb{tag}", int(tag[:2], 16)
    nodes = [Node(name=f"tt{tag}n{number}", host=f"10.213.{net}.{number + 1}") for number in range(n_nodes)]
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "set", bridge, "up")
        for number, node in enumerate(nodes):
            outside = f"tv{tag}{number}"
            _ip("netns", "add", node.name)
            _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", node.name)
            _ip("link", "set", outside, "master", bridge, "up")
            _ip("-n", node.name, "addr", "add", f"{node.host}/24", "dev", "eth0")
            _ip("-n", node.name, "link", "set", "eth0", "up")
            _ip("-n", node.name, "link", "set", "lo", "up")
            _slow(outside, mbit)
            _slow("eth0", mbit, *node.run())
        yield nodes
    finally:
        for node in nodes:
            subprocess.run(["ip", "netns", "del", node.name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", bridge], check=False, capture_output=True)


def write_weights(folder: Path, n_bytes: int) -> None:
    """A safetensors directory of random numbers."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    header = json.dumps({"weight": {"dtype": "U8", "shape": [n_bytes], "data_offsets": [0, n_bytes]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(n_bytes // 2**20):
            file.write(os.urandom(2**20))
        file.write(os.urandom(n_bytes % 2**20))


@contextlib.contextmanager
def ended(processes: "list[subprocess.Popen[str]]") -> Iterator[None]:
    """They are ended with the block."""
    try:
        yield
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            process.wait()


def plain(origin: Node, others: list[Node], source: Path, folder: Path) -> tuple[float, int]:
    """Seconds and bytes out of the origin, for curl on all nodes at once."""
    command = [sys.executable, "-m", "http.server", "8800", "--bind", origin.host, "--directory", str(source)]
    server = subprocess.Popen(origin.run(*command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    with ended([server]):
        time.sleep(1.0)
        before, began = origin.bytes("tx"), time.monotonic()
        url = f"http://{origin.host}:8800/model.safetensors"
        children = [
            subprocess.Popen(node.run("curl", "-sS", "--retry", "5", "--retry-connrefused", "-o", folder / node.name, url), text=True)
            for node in others
        ]
        if any(child.wait() for child in children):
            raise RuntimeError("curl failed")
        return time.monotonic() - began, origin.bytes("tx") - before


def first_line(process: "subprocess.Popen[str]") -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a node ended with {process.wait()}")
    return json.loads(line)


def fetching(node: Node, origin: Node, out: Path, *more: str) -> "subprocess.Popen[str]":
    command = [*TRIMTAB, "weights", "fetch", f"{origin.host}:8700", "--host", node.host, "--out", str(out), "--json", "-q", *more]
    return subprocess.Popen(node.run(*command), stdout=subprocess.PIPE, text=True)


def shared(origin: Node, others: list[Node], source: Path, folder: Path) -> dict[str, float]:
    """The same with trimtab, and what a node that is killed in the middle fetches again."""
    command = [*TRIMTAB, "weights", "serve", str(source), "--host", origin.host, "--json", "-q"]
    server = subprocess.Popen(origin.run(*command), stdout=subprocess.PIPE, text=True)
    children: list[subprocess.Popen[str]] = []
    with ended([server]):
        size = first_line(server)["size_bytes"]
        with ended(children):
            before, began = origin.bytes("tx"), time.monotonic()
            children += [fetching(node, origin, folder / node.name, "--stay") for node in others]
            rows = [first_line(child) for child in children]
            seconds, sent = time.monotonic() - began, origin.bytes("tx") - before
            if any(row["dropped"] for row in rows):
                raise RuntimeError(f"peers were left: {rows}")
        killed, out = others[0], folder / "killed"
        children = [fetching(killed, origin, out)]
        with ended(children):
            began_bytes = killed.bytes("rx")
            while killed.bytes("rx") - began_bytes < size / 2:
                time.sleep(0.05)
            # `ip netns exec` has become the command itself.
            children[0].send_signal(signal.SIGKILL)
        before_again = killed.bytes("rx")
        again = fetching(killed, origin, out)
        with ended([again]):
            row = first_line(again)
        came = killed.bytes("rx") - before_again
    return {"seconds": seconds, "sent": float(sent), "came_again": float(came), "resumed_chunks": float(row["resumed_chunks"])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="16 MB over links of 40 Mbit/s")
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=None)
    parser.add_argument("--mbit", type=int, default=None)
    options = parser.parse_args()
    megabytes, mbit = options.megabytes or (16 if options.quick else 256), options.mbit or (40 if options.quick else 200)
    lacking = [tool for tool in ("ip", "tc", "curl") if shutil.which(tool) is None]
    if os.getuid() != 0 or lacking:
        print(f"This needs {'the package of ' + lacking[0] if lacking else 'root'}: nodes are network namespaces.", file=sys.stderr)
        print(json.dumps({"name": "weights", "figures": {}, "targets": TARGETS, "ok": None}))
        return EXIT_MISSING
    with tempfile.TemporaryDirectory() as name:
        folder, size = Path(name), megabytes * 10**6
        os.environ.update(TRIMTAB_WEIGHTS_TOKEN=secrets.token_hex(16), TRIMTAB_HOME=str(folder / "home"))
        source = folder / "source"
        write_weights(source, size)
        with network(options.nodes + 1, mbit) as (origin, *others):
            plain_s, plain_sent = plain(origin, others, source, folder)
            for node in others:
                (folder / node.name).unlink()
            found = shared(origin, others, source, folder)
    figures = {
        "nodes": options.nodes,
        "megabytes": megabytes,
        "link_mbit_s": mbit,
        "one_copy_at_link_speed_s": round(size * 8 / mbit / 1e6, 1),
        "plain_s": round(plain_s, 1),
        "plain_origin_times_size": round(plain_sent / size, 2),
        "trimtab_s": round(found["seconds"], 1),
        "trimtab_origin_times_size": round(found["sent"] / size, 2),
        "times_faster": round(plain_s / found["seconds"], 2),
        "resumed_times_size": round(found["came_again"] / size, 2),
    }
    print(f"| way | seconds to all {options.nodes} | bytes out of the source, times the size |\n|---|---|---|")
    print(f"| curl from one source | {figures['plain_s']} | {figures['plain_origin_times_size']} |")
    print(f"| trimtab weights | {figures['trimtab_s']} | {figures['trimtab_origin_times_size']} |")
    ok = (
        figures["times_faster"] >= TARGETS["times_faster_at_least"]
        and figures["trimtab_origin_times_size"] <= TARGETS["origin_times_size_at_most"]
        and figures["resumed_times_size"] <= TARGETS["resumed_times_size_at_most"]
    )
    print(json.dumps({"name": "weights", "figures": figures, "targets": TARGETS, "ok": ok}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
