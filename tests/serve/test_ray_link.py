"""A gateway and its link to a cluster, with Serve in the link's own process: what a lost link costs, and how it is found again."""

import asyncio
import json
import os
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray", reason="ray is not installed")

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from parts import ray_scene
from parts.gateway_process import Running, gateway
from parts.ray_scene import ask, body, counted, state, until

from trimtab.core.deployment import Settings
from trimtab.serve.server_process import free_port

pytestmark = pytest.mark.slow
LOCAL_SERVE = """
import sys

if "trimtab.serve.ray_desk" in sys.orig_argv:
    import os

    os.environ["RAY_SERVE_FORCE_LOCAL_TESTING_MODE"] = "1"
    import ray
    import ray.serve.context
    from ray import serve

    from trimtab.serve import ray_replica

    APPS = {}
    run_many = serve.run_many

    class Client:
        def get_serve_details(self):
            replica = {"replica_id": "r1", "state": "RUNNING", "node_ip": "127.0.0.1", "node_id": "n1", "pid": os.getpid()}
            deployment = {"replicas": [replica], "message": "", "target_num_replicas": 1}
            return {"applications": {app: {"status": "RUNNING", "message": "", "deployments": {"replica": deployment}} for app in APPS}}

    def noted(targets, **options):
        APPS.update({target.name: 1 for target in targets})
        return run_many(targets)

    class Context:
        gcs_address = "local"

    ray.init = lambda **options: None
    ray.nodes = lambda: [{"Alive": True, "NodeManagerAddress": "127.0.0.1", "NodeID": "n1", "Resources": {"CPU": 1.0, "memory": 2.0**31}}]
    ray.get_runtime_context = Context
    serve.start = lambda **options: None
    serve.run_many = noted
    serve.delete = lambda app: APPS.pop(app, None)
    ray.serve.context._get_global_client = Client
    ray_replica._place = lambda: {"replica": "r1", "node": "127.0.0.1", "node_id": "n1", "pid": os.getpid()}
elif "serve" in sys.orig_argv:
    from trimtab.serve import ray_pool

    ray_pool.GRACE_S = 100.0
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("link")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", "")
        patch.setenv("TRIMTAB_HOME", str(folder / "home"))
        ray_scene.install_engines(folder / "engines")
        (folder / "engines" / "sitecustomize.py").write_text(LOCAL_SERVE)
        lock = ray_scene.write_lock(folder / "deploy.toml", engine="slow", settings=Settings(slots=2), cache=folder / "cache")
        (folder / "site.toml").write_text(ray_scene.site_text({"slow": (lock, "queue_wait_s = 60")}, cluster="ray"))
        with gateway(folder / "site.toml", home=folder / "home", admin_port=free_port()) as running:
            yield running


def link_of(running: Running) -> psutil.Process:
    return next(one for one in psutil.Process(running.pid).children() if "trimtab.serve.ray_desk" in one.cmdline())


def n_running(running: Running) -> int:
    return sum(row["running"] for row in state(running.admin_url)["slow"]["replicas"])


def test_answers_come_through_the_link(running: Running) -> None:
    one = asyncio.run(ask(running.url, body("slow", tokens=10, stream_options={"include_usage": True})))
    assert (one.kind, one.n_prompt) == ("finished", 5)
    refused = asyncio.run(ask(running.url, body("slow", tokens=9999)))
    assert (refused.status, refused.code) == (400, "context_length_exceeded")
    (row,) = state(running.admin_url)["slow"]["replicas"]
    assert (row["node"], row["status"], row["slots"], row["running"]) == ("127.0.0.1", "ready", 2, 0)
    assert row["memory_bytes"] > 2**20
    with urllib.request.urlopen(f"{running.url}/models") as response:
        assert json.load(response)["data"][0]["state"] == "ready"


def test_a_lost_link_costs_what_had_begun_and_no_more(running: Running) -> None:
    async def run() -> tuple[list[str], str]:
        begun = [asyncio.create_task(ask(running.url, body("slow", f"{number}", tokens=200))) for number in range(2)]
        await until("work", lambda: n_running(running) == 2)
        await asyncio.sleep(0.3)
        waiting = [asyncio.create_task(ask(running.url, body("slow", f"{number}", tokens=5))) for number in range(2)]
        await asyncio.sleep(0.3)
        link = link_of(running)
        os.kill(link.pid, signal.SIGKILL)
        await until("it is said", lambda: state(running.admin_url)["slow"]["pool"]["cluster"] != "up", 10)
        assert counted(await asyncio.gather(*begun)) == {"finished": 0, "ended": 2, "refused": 0, "lost": 0}
        return [one.kind for one in await asyncio.gather(*waiting)], begun[0].result().code

    kinds, code = asyncio.run(run())
    assert kinds == ["finished", "finished"], "they had no token, and waited for the next link"
    assert code == "replica_failed"


def test_a_client_that_goes_frees_its_place(running: Running) -> None:
    async def run() -> None:
        asking = asyncio.create_task(ask(running.url, body("slow", tokens=300)))
        await until("work", lambda: n_running(running) == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until("no work", lambda: n_running(running) == 0, 5)

    asyncio.run(run())
