"""Prepared data as it lies on a disk or a server: Parquet shards, one row a document, and a manifest that says what is in them.

<folder>/manifest.json         what the shards were made with, how much is in each, and the digest of each file
<folder>/lengths.npy           uint32 [documents], tokens of each
<folder>/shard-00000.parquet   tokens: list<uint16 | uint32>; learnt: list<bool>, of conversations; weight: float, if documents have one

A shard has two digests: of the file's bytes, and of its content, which the same text has whatever wrote the file.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import InputError
from trimtab.core.files import canonical_json
from trimtab.train.data.packing import ShardArrays

SCHEMA = "trimtab.shards/1"
MANIFEST, LENGTHS = "manifest.json", "lengths.npy"
SHARD_TOKENS = 2**22


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A shard in the manifest. sha256: of the file; content: of what is in it; n_targets, n_first: as in `counted`."""

    name: str
    n_bytes: int
    sha256: str
    content: str
    n_documents: int
    n_tokens: int
    n_targets: int
    n_first: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What prepared data are.

    tokenizer: digest of the one they were made with; chat: only what the assistant says is learnt; weight: the field with a document's
    weight, "" = none; lengths_sha256: of lengths.npy; sources: name, bytes and sha256 of each file of text
    """

    tokenizer: str
    vocab_size: int
    chat: bool
    weight: str
    shards: tuple[Shard, ...]
    lengths_sha256: str
    sources: tuple[Mapping[str, Any], ...] = ()

    @property
    def n_documents(self) -> int:
        return sum(shard.n_documents for shard in self.shards)

    @property
    def n_tokens(self) -> int:
        return sum(shard.n_tokens for shard in self.shards)

    @property
    def token_bytes(self) -> int:
        """Bytes of a token in a shard."""
        return token_type(self.vocab_size).itemsize

    def text(self) -> str:
        """The manifest as its file holds it."""
        return canonical_json({"schema": SCHEMA, **vars(self)}) + "\n"


def parsed_manifest(raw: bytes, where: str) -> Manifest:
    """A manifest from its file. Raises InputError."""
    wrong = InputError(f"{where} is no manifest of prepared data, or is damaged; prepare the data again.")
    try:
        found = json.loads(raw)
        schema = found.pop("schema")
    except (ValueError, AttributeError, KeyError, RecursionError):
        raise wrong from None
    if schema != SCHEMA:
        raise InputError(f"{where} says {schema!r}, and this trimtab reads {SCHEMA}; prepare the data again.")
    try:
        shards = tuple(Shard(**shard) for shard in found.pop("shards"))
        return Manifest(**found | {"shards": shards, "sources": tuple(found.pop("sources"))})
    except (TypeError, KeyError):
        raise wrong from None


def token_type(vocab_size: int) -> "np.dtype[Any]":
    """The smallest type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def content_digest(shard: ShardArrays) -> str:
    """sha256 over the type of tokens and all arrays of a shard."""
    digest = hashlib.sha256(shard.tokens.dtype.str.encode())
    for array in (shard.tokens, shard.starts, shard.learnt, shard.weights):
        digest.update(b"\0" if array is None else b"\1" + str(array.size).encode() + b"\n")
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def counted(shard: ShardArrays) -> tuple[int, int]:
    """(tokens that are learnt with what stands before them in their document, first tokens of documents that are learnt).

    First tokens count without masks only, and the first of a shard never: nothing stands before it.
    """
    learnt = np.ones(len(shard.tokens), dtype=bool) if shard.learnt is None else shard.learnt.astype(bool)
    if shard.weights is not None:
        learnt = learnt & np.repeat(shard.weights > 0, np.diff(shard.starts))
    n_first = int(learnt[shard.starts[1:-1]].sum())
    return int(learnt.sum()) - n_first - int(learnt[0]), n_first


def to_parquet(shard: ShardArrays) -> bytes:
    """The arrays of a shard as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    starts = pa.array(shard.starts.astype(np.int32))
    columns: dict[str, Any] = {"tokens": pa.ListArray.from_arrays(starts, pa.array(shard.tokens))}
    if shard.learnt is not None:
        columns["learnt"] = pa.ListArray.from_arrays(starts, pa.array(shard.learnt.astype(bool)))
    if shard.weights is not None:
        columns["weight"] = pa.array(shard.weights)
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, compression="zstd", use_dictionary=False)
    return file.getvalue()


def from_parquet(source: Path, manifest: Manifest, shard: Shard, where: str) -> ShardArrays:
    """The arrays of a shard's file, their content checked against the manifest. Raises InputError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = ["tokens", *(["learnt"] if manifest.chat else []), *(["weight"] if manifest.weight else [])]
    try:
        table = pq.read_table(source, columns=wanted, memory_map=False).combine_chunks()
        lists = _one_chunk(table, "tokens")
        starts = lists.offsets.to_numpy().astype(np.int64)
        arrays = ShardArrays(
            tokens=lists.values.to_numpy().astype(token_type(manifest.vocab_size), copy=False),
            starts=starts,
            learnt=_one_chunk(table, "learnt").values.to_numpy(zero_copy_only=False).astype(np.uint8) if manifest.chat else None,
            weights=_one_chunk(table, "weight").to_numpy().astype(np.float32, copy=False) if manifest.weight else None,
        )
    except (pa.ArrowException, OSError, ValueError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120].rstrip(".")
        raise InputError(f"Shard {where} cannot be read ({reason}); make it and its manifest again.") from None
    if content_digest(arrays) != shard.content:
        raise InputError(f"Shard {where} does not hold what its manifest says; make it and its manifest again.")
    return arrays


def _one_chunk(table: Any, name: str) -> Any:
    return table.column(name).chunk(0)


def lengths_to_bytes(lengths: Sequence[NDArray[np.int64]]) -> bytes:
    """lengths.npy of all shards' documents."""
    file = io.BytesIO()
    np.save(file, np.concatenate(lengths).astype("<u4"), allow_pickle=False)
    return file.getvalue()


def lengths_from_bytes(raw: bytes, manifest: Manifest, where: str) -> list[NDArray[np.uint32]]:
    """Tokens of each document, shard by shard. Raises InputError."""
    if hashlib.sha256(raw).hexdigest() != manifest.lengths_sha256:
        raise InputError(f"{where} is damaged (its digest is not the manifest's); copy it again, or prepare the data again.")
    flat: NDArray[np.uint32] = np.load(io.BytesIO(raw), allow_pickle=False)
    return np.split(flat, np.cumsum([shard.n_documents for shard in manifest.shards])[:-1])
