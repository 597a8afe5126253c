"""The gateway's log of what it did: who asked, what answered, what guards said, digests and times of it; never the texts themselves.

Many requests share one write and one sync: while the disk is busy with some records, others gather, and the next write takes all of them.
With `sync_s` a record counts as noted when it is written: a kill loses none, a power cut those of the last `sync_s`.
"""

import asyncio
import hmac
import logging
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

import msgspec

from trimtab.core.errors import InputError
from trimtab.core.files import write_once
from trimtab.record.chain import SEGMENT_BYTES, AuditUnavailable, ChainLog
from trimtab.record.checkpoints import Checkpoint
from trimtab.record.disk import sentences
from trimtab.record.home import state_dir

__all__ = ["AuditLog", "AuditUnavailable"]

SOON_S = 0.05
SIGN_S = 0.05
"""A checkpoint is signed so long after the first record that it covers, at most."""

log = logging.getLogger("trimtab.record")

_Waiting = tuple[bytes, "asyncio.Future[None]"]


class AuditLog:
    """Records of one gateway, written in the order of `append`. All methods are of one event loop."""

    def __init__(self, folder: Path, home: Path, segment_bytes: int, sync_s: float) -> None:
        self.folder = folder
        self._sync_s = sync_s
        self._home = home
        self._segment_bytes = segment_bytes
        self._log: ChainLog | None = None
        self._digester = hmac.new(_digest_key(home), digestmod="sha256")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit")
        self._waiting: list[_Waiting] = []
        self._is_writing = False
        self._timer: asyncio.TimerHandle | None = None
        self._sign_timer: asyncio.TimerHandle | None = None
        self._settling: asyncio.Future[None] | None = None
        self._is_closed = False

    @classmethod
    def open(cls, folder: Path | None = None, *, home: Path | None = None, segment_bytes: int = SEGMENT_BYTES, sync_s: float = 0.0) -> Self:
        """Open the log of a folder (None = TRIMTAB_HOME/audit), or begin one.

        sync_s: `append` returns once a record is written, and the disk has it within this time; 0 = `append` waits for the disk
        Raises InputError: in use, damaged, no permission. A full disk is no error yet: then `append` tries to open it again each time.
        """
        home = home or state_dir()
        audit = cls(folder or home / "audit", home, segment_bytes, sync_s)
        try:
            audit._opened()
        except AuditUnavailable:
            pass
        except BaseException:
            audit._thread.shutdown(wait=False)
            raise
        return audit

    @property
    def n_records(self) -> int:
        """Records in the log, those about the log itself included."""
        return self._log.head.seq if self._log is not None else 0

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The newest that was signed, None before the log is open."""
        return self._log.checkpoint if self._log is not None else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def append(self, record: Mapping[str, Any], *, soon: bool = False) -> None:
        """Write a record and the time. Returns when it is durable, or with `sync_s` when it is written.

        soon: nobody waits for it, so it may wait up to SOON_S for others to be written with
        Raises AuditUnavailable: the record is not in the log. If the caller is cancelled, the record is written all the same.
        """
        await self.begin(record, soon=soon)

    def begin(self, record: Mapping[str, Any], *, soon: bool = False) -> "asyncio.Future[None]":
        """As `append`, for those who have something else to do meanwhile: what is awaited then returns or raises as it does."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        body = msgspec.json.encode({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **record}, order="deterministic")
        if self._is_closed:
            future.set_exception(AuditUnavailable(f"The log in {self.folder} is closed."))
        elif self._sync_s:
            try:
                self._written(loop, body)
                future.set_result(None)
            except Exception as error:
                future.set_exception(error)
        else:
            self._waiting.append((body, future))
            if not self._is_writing:
                if soon:
                    self._timer = self._timer or loop.call_later(SOON_S, self._start, loop)
                else:
                    self._start(loop)
        return future

    async def close(self) -> None:
        """Write what waits, sign the end, give the folder free. Idempotent."""
        self._is_closed = True
        if self._settling is not None:
            await asyncio.wait([self._settling])
        if self._timer is not None:
            self._start(asyncio.get_running_loop())
        while self._is_writing:
            await asyncio.wait([future for _, future in self._waiting] or [asyncio.ensure_future(asyncio.sleep(0.001))])
        if self._sign_timer is not None:
            self._sign_timer.cancel()
            self._sign_timer = None
        self._thread.shutdown(wait=True)
        if self._log is not None:
            self._log.close()

    def digester(self) -> "hmac.HMAC":
        """A running sha256 keyed with this installation's secret: `update(bytes)`, `hexdigest()`.

        A plain digest of a short text gives it away to whoever tries likely texts; this one only to whoever holds the key too.
        """
        return self._digester.copy()

    def _written(self, loop: asyncio.AbstractEventLoop, body: bytes) -> None:
        """Write a record now, and have it synced with all that follow within `sync_s`."""
        self._opened().write([body])
        if self._settling is None:
            self._settling = asyncio.ensure_future(self._settle(loop))

    async def _settle(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_closed:
            await asyncio.sleep(self._sync_s)
        self._settling = None  # what is written from here on may come too late for this sync
        try:
            await loop.run_in_executor(self._thread, partial(self._opened().settle, signs=False))
            if self._sign_timer is None and not self._is_closed:
                self._sign_timer = loop.call_later(SIGN_S, self._sign_soon, loop)
        except AuditUnavailable as error:
            log.error("the last records of the audit log are not on the disk yet: %s", error)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._is_writing:
            self._is_writing = True
            loop.call_soon(self._write_batch, loop)

    def _write_batch(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._waiting = self._waiting, []
        if not batch:
            self._is_writing = False
            return
        writing = loop.run_in_executor(self._thread, self._commit, [body for body, _ in batch])
        writing.add_done_callback(partial(self._done, loop, batch))

    def _done(self, loop: asyncio.AbstractEventLoop, batch: Sequence[_Waiting], writing: "asyncio.Future[None]") -> None:
        error = writing.exception()
        for _, future in batch:
            if future.done():
                continue  # whoever waited was cancelled
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(AuditUnavailable(str(error)) if isinstance(error, AuditUnavailable) else error)
        if self._sign_timer is None:
            self._sign_timer = loop.call_later(SIGN_S, self._sign_soon, loop)
        self._write_batch(loop)

    def _sign_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sign_timer = None
        if self._log is not None:
            loop.run_in_executor(self._thread, self._sign)

    def _sign(self) -> None:
        assert self._log is not None
        try:
            if self._sync_s:
                self._log.settle()
            else:
                self._log.sign()
        except AuditUnavailable as error:
            log.error("the last records of the audit log have no checkpoint yet: %s", error)

    def _commit(self, bodies: Sequence[bytes]) -> None:
        self._opened().commit(bodies)

    def _opened(self) -> ChainLog:
        if self._log is None:
            self._log = ChainLog.open(self.folder, home=self._home, segment_bytes=self._segment_bytes, sign_s=SIGN_S)
        return self._log


def _digest_key(home: Path) -> bytes:
    path = home / "keys" / "digest.key"
    with sentences(path, "write"):
        if not path.exists():
            write_once(path, secrets.token_hex(32).encode())
        try:
            return bytes.fromhex(path.read_text(encoding="ascii"))
        except ValueError:
            raise InputError(f"{path} is damaged; put it back from a backup, or remove it to begin with a new one.") from None
