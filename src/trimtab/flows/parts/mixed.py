"""Mixes of types in a search: what each group of weights loses is measured, and the best mixes become candidates like others.

Losses are measured on search texts in llama.cpp, which opens any mix, and hold for OpenVINO too: it gets the same weights. Times are
those of each engine. What the choice rests on stands at the top of plan/tuning/allocate; what comes out is screened, timed and certified.
"""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.deployment import Candidate, Recipe, Settings
from trimtab.core.errors import InfeasibleError, InputError, MissingError
from trimtab.core.files import digest_of
from trimtab.engines.client import WorkerClient
from trimtab.evaluate.screen import candidate_screen_requests, screen
from trimtab.flows.parts.opening import build_candidate
from trimtab.flows.parts.reference import PromptMaker
from trimtab.flows.parts.screening import Screening, why_screened_out
from trimtab.flows.parts.search import Row, Search, build_plan, keep_s, key_of_tried, look, screening_of
from trimtab.flows.parts.space import Plan
from trimtab.plan.tuning.allocate import Allocation, allocations, fit_rates
from trimtab.plan.tuning.mixes import (
    DECODE_PLACES,
    KEEP,
    PREFILL_PLACES,
    columns_of,
    is_plain,
    mix_options,
    mix_recipe,
    possible_types,
    timing_choices,
)
from trimtab.plan.tuning.tensor_groups import TensorGroup, tensor_groups
from trimtab.sources.ggml_types import GGML_TYPES

TYPES = {"llamacpp": ("Q8_0", "Q4_0", "Q6_K"), "openvino": ("Q8_0", "Q4_0")}
"""What may be mixed with the weights as shipped, the most useful first: what time does not allow is left out from the end."""
N_BANDS = 3
MARGIN_SHARES = (0.5, 1.0)
"""Budgets of loss, as shares of the margin on text."""
USUAL_MARGIN = 0.02
LOSS_TOKENS = 1500
"""Of search texts, for the loss of one group: few do, because losses are compared on the same ones."""
SMALLER = 0.9
"""The fastest mixes are also looked for among those whose weights take at most this share of the file's bytes."""
N_MIXES = 3
"""Candidates of each engine."""
BLOCKS = {name: (values, size) for name, values, size in GGML_TYPES.values()}

Losses = dict[tuple[str, str], float]


@dataclass(kw_only=True)
class Mixing:
    """One look for mixes. before: what a search that asked the same question did, None if there was none; did: what this one does."""

    search: Search
    screening: Screening
    groups: list[TensorGroup]
    scratch: Path
    before: list[str] | None
    did: list[str]

    def may(self, what: str) -> bool:
        """Whether there is time for a piece of work, or was when the same question was asked before."""
        allowed = what in self.before if self.before is not None else self.search.session.seconds_left > keep_s(self.search)
        if allowed:
            self.did.append(what)
        return allowed

    def skip(self, what: str, why: str) -> None:
        self.search.skipped.append({"what": what, "why": why})

    def recipe(self, engine: str, choice: Mapping[str, str]) -> Recipe:
        return mix_recipe(engine, choice, self.groups, BLOCKS)

    def possible(self, engine: str) -> dict[str, tuple[str, ...]]:
        return {group.name: possible_types(group, TYPES[engine], BLOCKS) for group in self.groups}

    async def build(self, recipe: Recipe) -> Candidate:
        """A candidate whose weights are thrown away with the scratch folder."""
        search = self.search
        return await build_candidate(search.opened, recipe.engine, recipe, search.settings, products_dir=self.scratch)


async def mix_types(search: Search, make_prompts: PromptMaker) -> None:
    """Add rows for mixes of types, and say what was not measured or tried, with the reason."""
    why = _why_not(search)
    if why:
        search.skipped.append({"what": "mixes of types", "why": why})
        return
    key = digest_of(["mixes", key_of_tried(search)])
    async with AsyncExitStack() as stack:
        screening = screening_of(search, make_prompts, stack)
        await screening.score_reference()
        scratch = stack.enter_context(tempfile.TemporaryDirectory(dir=search.session.caches, prefix=".mixes-"))
        mixing = Mixing(
            search=search,
            screening=screening,
            groups=tensor_groups(search.opened.header.tensors, N_BANDS),
            scratch=Path(scratch),
            before=search.session.cache.get_json("tried", key),
            did=[],
        )
        if not screening.requests:
            mixing.skip("mixes of types", "there are no search texts to measure what a group of weights loses")
            return
        losses = await _losses(mixing)
        for engine in sorted(TYPES.keys() & search.engines.keys(), key=lambda name: -_best_ratio(search, name)):
            await _try_engine(mixing, engine, losses)
        if mixing.before is None:
            search.session.cache.put_json("tried", key, mixing.did)


