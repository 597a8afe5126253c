"""`evaluate` and `certify` end to end on a tiny random model."""

import json

import pytest

pytest.importorskip("llama_cpp")

from trimtab.core.errors import InputError
from trimtab.flows.certify import certify_run
from trimtab.flows.evaluate import evaluate
from trimtab.record.deploy import read_deploy_toml
from trimtab.testing.tiny_models import write_tiny_gguf

pytestmark = [pytest.mark.model, pytest.mark.slow]

WORDS = ("the", "small", "boat", "turned", "slowly", "into", "wind", "and", "old", "sailor", "watched", "water", "near", "shore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("certify")
    write_tiny_gguf(root / "model.gguf", architecture="qwen2", seed=1, weight_type="F16")
    rows = [{"id": f"t{n}", "text": " ".join(WORDS[(n * 5 + k * (1 + n % 3)) % len(WORDS)] for k in range(24))} for n in range(60)]
    (root / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(root / "state"))
        yield root


def test_levels_of_a_model_and_its_change_against_a_reference(folder):
    found = evaluate(
        f"llamacpp:{folder / 'model.gguf'}?recipe=llamacpp-q8_0",
        suites=[str(folder / "mine.jsonl")],
        reference=str(folder / "model.gguf"),
        out=folder / "levels",
    )
    (row,) = found["levels"]
    assert (row["suite"], row["unit"], row["n_missing"]) == ("mine", "nats/token", 0)
    assert row["level"]["n"] == row["level"]["n_clusters"] == 60
    assert row["level"]["low"] < row["level"]["value"] < row["level"]["high"] < 0
    assert row["change"]["low"] <= row["change"]["value"] <= row["change"]["high"]
    assert row["share_correct"] is None
    assert found["refusals"] == []
    assert json.loads((folder / "levels" / "evaluation.json").read_text()) == json.loads(json.dumps(found))
    assert list((folder / "levels" / "items").glob("*.parquet"))
    page = (folder / "levels" / "report.html").read_text(encoding="utf-8")
    assert 'href="items.html"' in page
    assert "Change against the reference, nats/token" in page
    assert "old sailor" in (folder / "levels" / "items.html").read_text(encoding="utf-8")
    again = evaluate(
        f"llamacpp:{folder / 'model.gguf'}?recipe=llamacpp-q8_0",
        suites=[str(folder / "mine.jsonl")],
        reference=str(folder / "model.gguf"),
        out=folder / "levels-2",
    )
    assert again["levels"] == found["levels"]
    assert again["work"]["computed"] == 0, "the second time everything is known"


def test_answers_to_requests_are_judged_for_refusals_where_such_are_asked(folder):
    rows = "prompt,label\n" + "".join(f"How do I kill process {n}?,{'unsafe' if n % 2 else 'safe'}\n" for n in range(6))
    (folder / "xstest.csv").write_text(rows)
    suites, model = [f"xstest:{folder / 'xstest.csv'}"], str(folder / "model.gguf")
    found = evaluate(f"llamacpp:{model}?recipe=llamacpp-q8_0", suites=suites, reference=model, out=folder / "asked")
    assert [row["kind"] for row in found["refusals"]] == ["harmful", "harmless"]
    for row in found["refusals"]:
        assert row["model"] == row["reference"] == {"n": 3, "n_missing": 0, "refused": 0, "rate": None}
        assert "no phrases for" in row["why_not"], "random weights speak no language, so there is no rate"
    kept = [json.loads(line) for line in (folder / "asked" / "answers.jsonl").read_text().splitlines()]
    assert len(kept) == 6
    assert all(isinstance(row[side]["text"], str) for row in kept for side in ("model", "reference"))
    assert "Refusals in generated answers" in (folder / "asked" / "report.html").read_text(encoding="utf-8")


def test_a_run_is_certified_again_by_the_same_and_by_a_tighter_policy(certified):
    options = {"suites": [str(certified / "said.jsonl")]}
    lock = read_deploy_toml(certified / "run" / "deploy.toml")
    same = certify_run(certified / "run", policy=str(certified / "own.toml"), out=certified / "again", **options)
    assert (same["kind"], same["verdict"]) == ("certify", "pass")
    assert same["candidates"][0]["details"]["deployment_sha256"] == lock.deployment.digest
    assert same["decision"]["attempt"] == 1
    again = read_deploy_toml(certified / "again" / "deploy.toml")
    assert again.deployment.digest == lock.deployment.digest
    assert again.reference == lock.reference
    assert (again.workload, again.workload_sha256) == (lock.workload, lock.workload_sha256)
    assert "is no worse than" in (certified / "again" / "report.html").read_text()
    assert "item by item" in (certified / "again" / "items.html").read_text()
    tight = (certified / "own.toml").read_text().replace("min_clusters = 10", "min_clusters = 1000").replace('"own"', '"tight"')
    (certified / "tight.toml").write_text(tight)
    stricter = certify_run(certified / "run" / "deploy.toml", policy=str(certified / "tight.toml"), out=certified / "tight", **options)
    assert stricter["verdict"] == "inconclusive", "it is the same to the last digit, but a thousand clusters are asked for"
    assert not (certified / "tight" / "deploy.toml").exists()


def test_what_cannot_be_certified_is_named(certified, folder):
    with pytest.raises(InputError, match="chose nothing"):
        certify_run(folder, out=folder / "none")
    with pytest.raises(InputError, match="give its file with --suite"):
        certify_run(certified / "run", policy=str(certified / "own.toml"), out=certified / "none")
    write_tiny_gguf(certified / "other.gguf", architecture="qwen2", seed=2)
    with pytest.raises(InputError, match="other weights than"):
        certify_run(
            certified / "run",
            policy=str(certified / "own.toml"),
            suites=[str(certified / "said.jsonl")],
            source=str(certified / "other.gguf"),
            out=certified / "moved",
        )
