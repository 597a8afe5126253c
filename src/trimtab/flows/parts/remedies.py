"""Three ways to mend a compressed candidate that did not pass: other calibration text, sensitive weights kept, the run's next point.

All that chooses between weights is measured on items of the search. What comes out is a candidate like any other.
"""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.compress.base import is_as_shipped
from trimtab.core.deployment import Candidate, Recipe, Settings
from trimtab.core.errors import InfeasibleError, InputError, MissingError
from trimtab.core.evidence import Outcome
from trimtab.core.files import digest_of
from trimtab.core.policy import GateSpec
from trimtab.decide.pareto import TradeOff, pareto
from trimtab.decide.remedies import GateLoss, gate_loss
from trimtab.engines.client import WorkerClient
from trimtab.evaluate.requests import PreparedSuite
from trimtab.evaluate.runner import score_items
from trimtab.flows.parts.calibration import suites_with_twins
from trimtab.flows.parts.evidence import Bench, outcomes_on
from trimtab.flows.parts.opening import Opened, build_candidate, recipe_named
from trimtab.flows.parts.outcome_keys import prepared_digest
from trimtab.flows.parts.session import Session
from trimtab.plan.tuning.mixes import KEEP, possible_types
from trimtab.plan.tuning.protect import Protection, Sensitivity, protect
from trimtab.plan.tuning.tensor_groups import TensorGroup, tensor_groups
from trimtab.record.deploy import DeployLock
from trimtab.record.measured import levels_timed
from trimtab.record.trade import trade_off
from trimtab.sources.ggml_types import GGML_TYPES

CALIBRATED, PROTECTED, NEXT_POINT = "calibration on swapped identities", "sensitive weights kept", "next point of the run"
NO_MATRIX = ("F32", "F16", "BF16", "Q8_0", KEEP)
"""Types that llama.cpp makes without looking at an importance matrix."""
TWIN_TOKENS = 16384
N_BANDS = 3
HIGH = "Q8_0"
"""What a sensitive group keeps where the source is in floats; where it is quantised already, its own bytes."""
FLOATS = {"F32", "F16", "BF16"}
BLOCKS = {name: (values, size) for name, values, size in GGML_TYPES.values()}
SENSITIVITY_SHARE = 0.5
"""Of the time there is, for finding out which weights are sensitive."""


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One way to mend.

    recipe, candidate: None where it cannot be tried, with the reason; details: what its choice rests on, as JSON types
    """

    name: str
    what: str
    recipe: Recipe | None = None
    candidate: Candidate | None = None
    why_not: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Mending:
    """What is to be mended.

    gates: those that it did not pass; suites: names as typed; decision: of the run that it comes from, if that is at hand
    """

    session: Session
    opened: Opened
    lock: DeployLock
    bench: Bench
    candidate: Candidate
    gates: tuple[GateSpec, ...]
    suites: Sequence[str]
    decision: Mapping[str, Any] | None

    @property
    def searched(self) -> PreparedSuite:
        """The search's items of the gates to mend."""
        return self.bench.exam.search.only([gate.suite for gate in self.gates])

    def losses(self, reference: Sequence[Outcome], candidate: Sequence[Outcome]) -> dict[str, GateLoss]:
        """By how much each gate to mend is off on the search's items."""
        return {gate.name: gate_loss(gate, self.bench.policy, reference, candidate) for gate in self.gates}

    async def build(self, recipe: Recipe, settings: Settings, *, products_dir: Path, candidate_id: str) -> Candidate:
        return await build_candidate(self.opened, recipe.engine, recipe, settings, products_dir=products_dir, candidate_id=candidate_id)


async def remedies_for(mending: Mending) -> list[Remedy]:
    """All three, built, or with the reason why one cannot be tried."""
    found = []
    for name, make in ((CALIBRATED, _calibrated), (PROTECTED, _protected), (NEXT_POINT, _next_point)):
        mending.session.say("mitigate", name)
        try:
            found.append(await make(mending))
        except (InfeasibleError, InputError, MissingError) as error:
            found.append(Remedy(name=name, what="", why_not=str(error)))
    return found


def _cannot(name: str, why: str, **details: Any) -> Remedy:
    return Remedy(name=name, what="", why_not=why, details=details)


