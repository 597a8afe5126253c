"""Documents out of files: .jsonl and .parquet with a field `text` or `messages`, .txt as one document."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import parsed_json
from trimtab.record.disk import sentences

KINDS = (".jsonl", ".parquet", ".txt")
_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class Document:
    """text, or messages of a conversation (then text is ""); weight of its loss; where: file and line, for messages about it."""

    text: str
    messages: Sequence[Mapping[str, Any]] = ()
    weight: float = 1.0
    where: str


def documents(path: Path, name: str, *, chat: bool, weight: str) -> Iterator[Document]:
    """The documents of a file, in its order; those without any text are left out.

    name: of the file in messages; its ending says what it is
    Raises InputError for a broken line, row or file, and for a missing field, with its place.
    """
    with sentences(path, "read"):
        if name.endswith(".txt"):
            if chat or weight:
                what = "no conversations" if chat else f"no field {weight!r}"
                raise InputError(f"{name} is plain text and has {what}; give .jsonl or .parquet, or change [data].")
            text = _decoded(path.read_bytes(), name)
            yield from [Document(text=text, where=name)] if text.strip() else []
            return
        for where, row in _parquet_rows(path, name) if name.endswith(".parquet") else _json_lines(path, name):
            document = _document(row, where, chat=chat, weight=weight)
            if document.text or document.messages:
                yield document


def _json_lines(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            where = f"{name}, line {number}"
            line = _decoded(raw, where)
            if not line.strip():
                continue
            try:
                row = parsed_json(line)
            except ValueError as error:
                raise InputError(f"{where} is no JSON ({error}); mend the line or take it out.") from None
            if not isinstance(row, dict):
                raise InputError(f'{where} is no JSON object; write one document a line, such as {{"text": ...}}.')
            yield where, row


def _parquet_rows(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{name}, row {number}", row
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())[:120].rstrip(".")
        raise InputError(f"{name} is no whole Parquet file ({reason}); copy it again.") from None


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 (byte {error.start}); convert the file.") from None


def _document(row: Mapping[str, Any], where: str, *, chat: bool, weight: str) -> Document:
    factor = _weight(row, where, weight) if weight else 1.0
    if chat:
        messages = row.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(message, Mapping) for message in messages):
            raise InputError(f"{where} has no list of `messages`, and [data] says chat = true; add it, or set chat = false.")
        return Document(text="", messages=[_without_none(message) for message in messages], weight=factor, where=where)
    text = row.get("text")
    if not isinstance(text, str):
        hint = "set chat = true in [data] to learn from its `messages`" if "messages" in row else "name it so"
        raise InputError(f"{where} has no `text` (it has {', '.join(sorted(map(str, row))[:6]) or 'nothing'}); {hint}.")
    return Document(text=text if text.strip() else "", weight=factor, where=where)


def _without_none(message: Mapping[str, Any]) -> dict[str, Any]:
    """A Parquet table has every field in every row; a message has those that say something. An empty content stays."""
    return {key: value for key, value in message.items() if value is not None or key == "content"}


def _weight(row: Mapping[str, Any], where: str, field: str) -> float:
    value = row.get(field)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise InputError(f"{where} has no weight in `{field}` (found {value!r}); give a number from 0 up in each document.")
    return float(value)
