"""Tables of rows that somebody else wrote (CSV, TSV, Parquet, JSONL), read in batches: memory does not grow with the file.

A value is a text, whatever the format: `true`, `1`, `Female`. What stands for "no value" is missing: an empty cell, null, and the words
NaN, NA, N/A, None and null. Every complaint names the row (JSONL: the line) and the column.
"""

import csv
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import InputError
from trimtab.core.files import parsed_json

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
MISSING_WORDS = frozenset({"", "nan", "na", "n/a", "none", "null", "<na>"})
_BATCH_ROWS = 65_536
_BLOCK_BYTES = 1 << 20
_BATCH_LINES_BYTES = 16 << 20
_HEADER_LINES = 1000
"""Of JSONL: columns are the keys of so many first objects, because a writer may leave a key out where it has no value."""


@dataclass(frozen=True, kw_only=True)
class Coded:
    """A column of a batch as codes (rows,) into its distinct values; -1 = missing."""

    codes: NDArray[np.int64]
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some rows in order. first: number of the first one, from 1, in the table's `unit`; columns: arrow arrays by name."""

    first: int
    n: int
    columns: Mapping[str, Any]

    def coded(self, column: str) -> Coded:
        """Distinct values and where they stand. Raises InputError for a column of lists or structures."""
        encoded = self.columns[column].dictionary_encode()
        raw = [_text(value) for value in encoded.dictionary.to_pylist()]
        kept = {text: number for number, text in enumerate(dict.fromkeys(text for text in raw if text is not None))}
        translate = np.array([-1 if text is None else kept[text] for text in raw] + [-1], dtype=np.int64)
        codes = np.asarray(encoded.indices.fill_null(len(raw)).to_numpy(zero_copy_only=False), dtype=np.int64)
        return Coded(codes=translate[codes], values=tuple(kept))

    def numbers(self, column: str, where: str) -> NDArray[np.float64]:
        """Values as numbers (rows,), NaN = missing. Raises InputError, beginning with `where`, for a word or an infinite number."""
        import pyarrow as pa

        try:  # the quick way, where every value is a number
            found = np.asarray(self.columns[column].cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
            if not np.isinf(found).any():
                return found
        except pa.ArrowInvalid:
            pass
        coded = self.coded(column)
        values = np.full(len(coded.values) + 1, np.nan)
        for code, text in enumerate(coded.values):
            try:
                values[code] = float(text)
            except ValueError:
                values[code] = np.inf
        found = values[coded.codes]
        wrong = np.flatnonzero(np.isinf(found))
        if wrong.size:
            text = coded.values[int(coded.codes[wrong[0]])]
            point = "; write decimals with a point" if "," in text else ""
            raise InputError(f"{where} {self.first + int(wrong[0])}: {text[:40]!r} is not a finite number in column {column!r}{point}.")
        return found

    def texts(self, column: str) -> list[str | None]:
        """Values in order, None = missing."""
        return [_text(value) for value in self.columns[column].to_pylist()]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A file that was opened and whose columns are there. unit: `row`, or `line` for JSONL; columns: all of them, as the file has them."""

    path: Path
    unit: str
    columns: tuple[str, ...]
    delimiter: str = ","

    def where(self, number: int) -> str:
        """`decisions.csv, row 17`."""
        return f"{self.path.name}, {self.unit} {number}"

    def need(self, columns: Sequence[str]) -> None:
        """Raises InputError unless the file has these columns."""
        for column in columns:
            if column not in self.columns:
                known = ", ".join(self.columns[:20]) + (", ..." if len(self.columns) > 20 else "")
                raise InputError(f"{self.path} has no column {column!r}; its columns are {known}.")

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """The rows of some columns. Raises InputError at the first row that cannot be read."""
        self.need(columns)
        wanted = list(dict.fromkeys(columns))
        read = {".parquet": _parquet, ".jsonl": _jsonl, ".ndjson": _jsonl}.get(self.path.suffix.lower(), _csv)
        n_rows = 0
        for batch in read(self, wanted):
            n_rows += batch.n
            yield batch
        if not n_rows:
            raise InputError(f"{self.path} names columns and holds no rows.")


def open_table(path: str | Path) -> Table:
    """A table by its file. Raises InputError for another suffix, an unreadable or empty file, or two columns of one name."""
    found = Path(path)
    suffix = found.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{found} is not a table that can be read; its name must end in {', '.join(SUFFIXES)}.")
    try:
        if not found.is_file():
            raise InputError(f"There is no file {found}; check the path.")
        if found.stat().st_size == 0:
            raise InputError(f"{found} is empty.")
        if suffix == ".parquet":
            table = Table(path=found, unit="row", columns=_parquet_columns(found))
        elif suffix in (".jsonl", ".ndjson"):
            table = Table(path=found, unit="line", columns=_jsonl_columns(found))
        else:
            delimiter, columns = _csv_header(found)
            table = Table(path=found, unit="row", columns=columns, delimiter=delimiter)
            _check_quotes(table)
    except OSError as error:
        raise InputError(f"{found} cannot be read: {error.strerror or error}.") from error
    twice = [name for name in table.columns if table.columns.count(name) > 1]
    if twice:
        raise InputError(f"{found} has two columns called {twice[0]!r}; rename one.")
    return table


def _text(value: Any) -> str | None:
    """A value as text, None = missing; whole numbers without a decimal point, truth values in small letters."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, (list, dict)):
        raise InputError("A column that is used holds lists or structures; one value a cell is needed.")
    text = str(value).strip()
    return None if text.lower() in MISSING_WORDS else text


# -- CSV


def _csv_header(path: Path) -> tuple[str, tuple[str, ...]]:
    with path.open("rb") as file:
        line = file.readline(1 << 20)
    try:
        first = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"The first line of {path} is not UTF-8 at byte {error.start}; save the file as UTF-8.") from None
    if "\r" in first:
        raise InputError(f"{path} ends its lines with CR alone, as old Macs did; save it with LF or CR LF.")
    try:
        delimiter = max((",", ";", "\t"), key=first.count)
        names = next(csv.reader([first], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise InputError(f"The first line of {path} is not a header of column names ({error}).") from None
    if not any(name.strip() for name in names):
        raise InputError(f"The first line of {path} must name the columns.")
    return delimiter, tuple(name.strip() for name in names)  # `sex, race` names `race`, as values lose their spaces too


def _check_quotes(table: Table) -> None:
    """A quote that is never closed would swallow the rest of the file as one value: an odd number of them is looked into."""
    with table.path.open("rb") as file:
        n_quotes = sum(block.count(b'"') for block in iter(lambda: file.read(_BLOCK_BYTES), b""))
    if n_quotes % 2:
        _complain_of_rows(table)


def _csv(table: Table, wanted: Sequence[str]) -> Iterator[Batch]:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    try:
        reader = arrow_csv.open_csv(
            table.path,
            read_options=arrow_csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False, column_names=list(table.columns), skip_rows=1),
            parse_options=arrow_csv.ParseOptions(delimiter=table.delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()), include_columns=list(wanted), strings_can_be_null=False
            ),
        )
        first = 1
        for batch in reader:
            yield Batch(first=first, n=batch.num_rows, columns={name: batch.column(name) for name in wanted})
            first += batch.num_rows
    except pa.ArrowInvalid as error:
        if "Empty CSV file" in str(error):
            return
        _complain_of_rows(table)
        if "straddling" in str(error):
            raise InputError(
                f"{table.path} holds a row of more than {_BLOCK_BYTES >> 20} MB; give such texts as JSONL or Parquet."
            ) from None
        raise InputError(f"{table.path} is not CSV that can be read: {str(error).splitlines()[0]}.") from None


