"""`trimtab fairness data` on whole files: what it counts, what it writes, what it never repeats."""

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.errors import InputError
from trimtab.flows.fairness_data import fairness_data

SECRET = "jane.roe@mail.example.org"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    lines: list[dict[str, Any]] = []
    for k in range(300):
        group = "old" if k % 3 == 0 else "young"
        word = "slow" if group == "old" else "quick"
        lines.append(
            {"text": f"person number {k} was {word} at task {k * 7 % 50} on day {k % 30}", "group": group, "toxic": int(group == "old")}
        )
    lines.append(lines[0] | {"text": lines[0]["text"].upper() + "!"})
    lines.append(lines[1] | {"toxic": 1})
    lines.append({"text": f"write to {SECRET} or 192.168.4.77", "group": "young", "toxic": 0})
    lines.append({"text": "nobody knows who", "group": None, "toxic": 0})
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_corpus(corpus: Path, tmp_path: Path) -> None:
    found = fairness_data(corpus, text="text", groups=["group"], label="toxic", out=tmp_path / "audit")
    assert found["input"]["rows"] == 304
    assert found["input"]["missing"]["group"] == 1
    assert {row["group"]: row["n"] for row in found["representation"][0]["groups"]} == {"young": 202, "old": 101, "(missing)": 1}
    assert found["label_association"][0]["strength"]["cramers_v"] > 0.9
    words = {group["group"]: [word["word"] for word in group["words"]] for group in found["words"][0]["groups"]}
    assert words["old"][0] == "slow"
    assert words["young"][0] == "quick"
    assert (found["duplicates"]["exact"], found["duplicates"]["label_conflicts"]) == (2, 1)
    assert [(row["kind"], row["places"]) for row in found["personal_data"]] == [("e-mail address", [303]), ("IP address", [303])]
    for name in ("data.json", "datasheet.md", "report.html"):
        text = (tmp_path / "audit" / name).read_text(encoding="utf-8")
        assert SECRET not in text
        assert "192.168.4.77" not in text
    assert json.loads((tmp_path / "audit" / "data.json").read_text())["schema"] == "trimtab.fairness_data/1"


def test_the_datasheet_has_the_headings_and_names_what_is_blank(corpus: Path, tmp_path: Path) -> None:
    fairness_data(corpus, text="text", groups=["group"], label="toxic", out=tmp_path / "audit")
    sheet = (tmp_path / "audit" / "datasheet.md").read_text(encoding="utf-8")
    headings = [
        "Motivation",
        "Composition",
        "Collection process",
        "Preprocessing, cleaning, labelling",
        "Uses",
        "Distribution",
        "Maintenance",
    ]
    assert [line.removeprefix("## ") for line in sheet.splitlines() if line.startswith("## ")] == headings
    assert "304 rows" in sheet
    assert sheet.count("_To be filled in by the people") > 15


def test_groups_without_texts(corpus: Path) -> None:
    found = fairness_data(corpus, groups=["group"], label="toxic")
    assert found["words"] == []
    assert found["duplicates"] is None
    assert found["personal_data"] == []


def test_more_groups_than_a_page_can_show_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("town,school\n" + "".join(f"{k % 50},{k // 50}\n" for k in range(2500)))
    with pytest.raises(InputError, match=r"town x school of .* make more than 2000 groups before row 2501"):
        fairness_data(path, groups=["town", "school"])


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "--fields TEXT,GROUP"),
        ({"text": "body"}, "has no column 'body'; its columns are text, group, toxic"),
        ({"text": "text", "groups": ["text"]}, "'text' is named twice"),
        ({"groups": ["text"]}, "holds more than 200 different values"),
        ({"groups": ["group"], "label": "text"}, "The label 'text' of .* holds more than 200"),
    ],
)
def test_one_sentence_for_what_is_wrong(corpus: Path, tmp_path: Path, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        fairness_data(corpus, out=tmp_path / "audit", **asked)
    assert not (tmp_path / "audit").exists()
