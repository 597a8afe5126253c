"""Texts of a sample of requests, kept for review where a site asks for it: after redaction, apart from the audit log, and not for long.

One file a day, <folder>/2026-11-26.jsonl, readable by its owner only. Losing some in a crash is no harm, so nothing waits for the disk.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from trimtab.core.files import canonical_json
from trimtab.record.disk import disk_error

log = logging.getLogger("trimtab.record")

KEEP_DAYS = 30


class Captures:
    """What is kept of requests' texts. pct: of how many; problem: why the last text could not be kept, empty if it was."""

    def __init__(self, folder: Path, pct: float, *, keep_days: int = KEEP_DAYS) -> None:
        self._folder = folder
        self.pct = pct
        self._keep_days = keep_days
        self._pruned: date | None = None
        self.problem = ""

    def wants(self, request: str) -> bool:
        """Whether a request is in the sample. The same request always is, or is not."""
        if self.pct <= 0.0:
            return False
        return int.from_bytes(hashlib.sha256(request.encode()).digest()[:8]) < self.pct / 100.0 * 2**64

    def keep(self, request: str, texts: Sequence[str], answer: str) -> None:
        """Keep the texts of a request and its answer, both as guards have left them. Never raises for the disk's sake."""
        now = datetime.now(UTC)
        path = self._folder / f"{now.date().isoformat()}.jsonl"
        line = canonical_json({"at": now.isoformat(timespec="milliseconds"), "request": request, "input": list(texts), "output": answer})
        try:
            self._prune(now.date())
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(handle, line.encode("utf-8", "replace") + b"\n")
            finally:
                os.close(handle)
            self.problem = ""
        except OSError as error:
            if not self.problem:
                log.error("texts for review are not kept: %s", disk_error(path, error, "write"))
            self.problem = str(disk_error(path, error, "write"))

    def _prune(self, today: date) -> None:
        """Once a day: removes what is older than may be kept."""
        if today == self._pruned:
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        oldest = (today - timedelta(days=self._keep_days)).isoformat()
        for path in self._folder.glob("????-??-??.jsonl"):
            if path.stem < oldest:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
        self._pruned = today