def _complain_of_rows(table: Table) -> None:
    """Look through a CSV row by row and raise the InputError that its first broken row deserves; none if there is none."""
    number, width = 0, len(table.columns)
    csv.field_size_limit(1 << 30)
    try:
        with table.path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=table.delimiter, strict=True)
            next(rows)
            for row in rows:
                number += bool(row)
                if row and len(row) != width:
                    raise InputError(
                        f"{table.where(number)} has {len(row)} values, the header names {width} columns; a value that holds "
                        f"{table.delimiter!r} or a line break must stand in double quotes."
                    )
    except UnicodeDecodeError:
        with table.path.open("rb") as raw:
            for line_number, line in enumerate(raw, 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{table.path}, line {line_number} is not UTF-8 at byte {error.start}; save the file as UTF-8."
                    ) from None
    except csv.Error as error:
        what = "opens a quote that is never closed" if "unexpected end" in str(error) else f"is malformed ({error})"
        raise InputError(f"{table.where(number + 1)} {what}.") from None


# -- Parquet


def _parquet_columns(path: Path) -> tuple[str, ...]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return tuple(parquet.read_schema(path).names)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{path} is not a Parquet file that can be read ({str(error).splitlines()[0]}); it may be damaged.") from None


def _parquet(table: Table, wanted: Sequence[str]) -> Iterator[Batch]:
    import pyarrow as pa
    from pyarrow import parquet

    first = 1
    try:
        with parquet.ParquetFile(table.path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(wanted), use_threads=False):
                columns = {name: _flat(batch.column(name), name, table) for name in wanted}
                yield Batch(first=first, n=batch.num_rows, columns=columns)
                first += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{table.where(first)} and on cannot be read ({str(error).splitlines()[0]}); the file may be damaged.") from None


