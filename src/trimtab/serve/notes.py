"""Records for the audit log, written beside requests, under the site's policy for a log that cannot be written."""

import asyncio
import logging
from collections.abc import Mapping
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
    _writing: set["asyncio.Future[None]"] = field(default_factory=set)

    def begin(self, record: Mapping[str, Any], *, soon: bool = False) -> "asyncio.Future[None] | None":
        """Begin to write a record; None: there is nothing to wait for. soon: nobody will wait for it."""
        writing = self.audit.begin(record, soon=soon) if self.audit is not None else None
        if writing is None or (writing.done() and writing.exception() is None):
            return None
        self._writing.add(writing)
        writing.add_done_callback(self._ended)
        return writing

    async def settled(self, writing: "asyncio.Future[None] | None") -> None:
        """Wait until a record is durable. Raises Refusal (503) where the policy says so."""
        try:
            if writing is not None:
                await writing
        except AuditUnavailable as error:
            if self.refuses:
                why = "The audit log cannot be written; nothing is served until it can."
                raise Refusal(503, why, code="audit_unavailable", retry_after_s=10) from error

    async def finish(self) -> None:
        """Wait until everything that was to be noted is."""
        if self._writing:
            await asyncio.wait(self._writing)

    def _ended(self, writing: "asyncio.Future[None]") -> None:
        self._writing.discard(writing)
        error = None if writing.cancelled() else writing.exception()
        if isinstance(error, AuditUnavailable):
            self.meter.audit_failed()
            if not self.refuses:
                log.error("served without a record in the audit log: %s", error)
