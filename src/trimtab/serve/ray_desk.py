"""The driver of a Ray cluster, in a process of its own beside the gateway: `python -m trimtab.serve.ray_desk ADDRESS PLACE`.

It is apart because Ray ends a driver whose cluster goes: the gateway must outlive that. It reads commands from standard input and tells
what came of them on standard output, a line of JSON each (ray_wire). When its input ends the gateway is gone, however it went: it takes
the gateway's applications down and goes too.
"""

import asyncio
import contextlib
import math
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import msgspec

from trimtab.core.errors import EngineRefused, InfeasibleError, InputError, MissingError, TrimtabError
from trimtab.core.files import to_plain
from trimtab.core.ray_join import join_ray, show_token
from trimtab.serve.ray_wire import DEPLOYMENT, RAY_LINE, AppSpec, Lost, error_plain, fault_in, line, told_frames, why_no_room

REACH_S = 5.0
LOOK_S = 0.5
HEAD_LIMIT_S = 5.0
LOOK_BACK_S = 2.0
METRICS_S = 0.5
"""Serve scales by the mean over LOOK_BACK_S of what handles report every METRICS_S. Its own defaults of 30 and 10 s keep a replica for as
long after its last request, whatever the delays; the variable of the environment that it names for the latter is not read in 2.60."""
HEALTH_S = 5.0
PLACE_LIMIT_S = 60.0
"""A replica that no node has taken in this time has no place now; it is tried again later, and who asks is told."""
THREADS = 64
ROUTER = "trimtab.serve.ray_router.SessionRouter"


