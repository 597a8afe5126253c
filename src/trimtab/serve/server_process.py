"""An engine's own server as a child process that never outlives the gateway, and what can be known of it from outside."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from trimtab.core.errors import MissingError
from trimtab.engines.client import ending
from trimtab.serve.keeper import SIGNALLED

KEEPER = Path(__file__).with_name("keeper.py")
GRACE_S = 5.0


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """One running command and all that it started. Made by `start`, ended by `stop`."""

    def __init__(self, process: asyncio.subprocess.Process, words: "tempfile._TemporaryFileWrapper[bytes]") -> None:
        self._process = process
        self._words = words

    @classmethod
    async def start(cls, command: Sequence[str]) -> Self:
        """Start a command. Raises MissingError if there is no such program."""
        if shutil.which(command[0]) is None:
            raise MissingError(f"The program {command[0]!r} was not found.", "install it, or give its path in `command`")
        words = tempfile.NamedTemporaryFile(prefix="trimtab-server-", suffix=".log")  # noqa: SIM115 lives as long as the process
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(KEEPER),
            *command,
            stdin=asyncio.subprocess.PIPE,  # its end tells the keeper that we are gone
            stdout=words,
            stderr=words,
            start_new_session=True,
        )
        return cls(process, words)

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    async def ended(self, limit_s: float) -> bool:
        """Whether it has ended, given a moment to do so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._process.wait()
        return not self.is_running

    @property
    def pids(self) -> list[int]:
        """The command and its descendants, as long as they run."""
        import psutil

        with contextlib.suppress(psutil.Error):
            return [child.pid for child in psutil.Process(self._process.pid).children(recursive=True)]
        return []

    def memory_bytes(self) -> int | None:
        """What the command and its descendants take: shared pages counted in part where the system tells, else fully."""
        import psutil

        total = 0
        for pid in self.pids:
            with contextlib.suppress(psutil.Error):
                found = psutil.Process(pid).memory_full_info()
                total += getattr(found, "pss", found.rss)
        return total or None

    def said(self) -> str:
        """How it ended and its last words; only the words while it runs."""
        how = ""
        code = self._process.returncode
        if code is not None:
            how = f"The server's process {ending(SIGNALLED - code if code > SIGNALLED else code)}."
        with contextlib.suppress(OSError, ValueError):
            size = os.fstat(self._words.fileno()).st_size
            raw = os.pread(self._words.fileno(), 4000, max(0, size - 4000))
            lines = [line.strip() for line in raw.decode(errors="replace").splitlines() if line.strip()]
            if lines:
                how += f" Its last words: {lines[-1][:300]}"
        return how.strip()

    async def stop(self) -> None:
        """Ask it to end, then kill what is left. Idempotent."""
        if self.is_running:
            for pid in self.pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGTERM)
            await self.ended(GRACE_S)
        if self._process.stdin is not None:
            self._process.stdin.close()
        if not await self.ended(GRACE_S):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
        self._words.close()
