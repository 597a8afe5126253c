"""Records for the audit log, written beside requests, under the site's policy for a log that cannot be written."""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trimtab.record.audit import AuditLog, AuditUnavailable
from trimtab.serve.base import Refusal
from trimtab.serve.meter import Meter

log = logging.getLogger("trimtab.serve")


@dataclass(kw_only=True)
class Notes:
    """What is being written. audit: None where the site keeps no log; refuses: what cannot be noted is not served."""

    audit: AuditLog | None
    meter: Meter
    refuses: bool
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    def begin(self, record: Mapping[str, Any], *, soon: bool = False) -> "asyncio.Task[None] | None":
        """Begin to write a record. Awaited, it raises Refusal (503) where the policy says so. soon: nobody awaits it."""
        if self.audit is None:
            return None
        task = asyncio.ensure_future(self._written(self.audit.append(record, soon=soon)))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def write(self, record: Mapping[str, Any]) -> None:
        """Write a record and wait until it is durable. Raises as `begin` does."""
        task = self.begin(record)
        if task is not None:
            await task

    async def finish(self) -> None:
        """Wait until everything that was to be noted is."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _written(self, writing: Awaitable[None]) -> None:
        try:
            await writing
        except AuditUnavailable as error:
            self.meter.audit_failed()
            if self.refuses:
                why = "The audit log cannot be written; nothing is served until it can."
                raise Refusal(503, why, code="audit_unavailable", retry_after_s=10) from error
            log.error("served without a record in the audit log: %s", error)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told where it was awaited, and by the meter
