"""Item outcomes as Parquet: one row an item, missing values as nulls, what they belong to in the file's metadata."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.evidence import Outcome
from trimtab.core.files import write_atomic
from trimtab.record.disk import check_schema, sentences

SCHEMA = "trimtab.outcomes/1"
LATER = ("p_options",)
"""Columns that files of the first version lack."""


def outcomes_to_bytes(outcomes: Sequence[Outcome], metadata: Mapping[str, str] | None = None) -> bytes:
    """Parquet bytes of outcomes, in order. The same outcomes and metadata give the same bytes under one pyarrow version.

    metadata: text stored with the table, e.g. deployment and suite digests
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _columns(pa)
    arrays = [pa.array([getattr(outcome, name) for outcome in outcomes], type=kind) for name, kind in columns]
    notes = {"schema": SCHEMA, **(metadata or {})}
    schema = pa.schema([pa.field(name, kind) for name, kind in columns], metadata=dict(sorted(notes.items())))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def outcomes_from_bytes(data: bytes, where: str = "The outcomes") -> tuple[tuple[Outcome, ...], dict[str, str]]:
    """Outcomes and their metadata from Parquet bytes. Raises InputError if they are damaged or of another schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data), use_threads=False)
    except (pa.ArrowException, OSError, ValueError):
        raise InputError(f"{where} cannot be read as Parquet; the file may be damaged.") from None
    notes = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items() if not key.startswith(b"ARROW:")}
    check_schema(notes, SCHEMA, where)
    names = [name for name, _ in _columns(pa) if name not in LATER or name in table.column_names]
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise InputError(f"{where} lacks the column {missing[0]!r}.")
    values = [table.column(name).to_pylist() for name in names]
    rows = tuple(_outcome(dict(zip(names, row, strict=True))) for row in zip(*values, strict=True))
    notes.pop("schema")
    return rows, notes


def write_outcomes(path: Path, outcomes: Sequence[Outcome], metadata: Mapping[str, str] | None = None) -> None:
    """Write outcomes to a Parquet file, whole or not at all. Raises InputError or MissingError."""
    data = outcomes_to_bytes(outcomes, metadata)
    with sentences(path, "write"):
        write_atomic(path, data)


def read_outcomes(path: Path) -> tuple[tuple[Outcome, ...], dict[str, str]]:
    """Outcomes and metadata of a Parquet file. Raises InputError or MissingError."""
    if not path.is_file():
        raise InputError(f"There is no {path}.")
    with sentences(path, "read"):
        data = path.read_bytes()
    return outcomes_from_bytes(data, str(path))


def _outcome(row: dict[str, Any]) -> Outcome:
    return Outcome(**{**row, "p_options": tuple(row.get("p_options") or ())})


def _columns(pa: Any) -> list[tuple[str, Any]]:
    """Columns in the order of Outcome's fields."""
    return [
        ("item_id", pa.string()),
        ("suite", pa.string()),
        ("cluster", pa.string()),
        ("value", pa.float64()),
        ("n_tokens", pa.int64()),
        ("group", pa.string()),
        ("picked", pa.int64()),
        ("correct", pa.bool_()),
        ("error", pa.string()),
        ("p_options", pa.list_(pa.float64())),
    ]