class Desk:
    """The commands, in a process that has joined the cluster. send: takes a line, from any thread; place: see RayLink"""

    def __init__(self, send: Callable[[bytes], None], place: str) -> None:
        self._send = send
        self._place = place
        self._facts: Mapping[str, Any] = {}
        self._handles: dict[str, Any] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._handing_over = threading.Lock()  # Serve's configurations mark modules for pickling and take the mark back: one at a time

    def open(self) -> dict[str, Any]:
        """Have Serve run; what the cluster has. Blocks. Raises InfeasibleError."""
        from ray import serve

        try:
            serve.start(proxy_location="Disabled")  # requests come by the gateway alone, which knows who may ask
            for app in details():
                if app.startswith(f"{self._place}-"):  # of a gateway of this place that had no time to take it down
                    serve.delete(app)
        except Exception as error:
            raise _failed(error) from error
        self._facts = self.facts()
        return dict(self._facts)

    async def close(self) -> None:
        """Take down what was deployed."""
        for app in list(self._handles):
            with contextlib.suppress(Exception):
                await asyncio.to_thread(self.delete, app)

    def facts(self) -> dict[str, Any]:
        """What the cluster has."""
        import ray

        nodes = [one for one in ray.nodes() if one["Alive"]]
        rows = [
            {
                "node": one["NodeManagerAddress"],
                "node_id": one["NodeID"],
                "cpus": one["Resources"].get("CPU", 0.0),
                "memory_bytes": int(one["Resources"].get("memory", 0)),
            }
            for one in nodes
        ]
        return {"address": ray.get_runtime_context().gcs_address, "ray": ray.__version__, "nodes": rows}

    def deploy(self, plain: Mapping[str, Any]) -> dict[str, Any]:
        """Bring an application up and return the facts of a replica that was asked. Blocks. Raises InfeasibleError, InputError ...

        One that is there is scaled anew; what answers in it goes on, and nothing is waited for.
        """
        from ray import serve
        from ray.serve.api import RunTarget

        spec = AppSpec.parse(plain)
        if why := why_no_room(spec, self.facts()["nodes"]):
            raise EngineRefused(why)
        is_there = spec.app in self._handles
        with self._handing_over:
            self._handles[spec.app] = serve.run_many(
                [RunTarget(target=_application(spec), name=spec.app, route_prefix=None)], wait_for_applications_running=False
            )[0]
        if is_there:
            return {}
        try:
            self._until_running(spec.app)
            if not spec.initial_replicas:
                return {}
            return dict(self._handles[spec.app].probe.remote().result(timeout_s=120.0))
        except BaseException as error:
            self.delete(spec.app)
            raise fault_in(str(error)) or error from error

    def _until_running(self, app: str) -> None:
        no_node_s = time.monotonic() + PLACE_LIMIT_S
        while True:
            found = details().get(app) or {}
            told = rows_of(found)
            texts = f"{found.get('message', '')} {told['message']}"
            if told["status"] == "RUNNING":
                return
            if told["status"] in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise fault_in(texts) or InfeasibleError(f"Ray Serve could not bring it up: {texts[-600:]}")
            if any(one["node"] for one in told["replicas"]):
                no_node_s = math.inf
            if time.monotonic() > no_node_s:
                raise InfeasibleError(f"No node of the cluster had room for a replica within {PLACE_LIMIT_S:g} s. {told['message'][:300]}")
            time.sleep(0.1)

    def delete(self, app: str) -> None:
        """Take an application down. Blocks until what it ran is over."""
        from ray import serve

        self._handles.pop(app, None)
        serve.delete(app)

    # Lines

    async def take(self, message: Mapping[str, Any]) -> None:
        """Begin what a line asks for."""
        number = message["id"]
        if message["op"] == "cancel":
            if (task := self._tasks.get(number)) is not None:
                task.cancel()
            return
        work = self._answer(message) if message["op"] == "answer" else self._command(message)
        task = self._tasks[number] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    async def _command(self, message: Mapping[str, Any]) -> None:
        number = message["id"]
        try:
            if message["op"] == "deploy":
                found = await asyncio.to_thread(self.deploy, message["spec"])
            else:
                await asyncio.to_thread(self.delete, message["app"])
                found = {}
        except Exception as error:
            self._send(line({"id": number, "failed": error_plain(error if isinstance(error, TrimtabError) else _failed(error))}))
        else:
            self._send(line({"id": number, "ok": found}))

    async def _answer(self, message: Mapping[str, Any]) -> None:
        number = message["id"]
        try:
            async with contextlib.aclosing(self._said(message)) as said:
                async for raw in said:
                    self._send(told_frames(number, raw))
        except Lost as error:
            self._send(line({"id": number, "lost": str(error)}))
        except Exception as error:
            self._send(line({"id": number, "failed": error_plain(_failed(error))}))

    async def _said(self, message: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        """What the replica writes. Raises Lost if it is gone."""
        from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError

        handle = self._handles.get(message["app"])
        if handle is None:
            raise Lost("its deployment is not in the cluster")
        response = handle.options(stream=True, session_id=message["session"]).answer.remote(message["call"])
        is_over = False
        try:
            async for raw in response:
                yield raw
            is_over = True
        except (RayActorError, NodeDiedError, ObjectLostError, WorkerCrashedError) as error:
            is_over = True
            raise Lost(str(error).splitlines()[0].rstrip(".")) from error
        finally:
            if not is_over:
                response.cancel()

    async def look(self) -> None:
        """Tell what runs, and whether the head answers, whenever that changes. Raises Lost once another cluster is in its place."""
        before: Any = None
        is_headless = False
        asked: asyncio.Future[dict[str, Any]] | None = None
        while True:
            asked = asked or asyncio.ensure_future(asyncio.to_thread(self._seen))
            await asyncio.wait({asked}, timeout=HEAD_LIMIT_S)
            if not asked.done() or asked.exception() is not None:  # one that hangs is waited for, or threads would pile up
                why = "does not answer" if not asked.done() else f"answers with {type(asked.exception()).__name__}"
                asked = asked if not asked.done() else None
                if not is_headless:
                    self._send(line({"head": f"the head of the cluster {why}"}))
                is_headless, before = True, None
                if await asyncio.to_thread(self._is_replaced):  # what waits for the old one waits for ever
                    raise Lost("another cluster answers at its address")
            else:
                found, asked = asked.result(), None
                if is_headless and any(app not in found for app in self._handles):
                    raise Lost("another cluster answers at its address")
                if is_headless:
                    self._send(line({"head": ""}))
                is_headless = False
                if found != before:
                    self._send(line({"apps": found}))
                before = found
            await asyncio.sleep(LOOK_S)

    def _is_replaced(self) -> bool:
        """Whether a head answers that knows none of the nodes there were: it has begun anew, without storage from before."""
        from ray._raylet import GcsClient  # type: ignore[attr-defined, unused-ignore]  # its stub lacks it

        address = self._facts["address"]
        try:
            check_reachable(address)
            found = GcsClient(address=address).get_all_node_info(timeout=HEAD_LIMIT_S)
        except Exception:  # Ray has several for a head that is not there, or not yet
            return False
        return bool(found) and not {one["node_id"] for one in self._facts["nodes"]} & {node.hex() for node in found}

    def _seen(self) -> dict[str, Any]:
        return {app: rows_of(one) for app, one in details().items() if app in self._handles}


def details() -> dict[str, Any]:
    """Serve's own account of its applications, by name: the only one that names replicas with their nodes."""
    from ray.serve.context import _get_global_client

    return dict(_get_global_client().get_serve_details().get("applications", {}))


def rows_of(app: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of an application: its replicas with node and state."""
    found = app.get("deployments", {}).get(DEPLOYMENT, {})
    rows = [
        {
            "replica": one["replica_id"],
            "state": str(getattr(one["state"], "value", one["state"])),
            "node": one.get("node_ip") or "",
            "node_id": one.get("node_id") or "",
            "pid": one.get("pid"),
        }
        for one in found.get("replicas", ())
    ]
    return {
        "status": str(getattr(app.get("status"), "value", app.get("status"))),
        "message": found.get("message", ""),
        "replicas": rows,
        "target": found.get("target_num_replicas", 0),
    }


def check_reachable(address: str) -> None:
    """Raise InfeasibleError if nothing listens at an address with a port. Ray itself would try for a minute."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except OSError as error:
        raise InfeasibleError(f"No Ray cluster answers at {address} ({error.strerror or error}).") from None


def _application(spec: AppSpec) -> Any:
    from ray import serve
    from ray.serve.config import AutoscalingConfig, RequestRouterConfig

    from trimtab.serve.ray_replica import ServedReplica

    deployment = serve.deployment(ServedReplica).options(
        name=DEPLOYMENT,
        # Without a version of ours Serve makes one up for each deployment, and scaling would end every replica. The option is theirs alone.
        version=spec.app,
        _internal=True,
        ray_actor_options={"num_cpus": spec.n_cpus, "memory": spec.memory_bytes},
        max_ongoing_requests=spec.slots,
        max_constructor_retry_count=2,
        graceful_shutdown_timeout_s=spec.drain_s,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=HEALTH_S,
        health_check_timeout_s=90.0,
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
        autoscaling_config=AutoscalingConfig(
            min_replicas=spec.min_replicas,
            initial_replicas=spec.initial_replicas,
            max_replicas=spec.max_replicas,
            target_ongoing_requests=spec.target,
            metrics_interval_s=METRICS_S,
            look_back_period_s=LOOK_BACK_S,
            upscale_delay_s=0.5,
            downscale_delay_s=spec.idle_s,
            downscale_to_zero_delay_s=spec.idle_s,
        ),
    )
    return deployment.bind(to_plain(spec))


def _joining(error: Exception, address: str) -> TrimtabError:
    """Why the cluster could not be joined, as one of ours."""
    text = str(error)
    if "ersion mismatch" in text:
        return InputError(f"The cluster at {address} and this gateway have different versions: {' '.join(text.split())[:400]}")
    if "Could not find any running Ray" in text:
        return InfeasibleError("This machine is a node of no Ray cluster; start one here (`ray start`), or name the cluster by HOST:PORT.")
    return InfeasibleError(f"The cluster at {address} cannot be joined: {' '.join(text.split())[:300] or type(error).__name__}")


def _failed(error: Exception) -> TrimtabError:
    return fault_in(str(error)) or InfeasibleError(
        f"The cluster answered with an error: {' '.join(str(error).split())[-300:] or type(error).__name__}"
    )


class Out:
    """Standard output for lines alone: what Ray prints goes to standard error."""

    def __init__(self) -> None:
        self._file: BinaryIO = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def __call__(self, data: bytes) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._file.write(data)
            self._file.flush()


def join(address: str) -> None:
    """Join the cluster. Blocks. Raises MissingError, InputError, InfeasibleError."""
    show_token()
    try:
        import ray
    except ImportError as error:
        raise MissingError("Serving on a Ray cluster needs a package that is not installed.", "pip install 'trimtab[ray]'") from error
    if not ray.__version__.startswith(f"{RAY_LINE}."):
        raise InputError(f"This is Ray {ray.__version__}; trimtab serves with Ray {RAY_LINE}, here and on all nodes.")
    check_reachable(address)
    try:
        join_ray(ray.init, address, namespace="trimtab", log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except Exception as error:
        raise _joining(error, address) from error


async def run(address: str, place: str) -> int:
    send = Out()
    lines = _lines()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))  # a call to a cluster that is gone holds its thread
    try:
        await asyncio.to_thread(join, address)
        if address.startswith("ray://"):
            from trimtab.serve import ray_relay

            await ray_relay.run(address, place, send, lines)
            return 0
        desk = Desk(send, place)
        send(line({"up": await asyncio.to_thread(desk.open)}))
    except TrimtabError as error:
        send(line({"failed": error_plain(error)}))
        return 1

    async def follow() -> None:
        while one := await lines.get():
            await desk.take(msgspec.json.decode(one))

    looking, reading = asyncio.create_task(desk.look()), asyncio.create_task(follow())
    await asyncio.wait({looking, reading}, return_when=asyncio.FIRST_COMPLETED)
    if reading.done():  # the gateway is gone
        await desk.close()
    return 0


def _lines() -> "asyncio.Queue[bytes]":
    """Lines of standard input as they come; an empty one at its end."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes] = asyncio.Queue()

    def follow() -> None:
        for one in sys.stdin.buffer:
            loop.call_soon_threadsafe(lines.put_nowait, one)
        loop.call_soon_threadsafe(lines.put_nowait, b"")

    threading.Thread(target=follow, daemon=True).start()
    return lines


async def to_the_end() -> None:
    code = await run(sys.argv[1], sys.argv[2])
    sys.stderr.flush()
    os._exit(code)  # threads, Ray's own and ours, may wait for ever for a cluster that is gone


def main() -> None:
    asyncio.run(to_the_end())


if __name__ == "__main__":
    main()