def _why_not(search: Search) -> str:
    if search.opened.snapshot.format != "gguf":
        return f"types are mixed in GGUF files, and this model is {search.opened.snapshot.format}"
    if "llamacpp" not in search.engines:
        return "what a group of weights loses is measured in llama.cpp, which is not among the engines"
    return ""


def _best_ratio(search: Search, engine: str) -> float:
    return max(
        (row.probe.ratio for row in search.rows.values() if row.probe and row.plan.engine == engine and not row.reasons), default=0.0
    )


async def _losses(mixing: Mixing) -> Losses:
    """(group, type) -> rise of the divergence, of the types that were measured for all groups that can have them."""
    possible = mixing.possible("llamacpp")
    plain: float | None = None
    losses: Losses = {}
    for type_name in TYPES["llamacpp"]:
        todo = [group.name for group in mixing.groups if type_name in possible[group.name]]
        found: Losses = {}
        for name in todo:
            if not mixing.may(f"loss {type_name} {name}"):
                break
            mixing.search.session.say("mixed", f"loss of {name} in {type_name}", len(found), len(todo))
            plain = await _divergence(mixing, {}) if plain is None else plain
            found[name, type_name] = await _divergence(mixing, {name: type_name}) - plain
        if len(found) == len(todo):
            losses |= found
        elif todo:
            mixing.skip(f"mixes with {type_name}", f"the time limit left room for {len(found)} of {len(todo)} measurements of its loss")
    return losses


async def _divergence(mixing: Mixing, choice: Mapping[str, str]) -> float:
    """Nats per token from the reference on some of the search texts, with these types and all other weights as shipped."""
    screening = mixing.screening
    n = _n_texts(screening)
    requests, results = screening.requests[:n], screening.results[:n]
    recipe = mixing.recipe("llamacpp", choice)

    async def compute() -> float:
        made = await mixing.build(recipe)
        client = await WorkerClient.start(made.engine, made.snapshot, made.settings, purpose="score")
        try:
            return screen(results, await client.score(candidate_screen_requests(requests, results))).kl_nats
        finally:
            await client.close()
            if made.snapshot.root != mixing.search.opened.snapshot.root:
                made.snapshot.path.unlink()  # one at a time: all together would take gigabytes

    kind = mixing.search.engines["llamacpp"].build().digest
    settings = mixing.search.settings.given()
    key = [screening.reference.numeric_sha256, mixing.search.opened.snapshot.digest, recipe.parameters, kind, settings, requests]
    return float(await mixing.search.session.once("mixed_loss", key, compute))


def _n_texts(screening: Screening) -> int:
    """How many of the texts hold LOSS_TOKENS tokens."""
    n_tokens = 0
    for index, request in enumerate(screening.requests):
        n_tokens += sum(map(len, request.continuations))
        if n_tokens >= LOSS_TOKENS:
            return index + 1
    return len(screening.requests)


async def _try_engine(mixing: Mixing, engine: str, losses: Losses) -> None:
    """Time the types in one engine, choose, and look at the mixes chosen."""
    own = {key: loss for key, loss in losses.items() if key[1] in TYPES[engine]}
    if not own:
        mixing.skip(f"mixes in {engine}", "the loss of no type was measured")
        return
    mixes = await _choose(mixing, engine, own)
    for mix in mixes:
        await _look(mixing, engine, mix)


