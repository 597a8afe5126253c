"""The gateway's side of a Ray cluster: keeps a driver process (`ray_desk`), and finds the cluster again when it was gone.

What the gateway has deployed is remembered here. A driver that ends, with its cluster or alone, is started again after 1, 2, 4 ... 15 s;
once it has joined a cluster again, everything is deployed there anew, and only then is the link up.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Literal

from trimtab.core.errors import InfeasibleError, TrimtabError
from trimtab.core.files import to_plain
from trimtab.serve.base import Call
from trimtab.serve.ray_wire import AppSpec, Lost, Said, Told, call_plain, error_from, line, told

JOIN_LIMIT_S = 90.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 15.0
AGAIN_S = 2.0
END_LIMIT_S, JOINING_END_S = 20.0, 1.0
"""A driver that is still joining does not hear that it should end."""
LOOK_S = 0.1

LinkState = Literal["joining", "up", "headless", "down"]
"""headless: the cluster's head does not answer, replicas on other nodes may. down: there is no cluster; it is looked for."""

log = logging.getLogger("trimtab.serve")


class RayLink:
    """One gateway's way to one cluster. All methods are of one event loop.

    address: `auto`, `host:port` of the head, for a machine that is a node of the cluster
    place: beginning of the names of what is deployed, this gateway's own
    up: what is known of the cluster; apps: what Serve says runs, by application
    why: of its state, for a person; since_s: when it was last lost, on the monotonic clock
    missing: what could not be deployed again since the cluster came back, and why; it is tried on and on
    n_joins: how often a cluster was joined
    """

    def __init__(self, address: str, place: str) -> None:
        self.address, self.place = address, place
        self.state: LinkState = "joining"
        self.why = ""
        self.since_s = 0.0
        self.up: Mapping[str, Any] = {}
        self.apps: dict[str, Any] = {}
        self.missing: dict[str, str] = {}
        self.n_joins = 0
        self._specs: dict[str, AppSpec] = {}
        self._calls: dict[int, asyncio.Queue[Told]] = {}
        self._commands: set[int] = set()
        self._numbers = itertools.count(1)
        self._process: asyncio.subprocess.Process | None = None
        self._words: Any = None
        self._reading: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def join(self) -> None:
        """Join the cluster, and stay in it. Raises MissingError, InputError, InfeasibleError if it cannot be joined now."""
        await self._join()
        self._keeping = asyncio.create_task(self._keep())

    def can_answer(self, app: str) -> bool:
        """Whether a request for an application may be sent."""
        return self.state in ("up", "headless") and app not in self.missing

    async def until_up(self, app: str, limit_s: float) -> bool:
        """Whether an application can answer, waited for at most `limit_s`."""
        until_s = time.monotonic() + limit_s
        while not self.can_answer(app) and time.monotonic() < until_s:
            await asyncio.sleep(LOOK_S)
        return self.can_answer(app)

    async def deploy(self, spec: AppSpec) -> dict[str, Any]:
        """Bring an application up; the facts of its first replica, empty where it starts without. Raises TrimtabError, Lost."""
        found = await self._command("deploy", app=spec.app, spec=to_plain(spec))
        self._specs[spec.app] = spec
        return found

    async def delete(self, app: str) -> None:
        """Take an application down. Raises TrimtabError, Lost."""
        self._specs.pop(app, None)
        await self._command("delete", app=app)
        self.apps.pop(app, None)

    async def answer(self, app: str, call: Call, session: str) -> AsyncGenerator[Said, None]:
        """What a replica says of a call; closed early, the call is cancelled there. Raises Lost if the replica is, InfeasibleError."""
        number, inbox = self._sent("answer", app=app, call=call_plain(call), session=session)
        is_over = False
        try:
            while not is_over:
                one = await inbox.get()
                if one.said is None:
                    is_over = True
                    raise _error_of(one)
                is_over = one.said.over
                yield one.said
        finally:
            self._calls.pop(number, None)
            if not is_over:
                self._write({"op": "cancel", "id": number})

    async def close(self) -> None:
        """Take down what was deployed, and end. Idempotent."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        await self._end()

    # The driver's process

    async def _join(self) -> None:
        self.state = "joining"
        words = self._words = tempfile.NamedTemporaryFile(prefix="trimtab-ray-", suffix=".log")  # noqa: SIM115 lives as long as the process
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "trimtab.serve.ray_desk",
            self.address,
            self.place,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=words,
            limit=2**24,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
            start_new_session=True,  # Ctrl-C is the gateway's affair
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(JOIN_LIMIT_S):
                first = await process.stdout.readline()
            found = told.decode(first) if first else None
            if found is None or found.up is None:
                raise (
                    error_from(found.failed)
                    if found is not None and found.failed
                    else InfeasibleError(f"The link to {self.address} broke. {self._said()}")
                )
            self.up = found.up
            self._reading = asyncio.create_task(self._read(process))
            self.missing = dict.fromkeys(self._specs, "it is deployed again")
            await self._deploy_missing()
        except BaseException as error:
            await self._end(JOINING_END_S)
            if isinstance(error, TimeoutError):
                raise InfeasibleError(f"The cluster at {self.address} was not joined within {JOIN_LIMIT_S:g} s.") from None
            raise
        self.n_joins += 1
        self._turn("up", "")

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Hand on what the driver says; at its end all who wait are told."""
        assert process.stdout is not None
        with contextlib.suppress(ValueError, ConnectionError):
            async for raw in process.stdout:
                one = told.decode(raw)
                if one.id:
                    if (inbox := self._calls.get(one.id)) is not None:
                        inbox.put_nowait(one)
                elif one.apps is not None:
                    self.apps = one.apps
                elif one.head is not None and self.state in ("up", "headless"):
                    self._turn("headless" if one.head else "up", one.head)
        self._turn("down", f"the link to the cluster ended. {self._said()}".strip())
        for inbox in self._calls.values():
            inbox.put_nowait(Told(lost=self.why))

    async def _deploy_missing(self) -> None:
        """Raises Lost if the cluster is gone again."""
        for app in list(self.missing):
            if app not in self._specs:
                self.missing.pop(app)  # nobody wants it any more
                continue
            try:
                await self.deploy(self._specs[app])
                self.missing.pop(app)
            except TrimtabError as error:
                if self.missing[app] != str(error):
                    log.error("cluster %s: %s is not there again: %s", self.address, self._specs[app].model, error)
                self.missing[app] = str(error)

    async def _keep(self) -> None:
        """Start the driver anew whenever it has ended."""
        while True:
            assert self._reading is not None
            while not (await asyncio.wait({self._reading}, timeout=AGAIN_S if self.missing else None))[0]:
                with contextlib.suppress(Lost):
                    await self._deploy_missing()
            log.error("cluster %s: %s; it is looked for again", self.address, self.why)
            pause_s = FIRST_PAUSE_S
            while self.state != "up":
                await self._end()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                try:
                    await self._join()
                    log.warning("cluster %s: joined again", self.address)
                except (TrimtabError, Lost) as error:
                    self._turn("down", str(error))

    def _turn(self, state: LinkState, why: str) -> None:
        if self.state == "up" != state:
            self.since_s = time.monotonic()
        self.state, self.why = state, why
        if state == "headless":  # nobody can say when what was asked of the head is done; the driver goes on with it
            for number in self._commands:
                self._calls[number].put_nowait(Told(lost=why))
        if state == "down":
            self.apps = {}

    async def _end(self, limit_s: float = END_LIMIT_S) -> None:
        """End the driver, which first takes down what it has deployed; killed after `limit_s`."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        if process.returncode is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await process.wait()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if self._reading is not None:
            await asyncio.wait({self._reading})
        self._words.close()

    def _said(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            raw = os.pread(self._words.fileno(), 4000, max(0, os.fstat(self._words.fileno()).st_size - 4000))
            lines = [one.strip() for one in raw.decode(errors="replace").splitlines() if one.strip()]
            if lines:
                return f"Its last words: {lines[-1][:300]}"
        return ""

    # Lines

    def _write(self, message: Mapping[str, Any]) -> None:
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            with contextlib.suppress(ConnectionError, RuntimeError):  # uvloop has the latter for a closed pipe
                process.stdin.write(line(message))

    def _sent(self, op: str, **arguments: Any) -> tuple[int, "asyncio.Queue[Told]"]:
        if self._process is None or self._reading is None or self._reading.done():
            raise Lost(self.why or "the cluster is not joined")
        number = next(self._numbers)
        inbox = self._calls[number] = asyncio.Queue()
        self._write({"op": op, "id": number, **arguments})
        return number, inbox

    async def _command(self, op: str, **arguments: Any) -> dict[str, Any]:
        number, inbox = self._sent(op, **arguments)
        self._commands.add(number)
        if self.state == "headless":
            inbox.put_nowait(Told(lost=self.why))
        try:
            one = await inbox.get()
        finally:
            self._commands.discard(number)
            self._calls.pop(number, None)
        if one.ok is None:
            raise _error_of(one)
        return one.ok


def _error_of(one: Told) -> Exception:
    return error_from(one.failed) if one.failed is not None else Lost(one.lost or "it is gone")
