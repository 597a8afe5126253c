"""Text to shards, once: the same text with the same tokenizer and rules is found again in the cache.

Of several processes that want the same, one works and the others wait. What is half done when a process is killed is done again: a folder
appears under its key when everything in it is on the disk.
"""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import InputError
from trimtab.core.files import digest_of, sync_folder, write_atomic
from trimtab.core.training import TrainData
from trimtab.record.disk import sentences
from trimtab.sources.digests import file_sha256
from trimtab.train.data import cache as caches
from trimtab.train.data.documents import Document, documents
from trimtab.train.data.packing import ShardArrays
from trimtab.train.data.places import Place
from trimtab.train.data.shards import (
    LENGTHS,
    MANIFEST,
    SCHEMA,
    SHARD_TOKENS,
    Manifest,
    Shard,
    content_digest,
    counted,
    lengths_to_bytes,
    to_parquet,
    token_type,
)
from trimtab.train.data.tokenizers import Tokenizer

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A file of text: where it lies, and the name of the memory of its digest, "" if it lies on this disk."""

    place: Place
    name: str
    identity: str

    @property
    def where(self) -> str:
        return self.place.where(self.name)


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    tokens: NDArray[np.uint32]
    learnt: NDArray[np.uint8] | None
    weight: float


def prepare(texts: Sequence[tuple[Place, str]], data: TrainData, tokenizer: Tokenizer, cache: Path, say: Say) -> tuple[Path, int]:
    """The folder of shards of these files and the handle that keeps it from being cleared; made if it is not there.

    Raises InputError for text that cannot be used, MissingError where the disk is full or an address cannot be reached.
    """
    found = [_text(place, name) for place, name in texts]
    sources = [(text, *_digest(text, cache)) for text in found]
    rules = [SCHEMA, SHARD_TOKENS, tokenizer.digest, tokenizer.end_id, data.chat, data.weight]
    key = digest_of([*rules, *([sha256, Path(text.name).suffix] for text, _, sha256 in sources)])
    folder = cache / caches.PREPARED / key
    while True:
        if (folder / MANIFEST).is_file() and (handle := caches.use(folder)) is not None:
            return folder, handle
        with caches.locked(folder.with_name(f".{key}.lock")), contextlib.ExitStack() as kept:
            if not (folder / MANIFEST).is_file():
                for text in found:
                    if text.identity:
                        kept.enter_context(caches.held(_incoming(text, cache)))
                _build(sources, data, tokenizer, folder, cache, say)


def _build(sources: Sequence[tuple[Text, int, str]], data: TrainData, tokenizer: Tokenizer, folder: Path, cache: Path, say: Say) -> None:
    for half in [folder, *folder.parent.glob(f".{folder.name}.part-*")]:
        shutil.rmtree(half, ignore_errors=True)  # left by a process that was killed: the lock is ours
    part = folder.with_name(f".{folder.name}.part-{os.getpid()}")
    megabytes = sum(n_bytes for _, n_bytes, _ in sources) / 1e6
    say(f"Tokenising {len(sources)} file{'s' * (len(sources) != 1)} ({megabytes:,.1f} MB) once")
    begun = time.perf_counter()
    try:
        with sentences(part, "write"):
            part.mkdir(parents=True)
        writer = _Writer(part, tokenizer, data)
        for text, _, _ in sources:
            path = _local(text, cache)
            for document in documents(path, text.where, chat=data.chat, weight=data.weight):
                writer.add(_encoded(document, tokenizer, data.chat))
        if writer.is_empty:
            raise InputError(f"There is no text in {', '.join(text.where for text, _, _ in sources[:3])}; give files that hold some.")
        manifest = writer.done([{"name": text.name, "n_bytes": n_bytes, "sha256": sha256} for text, n_bytes, sha256 in sources])
        if [_digest(text, cache) for text, _, _ in sources] != [(n_bytes, sha256) for _, n_bytes, sha256 in sources]:
            raise InputError("A file of text changed while it was tokenised; wait until it is complete and try again.")
        with sentences(folder, "write"):
            sync_folder(part)
            part.rename(folder)
            sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    for text, _, _ in sources:
        if text.identity:
            _incoming(text, cache).unlink(missing_ok=True)
    took_s = time.perf_counter() - begun
    say(f"{manifest.n_tokens:,} tokens of {manifest.n_documents:,} documents in {took_s:.1f} s; the shards are in {folder}")


class _Writer:
    """Documents to shards of at most `SHARD_TOKENS`. A document longer than that goes on as another one."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, data: TrainData) -> None:
        self._folder, self._tokenizer, self._data = folder, tokenizer, data
        self._waiting: list[_Encoded] = []
        self._n_waiting = 0
        self._shards: list[Shard] = []
        self._lengths: list[NDArray[np.int64]] = []

    def add(self, document: _Encoded) -> None:
        for at in range(0, len(document.tokens), SHARD_TOKENS):
            end = at + SHARD_TOKENS
            learnt = None if document.learnt is None else document.learnt[at:end]
            piece = _Encoded(tokens=document.tokens[at:end], learnt=learnt, weight=document.weight)
            if self._n_waiting + len(piece.tokens) > SHARD_TOKENS:
                self._flush()
            self._waiting.append(piece)
            self._n_waiting += len(piece.tokens)

    @property
    def is_empty(self) -> bool:
        return not self._waiting and not self._shards

    def _flush(self) -> None:
        lengths = np.array([len(item.tokens) for item in self._waiting], dtype=np.int64)
        learnt = [item.learnt for item in self._waiting if item.learnt is not None]
        arrays = ShardArrays(
            tokens=np.concatenate([item.tokens for item in self._waiting]).astype(token_type(self._tokenizer.vocab_size)),
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            learnt=np.concatenate(learnt) if learnt else None,
            weights=np.array([item.weight for item in self._waiting], dtype=np.float32) if self._data.weight else None,
        )
        name = f"shard-{len(self._shards):05d}.parquet"
        raw = to_parquet(arrays)
        with sentences(self._folder / name, "write"):
            write_atomic(self._folder / name, raw)
        n_targets, n_first = counted(arrays)
        self._shards.append(
            Shard(
                name=name,
                n_bytes=len(raw),
                sha256=hashlib.sha256(raw).hexdigest(),
                content=content_digest(arrays),
                n_documents=len(lengths),
                n_tokens=self._n_waiting,
                n_targets=n_targets,
                n_first=n_first,
            )
        )
        self._lengths.append(lengths)
        self._waiting, self._n_waiting = [], 0

    def done(self, sources: Sequence[dict[str, object]]) -> Manifest:
        """Write what is left, the lengths and the manifest."""
        if self._waiting:
            self._flush()
        lengths = lengths_to_bytes(self._lengths)
        manifest = Manifest(
            tokenizer=self._tokenizer.digest,
            vocab_size=self._tokenizer.vocab_size,
            chat=self._data.chat,
            weight=self._data.weight,
            shards=tuple(self._shards),
            lengths_sha256=hashlib.sha256(lengths).hexdigest(),
            sources=tuple(sources),
        )
        with sentences(self._folder, "write"):
            write_atomic(self._folder / LENGTHS, lengths)
            write_atomic(self._folder / MANIFEST, manifest.text())
        return manifest


