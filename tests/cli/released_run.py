"""A finished run as `optimize` leaves it, made by hand in a moment: a tiny model, a decision, its lock, items."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.core.deployment import EngineBuild, Recipe, Settings
from trimtab.core.evidence import Outcome
from trimtab.core.files import digest_of
from trimtab.record.deploy import DeployLock, write_deploy_toml
from trimtab.record.home import cache_dir
from trimtab.record.run import RunDir
from trimtab.sources.open import open_source
from trimtab.testing.tiny_models import write_tiny_gguf

_GATE = {
    "kind": "non_inferiority",
    "required": True,
    "informative": True,
    "unit": "nats/token",
    "margin": 0.02,
    "delta": -0.001,
    "low": -0.01,
    "high": 0.008,
    "confidence": 0.95,
    "n": 60,
    "n_clusters": 30,
}


def finished_run(
    path: Path,
    *,
    gates: Mapping[str, str] | None = None,
    seed: int = 0,
    model: Path | None = None,
    finish: bool = True,
    baseline: str = "llamacpp q8_0",
    extra: Mapping[str, str] | None = None,
    **lock: Any,
) -> Path:
    """gates: name -> verdict, all required; the verdict is the worst of them. extra: metadata of the model. lock: fields that differ"""
    gates = gates or {"text": "pass", "choice": "pass"}
    verdict = next((word for word in ("fail", "inconclusive") if word in gates.values()), "pass")
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = model or write_tiny_gguf(path.with_suffix(".gguf"), extra=extra)
    snapshot = open_source(str(weights), cache_dir=cache_dir())
    with RunDir.open(path, digests={"source": snapshot.digest}, seed=seed, inputs={"model": str(weights), "candidates": []}) as run:
        decision = {
            "schema": "trimtab.decision/1",
            "kind": "optimize",
            "verdict": verdict,
            "reasons": [],
            "seed": seed,
            "baseline": {"id": baseline},
            "gates": [{**_GATE, "name": name, "verdict": found} for name, found in gates.items()],
            "candidates": [],
        }
        sha256 = run.write_decision(decision)
        run.put_outcomes("ab" * 32, "text", [Outcome(item_id="t1", suite="text", cluster="t", value=-1.0, n_tokens=3)])
        written = dataclasses.replace(_lock(snapshot, verdict, sha256), **lock)
        write_deploy_toml(path / "deploy.toml", written)
        if finish:
            run.finish()
    return path


def _lock(snapshot: Any, verdict: Any, decision_sha256: str) -> DeployLock:
    zeros = "0" * 64
    return DeployLock(
        id="llamacpp as-shipped",
        verdict=verdict,
        decision_sha256=decision_sha256,
        source=snapshot.source,
        revision="",
        format="gguf",
        source_files=snapshot.files,
        source_sha256=snapshot.digest,
        weights_sha256=snapshot.digest,
        recipe=Recipe(name="as-shipped", family="", engine="llamacpp"),
        template_sha256="",
        build=EngineBuild(engine="llamacpp", version="1"),
        settings=Settings(slots=1),
        policy="standard",
        policy_sha256=zeros,
        suite="core",
        suite_sha256=zeros,
        workload="chat",
        workload_sha256=zeros,
        reference_sha256=zeros,
        machine="a cpu",
        machine_sha256=digest_of("m"),
        made="2026-11-25T00:00:00Z",
        trimtab="0.1.0",
    )
