"""Tasks of lm-eval inside `evaluate`: with a stand-in for lm-eval, and with itself where it is installed."""

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import pytest

from trimtab import bridges
from trimtab.core.errors import InputError, MissingError
from trimtab.evaluate.suites.registry import load_suite
from trimtab.flows.parts.outside import load_outside, split_names

INSTALLED = importlib.util.find_spec("lm_eval") is not None
WORDS = ("the", "small", "boat", "turned", "slowly", "into", "wind", "and", "old", "sailor", "watched", "water", "near", "shore")


def rows(n):
    return [
        {
            "query": f"Question: who saw the {WORDS[k % 14]} and the {WORDS[(3 * k + 1) % 14]}?\nAnswer:",
            "choices": [f" {WORDS[(k + shift) % 14]}" for shift in (2, 5, 9)],
            "gold": k % 3,
            "target": k % 3,
            "passage": f"passage {k // 2}",
        }
        for k in range(n)
    ]


@pytest.fixture
def stand_in(monkeypatch):
    def forget():
        for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval" or name == "trimtab.bridges.lm_eval"]:
            del sys.modules[name]

    forget()
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fake"))
    yield
    forget()


def task(folder, name, kind="choice", n=12, **more):
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"task": name, "kind": kind, "rows": rows(n), **more}))
    return str(path)


def test_what_follows_the_tools_name_is_the_tools():
    assert split_names(["core,bias", "lm-eval:arc_easy,bbq"]) == (["core", "bias"], ["lm-eval:arc_easy,bbq"])
    assert split_names(["core,lm-eval:arc_easy,bbq?limit=5"]) == (["core"], ["lm-eval:arc_easy,bbq?limit=5"])
    assert split_names(["bbq:my-lm-eval:x.jsonl"]) == (["bbq:my-lm-eval:x.jsonl"], [])


@pytest.mark.skipif(INSTALLED, reason="lm-eval is installed")
def test_without_lm_eval_the_command_that_gets_it_is_named():
    with pytest.raises(MissingError, match=r"pip install lm-eval==0\.4\.13"):
        load_outside("lm-eval:arc_easy", offline=True)


