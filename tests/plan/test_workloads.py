"""Workloads by name, by file and written out; what is wrong is said."""

import re
from pathlib import Path

import pytest

from trimtab.core.errors import InputError
from trimtab.core.workload import Workload
from trimtab.plan.workloads import load_workload, workload_names


def test_chat_ships():
    chat = load_workload("chat")
    assert (chat.name, chat.prompt_tokens, chat.output_tokens, chat.concurrency) == ("chat", 512, 128, (1, 4))
    assert "chat" in workload_names()
    for name in workload_names():
        assert load_workload(name).name == name


def test_the_shipped_ones_are_those_of_the_page():
    page = (Path(__file__).parents[2] / "docs" / "workloads.md").read_text()
    told = re.findall(r"^\| `(\w+)`[^|]*\| ([\d,]+) / ([\d,]+)(?:, the first ([\d,]+) [^|]*)? \| ([\d and]+) \|", page, re.M)
    shared = {name: int((first or "0").replace(",", "")) for name, _, _, first, _ in told}
    lengths = {name: (int(prompt.replace(",", "")), int(output), levels) for name, prompt, output, _, levels in told}
    assert lengths == {
        "chat": (512, 128, "1 and 4"),
        "rag": (1536, 64, "1 and 4"),
        "write": (64, 256, "1 and 4"),
        "batch": (512, 128, "16"),
        "agent": (1280, 48, "1 and 4"),
    }
    for name in workload_names():
        found = load_workload(name)
        assert (found.prompt_tokens, found.output_tokens, " and ".join(map(str, found.concurrency))) == lengths[name]
        assert found.shared_prefix_tokens == shared[name]


@pytest.mark.parametrize(("text", "levels"), [("512/128@1,4", (1, 4)), ("512/128", (1,)), (" 512/128@4,1 ", (1, 4))])
def test_written_out(text, levels):
    assert load_workload(text) == Workload(name=text.strip(), prompt_tokens=512, output_tokens=128, concurrency=levels)


def test_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nprompt_tokens = 100\noutput_tokens = 2\nconcurrency = [8, 2]\n')
    assert load_workload(str(path)) == Workload(name="mine", prompt_tokens=100, output_tokens=2, concurrency=(2, 8))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("chatt", "one of agent, batch, chat"),
        ("", "Unknown workload"),
        ("512/", "Unknown workload"),
        ("512/128@", "Unknown workload"),
        ("512/128@1;4", "Unknown workload"),
        ("0/128", "'prompt_tokens' .* at least 1, not 0"),
        ("512/1", "'output_tokens' .* at least 2, not 1"),
        ("512/128@0", "'concurrency' .* at least 1, not 0"),
        ("512/128@4,4", "twice"),
        ("missing.toml", "cannot be read"),
    ],
)
def test_wrong_words(text, says):
    with pytest.raises(InputError, match=says):
        load_workload(text)


GOOD = {"name": '"x"', "prompt_tokens": "8", "output_tokens": "4", "concurrency": "[1]"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": None}, "lacks 'name'"),
        ({"concurrency": None}, "lacks 'concurrency'"),
        ({"typo": "1"}, "Unknown key 'typo'"),
        ({"name": "3"}, "must be text"),
        ({"prompt_tokens": "1.5"}, "not 1.5"),
        ({"prompt_tokens": "true"}, "not True"),
        ({"prompt_tokens": '"8"'}, "not '8'"),
        ({"concurrency": "4"}, "must be a list"),
        ({"concurrency": "[]"}, "must be a list"),
        ({"concurrency": '["1"]'}, "not '1'"),
        ({"name": '"'}, "cannot be read"),
    ],
)
def test_wrong_files_are_named(tmp_path, change, says):
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(f"{key} = {value}" for key, value in (GOOD | change).items() if value is not None))
    with pytest.raises(InputError, match=says) as caught:
        load_workload(str(path))
    assert "mine.toml" in str(caught.value)
