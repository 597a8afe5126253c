"""Logs of other tools as outcomes, and judged as evidence."""

import json
import random
import zipfile

import pytest

from trimtab.core.errors import InputError
from trimtab.evaluate.logs import read_log
from trimtab.flows.logs import compare_logs


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lm_row(number, logprobs, target, acc):
    return {
        "doc_id": number,
        "doc_hash": f"hash{number}",
        "target": str(target),
        "filtered_resps": [[str(one), "False"] for one in logprobs],
        "metrics": ["acc", "acc_norm"],
        "acc": acc,
        "acc_norm": acc,
    }


def test_multiple_choice_of_lm_eval_is_a_margin(tmp_path):
    rows = [lm_row(0, [-3.0, -5.0, -4.0], 0, 1.0), lm_row(1, [-3.0, -5.0], 1, 0.0)]
    log = read_log(written(tmp_path / "samples_arc_easy_2026-11-25T10-00-00.123456.jsonl", rows))
    assert log.kind == "lm-eval"
    assert log.units == {"arc_easy": "nats"}
    assert [(one.value, one.correct, one.picked) for one in log.outcomes] == [(1.0, True, 0), (-2.0, False, 0)]
    assert log.outcomes[0].item_id == "arc_easy/hash0"


def test_other_tasks_of_lm_eval(tmp_path):
    lambada = {"doc_id": 0, "target": " word", "filtered_resps": [["-1.25", "True"]], "metrics": ["acc"], "acc": 1.0}
    made = {"doc_id": 0, "target": "42", "filtered_resps": ["42"], "metrics": ["exact_match"], "exact_match": 1.0}
    (one,) = read_log(written(tmp_path / "samples_lambada.jsonl", [lambada])).outcomes
    assert (one.value, one.correct) == (-1.25, True)
    log = read_log(written(tmp_path / "samples_gsm8k.jsonl", [made]))
    assert (log.outcomes[0].value, log.outcomes[0].correct, log.units) == (1.0, True, {"gsm8k": "share"})


def test_inspect_in_both_forms(tmp_path):
    samples = [
        {"id": "a", "epoch": 1, "scores": {"match": {"value": "C"}}},
        {"id": "a", "epoch": 2, "scores": {"match": {"value": "I"}}},
        {"id": "b", "epoch": 1, "scores": {"match": {"value": 0.5}}},
        {"id": "c", "epoch": 1},
    ]
    (tmp_path / "log.json").write_text(json.dumps({"eval": {"task": "sums"}, "samples": samples}))
    with zipfile.ZipFile(tmp_path / "log.eval", "w") as archive:
        archive.writestr("header.json", json.dumps({"eval": {"task": "sums"}}))
        for number, sample in enumerate(samples):
            archive.writestr(f"samples/{number}.json", json.dumps(sample))
    for name in ("log.json", "log.eval"):
        log = read_log(tmp_path / name)
        assert [one.value for one in log.outcomes] == [1.0, 0.0, 0.5, None]
        assert [one.cluster for one in log.outcomes] == ["a", "a", "b", "c"]
        assert log.outcomes[3].error


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", "{", "line 1: not JSON"),
        ("a.jsonl", "[]\n", "line 1: an object"),
        ("a.jsonl", '{"value": 1}', "'id' must name"),
        ("a.jsonl", '{"id": 1}', "give 'value'"),
        ("a.jsonl", '{"id": 1, "value": "x"}', "must be a number"),
        ("a.jsonl", '{"id": 1, "value": 1}\n{"id": 1, "value": 2}\n', "twice"),
        ("a.jsonl", "", "holds no samples"),
        ("a.jsonl", '{"id": "\\ud83d", "value": 1}', "line 1: not JSON .it holds half of a character"),
        ("a.jsonl", '{"doc_id": 1, "filtered_resps": null, "metrics": 3}', "neither log-probabilities nor a metric"),
        ("a.jsonl", '{"doc_id": 1, "filtered_resps": ["a"], "word_perplexity": ["x", "y"]}', "neither log-probabilities nor a metric"),
        ("a.json", "[]", "an object"),
        ("a.json", '{"samples": [{"id": 1, "scores": {"m": {"value": "X"}}}]}', "sample '1': the score 'X' is no grade"),
        ("a.json", '{"samples": [{"id": 1, "scores": {"m": {"value": {"a": 1}}}}]}', "is no grade"),
        ("a.json", '{"samples": [{"id": 1, "scores": [1]}]}', "is no grade"),
        ("a.json", '{"samples": [3]}', "sample 1: an object is needed"),
        ("a.json", '{"samples": {"a": 1}}', "'samples' must be a list"),
        ("a.eval", "no zip", "no log that can be read"),
        ("none.jsonl", None, "Cannot read the log"),
    ],
)
def test_what_is_no_log_is_named(tmp_path, name, text, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says):
        read_log(tmp_path / name)


