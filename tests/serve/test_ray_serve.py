"""A site on a Ray cluster of local nodes: from nothing to many replicas and back, and what becomes of requests when something is killed."""

import asyncio
import json
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("ray", reason="ray is not installed")

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from parts import ray_scene
from parts.gateway_process import Running, gateway
from parts.ray_scene import Outcome, ask, body, counted, ready_rows, state, until

from trimtab.core.deployment import Settings
from trimtab.serve.ray_router import weight
from trimtab.serve.server_process import free_port
from trimtab.testing.ray_nodes import NodeShape, RayNode, RayNodes

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
NODE = NodeShape(cpus=1, memory_bytes=1536 * 2**20)
MORE = "max_replicas = 2\nidle_s = 2\nqueue_wait_s = 60"
ZERO_LIMIT_S = 30.0
"""For the last replica to go: idle_s, the window that Serve looks back on, the report of the handle, and its end."""


@dataclass(kw_only=True)
class Scene:
    nodes: RayNodes
    running: Running
    folder: Path

    @property
    def url(self) -> str:
        return self.running.url

    @property
    def admin_url(self) -> str:
        return self.running.admin_url

    def together(self, n: int, **more: object) -> list[Outcome]:
        return asyncio.run(_together(self.url, n, **more))

    def configure(self, more: str) -> None:
        """Write the site's file, with these lines for its model, and have it read."""
        (self.folder / "site.toml").write_text(
            ray_scene.site_text({"slow": (self.folder / "deploy.toml", more)}, cluster=self.nodes.address)
        )
        assert self.reload() == 200

    def reload(self) -> int:
        """The status of the answer."""
        request = urllib.request.Request(f"{self.admin_url}/reload", method="POST")
        with urllib.request.urlopen(request, timeout=120) as response:
            return int(response.status)


async def _together(url: str, n: int, **more: object) -> list[Outcome]:
    return list(await asyncio.gather(*(ask(url, body("slow", f"hello {index}", **more)) for index in range(n))))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", "")
        patch.setenv("TRIMTAB_HOME", str(folder / "home"))
        ray_scene.install_engines(folder / "engines")
        lock = ray_scene.write_lock(folder / "deploy.toml", engine="slow", settings=Settings(slots=2), cache=folder / "cache")
        with RayNodes([NODE, NODE]) as nodes:
            (folder / "site.toml").write_text(ray_scene.site_text({"slow": (lock, MORE)}, cluster=nodes.address))
            with gateway(folder / "site.toml", home=folder / "home", admin_port=free_port()) as running:
                yield Scene(nodes=nodes, running=running, folder=folder)


def test_from_zero_to_both_nodes_and_back_and_up_again(scene: Scene) -> None:
    assert state(scene.admin_url)["slow"]["replicas"] == []
    first, *rest = scene.together(1)
    assert (first.kind, rest) == ("finished", [])

    async def busy() -> list[Outcome]:
        asking = asyncio.create_task(_together(scene.url, 8, tokens=200))
        await until("two replicas answer", lambda: len(ready_rows(scene.admin_url, "slow")) == 2)
        assert len({row["node_id"] for row in ready_rows(scene.admin_url, "slow")}) == 2
        return await asking

    assert counted(asyncio.run(busy())) == {"finished": 8, "ended": 0, "refused": 0, "lost": 0}
    asyncio.run(until("no replica is left", lambda: state(scene.admin_url)["slow"]["replicas"] == [], ZERO_LIMIT_S))
    with urllib.request.urlopen(f"{scene.url}/models") as response:
        assert json.load(response)["data"][0]["state"] == "sleeping"
    (again,) = scene.together(1)
    assert (again.kind, again.text) == ("finished", first.text)
    with urllib.request.urlopen(f"{scene.admin_url}/metrics") as response:
        lines = response.read().decode().splitlines()
    assert 'trimtab_cluster_up{model="slow",version="slow"} 1.0' in lines
    assert any(line.startswith("trimtab_node_replicas{") and 'state="ready"' in line for line in lines)


