"""Results that all machines of a cluster share: a cache in a folder that all see, or at any URL that fsspec knows.

place/results/<kind>/<2 digits>/<key>   entries as record/cache.py writes them, verified on every read
place/products                          built weights, of a folder only: at a URL every machine builds its own
"""

import contextlib
from pathlib import Path

from trimtab.record.cache import Cache, entry_of, payload_of
from trimtab.record.evidence_store import RemoteFiles


def is_url(place: str) -> bool:
    """Whether a place is no folder."""
    return "://" in place


def open_results(place: str, part: str = "results") -> Cache:
    """The shared results at a place. Raises InputError (wrong URL), MissingError (a package)."""
    return RemoteCache(f"{place.rstrip('/')}/{part}") if is_url(place) else Cache(Path(place) / part)


class RemoteCache(Cache):
    """Entries at a URL. As of a folder: a damaged one is a miss, and one that cannot be stored is said and goes on."""

    def __init__(self, url: str) -> None:
        super().__init__(Path(url.partition("://")[2]))
        self._files = RemoteFiles(url)
        self.where = self._files.where

    def _get(self, kind: str, key: str) -> bytes | None:
        name = self._name(kind, key)
        try:
            raw = self._files.read(name)
        except FileNotFoundError:
            return None
        return payload_of(kind, key, raw)

    def _put(self, kind: str, key: str, payload: bytes) -> str:
        self._files.write(self._name(kind, key), entry_of(kind, key, payload))
        return ""

    def _remove(self, kind: str, key: str) -> None:
        with contextlib.suppress(Exception):
            self._files.remove(self._name(kind, key))

    def _name(self, kind: str, key: str) -> str:
        return self._path(kind, key).relative_to(self.root).as_posix()