def _flat(column: Any, name: str, table: Table) -> Any:
    import pyarrow as pa

    if pa.types.is_nested(column.type):
        raise InputError(f"Column {name!r} of {table.path} holds lists or structures; one value a cell is needed.")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    is_bytes = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
    return column.cast(pa.string()) if is_bytes else column  # some writers do not say that their texts are texts


# -- JSONL


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = parsed_json(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise InputError(f"{path.name}, line {number} is not UTF-8 at byte {error.start}; save the file as UTF-8.") from None
            except ValueError as error:
                raise InputError(f"{path.name}, line {number} is not JSON ({error}); write one object a line.") from None
            if not isinstance(row, dict):
                raise InputError(f"{path.name}, line {number} is not a JSON object; write one object a line.")
            yield number, row


def _jsonl_columns(path: Path) -> tuple[str, ...]:
    columns = dict.fromkeys(name for _, row in itertools.islice(_objects(path), _HEADER_LINES) for name in row)
    if not columns:
        raise InputError(f"{path} holds no rows.")
    return tuple(columns)


def _jsonl(table: Table, wanted: Sequence[str]) -> Iterator[Batch]:
    """Batches whose rows are lines: empty lines are kept as rows without values, so that numbers stay line numbers."""
    import pyarrow as pa

    def batch(first: int, rows: list[list[str | None]]) -> Batch:
        columns = {name: pa.array([row[place] for row in rows], pa.string()) for place, name in enumerate(wanted)}
        return Batch(first=first, n=len(rows), columns=columns)

    rows: list[list[str | None]] = []
    first, size = 0, 0
    for number, row in _objects(table.path):
        if rows and (number != first + len(rows) or len(rows) == _BATCH_ROWS or size > _BATCH_LINES_BYTES):
            yield batch(first, rows)
            rows, size = [], 0
        if not rows:
            first = number
        try:
            rows.append([_text(row.get(name)) for name in wanted])
        except InputError:
            name = next(name for name in wanted if isinstance(row.get(name), (list, dict)))
            raise InputError(f"{table.where(number)}: {name!r} holds a list or a structure; one value is needed.") from None
        size += sum(len(text) for text in rows[-1] if text)
    if rows:
        yield batch(first, rows)