def test_a_conversation_comes_back_to_its_replica(scene: Scene) -> None:
    scene.configure(f"min_replicas = 2\n{MORE}")

    def ready() -> list[dict[str, Any]]:
        return ready_rows(scene.admin_url, "slow")

    async def met(name: str) -> set[str]:
        found: set[str] = set()
        for _ in range(3):
            asking = asyncio.create_task(ask(scene.url, body("slow", tokens=40, user=name)))
            await until("it is answered", lambda: any(row["running"] for row in ready()))
            found |= {row["replica"] for row in ready() if row["running"]}
            assert (await asking).kind == "finished"
            await until("it is counted no more", lambda: not any(row["running"] for row in ready()))
        return found

    async def run() -> list[tuple[str, set[str]]]:
        await until("two replicas are there", lambda: len(ready()) == 2)
        replicas = [row["replica"] for row in ready()]
        own = {name: max(replicas, key=lambda replica: weight(f"user:{name}", replica)) for name in map(str, range(50))}
        names = [name for replica in replicas for name in [one for one in own if own[one] == replica][:2]]
        return [(own[name], await met(name)) for name in names]

    found = asyncio.run(run())
    assert [met for _, met in found] == [{replica} for replica, _ in found]
    assert len({replica for replica, _ in found}) == 2, "names of both replicas, or this shows nothing"
    scene.configure(MORE)


def test_a_new_release_takes_over_without_a_failed_request(scene: Scene) -> None:
    before = state(scene.admin_url)["slow"]["pool"]["serve_app"]
    ray_scene.write_lock(scene.folder / "deploy.toml", engine="slow", settings=Settings(slots=2, threads=1), cache=scene.folder / "cache")

    async def run() -> tuple[list[Outcome], int]:
        done = asyncio.Event()
        outcomes: list[Outcome] = []

        async def client(number: int) -> None:
            while not done.is_set():
                outcomes.append(await ask(scene.url, body("slow", f"{number}", tokens=20)))

        clients = [asyncio.create_task(client(number)) for number in range(2)]
        status = await asyncio.to_thread(scene.reload)
        n_until = len(outcomes)
        await asyncio.sleep(1.0)
        done.set()
        await asyncio.gather(*clients)
        assert 0 < n_until < len(outcomes), "requests came before and after"
        return outcomes, status

    outcomes, status = asyncio.run(run())
    assert status == 200
    assert {one.kind for one in outcomes} == {"finished"}
    assert state(scene.admin_url)["slow"]["pool"]["serve_app"] != before


async def _killed(scene: Scene, kill: object) -> list[Outcome]:
    """Six long answers at once, two of them without a place; then something is killed."""
    asking = asyncio.create_task(_together(scene.url, 6, tokens=150))
    await until("some work", lambda: sum(row["running"] for row in ready_rows(scene.admin_url, "slow")) >= 2)
    await asyncio.sleep(0.5)
    assert callable(kill)
    await asyncio.to_thread(kill)
    return await asking


def test_a_killed_replica_costs_what_it_had_begun_and_no_more(scene: Scene) -> None:
    outcomes = asyncio.run(_killed(scene, lambda: ray_scene.kill_replica(scene.admin_url, "slow")))
    found = counted(outcomes)
    assert found["lost"] == 0
    assert 1 <= found["ended"] <= 2, "a replica works on two at once"
    assert found["finished"] == 6 - found["ended"]
    assert {one.code for one in outcomes if one.kind == "ended"} == {"replica_failed"}


def test_a_killed_node_costs_no_more_than_its_replica(scene: Scene) -> None:
    def kill() -> None:
        busiest = max(ready_rows(scene.admin_url, "slow"), key=lambda row: row["running"])
        scene.nodes.kill(node_of(scene.nodes, busiest["pid"]))

    found = counted(asyncio.run(_killed(scene, kill)))
    assert found["lost"] == 0
    assert found["ended"] <= 2
    assert found["finished"] == 6 - found["ended"]


def node_of(nodes: RayNodes, pid: int) -> RayNode:
    """The node that a replica's process belongs to."""
    above = {parent.pid for parent in psutil.Process(pid).parents()}
    return next(node for node in nodes.nodes if node.process.pid in above)


def test_the_gateway_outlives_the_head_and_finds_the_next_one(scene: Scene) -> None:
    found = counted(asyncio.run(_killed(scene, scene.nodes.kill_head)))
    assert found["lost"] == 0
    for node in list(scene.nodes.nodes):  # without storage of its own a new head does not know them
        scene.nodes.kill(node)
    asyncio.run(until("it is said", lambda: state(scene.admin_url)["slow"]["pool"]["cluster"] != "up"))
    (refused,) = scene.together(1)
    assert (refused.kind, refused.status, refused.code) == ("refused", 503, "cluster_unreachable")
    scene.nodes.start_head()
    scene.nodes.add(NODE)
    asyncio.run(until("it is joined again", lambda: state(scene.admin_url)["slow"]["pool"]["cluster"] == "up"))
    asyncio.run(until("a request is answered", lambda: scene.together(1)[0].kind == "finished"))
