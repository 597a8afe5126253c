"""What another package adds, an engine, a suite and a guard, works like trimtab's own."""

import json
import shutil
import subprocess
import sys

import pytest

from trimtab.cli.main import main
from trimtab.core.deployment import Settings
from trimtab.core.errors import EngineRefused, InputError, MissingError
from trimtab.core.site import GuardUse
from trimtab.engines.client import WorkerEngine
from trimtab.engines.registry import engine_class
from trimtab.evaluate.requests import build_requests
from trimtab.evaluate.suites.registry import load_suite
from trimtab.guard.pipeline import Guards
from trimtab.guard.registry import guard_names
from trimtab.sources.open import open_source, read_header
from trimtab.testing.fake_client import fake_render, fake_tokenize
from trimtab.testing.tiny_models import write_tiny_gguf

pytestmark = pytest.mark.usefixtures("site")


def python(*arguments, cwd):
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def models(site, tmp_path_factory):
    """Two models made by the example's own command: one that has read English and one that has read numbers."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "english.txt").write_text("a rope is long and a road is longer, in metres or in feet; a jug holds what a pot holds. " * 20)
    (folder / "numbers.txt").write_text(" ".join(str(n * n) for n in range(400)))
    for name in ("english", "numbers"):
        python("-m", "byte_bigrams", f"{name}.txt", f"{name}.gguf", cwd=folder)
    return folder


def checks(capsys):
    main(["doctor", "--json"])
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


@pytest.mark.slow
def test_the_engine_passes_the_contract_tests_that_it_ships(examples):
    """As its README says to run them: here and in a worker."""
    said = python("-m", "pytest", "-p", "no:cacheprovider", examples / "own_engine", cwd=examples.parent)
    assert "58 passed" in said


def test_doctor_lists_the_engine(capsys):
    check = checks(capsys)["engine bytebigrams"]
    assert (check["state"], check["found"]) == ("ok", "0.1.0")


def test_an_engine_for_another_contract_is_refused_in_a_sentence(site, tmp_path, capsys, monkeypatch):
    # Without what was compiled: it is told from the source by size and second, and the change keeps the size.
    shutil.copytree(site, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    module = tmp_path / "byte_bigrams.py"
    module.write_text(module.read_text().replace("contract_version = 1 ", "contract_version = 2 "))
    # The old place leaves the path and the module leaves memory, as in a process that starts after an update of the package.
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(place for place in sys.path if place != str(site))])
    monkeypatch.delitem(sys.modules, "byte_bigrams", raising=False)
    with pytest.raises(MissingError, match="was written for contract version 2, this trimtab speaks 1"):
        engine_class("bytebigrams")
    check = checks(capsys)["engine bytebigrams"]
    assert check["state"] == "absent"
    assert "contract version 2" in check["found"]
    monkeypatch.delitem(sys.modules, "byte_bigrams", raising=False)


def test_another_kind_of_model_is_refused_by_header_and_on_loading(tmp_path):
    path = write_tiny_gguf(tmp_path / "llama.gguf")
    snapshot = open_source(str(path), cache_dir=tmp_path)
    assert "not llama" in engine_class("bytebigrams").refuses(snapshot, read_header(snapshot), Settings())
    engine = WorkerEngine(snapshot, Settings(), engine="bytebigrams")
    try:
        with pytest.raises(EngineRefused, match=r"has no tensor bigram\.weight"):
            engine.load("score")
    finally:
        engine.close()


def test_the_suite_loads_by_name_and_can_be_scored():
    suite = load_suite("units")
    assert (suite.name, len(suite.items), len({item.cluster for item in suite.items})) == ("units", 60, 20)
    assert len({item.id for item in suite.items}) == 60
    assert suite.digest == load_suite("units").digest
    assert all(len(set(item.options)) == 3 for item in suite.items)
    prepared = build_requests(suite.items, fake_tokenize, fake_render, lambda *, chat: None)
    assert len(prepared.items) == 60
    with pytest.raises(InputError, match=r"the suites are core, .*, units"):
        load_suite("unitz")


@pytest.mark.slow
def test_the_guard_passes_the_contract_tests_that_it_ships(examples):
    said = python("-m", "pytest", "-p", "no:cacheprovider", examples / "own_guard", cwd=examples.parent)
    assert "passed" in said


def test_the_guard_is_found_by_name_and_redacts():
    assert "tickets" in guard_names()
    guards = Guards([GuardUse(name="tickets", on_hit="redact", options={"projects": ["WEB"]})])
    assert guards.inspect(["WEB-12 and OPS-1"]).texts == ("[TICKET] and OPS-1",)


@pytest.mark.slow
def test_both_together_in_one_comparison(models, tmp_path, capsys):
    """The whole verb on the example's engine and suite: a model that has read other things is worse, and the exit code says so."""
    arguments = ["--suite", "units", "--workload", "64/16@1,2", "--no-timing", "--out", str(tmp_path / "run"), "--json", "-q"]
    code = main(["compare", f"bytebigrams:{models / 'english.gguf'}", f"bytebigrams:{models / 'numbers.gguf'}", *arguments])
    decision = json.loads(capsys.readouterr().out)
    gate = next(gate for gate in decision["gates"] if gate["name"] == "units")
    assert (code, decision["verdict"], gate["verdict"]) == (1, "fail", "fail")
    assert gate["high"] < -gate["margin"]
    assert (decision["candidates"][0]["engine"], decision["candidates"][0]["details"]["build"]["version"]) == ("bytebigrams", "0.1.0")
