"""The desk in an actor on the cluster, for a gateway that is no node of it (`ray://HOST:10001`).

Handles of Serve do not work through Ray's client, which passes no streams on [1]. So the desk itself runs on the cluster, and its lines go
to and fro in calls of an actor: those that have come by now in one answer, waited for where there are none.

[1] github.com/ray-project/ray/issues/43357
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from trimtab.core.errors import TrimtabError
from trimtab.serve.ray_desk import THREADS, Desk
from trimtab.serve.ray_wire import Lost, error_plain, line

POLL_S = 5.0
SILENCE_S = 30.0
"""A gateway that has not asked for so long is gone."""


class Relay:
    """The actor. All methods are of its event loop."""

    def __init__(self, place: str) -> None:
        self._out: list[bytes] = []
        self._came = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._desk = Desk(self._send, place)
        self._asked_s = time.monotonic()

    async def open(self) -> bytes:
        """The first line."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(THREADS))
        try:
            up = await asyncio.to_thread(self._desk.open)
        except TrimtabError as error:
            return line({"failed": error_plain(error)})
        self._tasks = [asyncio.create_task(self._looked()), asyncio.create_task(self._heard())]
        return line({"up": up})

    async def put(self, lines: list[bytes]) -> None:
        for one in lines:
            await self._desk.take(msgspec.json.decode(one))

    async def take(self) -> bytes:
        """All lines that have come."""
        self._asked_s = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._came.wait()
        self._came.clear()
        lines, self._out = self._out, []
        return b"".join(lines)

    async def close(self) -> None:
        """Take everything down, and end."""
        await self._desk.close()
        asyncio.get_running_loop().call_later(0.2, os._exit, 0)

    def _send(self, data: bytes) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._keep, data)

    def _keep(self, data: bytes) -> None:
        self._out.append(data)
        self._came.set()

    async def _looked(self) -> None:
        with contextlib.suppress(Lost):
            await self._desk.look()
        await self.close()

    async def _heard(self) -> None:
        while time.monotonic() - self._asked_s < SILENCE_S:
            await asyncio.sleep(1.0)
        await self.close()


async def run(address: str, place: str, send: Callable[[bytes], None], lines: "asyncio.Queue[bytes]") -> None:
    """Pass lines on until there are no more (an empty one), or the actor is gone. The cluster must be joined as a client."""
    import ray

    name = f"{place}-relay"
    with contextlib.suppress(ValueError):
        ray.kill(ray.get_actor(name))
    # It outlives this process for as long as it takes to notice: somebody must take the applications down.
    relay: Any = ray.remote(Relay).options(num_cpus=0, max_concurrency=1000, name=name, lifetime="detached").remote(place)
    send(await asyncio.to_thread(ray.get, relay.open.remote()))

    async def pull() -> None:
        while True:
            send(await asyncio.to_thread(ray.get, relay.take.remote()))

    async def push() -> None:
        while one := await lines.get():
            several = [one]
            while not lines.empty() and (more := lines.get_nowait()):
                several.append(more)
            await asyncio.to_thread(ray.get, relay.put.remote(several))
        with contextlib.suppress(Exception):
            await asyncio.to_thread(ray.get, relay.close.remote(), timeout=20.0)

    tasks = {asyncio.create_task(pull()), asyncio.create_task(push())}
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
