"""A replica on a Ray cluster: the gateway's own WorkerReplica in an actor of Serve. What is certified is what is served.

Nothing here imports Ray at its top: the gateway reads this file too. A replica that no longer answers as it should ends its own process,
so that Serve's router drops it with the next request, not after three health checks.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec
import psutil

from trimtab.core.errors import EngineCrashed, EngineHung, InfeasibleError, InputError, TrimtabError
from trimtab.core.model import Snapshot
from trimtab.record.home import cache_dir
from trimtab.serve.base import Frame, Refusal
from trimtab.serve.ray_wire import AppSpec, call_from, error_plain, fault_text, frames_plain, refusal_plain, release_here
from trimtab.serve.replica_worker import WorkerReplica
from trimtab.sources.digests import file_sha256

PROBE_S, BUSY_PROBE_S, PROBE_LIMIT_S = 30.0, 300.0, 60.0
"""As serve.dispatch.Rhythm has them."""
LAST_WORDS_S = 0.2
"""Between the end of its answers and its own, so that who waits is told why."""

_encode = msgspec.json.Encoder().encode
log = logging.getLogger("ray.serve")


class ServedReplica:
    """The class of the deployment. Serve makes one an actor, and asks `check_health` every few seconds."""

    async def __init__(self, plain: Mapping[str, Any]) -> None:  # type: ignore[misc]
        spec = AppSpec.parse(plain)
        try:
            if spec.release != release_here():
                raise InputError(
                    f"The node {socket.gethostname()} has trimtab {release_here()}, the gateway {spec.release}; install the same there."
                )
            await asyncio.to_thread(check_files, spec)
            self._replica = WorkerReplica(
                engine=spec.engine, snapshot=spec.snapshot, settings=spec.settings, model=spec.model, adapters=spec.adapters
            )
            self._ready = await self._replica.start()
        except TrimtabError as error:
            raise RuntimeError(fault_text(error)) from None
        self._slots = spec.slots
        self._n_running = 0
        self._probed_s = time.monotonic()
        self._place = _place()

    def facts(self) -> dict[str, Any]:
        """Where it is and what it takes. memory_bytes: of the worker and of the actor around it"""
        worker = self._replica.memory_bytes() or 0
        own = int(psutil.Process().memory_info().rss)
        return {**self._place, "memory_bytes": worker + own, "load_s": self._ready.load_s, "slots": self._ready.slots}

    async def answer(self, plain: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """Messages of ray_wire.Said. The first says where it is answered, so that who waits knows that it has a place."""
        yield _encode({"placed": self.facts()})
        self._n_running += 1
        try:
            async with contextlib.aclosing(_gathered(self._replica.answer(call_from(plain)))) as groups:
                async for frames in groups:
                    yield frames_plain(frames)
        except Refusal as refusal:
            yield _encode({"refusal": refusal_plain(refusal)})
        except TrimtabError as error:
            yield _encode({"failed": error_plain(error)})
            if isinstance(error, (EngineCrashed, EngineHung)):
                self._end(str(error))
        finally:
            self._n_running -= 1
        yield _encode({"over": True})

    async def probe(self) -> dict[str, Any]:
        """The known answer now, and what is known of the replica. Raises RuntimeError with one of our errors."""
        try:
            await self._replica.probe()
        except InfeasibleError as error:
            self._end(str(error))
            raise RuntimeError(fault_text(error)) from None
        return self.facts()

    async def check_health(self) -> None:
        """Serve's question. The known answer is asked for as the gateway does where it has the worker itself."""
        if self._replica.memory_bytes() is None:
            self._end("its engine's process is gone")
            raise RuntimeError("The engine's process is gone.")
        if time.monotonic() - self._probed_s < (BUSY_PROBE_S if self._n_running else PROBE_S):
            return
        try:
            async with asyncio.timeout(PROBE_LIMIT_S):
                await self._replica.probe()
        except (InfeasibleError, TimeoutError) as error:
            self._end(str(error) or "it did not answer a small question in time")
            raise
        self._probed_s = time.monotonic()

    def _end(self, why: str) -> None:
        log.error("this replica ends, to be replaced: %s", why)
        asyncio.get_running_loop().call_later(LAST_WORDS_S, os._exit, 1)


def check_files(spec: AppSpec) -> None:
    """Raise InputError unless this node holds the very bytes that were certified, where the gateway has them."""
    for snapshot in (spec.snapshot, spec.snapshot.draft):
        for path, sha256 in _files_of(snapshot):
            if not path.is_file():
                raise InputError(
                    f"The node {socket.gethostname()} has no {path}; the weights must lie at the same path on every node that may serve "
                    f"{spec.model!r}: in a shared folder, or copied there."
                )
            if sha256 != file_sha256(path, cache_dir())[1]:
                raise InputError(f"{path} on the node {socket.gethostname()} is not the file that was certified; copy it there again.")
    for one in spec.adapters:
        if not one.path.is_file() or file_sha256(one.path, cache_dir())[1] != one.sha256:
            raise InputError(f"The node {socket.gethostname()} has not the adapter {one.path} as the gateway has it; copy it there.")


def _files_of(snapshot: Snapshot | None) -> list[tuple[Any, str]]:
    return [] if snapshot is None else [(snapshot.root / file.name, file.sha256) for file in snapshot.files]


def _place() -> dict[str, Any]:
    import ray
    from ray import serve

    return {
        "replica": serve.get_replica_context().replica_id.unique_id,
        "node": ray.util.get_node_ip_address(),
        "node_id": ray.get_runtime_context().get_node_id(),
        "pid": os.getpid(),
    }


async def _gathered(frames: AsyncGenerator[Frame, None]) -> AsyncGenerator[list[Frame], None]:
    """All frames that have come by now, at once: a message between processes costs more than a token."""
    came: list[Frame] = []
    ended: list[BaseException | None] = []
    news = asyncio.Event()

    async def follow() -> None:
        try:
            async with contextlib.aclosing(frames):
                async for frame in frames:
                    came.append(frame)
                    news.set()
            ended.append(None)
        except Exception as error:
            ended.append(error)
        news.set()

    task = asyncio.create_task(follow())
    try:
        while not ended or came:
            await news.wait()
            news.clear()
            if came:
                group = came[:]
                came.clear()
                yield group
            if ended:
                news.set()
        if ended[0] is not None:
            raise ended[0]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
