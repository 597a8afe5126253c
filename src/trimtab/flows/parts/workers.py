"""Workers of a run: started when first needed, kept for the next work on the same deployment, ended when others need the memory."""

import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from trimtab.core.deployment import Candidate
from trimtab.core.errors import EngineCrashed, EngineHung
from trimtab.engines.base import Purpose
from trimtab.engines.client import WorkerClient

KEPT = 3
"""Usually the reference, a candidate and a planted control."""


class Workers:
    """At most KEPT idle workers, and no more weights than half the memory holds; least recently used first to go. Use `async with`."""

    def __init__(self, memory_bytes: int) -> None:
        self._room_bytes = memory_bytes // 2
        self._clients: dict[str, tuple[WorkerClient, Purpose | None]] = {}
        self._sizes_bytes: dict[str, int] = {}

    async def ready(self, candidate: Candidate, purpose: Purpose | None) -> WorkerClient:
        """A worker of this very deployment, ready for the purpose (None: only to tokenize and render). Raises InfeasibleError."""
        key = candidate.deployment.digest
        client, loaded = self._clients.pop(key, (None, None))
        if client is None:
            size_bytes = candidate.snapshot.size_bytes
            while self._clients and (len(self._clients) >= KEPT or sum(self._sizes_bytes.values()) + size_bytes > self._room_bytes):
                await self._end(next(iter(self._clients)))
            client = await WorkerClient.start(candidate.engine, candidate.snapshot, candidate.settings, purpose=purpose)
        elif purpose is not None and purpose != loaded:
            try:
                await client.load(purpose)
            except BaseException:
                del self._sizes_bytes[key]
                await client.kill()
                raise
        self._clients[key] = (client, purpose or loaded)
        self._sizes_bytes[key] = candidate.snapshot.size_bytes
        return client

    async def drop(self, candidate: Candidate) -> None:
        """End a deployment's worker, e.g. because it crashed."""
        if candidate.deployment.digest in self._clients:
            await self._end(candidate.deployment.digest)

    async def end_all(self) -> None:
        """Give all memory back, e.g. before timing."""
        while self._clients:
            await self._end(next(iter(self._clients)))

    @contextlib.asynccontextmanager
    async def lent(self, candidate: Candidate, purpose: Purpose | None) -> AsyncIterator[WorkerClient]:
        """`ready` for a `with` block; a worker that crashed or hung in it is not used again."""
        client = await self.ready(candidate, purpose)
        try:
            yield client
        except (EngineCrashed, EngineHung):
            await self.drop(candidate)
            raise

    async def _end(self, key: str) -> None:
        client, _ = self._clients.pop(key)
        del self._sizes_bytes[key]
        await client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.end_all()
