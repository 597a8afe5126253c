"""Units on a Ray cluster. Ray itself runs in a child process (ray_child.py); here is what is asked of it, and what a loss means."""

import asyncio
import contextlib
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Self

from trimtab.cluster.base import OnReceipt, Say, check_pools, check_results_seen, check_room, check_versions, own_versions
from trimtab.cluster.units import NodeFacts, Receipt, Unit
from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import to_plain

CHILD = (sys.executable, "-m", "trimtab.cluster.ray_child")
TRIES = 4
"""A unit whose machine is lost so often is given up: it may be what ends them."""
NOBODY_S = 60.0
"""How long is waited for a first node to come back when all are gone."""
LINE_BYTES = 2**24
RESUME = "see that the cluster runs and run the same command again; what was finished is kept, and it goes on from there"


class RayPlace:
    """Made by `open`. nodes: those that were there at the start"""

    def __init__(self, process: asyncio.subprocess.Process, last_words: Any, address: str, say: Say) -> None:
        self.name = f"the cluster at {address}"
        self.n_at_once = 1
        self.cpus_per_unit = 1.0
        self.nodes: tuple[NodeFacts, ...] = ()
        self._process, self._last_words, self._address, self._say = process, last_words, address, say
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._lost: MissingError | None = None
        self._nobody_since_s: float | None = None
        self._builds: set[tuple[str, str]] = set()
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, address: str, *, target: str, place: str, seen: tuple[str, str], pools: Sequence[str] = (), busy: str = "", say: Say
    ) -> Self:
        """Connect, and check versions, results and pools before anything is asked.

        address: `ray://host:port`, `host:port` or `auto`; target: `module:name` of what makes hands on a node (`local.Hands`)
        place, seen: of the shared results, and kind and key of an entry in them, by which a node knows them
        pools: only nodes of these are used, empty = all; busy: id of a node that is not used, because this side runs on it
        Raises InputError, MissingError.
        """
        if find_spec("ray") is None:
            raise MissingError("A Ray cluster needs the package ray, which is not installed.", "pip install 'trimtab[ray]'")
        last_words = tempfile.NamedTemporaryFile(prefix="trimtab-ray-", suffix=".log")  # noqa: SIM115 lives as long as the place
        process = await asyncio.create_subprocess_exec(
            *CHILD,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=last_words,
            limit=LINE_BYTES,
            env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
            start_new_session=True,
        )
        self = cls(process, last_words, address, say)
        try:
            self._write(
                {
                    "address": address,
                    "target": target,
                    "seen": [place, *seen],
                    "versions": own_versions(),
                    "pools": list(pools),
                    "busy": busy,
                }
            )
            first = await self._first()
            found = self._told(first["nodes"])
            check_pools(found, pools, address)
            self.nodes = tuple(node for node in found if node.id != busy and (not pools or set(pools) & set(node.pools)))
            check_versions(self.nodes)
            check_results_seen(self.nodes, place)
        except BaseException:
            await self.close()
            raise
        self.cpus_per_unit = min(node.cpus for node in self.nodes)
        self.n_at_once = sum(int(node.cpus // self.cpus_per_unit) for node in self.nodes)
        self._reader = asyncio.create_task(self._read())
        return self

    async def do(self, units: Sequence[Unit], on_receipt: OnReceipt) -> None:
        for unit in units:
            check_room(self.nodes, unit)

        async def one(unit: Unit) -> None:
            on_receipt(unit, await self._done(unit))

        tasks = [asyncio.create_task(one(unit)) for unit in units]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def check_build(self, engine: str, build: str) -> None:
        if (engine, build) in self._builds:
            return
        answer = await self._ask({"engine": engine}, "build")
        if "builds" not in answer:
            raise MissingError(
                f"The nodes could not be asked for their build of {engine}: {answer.get('lost', '')}.", "run the command again"
            )
        for node, (digest, words) in answer["builds"].items():
            if not digest:
                raise MissingError(
                    f"Node {node} cannot run {engine}: {words}", f"install it there as it is installed here: trimtab[{engine}]"
                )
            if digest != build:
                raise MissingError(
                    f"Node {node} has another build of {engine} than this side: {words}; scores of different builds are not put together.",
                    "install the same version on all nodes, or use a hardware pool of equal machines",
                )
        self._builds.add((engine, build))

    async def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                await self._process.wait()
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._reader is not None:
            await self._reader
        self._last_words.close()

    async def _done(self, unit: Unit) -> Receipt:
        """The receipt of one unit, asked again where its machine was lost. Raises MissingError if the cluster is lost."""
        asked = {"unit": to_plain(unit), "cpus": self._cpus_of(unit)}
        why = ""
        most = 1 if unit.node else TRIES  # whoever named a node names another one
        for n_tries in range(1, most + 1):
            answer = await self._ask(asked, "do")
            if "receipt" in answer:
                return Receipt(**answer["receipt"])
            if "bug" in answer:
                return Receipt(key=unit.key, fault="bug", error=f"{unit.title} failed on a node: {answer['bug']}")
            why = answer["lost"]
            if n_tries < most:
                self._say(f"{unit.title}: its machine was lost ({why}); once more elsewhere, try {n_tries + 1} of {most}")
        times = f"{most} times, last" if most > 1 else "once"
        return Receipt(
            key=unit.key, fault="lost", error=f"{unit.title} was lost with its machine {times}: {why}. {RESUME[0].upper()}{RESUME[1:]}."
        )

    def _cpus_of(self, unit: Unit) -> float:
        """A unit that names its node has it alone."""
        return next((node.cpus for node in self.nodes if node.id == unit.node), self.cpus_per_unit)

    async def _ask(self, message: dict[str, Any], what: str) -> dict[str, Any]:
        if self._lost is not None:
            raise self._lost
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._write({**message, what: number})
        found: dict[str, Any] = await answer
        return found

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):  # the reader knows why it is gone
            self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def _first(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        first: dict[str, Any] = json.loads(line) if line else {"refused": f"its driver ended.{self._said()}"}
        if "refused" in first:
            raise MissingError(
                f"There is no Ray cluster to work with at {self._address}: {first['refused'].rstrip('.')}.",
                "start one with `ray start --head` under the same versions of Ray and Python, and give its address as ray://HOST:10001; "
                "where it asks for a token, have that in RAY_AUTH_TOKEN or ~/.ray/auth_token",
            )
        return first

    def _told(self, rows: Sequence[dict[str, Any]]) -> tuple[NodeFacts, ...]:
        if not rows:
            raise MissingError(f"{self.name} has no node with CPUs.", "add one with `ray start --address=HEAD`")
        silent = next((row for row in rows if "silent" in row), None)
        if silent is not None:
            no_package = "ModuleNotFoundError" in silent["silent"]
            why = "it has no trimtab" if no_package else f"it did not answer ({silent['silent']})"
            version, _, python = own_versions()
            raise MissingError(
                f"Node {silent['name']} cannot be given work: {why}.", f"install trimtab=={version} under Python {python} there"
            )
        return tuple(NodeFacts(**{**row, "pools": tuple(row["pools"])}) for row in rows)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            if "alive" in message:
                self._count(message["alive"])
            elif "gone" in message:
                self._end(f"{self.name} is lost: {message['gone']}.")
            elif (answer := self._waiting.pop(message["id"], None)) is not None and not answer.done():
                answer.set_result(message)
        self._end(f"{self.name} is lost: its driver ended.{self._said()}")

    def _count(self, n_alive: int) -> None:
        """Say it when no node is left, and give up after a while."""
        now_s = asyncio.get_running_loop().time()
        if n_alive:
            self._nobody_since_s = None
        elif self._nobody_since_s is None:
            self._nobody_since_s = now_s
            self._say(f"{self.name} has no node left; waiting {NOBODY_S:g} s for one to come back")
        elif now_s - self._nobody_since_s > NOBODY_S:
            self._end(f"{self.name} has had no node for {NOBODY_S:g} s.")

    def _end(self, why: str) -> None:
        self._lost = self._lost or MissingError(f"{why[0].upper()}{why[1:]}", RESUME)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(self._lost)
        self._waiting.clear()

    def _said(self) -> str:
        with contextlib.suppress(OSError):
            self._last_words.seek(0)
            lines = [line for line in self._last_words.read().decode(errors="replace").splitlines() if line.strip()]
            return f" It said: {lines[-1][:300]}" if lines else ""
        return ""


def check_address(address: str) -> None:
    """Raise InputError for what is no address of a cluster."""
    if not re.fullmatch(r"auto|(ray://)?(\[[0-9a-fA-F:]+\]|[^\s/:]+):\d+", address):
        raise InputError(
            "--cluster takes the address of a Ray cluster, such as ray://head:10001, `auto` on one of its nodes, or local:N; "
            f"{address!r} is none."
        )
