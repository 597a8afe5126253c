"""Files of published runs: which kind they are, each row as anchors or the reason why not, and the scheme of each quantity."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from trimtab.core.errors import InputError
from trimtab.plan.anchors.scheme import Anchor, Scheme
from trimtab.plan.serving.features import SCHEMES as SERVING
from trimtab.plan.serving.rows import anchors as serving_anchors
from trimtab.plan.training.features import SCHEMES as TRAINING
from trimtab.plan.training.rows import anchors as training_anchors

Table = Literal["training", "steps", "serving sweep", "inference"]
KNOWN_BY: Mapping[Table, tuple[str, ...]] = {
    "training": ("model", "device", "n_devices", "tok_s_per_device"),
    "steps": ("# GPUs", "hidden size", "iteration time (ms)"),
    "serving sweep": ("model_path", "system", "silicon_tpot_ms"),
    "inference": ("model", "device", "engine", "tok_s_per_user"),
}
SCHEMES: Mapping[str, Scheme] = {**TRAINING, **SERVING}
LARGEST_BYTES = 512 * 2**20


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a file: its anchors, one a measured quantity, or why there is none. aside: it tells no measurement; it is not scored."""

    file: str
    line: int
    id: str
    source: str
    anchors: tuple[Anchor, ...] = ()
    why: str = ""
    aside: bool = False


def read_files(paths: Sequence[str]) -> tuple[Row, ...]:
    """The rows of all files. Raises `InputError` for a file that cannot be read or is of no known kind."""
    return tuple(row for path in paths for row in _rows(path, _text(path)))


def _text(path: str) -> str:
    try:
        size = Path(path).stat().st_size
        if size > LARGEST_BYTES:
            raise InputError(f"{path} has {size / 1e9:.1f} GB, more than a table of runs; split it.")
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); give a CSV of published runs.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text in UTF-8; save it as CSV in UTF-8.") from None


def _rows(path: str, text: str) -> Iterator[Row]:
    if not text.strip():
        raise InputError(f"{path} is empty; the first line must name the columns.")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        table = _table(path, [name.strip() for name in reader.fieldnames or ()])
        for cells in reader:
            plain = {
                name.strip(): (value or "").strip()
                for name, value in cells.items()
                if isinstance(name, str) and not isinstance(value, list)
            }
            if any(plain.values()):
                yield _row(path, reader.line_num, table, plain)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}; it is no CSV that can be read.") from None


def _table(path: str, columns: Sequence[str]) -> Table:
    for table, names in KNOWN_BY.items():
        if set(names) <= set(columns):
            return table
    table, missing = min(
        ((table, [name for name in names if name not in columns]) for table, names in KNOWN_BY.items()), key=lambda found: len(found[1])
    )
    raise InputError(f"{path} has the columns of no table of runs; for one of {table} it lacks {', '.join(missing)}.")


def publisher(source: str) -> str:
    """Whose runs they are: `github:NVIDIA/Megatron-LM` of `github:NVIDIA/Megatron-LM@d98e8a README.md`. Files of one publisher are no
    independent sources."""
    first = (source.split() or [""])[0].rstrip(",;")
    return first.split("@")[0] if any(mark in first for mark in ":/") else source.strip()


def _row(path: str, line: int, table: Table, cells: Mapping[str, str]) -> Row:
    name = cells.get("id") or f"line {line}"
    told = publisher(cells.get("source") or cells.get("silicon_data_source") or Path(path).name)
    kind = cells.get("kind", "")
    if kind and kind != "measured":
        return Row(file=path, line=line, id=name, source=told, why=f"It is {kind}, not a measured run.", aside=True)
    read = training_anchors if table in ("training", "steps") else serving_anchors
    anchors, refused = read([{**cells, "id": name}])
    if not anchors:
        why = refused[0].why if refused else "It tells nothing measured that the planner predicts."
        return Row(file=path, line=line, id=name, source=told, why=why)
    found = tuple(replace(anchor, id=name, source=publisher(anchor.source)) for anchor in anchors)
    return Row(file=path, line=line, id=name, source=found[0].source, anchors=found)
