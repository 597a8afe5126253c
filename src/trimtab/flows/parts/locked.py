"""What a lockfile names, found again: its suites, its policy, its source, and the reference it was certified against."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.compress.base import load_recipes
from trimtab.core.deployment import Candidate, CandidateSpec, Settings, parse_spec
from trimtab.core.errors import InputError
from trimtab.core.files import to_plain
from trimtab.core.policy import GateSpec, Policy
from trimtab.core.workload import Workload, WorkloadRequest
from trimtab.decide.policies import load_policy
from trimtab.describe.card import model_card
from trimtab.engines.registry import engine_class, engine_names
from trimtab.evaluate.suites.registry import Suite
from trimtab.flows.parts.evidence import Bench
from trimtab.flows.parts.exam import load_suites, prepare_exam
from trimtab.flows.parts.lock_checks import Beside
from trimtab.flows.parts.opening import (
    AS_SHIPPED,
    Opened,
    build_candidate,
    default_engine,
    open_model,
    own_recipe,
    recipe_named,
    with_draft,
)
from trimtab.flows.parts.reference import EXACT, bench_against, bench_of, make_reference
from trimtab.flows.parts.session import Session
from trimtab.measure.machine import machine as this_machine
from trimtab.plan.workloads import load_workload
from trimtab.record.deploy import DeployLock, read_deploy_toml
from trimtab.record.run import read_decision
from trimtab.sources.open import is_fetched

SHARE_SEARCH = 0.25
"""As `optimize` splits; `compare` keeps fewer items for its pilot, so these certify items are among its own."""


def read_lock(path: Path) -> DeployLock:
    """The lockfile, for an engine that is at hand. Raises InputError, MissingError."""
    lock = read_deploy_toml(path)
    if lock.build.engine not in engine_names():
        raise InputError(f"{path} names the engine {lock.build.engine!r}; the engines here are {', '.join(engine_names())}.")
    engine_class(lock.build.engine).build()  # raises MissingError with the command that installs it
    return lock


def suites_of(lock: DeployLock) -> list[str]:
    """The suites of the certified run. Raises InputError if one cannot be found by name."""
    names = lock.suite.split("+")
    try:
        load_suites(names)
    except InputError as error:
        raise InputError(f"The lock was certified on {lock.suite!r}, which cannot be found by name; give its file with --suite.") from error
    return names


def policy_of(name: str, lock: DeployLock, beside: Beside | None) -> Policy:
    """The policy asked for, else the certified run's own, else the shipped one of that name. Raises InputError."""
    if name:
        return load_policy(name)
    try:
        return load_policy(lock.policy)
    except InputError as error:
        if beside is not None:
            return _policy_from(beside)
        raise InputError(
            f"The lock was certified under policy {lock.policy!r}, which does not ship; give its file with --policy."
        ) from error


def _policy_from(beside: Beside) -> Policy:
    values = {key: value for key, value in beside.policy.items() if key != "sha256"}
    gates = tuple(GateSpec(**gate) for gate in values.pop("gates"))
    return Policy(**{**values, "gates": gates, "looks": tuple(values["looks"])})


def found_source(source: str, lock_path: Path) -> str:
    """A source of the lock; a relative path is looked for from here and from the lock's own folder."""
    beside = lock_path.absolute().parent / source
    return str(beside) if ":" not in source and not Path(source).exists() and beside.exists() else source


def source_of(lock: DeployLock, lock_path: Path) -> str:
    """Where the model of a lock lies. Raises InputError for a local one that is gone."""
    source = found_source(lock.source, lock_path)
    if not is_fetched(source) and not Path(source).expanduser().exists():
        raise InputError(f"{lock.source}, which {lock_path} names as its model, is not here; give where it lies now with --source.")
    return source


def workload_of(lock: DeployLock, folder: Path) -> Workload:
    """The workload that the deployment was chosen for: of the decision beside the lock, else by its name. Raises InputError."""
    try:
        plain = read_decision(folder)["workload"]
        requests = tuple(
            WorkloadRequest(**{**one, "messages": tuple(tuple(message) for message in one["messages"])}) for one in plain["requests"]
        )
        found = Workload(**{**plain, "concurrency": tuple(plain["concurrency"]), "requests": requests})
    except (InputError, KeyError, TypeError):
        return load_workload(lock.workload)
    return found if found.name == lock.workload else load_workload(lock.workload)


