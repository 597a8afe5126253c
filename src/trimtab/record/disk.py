"""One sentence for what a disk refuses, documents with a schema version, and line files that survive kill -9."""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError, MissingError, TrimtabError
from trimtab.core.files import canonical_json, sync_folder

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_NOT_A_FOLDER = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}


def disk_error(path: Path, error: OSError, doing: str) -> TrimtabError:
    """The error a user reads for a failed file operation: `doing` is a verb such as `write` or `read`."""
    if error.errno in _FULL:
        return MissingError(f"No space left to {doing} {path}.", "free some disk space, or choose a folder on another disk.")
    if error.errno in _FORBIDDEN:
        return InputError(f"No permission to {doing} {path}; change its permissions or choose another folder.")
    if error.errno in _NOT_A_FOLDER:
        return InputError(f"Cannot {doing} {path}: {(error.strerror or 'bad path').lower()}; choose another path.")
    return MissingError(f"Cannot {doing} {path}: {error.strerror or error}.", "check the disk and the path, then try again.")


@contextmanager
def sentences(path: Path, doing: str) -> Iterator[None]:
    """Turn an OSError inside the block into InputError (path, permission) or MissingError (space, device), one sentence each."""
    try:
        yield
    except OSError as error:
        raise disk_error(path, error, doing) from error


def read_json(path: Path, schema: str) -> dict[str, Any]:
    """A JSON object from a file, its `schema` checked. Raises InputError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"There is no {path}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file; it may be damaged.") from None
    except OSError as error:
        raise disk_error(path, error, "read") from error
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise InputError(f"{path} is not valid JSON; it may be damaged.") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object.")
    check_schema(value, schema, path)
    return value


def check_schema(document: Mapping[str, Any], schema: str, where: Path | str) -> int:
    """The version of a document. Ours (`name/N`) and the one before are accepted. Raises InputError for any other."""
    name, _, current = schema.partition("/")
    found = document.get("schema")
    found_name, _, version = found.partition("/") if isinstance(found, str) else ("", "", "")
    if found_name != name or not version.isascii() or not version.isdigit():
        raise InputError(f"{where} is not a {name} document (its schema is {found!r}).")
    if int(version) > int(current):
        raise InputError(f"{where} was written by a newer trimtab ({found}, this one reads up to {schema}); upgrade trimtab.")
    if int(version) < max(1, int(current) - 1):
        raise InputError(f"{where} is too old ({found}, this trimtab reads {name}/{int(current) - 1} and {schema}); make it anew.")
    return int(version)


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one JSON line, whole or not at all, and fsync it. A failed write (disk full) is cut off again.

    Raises InputError or MissingError with one sentence.
    """
    line = (canonical_json(record) + "\n").encode()
    with sentences(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(handle).st_size
            try:
                left = memoryview(line)
                while left:
                    left = left[os.write(handle, left) :]
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)
        if is_new:
            sync_folder(path.parent)


def read_records(path: Path, *, mend: bool) -> tuple[list[dict[str, Any]], str]:
    """The JSON objects of a line file, and a warning (empty if none) about a torn last line.

    A process killed while appending leaves a torn last line: it is left out and, with `mend`, cut off so that the next append
    starts on a fresh line. A broken line anywhere else is damage: InputError.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        raise disk_error(path, error, "read") from error
    lines = raw.split(b"\n")
    tail = lines.pop()
    records: list[dict[str, Any]] = []
    kept_bytes = 0
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is None and number == len(lines) and not tail:
            tail = line
            break
        if record is None:
            raise InputError(f"{path} is damaged at line {number}; restore it, or start anew with --fresh.")
        records.append(record)
        kept_bytes += len(line) + 1
    if not tail:
        return records, ""
    if mend:
        with sentences(path, "write"):
            os.truncate(path, kept_bytes)
    return records, f"{path} ends in a torn line ({len(raw) - kept_bytes} bytes), left by a run that was killed; it is ignored."


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
