"""Tables of others: the same rows from every format, and one sentence with row and column for what is wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from trimtab.core.errors import InputError
from trimtab.sources.table import open_table

ROWS: list[dict[str, Any]] = [
    {"sex": "F", "ok": True, "score": 0.25, "n": 3},
    {"sex": None, "ok": False, "score": 1.0, "n": 4},
    {"sex": "M, or so", "ok": True, "score": float("nan"), "n": 3},
]


def written(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        lines = ["sex;ok;score;n", "F;true;0.25;3", " ;false;1.0;4", '"M, or so";true;NaN;3']
        path.write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_the_same_rows_from_every_format(tmp_path: Path, kind: str) -> None:
    table = open_table(written(tmp_path, kind))
    assert table.columns == ("sex", "ok", "score", "n")
    (batch,) = table.batches(["sex", "ok", "score", "n"])
    sex = batch.coded("sex")
    assert [None if code < 0 else sex.values[code] for code in sex.codes] == ["F", None, "M, or so"]
    assert batch.texts("ok") == ["true", "false", "true"]
    assert batch.texts("n") == ["3", "4", "3"]
    numbers = batch.numbers("score", "row")
    assert numbers[:2].tolist() == [0.25, 1.0]
    assert np.isnan(numbers[2])


def test_row_numbers_go_on_over_batches(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("a,b\n" + "".join(f"{number},{'x' * 40}\n" for number in range(300_000)))
    firsts = [(batch.first, batch.texts("a")[0], batch.n) for batch in open_table(path).batches(["a"])]
    assert len(firsts) > 1
    assert all(text == str(first - 1) for first, text, _ in firsts)
    assert sum(n for *_, n in firsts) == 300_000


def test_empty_lines_of_jsonl_do_not_shift_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n{"a": "x"}\n')
    batches = list(open_table(path).batches(["a"]))
    assert [(batch.first, batch.texts("a")) for batch in batches] == [(1, ["1"]), (3, ["2", "x"])]
    with pytest.raises(InputError, match=r"t\.jsonl, line 4: 'x' is not a finite number in column 'a'\.$"):
        batches[1].numbers("a", "t.jsonl, line")


def test_decimals_with_a_comma_are_told_so(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a;b\n1;0,5\n")
    with pytest.raises(InputError, match=r"t\.csv, row 1: '0,5' is not a finite number in column 'b'; write decimals with a point"):
        next(open_table(path).batches(["b"])).numbers("b", "t.csv, row")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.xlsx", b"x", r"must end in \.csv"),
        ("t.csv", b"", r"is empty"),
        ("t.csv", b"a,b\n", r"names columns and holds no rows"),
        ("t.csv", b"a,b\n1,2\n3\n", r"t\.csv, row 2 has 1 values, the header names 2 columns"),
        ("t.csv", b"a,b\n1,2\n3,4,5\n", r"row 2 has 3 values"),
        ("t.csv", b'a,b\n1,2\n3,"4\n5,6\n', r"row 2 opens a quote that is never closed"),
        ("t.csv", b"a,b\n1,2\n3,\xff\n", r"line 3 is not UTF-8 at byte 2"),
        ("t.csv", b"a,a\n1,2\n", r"two columns called 'a'"),
        ("t.csv", b"\xff\xfe\x00", r"first line of .* is not UTF-8 at byte 0; save the file as UTF-8"),
        ("t.csv", b"a,b\r1,2\r", r"CR alone, as old Macs did"),
        ("t.csv", b'"a"x,b\n1,2\n', r"not a header of column names"),
        ("t.jsonl", b"\n\n", r"holds no rows"),
        ("t.jsonl", b'{"a": 1, "b": 2}\n{"a": 1\n', r"t\.jsonl, line 2 is not JSON"),
        ("t.jsonl", b'{"a": 1, "b": 2}\n[1]\n', r"line 2 is not a JSON object"),
        ("t.jsonl", b'{"a": 1, "b": 2}\n{"a": [1], "b": 2}\n', r"line 2: 'a' holds a list"),
        ("t.jsonl", b'{"a": 1, "b": 2}\n{"a": "\xff"}\n', r"line 2 is not UTF-8"),
        ("t.jsonl", b'{"a": "\\ud83d", "b": 2}\n', r"t\.jsonl, line 1 is not JSON \(it holds half of a character"),
        ("t.csv", b"a,b\r\n1,2\r\n3,4,5\r\n", r"row 2 has 3 values"),
        ("t.csv", b"a;b\n1;2\n3\n", r"row 2 has 1 values.*holds ';' or"),
        ("t.csv", b"a,b\n1,\xe9\n", r"line 2 is not UTF-8 at byte 2; save the file as UTF-8"),
        ("t.csv", b"\n\n", r"must name the columns"),
        ("t.csv.gz", b"x", r"must end in \.csv"),
        ("t.parquet", b"PAR1 but not really", r"is not a Parquet file that can be read"),
        ("t.csv", b"x,y\n1,2\n", r"has no column 'a'; its columns are x, y"),
    ],
)
def test_one_sentence_for_what_is_wrong(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        list(open_table(path).batches(["a", "b"]))
    assert "\n" not in str(caught.value)


def test_rows_of_any_length_but_in_csv_not_beyond_a_block(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + f"{'x' * 900_000},1\n" * 3)
    assert sum(batch.n for batch in open_table(path).batches(["b"])) == 3
    path.write_text("a,b\n1,2\n" + f"{'x' * 3_000_000},1\n" * 3)
    with pytest.raises(InputError, match="a row of more than 1 MB"):
        list(open_table(path).batches(["b"]))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        open_table(tmp_path / "gone.csv")


def test_lists_in_parquet_are_refused_with_their_column(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"a": [[1], [2]]}), path)
    with pytest.raises(InputError, match="Column 'a' of"):
        list(open_table(path).batches(["a"]))


def test_spaces_around_the_names_of_a_header_are_no_part_of_them(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('sex, race ,"approved"\n F , A,1\n')
    table = open_table(path)
    assert table.columns == ("sex", "race", "approved")
    (batch,) = table.batches(["race", "sex"])
    assert (batch.texts("sex"), batch.texts("race")) == (["F"], ["A"])


def test_a_key_that_the_first_object_leaves_out_is_a_column(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1}\n{"a": 2, "b": "x"}\n')
    table = open_table(path)
    assert table.columns == ("a", "b")
    (batch,) = table.batches(["b"])
    assert batch.texts("b") == [None, "x"]


def test_texts_that_parquet_calls_bytes_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"a": pa.array([b"F", b"M", None], pa.binary())}), path)
    (batch,) = open_table(path).batches(["a"])
    assert batch.texts("a") == ["F", "M", None]
    parquet.write_table(pa.table({"a": pa.array([b"\xff"], pa.binary())}), path)
    with pytest.raises(InputError, match=r"t\.parquet, row 1 and on cannot be read"):
        list(open_table(path).batches(["a"]))


def test_dictionaries_in_parquet_are_values(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"a": pa.array(["x", "y", "x", None]).dictionary_encode()}), path)
    (batch,) = open_table(path).batches(["a"])
    assert batch.texts("a") == ["x", "y", "x", None]
    assert batch.coded("a").codes.tolist() == [0, 1, 0, -1]
