"""`check` end to end on a tiny model: same build, tampered file, planted loss, lock alone, missing source, and the pytest fixture."""

import dataclasses
import os
import subprocess
import sys

import pytest

pytest.importorskip("llama_cpp")

from trimtab.cli.main import main
from trimtab.flows.check import check
from trimtab.flows.compare import compare
from trimtab.flows.parts.opening import recipe_named
from trimtab.record.deploy import deploy_toml, read_deploy_toml

pytestmark = [pytest.mark.model, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(certified):
    return certified


def checked(folder, lock, **more):
    options = {"suites": [str(folder / "said.jsonl")], "policy": str(folder / "own.toml"), "seed": 1, **more}
    return check(lock, **options)


def states(document):
    return {one["name"]: one["state"] for one in document["checks"]}


@pytest.mark.parametrize(("where", "n_least"), [("run", 4), ("alone", 6)])
def test_the_same_build_gives_its_known_answers_again(folder, where, n_least):
    document = checked(folder, folder / where / "deploy.toml")
    assert (document["verdict"], document["measured"]["mode"]) == ("pass", "known answers")
    assert document["measured"]["n_items"] >= n_least
    assert not document["gates"]
    found = states(document)
    assert {name for name, state in found.items() if state == "changed"} == set()
    assert found["known answers"] == found["weights"] == found["source files"] == found["reference"] == "same"
    assert found["decision"] == ("same" if where == "run" else "unknown")


def test_digests_only_measures_nothing(folder):
    document = checked(folder, folder / "run" / "deploy.toml", digests_only=True)
    assert (document["verdict"], document["measured"]["n_items"]) == ("pass", 0)
    assert "known answers" not in states(document)


def test_another_seed_draws_another_sample(folder, monkeypatch):
    seen = []
    original = sys.modules["trimtab.flows.check"].fresh_sample

    def spy(prepared, share, seed, least):
        sample = original(prepared, share, seed, least)
        seen.append(sorted(item.id for item in sample.items))
        return sample

    monkeypatch.setattr("trimtab.flows.check.fresh_sample", spy)
    for seed in (1, 2, 1):
        checked(folder, folder / "run" / "deploy.toml", seed=seed)
    assert seen[0] != seen[1]
    assert seen[0] == seen[2]


def test_a_tampered_weight_file_fails_and_is_named(folder, tmp_path):
    other = tmp_path / "model.gguf"
    raw = bytearray((folder / "model.gguf").read_bytes())
    raw[-100] ^= 1
    other.write_bytes(raw)
    document = checked(folder, folder / "run" / "deploy.toml", source=str(other))
    assert document["verdict"] == "fail"
    assert "model.gguf has other contents" in document["reasons"][0]
    assert not document["gates"]


def relocked(folder, target, **changes):
    target.mkdir()
    lock = dataclasses.replace(read_deploy_toml(folder / "run" / "deploy.toml"), **changes)
    (target / "deploy.toml").write_text(deploy_toml(lock))
    return target / "deploy.toml"


def test_a_planted_loss_fails_its_gate(folder, tmp_path):
    """A lock rewritten to deploy two-bit weights: the weights are others, the known answers are not found, and the gate fails."""
    path = relocked(folder, tmp_path / "worse", recipe=recipe_named("q2_k", "llamacpp"))
    document = checked(folder, path, run_dir=folder / "run", sample=1.0)
    assert document["verdict"] == "fail"
    found = states(document)
    assert (found["weights"], found["known answers"]) == ("changed", "changed")
    assert document["gates"][0]["high"] < -0.02
    assert document["gates"][0]["positive_control"]["caught"]
    digests = checked(folder, path, digests_only=True)
    assert digests["verdict"] == "inconclusive", "changed weights are a reason to measure, not a verdict"


def test_other_numeric_settings_are_measured_again_and_may_pass(folder, tmp_path):
    lock = read_deploy_toml(folder / "run" / "deploy.toml")
    path = relocked(folder, tmp_path / "kv", settings=dataclasses.replace(lock.settings, kv_type="f32"))
    document = checked(folder, path, run_dir=folder / "run", sample=1.0)
    assert states(document)["settings"] == "changed"
    assert "kv_type not set then, f32 now" in next(one["sentence"] for one in document["checks"] if one["name"] == "settings")
    assert document["measured"]["mode"] == "gates"
    assert document["gates"][0]["n"] >= 40


def test_a_deployment_that_cannot_run_is_a_failed_check(folder, tmp_path):
    lock = read_deploy_toml(folder / "run" / "deploy.toml")
    path = relocked(folder, tmp_path / "kv", settings=dataclasses.replace(lock.settings, kv_type="no_such_type"))
    document = checked(folder, path)
    assert (document["verdict"], document["measured"]["mode"]) == ("fail", "not measured: it cannot run here")
    assert "no_such_type" in document["reasons"][0]


def test_a_reference_by_a_recipe_file_is_made_again_without_the_file(folder, tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('name = "wide"\nfamily = "gguf"\nengine = "llamacpp"\n[parameters]\ntype = "Q8_0"\n')
    spec = f"llamacpp:{folder / 'model.gguf'}?recipe={own}"
    options = {"suites": [str(folder / "said.jsonl")], "policy": str(folder / "own.toml")}
    decision = compare(spec, f"{spec}&threads=1", workload="64/16@1,2", timing=False, out=tmp_path / "run", **options)
    assert decision["verdict"] == "pass", decision["reasons"]
    own.unlink()
    document = checked(folder, tmp_path / "run" / "deploy.toml")
    assert (document["verdict"], states(document)["reference"]) == ("pass", "same"), document["reasons"]


def test_a_missing_source_is_one_sentence(folder, tmp_path, capsys):
    path = relocked(folder, tmp_path / "gone", source=str(tmp_path / "none.gguf"))
    arguments = ["check", str(path), "--suite", str(folder / "said.jsonl"), "--policy", str(folder / "own.toml"), "-q"]
    assert main(arguments) == 2
    assert "none.gguf" in capsys.readouterr().err


def test_the_command_writes_what_a_pipeline_reads(folder, tmp_path):
    arguments = ["check", str(folder / "run" / "deploy.toml"), "--suite", str(folder / "said.jsonl"), "--policy", str(folder / "own.toml")]
    arguments += ["--digests-only", "--junit", str(tmp_path / "a" / "out.xml"), "--summary", str(tmp_path / "out.md"), "-q"]
    assert main(arguments) == 0
    assert "<testcase" in (tmp_path / "a" / "out.xml").read_text()
    assert main(arguments) == 0
    assert (tmp_path / "out.md").read_text().count("## trimtab check: PASS") == 2, "a summary is added to"


def test_the_pytest_fixture(folder, tmp_path):
    (tmp_path / "test_it.py").write_text(
        "def test_model(trimtab_check):\n"
        f"    options = dict(suites=[{str(folder / 'said.jsonl')!r}], policy={str(folder / 'own.toml')!r}, digests_only=True)\n"
        f"    result = trimtab_check({str(folder / 'run' / 'deploy.toml')!r}, **options)\n"
        "    assert result.passed, result.explain()\n"
        f"    assert trimtab_check({str(folder / 'run' / 'deploy.toml')!r}, **options) is result\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "trimtab.bridges.pytest_plugin", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(
        command, env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