async def _calibrated(mending: Mending) -> Remedy:
    """The same recipe, fitted on text with the same cases about every group. Raises InfeasibleError, InputError, MissingError."""
    recipe = mending.lock.recipe
    why = _takes_no_text(recipe)
    if why:
        return _cannot(CALIBRATED, why)
    suites = suites_with_twins(mending.suites)
    if not suites:
        return _cannot(CALIBRATED, "no suite of the run has items in which identities are swapped")
    changed = with_twins(recipe, suites)
    made = await mending.build(
        changed,
        mending.candidate.settings,
        products_dir=mending.session.products_dir,
        candidate_id=f"{mending.candidate.id}, calibrated on swapped identities",
    )
    what = f"fitted on the shipped calibration text and identity-swapped twins of {', '.join(suites)}"
    return Remedy(name=CALIBRATED, what=what, recipe=changed, candidate=made)


def _takes_no_text(recipe: Recipe) -> str:
    """Why a recipe cannot be fitted on text; empty if it can."""
    kind = str(recipe.parameters.get("type") or recipe.parameters.get("mode") or "")
    if is_as_shipped(recipe):
        return "the weights are as shipped: whoever quantised them chose the text"
    if isinstance(recipe.parameters.get("calibration"), list | tuple):
        return "it was fitted on swapped identities already"
    if recipe.family == "gguf" and kind in NO_MATRIX:
        return f"{kind} is made without calibration text"
    if recipe.family == "openvino" and not kind.startswith("int4"):
        return f"mode {kind} is made without calibration text"
    return ""


def with_twins(recipe: Recipe, suites: Sequence[str]) -> Recipe:
    """The recipe with twins of these suites in its calibration text, and a method that uses text where it had none."""
    parameters = {key: value for key, value in recipe.parameters.items() if key != "imatrix"}
    parameters |= {"calibration": list(suites), "calibration_tokens": TWIN_TOKENS}
    if recipe.family == "openvino" and not parameters.get("awq"):
        parameters["scale_estimation"] = True
    return dataclasses.replace(
        recipe, name=f"{recipe.name}-twins", title=f"{recipe.title}, fitted on swapped identities", parameters=parameters
    )


async def _protected(mending: Mending) -> Remedy:
    """The same recipe, with the groups of weights kept that the gates depend on. Raises InfeasibleError, InputError, MissingError."""
    recipe = mending.lock.recipe
    if recipe.family != "gguf" or is_as_shipped(recipe) or mending.opened.snapshot.format != "gguf":
        return _cannot(PROTECTED, "only weights that a recipe of llama.cpp compresses can be kept one by one")
    if recipe.parameters.get("tensors"):
        return _cannot(PROTECTED, "its recipe gives single weights their types already")
    session = mending.session
    reference = await outcomes_on(session, mending.bench.reference, mending.searched, phase="mitigate", what="reference on search items")
    own = await outcomes_on(session, mending.candidate, mending.searched, phase="mitigate", what="candidate on search items")
    losses = {name: loss.margins for name, loss in mending.losses(reference, own).items()}
    if not any(losses.values()):
        return _cannot(PROTECTED, "on the search's items the gates are not off, so no weights can be told to matter", losses=losses)
    groups = tensor_groups(mending.opened.header.tensors, N_BANDS)
    found = await _sensitivities(mending, groups, reference, losses)
    details = {"losses": losses, "sensitivity": [dataclasses.asdict(one) for one in found]}
    if len(found) < len(groups):
        why = f"the time limit left room to measure {len(found)} of {len(groups)} groups of weights"
        return _cannot(PROTECTED, why, **details)
    chosen = protect(found, losses)
    if chosen is None or not chosen.groups:
        return _cannot(PROTECTED, "on the search's items no group of weights by itself makes the gates any better", **details)
    if len(chosen.groups) == len(groups):
        return _cannot(PROTECTED, "every group of weights would have to be kept, which is no compression", **details)
    kept = keeping(recipe, chosen, groups)
    made = await mending.build(
        kept, mending.candidate.settings, products_dir=session.products_dir, candidate_id=f"{mending.candidate.id}, sensitive weights kept"
    )
    what = ", ".join(f"{group} in {'its own type' if kind == KEEP else kind}" for group, kind in chosen.groups.items())
    return Remedy(
        name=PROTECTED, what=f"kept: {what}", recipe=kept, candidate=made, details={**details, "predicted_shares": dict(chosen.shares)}
    )


def keeping(recipe: Recipe, chosen: Protection, groups: Sequence[TensorGroup]) -> Recipe:
    """The recipe with some groups in types of their own."""
    tensors = {group.pattern: chosen.groups[group.name] for group in groups if group.name in chosen.groups}
    return dataclasses.replace(
        recipe,
        name=f"{recipe.name}-kept-{digest_of(tensors)[:8]}",
        title=f"{recipe.title}, sensitive weights kept",
        parameters={**recipe.parameters, "tensors": tensors},
    )


