"""The one process of a run that knows Ray: it gives units to the cluster and tells what comes back, as JSON lines on its pipes.

Ray ends a process whose cluster is lost; so that this is a sentence and not the end of the run, it happens here. Ray's own retries are off:
whoever asks is told that a machine was lost, and asks again.

in   {"address", "target", "seen", "versions", "pools", "busy"} first; then {"do": id, "unit", "cpus"}, {"build": id, "engine"};
     the end of input = stop
out  {"nodes": [...]} or {"refused", "fix"}; {"id", "receipt" | "lost" | "bug" | "builds"}; {"alive": n}; {"gone": why}
"""

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

from trimtab.core.ray_join import join_ray, show_token

POOL = "pool_"
ANSWER_S = 120.0
LOST_AFTER_S = 15.0
"""A head that takes no connection for this long is lost; Ray's own limit is a minute, and ends the process."""

REFUSED = 5
"""So many connections refused in a row, one a second: its machine answers, and there is no head on it. One that came back knows nothing."""


class _Child:
    def __init__(self, out: Any) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._order: dict[str, Any] = {}
        self._names: dict[str, str] = {}

    def tell(self, **message: Any) -> None:
        with self._lock:
            self._out.write(json.dumps(message) + "\n")
            self._out.flush()

    def run(self) -> None:
        """Connect, tell the nodes, and serve until the input ends."""
        self._order = json.loads(sys.stdin.readline())
        try:
            self._connect()
            nodes = self._nodes()
        except Exception as error:  # Ray has many, and all mean that there is no cluster to work with
            self.tell(refused=_words(error))
            return
        threading.Thread(target=self._watch, daemon=True).start()
        self.tell(nodes=nodes)
        for line in sys.stdin:
            message = json.loads(line)
            try:
                self._build(message) if "build" in message else self._do(message)
            except Exception as error:
                self._failed(message.get("do", message.get("build")), error)

    def _connect(self) -> None:
        show_token()
        import ray

        join_ray(ray.init, self._order["address"], log_to_driver=False, logging_level=logging.ERROR, namespace="trimtab")

    def _nodes(self) -> list[dict[str, Any]]:
        """Nodes that work can be given to, each with what it says of itself."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from trimtab.cluster import ray_task

        rows = self._alive()
        ask = ray.remote(num_cpus=0, max_retries=0)(ray_task.facts)
        refs = {
            row["NodeID"]: ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(row["NodeID"], soft=False)).remote(
                tuple(self._order["seen"])
            )
            for row in rows
        }
        found = []
        for row in rows:
            own, node = row["Resources"], {"id": row["NodeID"], "name": self._names[row["NodeID"]]}
            node |= {"cpus": own.get("CPU", 0.0), "memory_bytes": int(own.get("memory", 0))}
            node["pools"] = sorted(name.removeprefix(POOL) for name in own if name.startswith(POOL))
            try:
                node |= ray.get(refs[row["NodeID"]], timeout=ANSWER_S)
            except Exception as error:
                node["silent"] = _words(error)
            found.append(node)
        return found

    def _alive(self) -> list[dict[str, Any]]:
        import ray

        rows = [row for row in ray.nodes() if row["Alive"] and row["Resources"].get("CPU", 0) > 0]
        for row in rows:
            self._names[row["NodeID"]] = f"{row['NodeManagerAddress']} ({row['NodeID'][:6]})"
        return rows

    def _is_used(self, row: Mapping[str, Any]) -> bool:
        """Whether work of this side may be given to a node."""
        pools = self._order["pools"]
        return row["NodeID"] != self._order["busy"] and (not pools or any(POOL + pool in row["Resources"] for pool in pools))

    def _do(self, message: Mapping[str, Any]) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from trimtab.cluster import ray_task

        unit = message["unit"]
        options: dict[str, Any] = {"num_cpus": message["cpus"], "max_retries": 0, "name": unit["what"]}
        if unit["memory_bytes"]:
            options["memory"] = unit["memory_bytes"]
        if unit["pool"]:
            options["resources"] = {f"{POOL}{unit['pool']}": 1}
        if unit["node"]:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(unit["node"], soft=False)
        task = ray.remote(ray_task.do_here).options(**options)
        ref = task.remote(self._order["target"], unit, tuple(self._order["versions"]))
        ref.future().add_done_callback(lambda future: self._came(message["do"], "receipt", future))

    def _build(self, message: Mapping[str, Any]) -> None:
        """Ask every node for its build of an engine."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from trimtab.cluster import ray_task

        ask = ray.remote(num_cpus=0, max_retries=1)(ray_task.build_of)
        rows = [row for row in self._alive() if self._is_used(row)]
        refs = [
            ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(row["NodeID"], soft=False)).remote(message["engine"])
            for row in rows
        ]
        builds = {self._names[row["NodeID"]]: ray.get(ref, timeout=ANSWER_S) for row, ref in zip(rows, refs, strict=True)}
        self.tell(id=message["build"], builds=builds)

    def _came(self, number: int, what: str, future: "Future[Any]") -> None:
        import ray.exceptions

        error = future.exception()
        if error is None:
            self.tell(id=number, **{what: future.result()})
        elif isinstance(error, ray.exceptions.RayTaskError):
            self.tell(id=number, bug=_words(error))
        else:
            self._failed(number, error)

    def _failed(self, number: int, error: BaseException) -> None:
        """A unit is gone with its machine, or with the whole cluster."""
        if isinstance(error, ConnectionError):
            self.tell(gone=f"the connection to it broke ({_words(error)})")
            os._exit(3)
        self.tell(id=number, lost=_words(error).partition(". ")[0])  # Ray goes on with where to look in its logs

    def _watch(self) -> None:
        """Say how many nodes there are, and end when the head is lost."""
        import ray

        address = self._order["address"]
        if "://" in address:
            parts = urlsplit(address)
            host, port = parts.hostname or "", parts.port or 10001
        else:
            host, _, text = ray.get_runtime_context().gcs_address.rpartition(":")
            port = int(text)
        heard_s, n_refused = time.monotonic(), 0
        while time.monotonic() - heard_s < LOST_AFTER_S and n_refused < REFUSED:
            time.sleep(1.0)
            try:
                with socket.create_connection((host, port), timeout=3):
                    heard_s, n_refused = time.monotonic(), 0
                self.tell(alive=sum(1 for row in self._alive() if self._is_used(row)))
            except ConnectionRefusedError:
                n_refused += 1
            except Exception:  # the loop has the time
                continue
        self.tell(gone=f"its head does not answer on {host}:{port}")
        os._exit(3)


def _words(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if 'Traceback' in str(error) and lines else ' '.join(lines)}"[:500]


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    _Child(out).run()
    os._exit(0)  # the cluster ends what this driver left


if __name__ == "__main__":
    main()
