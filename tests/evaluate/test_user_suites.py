"""Suites from the user's files, and what is said when they are wrong."""

from pathlib import Path

import pytest

from trimtab.core.errors import InputError
from trimtab.evaluate.suites import registry
from trimtab.evaluate.suites.registry import Suite, load_suite


def written(folder: Path, name: str, content: str) -> str:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return str(path)


def test_jsonl_of_every_kind(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "mine.jsonl",
        '{"prompt": "2 + 2 =", "options": ["5", "4"], "answer": "4", "cluster": "sums"}\n\n'
        '{"prompt": "The sky is", "answer": "blue", "id": "sky"}\n'
        '{"text": "Some text of mine."}\n'
        '{"prompt": "Tell me a story."}\n'
        '{"prompt": "Say yes.", "options": ["Yes", "No"], "answer": 0, "chat": true, "system": "Be brief."}\n',
    )
    suite = load_suite(path)
    sums, sky, text, prompt, chat = suite.items
    assert suite.name == "mine"
    assert (sums.scorer, sums.options, sums.answer, sums.cluster) == ("margin", (" 5", " 4"), 1, "sums")
    assert (sky.scorer, sky.options, sky.id, sky.cluster) == ("nats_per_token", (" blue",), "sky", "sky")
    assert (text.scorer, text.prompt, text.options) == ("nats_per_token", "", ("Some text of mine.",))
    assert (prompt.scorer, prompt.prompt, prompt.options) == ("nats_per_token", "", ("Tell me a story.",))
    assert (chat.chat, chat.system, chat.options, chat.answer) == (True, "Be brief.", ("Yes", "No"), 0)


def test_toml_and_txt(tmp_path: Path) -> None:
    assert len(load_suite(written(tmp_path, "a.toml", '[[item]]\ntext = "one"\n[[item]]\nprompt = "p"\nanswer = "q"\n')).items) == 2
    assert [item.options for item in load_suite(written(tmp_path, "b.txt", "first\n\n second \n")).items] == [("first",), ("second",)]


def test_a_file_called_like_a_sub_suite_of_core_is_told_apart(tmp_path: Path) -> None:
    suite = load_suite(written(tmp_path, "text.txt", "first\n"))
    assert (suite.name, suite.items[0].suite) == ("my-text", "my-text")


def test_digest_follows_the_items_not_the_spelling(tmp_path: Path) -> None:
    one = load_suite(written(tmp_path, "a.jsonl", '{"text": "x", "id": "1"}'))
    (tmp_path / "b").mkdir()
    two = load_suite(written(tmp_path / "b", "a.jsonl", '{ "id": "1",  "text": "x" }\n'))
    other = load_suite(written(tmp_path / "b", "a.jsonl", '{"text": "y", "id": "1"}'))
    assert one.digest == two.digest != other.digest


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{not json", "not JSON"),
        ('{"text": "\\ud83d"}', "not JSON .it holds half of a character"),
        ('{"text": ' + "[" * 100_000, "not JSON .it is nested too deeply"),
        ("[1]", "an object is needed"),
        ('{"text": ""}', "'text' must be a text that is not empty"),
        ('{"prompt": 3}', "'prompt' must be a text"),
        ('{"prompt": "a", "text": "b"}', "either 'text' or 'prompt'"),
        ('{"answer": "b"}', "either 'text' or 'prompt'"),
        ('{"text": "a", "answer": "b"}', "needs a 'prompt'"),
        ('{"prompt": "a", "options": ["b", "c"]}', "'options' needs an 'answer'"),
        ('{"prompt": "a", "options": ["b"], "answer": "b"}', "at least two"),
        ('{"prompt": "a", "options": "bc", "answer": "b"}', "must be a list"),
        ('{"prompt": "a", "options": ["b", "b"], "answer": "b"}', "are the same"),
        ('{"prompt": "a", "options": ["b", "c"], "answer": "d"}', "one of the options"),
        ('{"prompt": "a", "options": ["b", "c"], "answer": 2}', "0 to 1"),
        ('{"prompt": "a", "options": ["b", "c"], "answer": true}', "0 to 1"),
        ('{"prompt": "a", "answer": 5}', "'answer' must be a text"),
        ('{"prompt": "a", "answer": "b", "colour": "red"}', "unknown key 'colour'"),
        ('{"prompt": "a", "answer": "b", "chat": "yes"}', "true or false"),
        ('{"prompt": "a", "answer": "b", "system": "s"}', "'system' needs"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = written(tmp_path, "mine.jsonl", '{"text": "fine"}\n' + line + "\n")
    with pytest.raises(InputError, match=complaint) as caught:
        load_suite(path)
    assert f"{path}, line 2" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", "", "holds no items"),
        ("a.txt", "\n\n", "holds no items"),
        ("a.toml", "x = ", "not TOML"),
        ("a.toml", "x = 1", r"\[\[item\]\]"),
        ("a.csv", "a,b", "must end in"),
        ("a.jsonl", '{"text": "x", "id": "1"}\n{"text": "y", "id": "1"}', "two items with the id '1'"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, name: str, content: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        load_suite(written(tmp_path, name, content))


def test_absent_binary_and_unknown(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot read"):
        load_suite(str(tmp_path / "none.jsonl"))
    (tmp_path / "bytes.txt").write_bytes(b"abc\xff")
    with pytest.raises(InputError, match="UTF-8 at byte 3"):
        load_suite(str(tmp_path / "bytes.txt"))
    with pytest.raises(InputError, match="the suites are core"):
        load_suite("kore")


class Point:
    name, value = "tools", "package:suite"

    def __init__(self, made: object) -> None:
        self.made = made

    def load(self) -> object:
        return lambda: self.made


def test_suites_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite(name="theirs", version="3", items=load_suite("core").items[:2])
    made: list[object] = [suite]
    monkeypatch.setattr(registry, "entry_points", lambda group, name=None: [Point(made[0])] if name in (None, "theirs") else [])
    assert load_suite("theirs") is suite
    made[0] = "no suite"
    with pytest.raises(InputError, match="not a trimtab Suite"):
        load_suite("theirs")