def high_type(group: TensorGroup) -> str:
    """What a group keeps: the source's bytes, or 8 bits where these are floats."""
    return HIGH if group.stored_types <= FLOATS and HIGH in possible_types(group, (HIGH,), BLOCKS) else KEEP


async def _sensitivities(
    mending: Mending, groups: Sequence[TensorGroup], reference: Sequence[Outcome], losses: Mapping[str, float]
) -> list[Sensitivity]:
    """What keeping each group alone gains, of as many groups as there is time for."""
    session = mending.session
    until_s = session.seconds + SENSITIVITY_SHARE * session.seconds_left
    found: list[Sensitivity] = []
    with tempfile.TemporaryDirectory(dir=session.caches, prefix=".kept-") as scratch:
        for group in groups:
            if session.seconds > until_s:
                break
            session.say("mitigate", f"{group.name} kept, the rest compressed", len(found), len(groups))
            one = Protection(groups={group.name: high_type(group)}, shares={}, extra_bytes=0)
            seen = await _kept_alone(mending, keeping(mending.lock.recipe, one, [group]), reference, Path(scratch))
            gains = {name: loss - seen["margins"][name] for name, loss in losses.items()}
            extra = seen["size_bytes"] - mending.candidate.snapshot.size_bytes
            found.append(Sensitivity(group=group.name, type_name=high_type(group), extra_bytes=extra, gains=gains))
    return found


async def _kept_alone(mending: Mending, recipe: Recipe, reference: Sequence[Outcome], scratch: Path) -> dict[str, Any]:
    """Bytes, and by how many margins each gate is off on the search's items. The weights are thrown away."""

    async def compute() -> dict[str, Any]:
        made = await mending.build(recipe, mending.candidate.settings, products_dir=scratch, candidate_id="")
        client = await WorkerClient.start(made.engine, made.snapshot, made.settings, purpose="score")
        try:
            own = await score_items(client, mending.searched)
        finally:
            await client.close()
            made.snapshot.path.unlink(missing_ok=True)  # one at a time: all together would take gigabytes
        margins = {name: loss.margins for name, loss in mending.losses(reference, own).items()}
        return {"size_bytes": made.snapshot.size_bytes, "margins": margins}

    candidate = mending.candidate
    key = [
        [mending.bench.reference.numeric_sha256, candidate.source_sha256, candidate.build],
        [candidate.settings.only(candidate.numeric), recipe.parameters, prepared_digest(mending.searched), mending.gates],
    ]
    found: dict[str, Any] = await mending.session.once("kept_alone", key, compute)
    return found


async def _next_point(mending: Mending) -> Remedy:
    """The fastest deployment on the run's front that is nearer to the reference. Raises InfeasibleError, InputError, MissingError."""
    decision = mending.decision
    if decision is None or decision["kind"] != "optimize":
        return _cannot(NEXT_POINT, "it comes from no run of optimize, so nothing else was timed beside it")
    row = next_row(decision, mending.lock.id)
    if row is None:
        return _cannot(NEXT_POINT, "no other deployment of the run is on its front of time, memory and loss, and nearer to the reference")
    recipe = recipe_named(row["recipe"], row["engine"])
    made = await mending.build(recipe, Settings.parse(row["settings"]), products_dir=mending.session.products_dir, candidate_id=row["id"])
    if made.snapshot.digest != row["details"]["weights_sha256"]:
        return _cannot(NEXT_POINT, f"{row['id']} is made of other weights than these")
    return Remedy(name=NEXT_POINT, what=row["id"], recipe=recipe, candidate=made, details={"verdict_then": row["verdict"]})


def next_row(decision: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Of the deployments on a run's front that lost less than `name` did, and were not failed: one that passed, else the fastest.

    What was not timed has no place on the front. Where `name` itself was not, all on the front count as nearer to the reference.
    """
    rows = {row["id"]: row for row in decision["candidates"] if row.get("measurement") and row.get("details")}
    level = max(levels_timed(list(rows.values())), default=0)
    points: dict[str, TradeOff] = {key: point for key, row in rows.items() if (point := trade_off(row, decision, level)) is not None}
    own = points.get(name)
    front = [place.id for place in pareto(list(points.values())) if place.on_front and place.id != name]
    nearer = [key for key in front if own is None or points[key].loss_nats.value < own.loss_nats.value]
    fit = [key for key in nearer if rows[key].get("verdict") != "fail"]
    best = min(fit, key=lambda key: (rows[key].get("verdict") != "pass", points[key].time_ms.value), default=None)
    return rows[best] if best is not None else None
