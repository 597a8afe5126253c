"""The verb as typed: a file alone, exit codes, JSON, one sentence for wrong input."""

import json
from pathlib import Path

import pytest

from trimtab.cli.main import main


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = ["sex,ok,right"]
    for sex, selected in (("F", 200), ("M", 210), ("X", 20)):
        n = 25 if sex == "X" else 400
        rows += [f"{sex},{int(k < selected)},{k % 2}" for k in range(n)]
    Path("small.csv").write_text("\n".join(rows) + "\n")
    Path("alike.csv").write_text("sex,ok\n" + "".join(f"{sex},{k % 2}\n" for sex in "FM" for k in range(2000)))
    Path("apart.csv").write_text("sex,ok\n" + "".join(f"{sex},{int(sex == 'M' or k % 2)}\n" for sex in "FM" for k in range(2000)))
    Path("texts.jsonl").write_text('{"text": "a b c", "who": "x"}\n{"text": "d e f", "who": "y"}\n')
    Path("broken.jsonl").write_text('{"text": "a", "who": "x"}\n{"text": \n')


@pytest.mark.parametrize(("file", "code"), [("alike.csv", 0), ("apart.csv", 1), ("small.csv", 4)])
def test_exit_codes(file: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fairness", file, "--decision", "ok", "--group", "sex", "-q"]) == code
    shown = capsys.readouterr().out
    assert {0: "passed", 1: "failed", 4: "cannot tell"}[code] in shown


def test_a_file_first_or_the_part_by_name_and_options_before_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    for words in (["alike.csv", "--decision", "ok"], ["decisions", "alike.csv", "--decision", "ok"], ["--decision", "ok", "alike.csv"]):
        assert main(["fairness", *words, "--group", "sex", "--json", "-q"]) == 0
        seen.append(json.loads(capsys.readouterr().out))
    assert seen[0] == seen[1] == seen[2]
    assert seen[0]["schema"] == "trimtab.fairness/1"


def test_groups_named_one_by_one_are_all_judged(capsys: pytest.CaptureFixture[str]) -> None:
    for groups in (["--group", "sex,right"], ["--group", "sex", "--group", "right"]):
        main(["fairness", "small.csv", "--decision", "ok", *groups, "--json", "-q"])
        assert json.loads(capsys.readouterr().out)["input"]["columns"]["groups"] == ["sex", "right"]


def test_data_exits_with_0_and_help_names_both_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fairness", "data", "texts.jsonl", "--fields", "text,who", "--out", "audit", "-q"]) == 0
    assert "datasheet.md" in capsys.readouterr().out.replace("\n", "")
    assert main(["fairness", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "decisions" in shown
    assert "data" in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("fairness gone.csv --decision ok --group sex", "There is no file gone.csv"),
        ("fairness small.csv --decision ok", "--group"),
        ("fairness small.csv --decision ok --group sex,", "'sex,' holds an empty name"),
        ("fairness small.csv --decision ok --group gender", "no column 'gender'"),
        ("fairness small.csv --decision ok --group sex --policy none.toml", "none.toml"),
        ("fairness data broken.jsonl --fields text,who", "broken.jsonl, line 2 is not JSON"),
        ("fairness data texts.jsonl", "--fields TEXT,GROUP"),
    ],
)
def test_one_sentence_and_exit_code_2(arguments: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments.split(), "-q"]) == 2
    told = capsys.readouterr()
    assert says in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""