def _encoded(document: Document, tokenizer: Tokenizer, chat: bool) -> _Encoded:
    learnt: NDArray[np.uint8] | None = None
    try:
        if chat:
            ids, said = tokenizer.encode_chat(document.messages)
            learnt = np.array(said, dtype=np.uint8)
        else:
            ids = [*tokenizer.encode(document.text), tokenizer.end_id]
    except InputError as error:
        raise InputError(f"{document.where}: {str(error).rstrip('.')}.") from error
    if ids and not 0 <= min(ids) <= max(ids) < tokenizer.vocab_size:
        raise InputError(f"{document.where}: the tokenizer gives an id that its vocabulary of {tokenizer.vocab_size} has not; mend it.")
    return _Encoded(tokens=np.array(ids, dtype=np.uint32), learnt=learnt, weight=document.weight)


def _text(place: Place, name: str) -> Text:
    return Text(
        place=place, name=name, identity="" if place.path(name) is not None else digest_of([place.where(name), place.identity(name)])
    )


def _digest(text: Text, cache: Path) -> tuple[int, str]:
    """(bytes, sha256) of a file of text; one behind an address is brought here unless its digest is known."""
    if not text.identity:
        return file_sha256(_local(text, cache), cache)
    note = cache / "digests" / text.identity
    with caches.locked(note.with_name(f".{note.name}.lock")):
        known = note.read_text().split() if note.is_file() else []
        if len(known) == 2:
            return int(known[0]), known[1]
        with caches.held(_incoming(text, cache)):
            n_bytes, sha256 = file_sha256(_local(text, cache), cache)
        with sentences(note, "write"):
            write_atomic(note, f"{n_bytes} {sha256}")
    return n_bytes, sha256


def _local(text: Text, cache: Path) -> Path:
    """Where a file of text lies on this disk, brought here if need be. One process at a time."""
    path = text.place.path(text.name)
    if path is None:
        path = _incoming(text, cache)
        text.place.download(text.name, path, -1)
    return path


def _incoming(text: Text, cache: Path) -> Path:
    return cache / caches.INCOMING / text.identity
