"""MLflow: a run with its gates and their intervals, and a version of a registered model with its aliases.

`to` is a tracking URI, which also holds the registry: `http://HOST:5000`, `sqlite:///mlflow.db`.
MLflow's own settings (MLFLOW_TRACKING_TOKEN ...) hold as ever.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError, MissingError
from trimtab.flows.push import Registry
from trimtab.record.deploy import DeployLock, read_deploy_toml
from trimtab.record.run import read_decision

RELEASE, DECISION = "trimtab.release", "trimtab.decision_sha256"
_GATE_FIGURES = ("delta", "low", "high", "margin", "level", "level_candidate", "noise_floor", "detectable", "n", "n_clusters", "n_missing")
_MEASURED = ("load_s", "cold_ttft_ms", "peak_memory_bytes")
_OF_A_POINT = ("ttft_ms", "tpot_ms", "e2e_ms")


def push(folder: Path, *, to: str, name: str, version: str, aliases: Sequence[str] = ()) -> dict[str, str]:
    """Log a run folder as a run, register it as a version of the model `name`, and point aliases at that version.

    folder: with decision.json and deploy.toml; all its files become artifacts
    version: of the release, `3`; empty = it was not released. What was pushed before is known by it and by the decision: only aliases move
    Returns ids and the version in MLflow. Raises InputError (folder, or what MLflow says), MissingError.
    """
    decision, lock = read_decision(folder), read_deploy_toml(folder / "deploy.toml")
    with _client(to) as client:
        tags = {RELEASE: f"{name}@{version}" if version else "", DECISION: lock.decision_sha256}
        found = _registered(client, name, tags)
        if found is None:
            run_id = _logged(client, folder, decision, lock, name=name, tags=tags)
            found = _register(client, name, run_id, decision, tags)
        for alias in aliases:
            client.set_registered_model_alias(name, alias, found.version)
        return {"model": name, "version": str(found.version), "run_id": str(found.run_id), "source": str(found.source)}


@contextlib.contextmanager
def _client(to: str) -> Iterator[Any]:
    """A client whose errors are sentences."""
    try:
        import mlflow
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise MissingError(
            f"MLflow is not installed ({error}).", "pip install mlflow-skinny, or mlflow for a database of your own"
        ) from error
    # Some of the client's calls ask the process's own store, which would make a database in the working directory.
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    try:
        mlflow.set_tracking_uri(to)
        mlflow.set_registry_uri(to)
        yield mlflow.MlflowClient(tracking_uri=to, registry_uri=to)
    except MlflowException as error:
        raise InputError(f"MLflow at {to} says: {str(error).splitlines()[0]}") from error
    except ImportError as error:
        raise MissingError(f"MLflow cannot open {to} without a package that is not installed ({error}).", "pip install mlflow") from error
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])


def _registered(client: Any, name: str, tags: Mapping[str, str]) -> Any:
    """The version that was made of the same release and decision; None if there is none."""
    versions = client.search_model_versions(f"name = '{name}'")
    return next((one for one in versions if all(one.tags.get(key, "") == value for key, value in tags.items())), None)


def _register(client: Any, name: str, run_id: str, decision: Mapping[str, Any], tags: Mapping[str, str]) -> Any:
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    said = f"trimtab: {decision['verdict']}. " + " ".join(str(reason) for reason in decision.get("reasons", ())[:3])
    source = client.get_run(run_id).info.artifact_uri
    return client.create_model_version(name, source=source, run_id=run_id, tags=_given(tags), description=said)


def _logged(client: Any, folder: Path, decision: Mapping[str, Any], lock: DeployLock, *, name: str, tags: Mapping[str, str]) -> str:
    """A finished run with all figures and files; one that MLflow took in part is marked as failed."""
    from mlflow.entities import Metric, Param

    experiment = client.get_experiment_by_name(name)
    experiment_id = client.create_experiment(name) if experiment is None else experiment.experiment_id
    began_ms, ended_ms = (_unix_ms(decision.get(key, "")) for key in ("started", "finished"))
    run_tags = _given({**tags, "trimtab.verdict": lock.verdict, "trimtab.deployment_sha256": lock.deployment.digest})
    run = client.create_run(experiment_id, start_time=began_ms, run_name=tags[RELEASE] or lock.id, tags=run_tags)
    run_id = str(run.info.run_id)
    try:
        at_ms = ended_ms or 0
        metrics = [Metric(key, value, at_ms, 0) for key, value in metrics_of(decision, lock.id).items()]
        client.log_batch(run_id, metrics=metrics, params=[Param(key, value) for key, value in params_of(decision, lock).items()])
        client.log_artifacts(run_id, str(folder))
    except BaseException:
        client.set_terminated(run_id, status="FAILED")
        raise
    client.set_terminated(run_id, end_time=ended_ms)
    return run_id


def metrics_of(decision: Mapping[str, Any], chosen: str) -> dict[str, float]:
    """Figures of gates (`gate/text/low`), of the chosen deployment and of its gain. What was not measured has no entry."""
    found = {f"gate/{gate['name']}/{key}": gate.get(key) for gate in decision.get("gates", ()) for key in _GATE_FIGURES}
    row: Mapping[str, Any] = next((row for row in decision.get("candidates", ()) if row.get("id") == chosen), {})
    measured = row.get("measurement") or {}
    found |= {key: measured.get(key) for key in _MEASURED}
    for point in measured.get("points", ()):
        at = f"concurrency {point['concurrency']}"
        found |= {f"{at}/{key}/{which}": (point.get(key) or {}).get(which) for key in _OF_A_POINT for which in ("p50", "p95", "p99")}
        found |= {f"{at}/{key}": point.get(key) for key in ("output_tok_s", "failed")}
    for users, figures in ((decision.get("speedup") or {}).get("over_baseline") or {}).items():
        found |= {f"speedup {users}/{key}/{end}": figure.get(end) for key, figure in figures.items() for end in ("ratio", "low", "high")}
    return {key: float(value) for key, value in found.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}


def params_of(decision: Mapping[str, Any], lock: DeployLock) -> dict[str, str]:
    """What was judged, and by what."""
    settings = {f"setting/{key}": value for key, value in lock.settings.given().items()}
    what = {
        "id": lock.id,
        "engine": lock.build.engine,
        "engine_version": lock.build.version,
        "source": lock.source,
        "recipe": lock.recipe.name,
        "policy": lock.policy,
        "suite": lock.suite,
        "workload": lock.workload,
        "machine": lock.machine,
        "seed": decision.get("seed", ""),
        **settings,
    }
    return {key: str(value) for key, value in what.items() if value != ""}


def _given(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if value}


def _unix_ms(text: str) -> int | None:
    """Of a time in UTC as decision.json has it; None if it has none."""
    try:
        return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        return None


REGISTRY = Registry(push=push, takes_weights=False, takes_aliases=True)
"""Evidence and figures; weights are large, and MLflow keeps a copy of each version."""