def test_other_verbs_say_where_such_tasks_belong():
    with pytest.raises(InputError, match="trimtab evaluate --suite lm-eval:arc_easy"):
        load_suite("lm-eval:arc_easy")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Name tasks of lm-eval"),
        ("arc_easy?limit=none", r"may stand \?limit=N"),
        ("arc_easy?shots=3", r"may stand \?limit=N"),
        ("arc_hard", "no task 'arc_hard'; near it are arc_easy"),
        ("gone.yaml", "FileNotFoundError"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(stand_in, text, says):
    with pytest.raises((InputError, MissingError), match=says) as caught:
        load_outside(f"lm-eval:{text}", offline=True)
    assert "\n" not in str(caught.value)


def test_data_that_no_hub_gives_is_one_sentence(stand_in):
    with pytest.raises(MissingError, match=r"'arc_easy' of lm-eval cannot be loaded with its data .*connect to the hub once") as caught:
        load_outside("lm-eval:arc_easy", offline=True)
    assert "\n" not in str(caught.value)


def test_items_clusters_and_samples(stand_in, tmp_path):
    whole = load_outside(f"lm-eval:{task(tmp_path, 'mine')}", offline=True)
    assert whole.version == "lm-eval 0.4.13+fake"
    assert len(whole.items) == 12
    item = whole.items["mine/4"]
    assert (item.suite, item.scorer, item.answer, item.options) == ("mine", "margin", 1, (" wind", " sailor", " shore"))
    assert len({one.cluster for one in whole.items.values()}) == 6, "two documents share a passage"
    some = load_outside(f"lm-eval:{task(tmp_path, 'mine')}?limit=5", offline=True)
    assert len(some.items) == 5
    assert all(whole.items[key] == one for key, one in some.items.items()), "a document keeps its number"
    again = load_outside(f"lm-eval:{task(tmp_path, 'mine')}", offline=True)
    assert again.digest == whole.digest != some.digest
    (tmp_path / "mine.yaml").write_text((tmp_path / "mine.yaml").read_text().replace("small", "large"))
    assert load_outside(f"lm-eval:{tmp_path / 'mine.yaml'}", offline=True).digest != whole.digest


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    pytest.importorskip("llama_cpp")
    from trimtab.testing.tiny_models import write_tiny_gguf

    root = tmp_path_factory.mktemp("lm-eval")
    write_tiny_gguf(root / "model.gguf", architecture="qwen2", seed=1, weight_type="F16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(root / "state"))
        yield root / "model.gguf"


@pytest.mark.model
@pytest.mark.slow
def test_both_sides_are_paired_item_by_item(stand_in, model, tmp_path):
    from trimtab.flows.evaluate import evaluate

    kinds = {"quiz": "choice", "story": "text", "prose": "words", "sums": "made"}
    files = [task(tmp_path, name, kind, **({"shots": 2} if name == "quiz" else {})) for name, kind in kinds.items()]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": " ".join(WORDS[n:] + WORDS[:n])}) + "\n" for n in range(12)))
    options = {"suites": [f"{tmp_path / 'own.jsonl'}", f"lm-eval:{','.join(files)}"], "reference": str(model)}
    found = evaluate(f"llamacpp:{model}?recipe=llamacpp-q8_0", out=tmp_path / "run", **options)
    levels = {row["suite"]: row for row in found["levels"]}
    assert {name: row["unit"] for name, row in levels.items()} == {
        "own": "nats/token", "quiz": "nats", "story": "nats", "prose": "nats/word", "sums": "share",
    }  # fmt: skip
    quiz = levels["quiz"]
    assert (quiz["level"]["n"], quiz["level"]["n_clusters"], quiz["n_missing"]) == (12, 6, 0)
    assert quiz["change"]["low"] <= quiz["change"]["value"] <= quiz["change"]["high"]
    assert abs(quiz["change"]["value"]) < 0.2, "the same examples stand before a question on both sides"
    assert 0.0 < quiz["calibration"]["brier"]["value"] < 2.0
    assert quiz["calibration"]["brier_change"]["n"] == 12
    assert "prose" in levels
    assert found["suite"]["n_items"] == 60
    page = (tmp_path / "run" / "items.html").read_text(encoding="utf-8")
    assert "who saw the" in page
    again = evaluate(f"llamacpp:{model}?recipe=llamacpp-q8_0", out=tmp_path / "again", **options)
    assert again["levels"] == found["levels"]
    assert again["work"]["computed"] == 0


@pytest.mark.model
@pytest.mark.slow
def test_lm_evals_own_command_line_has_the_model(stand_in, model, monkeypatch, capsys):
    told = []
    for recipe in ("llamacpp-q8_0", "llamacpp-q2_k"):
        spec = f"spec=llamacpp:{model}?recipe={recipe}"
        monkeypatch.setattr(sys, "argv", ["lm_eval", "run", "--model", "trimtab", "--model_args", spec])
        runpy.run_path(str(Path(bridges.__file__).with_name("lm_eval.py")), run_name="__main__")
        told.append(json.loads(capsys.readouterr().out))
    (likely, texts), (worse, _) = told
    assert all(logprob < 0 and is_greedy in (True, False) for logprob, is_greedy in likely)
    assert len(texts) == 1
    assert [one for one, _ in likely] != [one for one, _ in worse], "the settings and the recipe of the spec are used"


@pytest.mark.model
@pytest.mark.slow
def test_a_prompt_that_does_not_fit_is_refused_and_names_that_clash_are_too(stand_in, model, tmp_path):
    from trimtab.flows.evaluate import evaluate

    (tmp_path / "quiz.jsonl").write_text(json.dumps({"text": "the small boat"}))
    with pytest.raises(InputError, match="both have items called 'quiz'"):
        evaluate(str(model), suites=[f"{tmp_path / 'quiz.jsonl'},lm-eval:{task(tmp_path, 'quiz')}"], out=tmp_path / "clash")
    with pytest.raises(InputError, match=r"more than the context of 64; give both models room"):
        evaluate(f"{model}?context_tokens=64", suites=[f"lm-eval:{task(tmp_path, 'long', shots=40)}"], out=tmp_path / "long")


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="lm-eval is not installed")
def test_lm_eval_itself_on_a_local_task(model, tmp_path, monkeypatch):
    from trimtab.flows.evaluate import evaluate

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(14)))
    (tmp_path / "quiz.yaml").write_text(
        f"task: quiz\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path / 'rows.jsonl'}\ntest_split: test\n"
        "fewshot_split: test\nnum_fewshot: 2\noutput_type: multiple_choice\ndoc_to_text: '{{query}}'\ndoc_to_target: gold\n"
        "doc_to_choice: '{{choices}}'\ntarget_delimiter: ''\nmetric_list:\n  - metric: acc\n"
    )
    found = evaluate(
        f"llamacpp:{model}?recipe=llamacpp-q8_0",
        suites=[f"lm-eval:{tmp_path / 'quiz.yaml'}?limit=9"],
        reference=str(model),
        out=tmp_path / "run",
        offline=True,
    )
    (row,) = found["levels"]
    assert (row["suite"], row["unit"], row["level"]["n"], row["n_missing"]) == ("quiz", "nats", 9, 0)
    assert abs(row["change"]["value"]) < 0.2
    assert row["calibration"] is not None
    with pytest.raises(MissingError, match="cannot be loaded with its data"):
        load_outside("lm-eval:arc_easy", offline=True)
