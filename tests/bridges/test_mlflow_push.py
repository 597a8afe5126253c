"""The MLflow bridge, with the real library on a database of its own."""

import json
from pathlib import Path
from typing import Any

import pytest

mlflow = pytest.importorskip("mlflow", reason="the MLflow bridge: pip install mlflow-skinny")

from trimtab.bridges.mlflow import metrics_of, push  # noqa: E402
from trimtab.core.deployment import EngineBuild, Recipe, Settings  # noqa: E402
from trimtab.core.errors import InputError, MissingError  # noqa: E402
from trimtab.core.model import SnapshotFile  # noqa: E402
from trimtab.record.deploy import DeployLock, deploy_toml  # noqa: E402

ZEROS = "0" * 64
GATE = {
    "name": "text", "verdict": "pass", "delta": -0.0108, "low": -0.0159, "high": -0.0057, "margin": 0.02, "level": -3.32, "n": 56,
    "n_missing": 0, "noise_floor": None, "detectable": 0.0071,
}  # fmt: skip
POINT = {"concurrency": 4, "failed": 0, "output_tok_s": 8.15, "ttft_ms": {"p50": 20.7, "p95": None, "p99": None}}
DECISION = {
    "schema": "trimtab.decision/1",
    "verdict": "pass",
    "reasons": ["openvino int8 is the fastest that passed."],
    "gates": [GATE],
    "candidates": [
        {"id": "other", "measurement": None},
        {"id": "openvino int8", "measurement": {"load_s": 2.5, "cold_ttft_ms": None, "peak_memory_bytes": 610541568, "points": [POINT]}},
    ],
    "speedup": {"over_baseline": {"4": {"e2e_ms_p50": {"ratio": 2.9, "low": 2.6, "high": 3.3, "n_rounds": 6}}}},
    "seed": 0,
    "started": "2026-11-27T03:51:49Z",
    "finished": "2026-11-27T04:02:13Z",
}


@pytest.fixture
def to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder: MLflow takes seconds to make a database, and has the same interface to both."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "store").as_uri()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder. Artifacts go below the working directory, as MLflow has it without a server."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    (folder / "items").mkdir(parents=True)
    (folder / "decision.json").write_text(json.dumps(DECISION), encoding="utf-8")
    (folder / "items" / "text.parquet").write_bytes(b"rows")
    lock = DeployLock(
        id="openvino int8", verdict="pass", decision_sha256=ZEROS, source="pypi:llm-demo==1", revision="1", format="gguf",
        source_files=(SnapshotFile(name="m.gguf", size_bytes=1, sha256=ZEROS),), source_sha256=ZEROS, weights_sha256=ZEROS,
        recipe=Recipe(name="int8", family="openvino", engine="openvino"), template_sha256=ZEROS,
        build=EngineBuild(engine="openvino", version="2026.4"), settings=Settings(slots=4), policy="standard", policy_sha256=ZEROS,
        suite="core", suite_sha256=ZEROS, workload="chat", workload_sha256=ZEROS, reference_sha256=ZEROS, machine="a cpu",
        machine_sha256=ZEROS, made="2026-11-25T00:00:00Z", trimtab="0.1.0",
    )  # fmt: skip
    (folder / "deploy.toml").write_text(deploy_toml(lock), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_a_release_becomes_a_run_and_a_version_that_an_alias_points_at(run: Path, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = push(run, to=to, name="support-chat", version="3", aliases=["production"])
    assert not (run.parent / "mlflow.db").exists(), "the working directory has MLflow's default store"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", to)
    client = mlflow.MlflowClient(tracking_uri=to, registry_uri=to)
    logged = client.get_run(done["run_id"])
    assert logged.info.status == "FINISHED"
    assert logged.info.run_name == "support-chat@3"
    assert (logged.info.end_time - logged.info.start_time) / 1000 == 624
    assert logged.data.metrics["gate/text/low"] == -0.0159
    assert logged.data.metrics["gate/text/high"] == -0.0057
    assert logged.data.metrics["peak_memory_bytes"] == 610541568
    assert logged.data.metrics["speedup 4/e2e_ms_p50/low"] == 2.6
    assert "gate/text/noise_floor" not in logged.data.metrics
    assert "cold_ttft_ms" not in logged.data.metrics
    assert logged.data.params["setting/slots"] == "4"
    assert logged.data.params["engine"] == "openvino"
    assert {one.path for one in client.list_artifacts(done["run_id"])} == {"decision.json", "deploy.toml", "items"}
    version = client.get_model_version_by_alias("support-chat", "production")
    assert (str(version.version), version.run_id) == (done["version"], done["run_id"])
    assert version.tags["trimtab.release"] == "support-chat@3"
    assert version.tags["trimtab.decision_sha256"] == ZEROS
    assert version.description.startswith("trimtab: pass.")


@pytest.mark.slow
def test_a_database_is_pushed_to_as_well(run: Path) -> None:
    pytest.importorskip("alembic", reason="MLflow's databases: pip install mlflow-skinny sqlalchemy alembic")
    to = f"sqlite:///{run.parent}/m.db"
    done = push(run, to=to, name="support-chat", version="3", aliases=["production"])
    client = mlflow.MlflowClient(tracking_uri=to, registry_uri=to)
    assert client.get_run(done["run_id"]).data.metrics["gate/text/low"] == -0.0159
    assert str(client.get_model_version_by_alias("support-chat", "production").version) == done["version"]
    assert push(run, to=to, name="support-chat", version="3")["run_id"] == done["run_id"]


def test_pushed_again_only_aliases_move(run: Path, to: str) -> None:
    first = push(run, to=to, name="twice", version="1")
    again = push(run, to=to, name="twice", version="1", aliases=["champion"])
    next_one = push(run, to=to, name="twice", version="2", aliases=["champion"])
    client = mlflow.MlflowClient(tracking_uri=to, registry_uri=to)
    assert (again["version"], again["run_id"]) == (first["version"], first["run_id"])
    assert next_one["version"] != first["version"]
    assert str(client.get_model_version_by_alias("twice", "champion").version) == next_one["version"]
    experiment = client.get_experiment_by_name("twice")
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_a_run_that_mlflow_took_in_part_is_marked_as_failed(run: Path, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise mlflow.exceptions.MlflowException("the disk is full")

    monkeypatch.setattr(mlflow.MlflowClient, "log_artifacts", broken)
    with pytest.raises(InputError, match="the disk is full"):
        push(run, to=to, name="half", version="1")
    client = mlflow.MlflowClient(tracking_uri=to, registry_uri=to)
    (half,) = client.search_runs([client.get_experiment_by_name("half").experiment_id])
    assert half.info.status == "FAILED"
    assert client.search_model_versions("name = 'half'") == []


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"aliases": ["v3"]}, "MLflow at"),
        ({"name": "a/b:c"}, "MLflow at"),
        ({"to": "nowhere://x"}, "MLflow"),
    ],
)
def test_what_mlflow_refuses_is_one_sentence(run: Path, to: str, wrong: dict[str, Any], match: str) -> None:
    with pytest.raises((InputError, MissingError), match=match) as caught:
        push(run, **{"to": to, "name": "refused", "version": "1", **wrong})
    assert "\n" not in str(caught.value)


def test_what_was_not_measured_is_no_number() -> None:
    found = metrics_of({"gates": [{"name": "g", "delta": None, "n": 3}], "candidates": []}, "x")
    assert found == {"gate/g/n": 3.0}