def _locked_reference(lock: DeployLock) -> CandidateSpec | None:
    """What the lock was held against, where `optimize` would not have made it of the same source. Raises InputError."""
    then = lock.reference
    if then is None:
        return None
    if then.own_recipe is None and then.recipe not in (AS_SHIPPED, *(recipe.name for recipe in load_recipes())):
        raise InputError(
            f"The lock was certified against recipe {then.recipe!r} of a file, which this lock of an earlier version does not hold; "
            f'give it with --reference "{then.engine}:{then.source}?recipe=FILE.toml".'
        )
    engine, recipe, _ = EXACT.get(lock.format, ("", "", ""))
    if (then.source, then.engine, then.recipe) == (lock.source, engine, recipe_named(recipe, engine).name):
        return None
    return CandidateSpec(source=then.source, engine=then.engine, recipe=then.recipe, settings=then.settings)


async def build_locked(opened: Opened, lock: DeployLock, lock_path: Path, *, caches: Path, offline: bool) -> Candidate:
    """What the lock's recipe makes of the source now, with its settings and draft. Raises InputError, InfeasibleError, MissingError."""
    draft = found_source(lock.settings.draft, lock_path) if lock.settings.draft else None
    return await build_candidate(
        with_draft(opened, draft, cache_dir=caches, offline=offline),
        lock.build.engine,
        lock.recipe,
        lock.settings,
        products_dir=caches / "products",
        candidate_id=lock.id,
    )


async def bench_of_lock(
    session: Session,
    opened: Opened,
    lock: DeployLock,
    policy: Policy,
    suites: Sequence[Suite],
    *,
    lock_path: Path,
    reference: str = "",
) -> tuple[Bench, dict[str, Any]]:
    """The reference as it was certified against, its planted loss and other numerics, and what a document says of it beside `subject`.

    reference: spec of another one to hold it against. Raises InputError, InfeasibleError, MissingError.
    """
    card = model_card(opened.header, opened.snapshot)
    settings = Settings(slots=lock.settings.slots, context_tokens=lock.settings.context_tokens)
    spec = parse_spec(reference, engine_names()) if reference else _locked_reference(lock)
    n_cores = this_machine().n_cores
    if spec is None:
        made = await make_reference(session, opened, settings, 8 * card.size_bytes / max(card.n_params, 1))
        client = await session.workers.ready(made.candidate, None)
        exam = await prepare_exam(client, made.candidate, suites, policy, share_search=SHARE_SEARCH)
        return bench_of(made, policy, exam, n_cores), {"source": opened.snapshot.source, "provenance": made.provenance}
    other = open_model(found_source(spec.source, lock_path), cache_dir=session.caches, offline=session.offline)
    draft = found_source(spec.settings.draft, lock_path) if spec.settings.draft else None
    other = with_draft(other, draft, cache_dir=session.caches, offline=session.offline)
    engine = spec.engine or default_engine(other)
    kept = lock.reference.own_recipe if lock.reference is not None and not reference else None
    recipe = kept or recipe_named(spec.recipe, engine)
    held_against = await build_candidate(
        other,
        engine,
        recipe,
        dataclasses.replace(settings, **spec.settings.given()),
        products_dir=session.products_dir,
        candidate_id=f"reference: {engine} {Path(spec.source).name}",
    )
    exam = await prepare_exam(await session.workers.ready(held_against, None), held_against, suites, policy, share_search=SHARE_SEARCH)
    bench = await bench_against(session, other, held_against, settings, policy, exam, n_cores)
    named = {"source": spec.source, "provenance": f"{spec.source} in {engine}, {recipe.title or recipe.name}"}
    return bench, {**named, **({"own_recipe": to_plain(kept)} if kept is not None else own_recipe(spec.recipe, recipe))}