def zipped(path, files, method=0):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    if method:  # Python writes no method that it does not know
        path.write_bytes(
            path.read_bytes().replace(b"PK\x03\x04\x14\x00\x00\x00\x00\x00", b"PK\x03\x04\x14\x00\x00\x00" + bytes([method, 0]))
        )
        path.write_bytes(path.read_bytes().replace(b"\x14\x03\x14\x00\x00\x00\x00\x00", b"\x14\x03\x14\x00\x00\x00" + bytes([method, 0])))
    return path


def test_zips_that_are_no_whole_log_of_inspect(tmp_path):
    sample = json.dumps({"id": "a", "epoch": 1, "scores": {"match": {"value": "yes"}}})
    begun = zipped(tmp_path / "begun.eval", {"_journal/start.json": '{"eval": {"task": "sums"}}', "samples/a.json": sample})
    (one,) = read_log(begun).outcomes
    assert (one.suite, one.value, one.correct) == ("sums", 1.0, True), "of a run that did not finish there is what it has"
    with pytest.raises(InputError, match=r"a zip without header\.json"):
        read_log(zipped(tmp_path / "other.eval", {"a.txt": "x"}))
    with pytest.raises(InputError, match=r"compressed in a way that is not read here.*inspect log dump"):
        read_log(zipped(tmp_path / "zstd.eval", {"header.json": "{}"}, method=99))


def test_scores_of_inspect_as_words_and_numbers(tmp_path):
    samples = [{"id": n, "scores": {"m": {"value": value}}} for n, value in enumerate(("P", "0.25", "No", True, 2))]
    (tmp_path / "log.json").write_text(json.dumps({"eval": None, "samples": samples}))
    log = read_log(tmp_path / "log.json")
    assert [one.value for one in log.outcomes] == [0.5, 0.25, 0.0, 1.0, 2.0]
    assert log.units == {"log": "share"}


def plain(path, seed, shift, spread=0.05, n=80):
    rng, base = random.Random(seed), random.Random(0)
    return str(
        written(path, [{"id": n, "suite": "t", "value": base.gauss(0, 1) + shift + rng.gauss(0, spread), "unit": "nats"} for n in range(n)])
    )


def test_evidence_from_elsewhere_passes_only_with_a_control_and_a_floor(tmp_path):
    a, b = plain(tmp_path / "a.jsonl", 1, 0.0), plain(tmp_path / "b.jsonl", 2, 0.0)
    bare = compare_logs(a, b)
    assert bare["verdict"] == "inconclusive"
    assert "no positive control" in str(bare["reasons"])
    options = {"noise": [plain(tmp_path / "n.jsonl", 3, 0.0, 0.001)], "control": plain(tmp_path / "c.jsonl", 4, -1.0)}
    assert compare_logs(a, b, **options)["verdict"] == "pass"
    worse = compare_logs(a, plain(tmp_path / "w.jsonl", 5, -0.5), **options)
    assert worse["verdict"] == "fail"
    assert worse["gates"][0]["margin"] == 0.1
    assert compare_logs(a, b, margin=1e-6, **options)["verdict"] != "pass"


