"""What a replica was seen to take, kept by what it is, so that the next one reserves that on its node."""

import json
from pathlib import Path

from trimtab.core.errors import TrimtabError
from trimtab.core.files import write_atomic
from trimtab.core.model import Snapshot

MARGIN = 1.15
"""Over what was measured: caches fill with longer prompts."""
FIRST_MARGIN = 1.25
BASE_BYTES = 512 * 2**20
"""Of an engine's process and the actor around it, without weights."""
STEP_BYTES = 64 * 2**20
CHANGE_SHARE = 0.02


class MemoryNotes:
    """The most bytes that a replica was seen to take, by content (`AppSpec.content`). path: a JSON file, of this machine alone"""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            self._bytes = {str(key): int(value) for key, value in found.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            self._bytes = {}

    def saw(self, content: str, n_bytes: int) -> None:
        """Take note. The file is written where it matters: a new content, or a growth of some hundredths."""
        if n_bytes <= self._bytes.get(content, 0) * (1 + CHANGE_SHARE):
            return
        self._bytes[content] = n_bytes
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, json.dumps(self._bytes, indent=1, sort_keys=True))
        except (OSError, TrimtabError):
            return  # the next start predicts again

    def reserve(self, content: str, snapshot: Snapshot, measured_bytes: int | None) -> int:
        """Bytes that a replica reserves: as it was seen in a cluster; else as the lock was measured; else by the size of its weights."""
        seen = self._bytes.get(content)
        if seen is not None:
            return stepped(MARGIN * seen)
        if measured_bytes is not None:
            return stepped(FIRST_MARGIN * measured_bytes + BASE_BYTES / 2)
        return stepped(FIRST_MARGIN * snapshot.size_bytes + BASE_BYTES)


def stepped(n_bytes: float) -> int:
    """Rounded up, so that a few bytes more are no other reservation."""
    return -(-int(n_bytes) // STEP_BYTES) * STEP_BYTES
