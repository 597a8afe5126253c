"""Lets the tests of this room import what stands beside them; a run folder of a tiny model, with a lock and a decision that fit."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from trimtab.compress.base import is_as_shipped
from trimtab.core.deployment import EngineBuild, Settings
from trimtab.core.files import digest_of
from trimtab.flows.parts.opening import open_model, recipe_named
from trimtab.record.deploy import DeployLock, deploy_toml
from trimtab.testing.tiny_models import write_tiny_gguf

ID = "llamacpp as-shipped"
ZERO = "0" * 64


def write_run(folder: Path, *, verdict: str = "pass") -> Path:
    """A run folder: deploy.toml, decision.json, items and what packages leave behind. Beside it lies the model."""
    model = write_tiny_gguf(folder.parent / "tiny.gguf", extra={"general.license": "mit"})
    opened = open_model(str(model), cache_dir=folder.parent / "cache", offline=True)
    recipe = recipe_named("", "llamacpp")
    assert is_as_shipped(recipe)
    measurement = {"peak_memory_bytes": 123_000_000, "cold_ttft_ms": 1500.0}
    decision = {
        "schema": "trimtab.decision/1",
        "verdict": verdict,
        "machine": {"n_cores": 2},
        "candidates": [{"id": ID, "measurement": measurement, "details": {"size_bytes": opened.snapshot.size_bytes}}],
    }
    (folder / "items").mkdir(parents=True)
    (folder / "decision.json").write_text(json.dumps(decision, indent=2), encoding="utf-8")
    (folder / "items" / "text-1a2b.parquet").write_bytes(b"rows")
    (folder / "journal.jsonl").write_text("what the run was doing\n", encoding="utf-8")
    (folder / "notes-of-mine.txt").write_text("not for others", encoding="utf-8")
    lock = DeployLock(
        id=ID,
        verdict=verdict,
        decision_sha256=digest_of(decision),
        source=str(model),
        revision="",
        format="gguf",
        source_files=opened.snapshot.files,
        source_sha256=opened.snapshot.digest,
        weights_sha256=opened.snapshot.digest,
        recipe=recipe,
        template_sha256=opened.template_sha256,
        build=EngineBuild(engine="llamacpp", version="0", details="of another day"),
        settings=Settings(slots=4, context_tokens=256),
        policy="own",
        policy_sha256=ZERO,
        suite="own",
        suite_sha256=ZERO,
        workload="chat",
        workload_sha256=ZERO,
        reference_sha256=ZERO,
        machine="test",
        machine_sha256=ZERO,
        made="2026-11-27T04:02:13Z",
        trimtab="0.1.0",
    )
    (folder / "deploy.toml").write_text(deploy_toml(lock), encoding="utf-8")
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run that passed; TRIMTAB_HOME is the test's own."""
    pytest.importorskip("llama_cpp")
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return write_run(tmp_path / "run")


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """`make_run(verdict=...)`, with the fixture `run`'s home."""
    pytest.importorskip("llama_cpp")
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    return lambda **other: write_run(tmp_path / "run", **other)
