"""Units on this machine: the same work by the same code, one or several at once, each with engine processes of its own."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from trimtab.cluster.base import OnReceipt
from trimtab.cluster.units import Receipt, Unit


class Hands(Protocol):
    """Does one unit after the other, and keeps engines warm in between."""

    async def do(self, unit: Unit) -> Receipt: ...

    async def close(self) -> None: ...


class LocalPlace:
    """`make_hands` is called for each of the `n_at_once`."""

    def __init__(self, make_hands: Callable[[], Hands], n_at_once: int = 1) -> None:
        self.name = "this machine"
        self.n_at_once = n_at_once
        self._all = [make_hands() for _ in range(n_at_once)]
        self._free: asyncio.LifoQueue[Hands] = asyncio.LifoQueue()
        for hands in self._all:
            self._free.put_nowait(hands)

    async def do(self, units: Sequence[Unit], on_receipt: OnReceipt) -> None:
        async def one(unit: Unit) -> None:
            hands = await self._free.get()
            try:
                on_receipt(unit, await hands.do(unit))
            finally:
                self._free.put_nowait(hands)

        tasks = [asyncio.create_task(one(unit)) for unit in units]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # hands are free again when this returns

    async def check_build(self, engine: str, build: str) -> None:
        """There is but one."""

    async def close(self) -> None:
        for hands in self._all:
            await hands.close()