def test_what_logs_show_is_written_as_a_page_too(tmp_path):
    a, b = plain(tmp_path / "a.jsonl", 1, 0.0), plain(tmp_path / "b.jsonl", 2, 0.0)
    found = compare_logs(a, b, out=tmp_path / "new" / "out")
    assert json.loads((tmp_path / "new" / "out" / "decision.json").read_text()) == json.loads(json.dumps(found))
    page = (tmp_path / "new" / "out" / "report.html").read_text(encoding="utf-8")
    assert "run.json" not in page
    assert "decision.json" in page
    assert "no positive control" in page
    assert 'id="gates"' in page
    assert 'href="items.html"' in page


def test_every_item_of_two_logs_can_be_looked_at(tmp_path):
    def sample(number, logprobs, **more):
        arguments = {f"gen_args_{k}": {"arg_0": f"Where is no. {number}?", "arg_1": f" place {k}"} for k in range(len(logprobs))}
        return lm_row(number, logprobs, 0, float(logprobs[0] == max(logprobs))) | {"arguments": arguments} | more

    a = [sample(n, [-1.0, -2.0, -3.0]) for n in range(20)]
    b = [sample(n, [-2.5 if n == 7 else -1.0, -2.0, -3.0]) for n in range(19)]
    paths = [str(written(tmp_path / f"samples_geo_{name}.jsonl", rows)) for name, rows in (("a", a), ("b", b))]
    for path in paths:
        (tmp_path / path).rename(
            tmp_path / path.replace("geo_", "geo_2026-11-25T10-00-0").replace("a.jsonl", "1.1.jsonl").replace("b.jsonl", "2.2.jsonl")
        )
    one, two = sorted(map(str, tmp_path.glob("samples_geo_*")))
    found = compare_logs(one, two, out=tmp_path / "out")
    (flip,) = found["flips"]
    assert (flip["item_id"], flip["direction"], flip["prompt"]) == ("geo/hash7", "lost", "Where is no. 7?")
    assert (flip["reference_answer"], flip["candidate_answer"], flip["right_answer"]) == ("place 0", "place 1", "place 0")
    page = (tmp_path / "out" / "items.html").read_text(encoding="utf-8")
    assert page.count("Where is no. 7?") == 1
    assert "not in" in page, "what only A was asked is there too"
    assert "place 1" in page
    assert page.index("geo/hash19") < page.index("geo/hash7") < page.index("geo/hash3")


def test_items_of_two_tasks_with_one_id_are_told_apart(tmp_path):
    rows = [
        {"id": n, "suite": suite, "value": n + place, "prompt": f"{suite} asks {n}"} for place, suite in enumerate("tu") for n in range(4)
    ]
    a, b = (str(written(tmp_path / f"{name}.jsonl", rows)) for name in "ab")
    compare_logs(a, b, out=tmp_path / "out")
    page = (tmp_path / "out" / "items.html").read_text(encoding="utf-8")
    for text in ("t: 3", "u: 3", "t asks 3", "u asks 3"):
        assert text in page


def test_what_inspect_asked_is_kept_for_people(tmp_path):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How many?"},
        {"role": "user", "content": [{"type": "image"}]},
    ]
    samples = [{"id": n, "input": asked, "scores": {"m": {"value": "C"}}} for n, asked in enumerate(("Why?", messages, None))]
    (tmp_path / "log.json").write_text(json.dumps({"eval": {"task": "t"}, "samples": samples}))
    assert [item.prompt for item in read_log(tmp_path / "log.json").items] == ["Why?", "Be brief.\n\nHow many?", ""]


def test_logs_that_do_not_belong_together(tmp_path):
    a = plain(tmp_path / "a.jsonl", 1, 0.0)
    other = str(written(tmp_path / "o.jsonl", [{"id": 1, "suite": "u", "value": 1}]))
    with pytest.raises(InputError, match=r"no task in common: .* has t, .* has u"):
        compare_logs(a, other)
    share = str(written(tmp_path / "s.jsonl", [{"id": 1, "suite": "t", "correct": True}]))
    with pytest.raises(InputError, match=r"values in nats .* and in share"):
        compare_logs(a, share)
    with pytest.raises(InputError, match="above zero"):
        compare_logs(a, a, margin=0.0)
