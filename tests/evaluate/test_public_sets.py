"""Public sets from the files that users bring: what becomes of a row, and what is said of a file that is none."""

import json
from pathlib import Path

import pytest

from trimtab.core.errors import InputError
from trimtab.core.policy import GateSpec
from trimtab.decide.policies import catalog_gate
from trimtab.evaluate.suites.public import READERS, public_sets
from trimtab.evaluate.suites.registry import load_suite

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
PUBLISHED = {
    "crows-pairs": ("bias/crows_pairs.csv", {"crows-pairs": 1508}),
    "bbq": ("bias/bbq_Religion.jsonl", {"bbq-told": 600, "bbq-ambiguous": 600, "bbq-lean": 600}),
    "winogender": ("bias/winogender_sentences.tsv", {"winogender": 240}),
    "winobias": ("bias/winobias/pro_stereotyped_type1.txt.dev", {"winobias": 396}),
    "xstest": ("safety/xstest_prompts.csv", {"xstest": 200, "xstest-safe": 250}),
    "simplesafetytests": ("safety/simplesafetytests.csv", {"simplesafetytests": 100}),
    "harmbench": ("safety/harmbench_behaviors.csv", {"harmbench": 400}),
    "arc": ("quality/arc_easy.jsonl", {"arc": 2376}),
    "openbookqa": ("quality/openbook_qa.jsonl", {"openbookqa": 500}),
    "boolq": ("quality/boolq.jsonl", {"boolq": 3270}),
    "copa": ("quality/copa.jsonl", {"copa": 100}),
    "lambada": ("quality/lambada_openai.jsonl", {"lambada": 5153}),
    "gsm8k": ("quality/gsm8k_test.jsonl", {"gsm8k": 1319}),
}


def test_every_set_has_a_reader_a_licence_and_gates():
    assert set(READERS) == set(public_sets()) == set(PUBLISHED)
    assert all(row["url"].startswith("https://") and row["licence"] and row["sha256"] for row in public_sets().values())
    for _, suites in PUBLISHED.values():
        assert all(isinstance(catalog_gate(suite), GateSpec) for suite in suites)
    assert catalog_gate("mine") is None


@pytest.mark.skipif(not DATA.is_dir(), reason="the public data are not here")
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_files_are_read_whole(name):
    file, expected = PUBLISHED[name]
    suite = load_suite(f"{name}:{DATA / file}")
    counts: dict[str, int] = {}
    for item in suite.items:
        counts[item.suite] = counts.get(item.suite, 0) + 1
        assert item.favoured or item.scorer != "contrast"
        assert 0 <= item.answer < len(item.options)
    assert counts == expected
    assert suite.version.startswith("as published, ")
    assert suite.name == f"{name}:{Path(file).name}"


def row(**changes):
    base = {
        "example_id": 1,
        "question_index": "3",
        "question_polarity": "neg",
        "context_condition": "ambig",
        "category": "Hats",
        "answer_info": {"ans0": ["the tall one", "tall"], "ans1": ["the small one", "small"], "ans2": ["Unknown", "unknown"]},
        "additional_metadata": {"stereotyped_groups": ["small"]},
        "context": "A tall and a small one met.",
        "question": "Who lost the hat?",
        "ans0": "The tall one",
        "ans1": "The small one",
        "ans2": "Unknown",
        "label": 2,
    }
    return json.dumps(base | changes) + "\n"


def test_bbq_leans_towards_the_stereotype_whatever_is_asked(tmp_path):
    path = tmp_path / "bbq.jsonl"
    told = {"example_id": 3, "context_condition": "disambig", "label": 0}
    path.write_text(row() + row(example_id=2, question_polarity="nonneg") + row(**told))
    suite = load_suite(f"bbq:{path}")
    items = {item.id: item for item in suite.items}
    lean, mild = items["bbq-lean-Hats-1"], items["bbq-lean-Hats-2"]
    assert lean.options == mild.options == (" The tall one", " The small one")
    assert (lean.favoured, mild.favoured) == ((1,), (0,)), "of a good thing the stereotype is that the other one did it"
    assert items["bbq-ambiguous-Hats-1"].answer == 2
    assert (items["bbq-told-Hats-3"].answer, items["bbq-told-Hats-3"].cluster) == (0, "bbq-Hats-3")
    assert suite.version.startswith("not a published file, ")


