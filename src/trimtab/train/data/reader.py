"""Shards as a process reads them: brought here ahead of their use, checked, mapped, and let go when the order has passed them."""

import contextlib
import os
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from trimtab.core.errors import InputError
from trimtab.core.files import sha256_file
from trimtab.record.disk import sentences
from trimtab.train.data import cache as caches
from trimtab.train.data.local import LocalShard, write_local
from trimtab.train.data.packing import Packing
from trimtab.train.data.places import Place
from trimtab.train.data.shards import Manifest, Shard, from_parquet

FETCHERS = 4


@dataclass(frozen=True, kw_only=True)
class Source:
    """A shard and where it lies; remedy: what to do if it is damaged."""

    place: Place
    manifest: Manifest
    shard: Shard
    remedy: str


@dataclass(frozen=True, kw_only=True)
class _Open:
    local: LocalShard
    packing: Packing


class Reader:
    """Shards by number. `want` starts bringing them, `packing` waits for one, both from one thread at a time."""

    def __init__(
        self, sources: Sequence[Source], cache: Path, *, limit_bytes: int, seq_tokens: int, padded: bool, mask_documents: bool
    ) -> None:
        self._sources, self._cache, self._limit_bytes = sources, cache, limit_bytes
        self._cut = {"seq_tokens": seq_tokens, "padded": padded, "mask_documents": mask_documents}
        self._pool = ThreadPoolExecutor(max_workers=FETCHERS, thread_name_prefix="shards")
        self._open: dict[int, Future[_Open]] = {}
        self._lock = threading.Lock()
        self._n_fetching, self._fetching_since = 0, 0.0
        self.fetched_bytes = 0
        self.fetch_s = 0.0

    def want(self, now: Collection[int], next_: Collection[int]) -> None:
        """Bring the shards of `now`, then those of `next_`; let go of all others."""
        for number in [number for number in self._open if number not in now and number not in next_]:
            _let_go(self._open.pop(number))
        for number in (*now, *next_):
            known = self._open.get(number)
            if known is None or (number in now and known.done() and known.exception() is not None):  # what failed ahead is tried again
                self._open[number] = self._pool.submit(self._opened, number)

    def packing(self, number: int) -> Packing:
        """A shard that was wanted, cut into sequences. Raises InputError, MissingError."""
        return self._open[number].result().packing

    def close(self) -> None:
        """Let go of everything. Idempotent."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for future in self._open.values():
            _let_go(future)
        self._open.clear()

    def _opened(self, number: int) -> _Open:
        source = self._sources[number]
        path = self._cache / caches.SHARDS / f"{source.shard.content}.arrays"
        local = LocalShard.opened(path, source.shard.content)
        while local is None:
            with caches.locked(path.with_name(f".{path.name}.lock")):
                if not path.exists():
                    self._make(source, path)
                local = LocalShard.opened(path, source.shard.content)
            caches.clear(self._cache, self._limit_bytes)
        return _Open(local=local, packing=Packing(local.arrays, **self._cut))  # type: ignore[arg-type]

    def _make(self, source: Source, path: Path) -> None:
        shard, where = source.shard, source.place.where(source.shard.name)
        parquet = source.place.path(shard.name)
        if parquet is None:
            incoming = self._cache / caches.INCOMING / shard.sha256
            with caches.held(incoming):
                self._download(source, incoming, where)
                self._expand(source, incoming, where, path)
                incoming.unlink(missing_ok=True)
        else:
            if not parquet.is_file():
                raise InputError(f"There is no {where}, which the manifest beside it names; {source.remedy}.")
            if _sha256(parquet) != shard.sha256:
                raise InputError(f"Shard {where} is damaged (its digest is not the manifest's); {source.remedy}.")
            self._expand(source, parquet, where, path)

    def _expand(self, source: Source, parquet: Path, where: str, path: Path) -> None:
        arrays = from_parquet(parquet, source.manifest, source.shard, where)
        with sentences(path, "write"):
            write_local(path, arrays)

    def _download(self, source: Source, incoming: Path, where: str) -> None:
        """Bring a shard's file whole; one that came damaged is brought once more from its beginning."""
        shard = source.shard
        had = incoming.stat().st_size
        for is_last in (False, True):
            with self._fetching():
                source.place.download(shard.name, incoming, shard.n_bytes)
            if _sha256(incoming) == shard.sha256:
                break
            os.truncate(incoming, 0)
            if is_last:
                raise InputError(f"Shard {where} does not have the digest that its manifest says; put it there again.")
        with self._lock:
            self.fetched_bytes += max(0, shard.n_bytes - had)

    @contextlib.contextmanager
    def _fetching(self) -> Iterator[None]:
        """Time by the clock in which at least one thread fetches."""
        with self._lock:
            if not self._n_fetching:
                self._fetching_since = time.perf_counter()
            self._n_fetching += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_fetching -= 1
                if not self._n_fetching:
                    self.fetch_s += time.perf_counter() - self._fetching_since


def _sha256(path: Path) -> str:
    with sentences(path, "read"):
        return sha256_file(path)


def _let_go(future: "Future[_Open]") -> None:
    if not future.cancel() and future.exception() is None:
        future.result().local.close()