async def _choose(mixing: Mixing, engine: str, losses: Losses) -> list[Allocation]:
    """The mixes to try, by measured losses and times."""
    search = mixing.search
    measured = {kind for _, kind in losses}
    possible = {name: tuple(kind for kind in own if kind in (KEEP, *measured)) for name, own in mixing.possible(engine).items()}
    seen: dict[str, tuple[float, float, float]] = {}
    choices = timing_choices(mixing.groups, possible)
    for number, (name, choice) in enumerate(choices.items()):
        if not mixing.may(f"time {engine} {name}"):
            mixing.skip(f"mixes in {engine}", f"the time limit left room for {len(seen)} of {len(choices)} timings of their types")
            return []
        search.session.say("mixed", f"{engine}: time of {name}", number, len(choices))
        try:
            made = await mixing.build(mixing.recipe(engine, choice))
            _, probe = await mixing.screening.look_at(made, 500 + number)
        except (InfeasibleError, MissingError, InputError) as error:
            mixing.skip(f"mixes in {engine} with {name}", str(error))
            continue
        seen[name] = (probe.ttft_ms, probe.tpot_ms, probe.e2e_ms * probe.ratio)
    typical_ms = statistics.median(beside for _, _, beside in seen.values()) if seen else 0.0
    prompt, answer = search.workload.prompt_tokens, search.workload.output_tokens
    try:
        prefill = fit_rates(
            [columns_of(choices[name], mixing.groups, PREFILL_PLACES) for name in seen],
            [ttft * typical_ms / beside / prompt for ttft, _, beside in seen.values()],
        )
        decode = fit_rates(
            [columns_of(choices[name], mixing.groups, DECODE_PLACES) for name in seen],
            [tpot * typical_ms / beside for _, tpot, beside in seen.values()],
        )
    except InputError as error:
        mixing.skip(f"mixes in {engine}", str(error))
        return []
    options = mix_options(mixing.groups, losses, prefill, decode, BLOCKS)
    gate = next((gate for gate in search.policy.gates if gate.suite == "text" and gate.required), None)
    margin = gate.margin if gate else USUAL_MARGIN
    found = allocations(
        options,
        budgets_nats=[share * margin for share in MARGIN_SHARES],
        prompt_tokens=prompt,
        output_tokens=answer,
        limits_bytes=(None, int(SMALLER * sum(tensor.size_bytes for group in mixing.groups for tensor in group.tensors))),
    )
    new = [mix for mix in found if not is_plain(mix.types, mixing.groups)]
    if not new:
        mixing.skip(f"mixes in {engine}", "none is predicted to be faster or smaller than the file as shipped within the text margin")
    for mix in new[N_MIXES:]:
        mixing.skip(
            f"{engine} {mixing.recipe(engine, mix.types).name.removeprefix(f'{engine}-')}", f"more than {N_MIXES} mixes of an engine"
        )
    return new[:N_MIXES]


async def _look(mixing: Mixing, engine: str, mix: Allocation) -> None:
    """Screen and probe a mix as a row of its own, with the settings that served the engine best."""
    search = mixing.search
    recipe = mixing.recipe(engine, mix.types)
    plan = Plan(id=f"{engine} {recipe.name.removeprefix(f'{engine}-')}", engine=engine, recipe=recipe, extra=_best_settings(search, engine))
    if not mixing.may(f"look {plan.id}"):
        mixing.skip(plan.id, "the time limit left no room for it")
        return
    row = Row(plan=plan)
    search.rows[plan.id] = row
    search.session.say("mixed", f"{plan.id}, {recipe.title}")
    try:
        row.candidate = await build_plan(search, plan)
        await look(search, mixing.screening, row, len(search.rows))
    except (InfeasibleError, MissingError) as error:
        search.note(row, "infeasible", str(error))
        return
    if row.screen is not None:
        search.session.say(
            "mixed", f"{plan.id} differs by {row.screen.kl_nats:.4f} nats a token; a rise of {mix.kl_nats:.4f} was predicted"
        )
    search.note(row, "screened", why_screened_out(row.screen, search.policy))


def _best_settings(search: Search, engine: str) -> Settings:
    """Settings of the engine's fastest row that may pass."""
    rows: Sequence[Any] = [row for row in search.rows.values() if row.probe and row.plan.engine == engine and not row.reasons]
    best = max(rows, key=lambda row: row.probe.ratio, default=None)
    return best.plan.extra if best is not None else Settings()