@pytest.mark.parametrize(
    "rows",
    [
        {"query": "Q?", "choices": ["a", "b"], "gold": 1},
        {"question": {"stem": "Q?", "choices": [{"text": "a", "label": "A"}, {"text": "b", "label": "B"}]}, "answerKey": "B"},
        {"question": "Q?", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"},
    ],
)
def test_three_forms_of_the_same_question(tmp_path, rows):
    (tmp_path / "q.jsonl").write_text(json.dumps(rows))
    (item,) = load_suite(f"arc:{tmp_path / 'q.jsonl'}").items
    assert (item.options, item.answer) == ((" a", " b"), 1)
    assert item.prompt.endswith("Q?\nAnswer:")


def test_requests_have_the_kinds_of_their_authors(tmp_path):
    (tmp_path / "x.csv").write_text("id,prompt,type,label\n1,Kill it?,homonyms,safe\n2,Kill him?,contrast,unsafe\n3,Why?,,safe\n")
    suite = load_suite(f"xstest:{tmp_path / 'x.csv'}")
    assert suite.kinds == {"xstest-safe-1": "homonyms", "xstest-2": "contrast"}
    (tmp_path / "y.csv").write_text("prompt,label\nKill it?,safe\n")
    assert load_suite(f"xstest:{tmp_path / 'y.csv'}").kinds == {}
    assert load_suite(f"bbq:{written(tmp_path)}").kinds == {}


def written(folder):
    (folder / "bbq.jsonl").write_text(row())
    return folder / "bbq.jsonl"


def test_a_request_carries_its_context(tmp_path):
    (tmp_path / "h.csv").write_text('Behavior,ContextString\n"Say it, please.",Some text.\nSay it.,\n')
    first, second = load_suite(f"harmbench:{tmp_path / 'h.csv'}").items
    assert first.prompt == "Say it, please.\n\nSome text."
    assert second.prompt == "Say it."
    assert first.chat


@pytest.mark.parametrize(
    ("name", "file", "text", "says"),
    [
        ("bbq", "a.jsonl", "{", "line 1: not JSON"),
        ("bbq", "a.jsonl", "[1]\n", "line 1: there is no 'example_id'"),
        ("bbq", "a.jsonl", row(answer_info={}), "line 1: not a row of BBQ"),
        ("arc", "a.jsonl", '{"query": "q", "choices": ["a"], "gold": 0}', "line 1: not a question with choices"),
        ("arc", "a.jsonl", '\n{"question": "q"}', "line 2: not a question"),
        ("crows-pairs", "a.csv", "a,b\n1,2\n", "has no column 'sent_more'; its columns are a, b"),
        ("crows-pairs", "a.csv", "sent_more,sent_less,bias_type\nx,,age\n", "line 2: 'sent_less' is empty"),
        ("crows-pairs", "a.csv", 'sent_more,sent_less,bias_type\n"x,y\n', "not CSV"),
        ("xstest", "a.csv", "prompt,label\n", "holds no items"),
        ("xstest", "a.csv", '"a"b,c\n1,2\n', "line 1: not CSV"),
        ("gsm8k", "a.jsonl", '{"question": "q", "answer": null}', "line 1: 'answer' must be a text that is not empty"),
        ("lambada", "a.jsonl", '{"context": "a b", "continuation": " "}', "line 1: 'continuation' must be a text"),
        ("bbq", "a.jsonl", row(question="\ud83d"), "line 1: not JSON .it holds half of a character"),
        ("winogender", "a.tsv", "sentid\tsentence\nx\ty\n", "'x' is not the name"),
        ("winobias", "a.txt", "1 x\n", "needs the other file"),
        ("gsm8k", "none.jsonl", None, "Cannot read"),
    ],
)
def test_what_is_no_such_file_is_named(tmp_path, name, file, text, says):
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=says):
        load_suite(f"{name}:{tmp_path / file}")


def test_the_twin_of_a_winobias_file_is_read_as_carefully(tmp_path):
    (tmp_path / "pro_stereotyped_type1.txt.dev").write_text("1 x [y].\n")
    (tmp_path / "anti_stereotyped_type1.txt.dev").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"anti_stereotyped_type1.txt.dev is not UTF-8 at byte 0"):
        load_suite(f"winobias:{tmp_path / 'pro_stereotyped_type1.txt.dev'}")


def test_an_item_twice_is_noticed(tmp_path):
    (tmp_path / "bbq.jsonl").write_text(row() + row())
    with pytest.raises(InputError, match="has an item twice"):
        load_suite(f"bbq:{tmp_path / 'bbq.jsonl'}")
