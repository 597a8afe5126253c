"""Settings of the most promising engines and weights, changed one at a time beside the baseline, while time allows."""

import math
from contextlib import AsyncExitStack

from trimtab.core.deployment import Settings
from trimtab.core.errors import InfeasibleError, MissingError
from trimtab.core.files import digest_of
from trimtab.flows.parts.opening import candidate_name, recipe_named
from trimtab.flows.parts.reference import PromptMaker
from trimtab.flows.parts.screening import Screening, why_screened_out
from trimtab.flows.parts.search import OUT_OF_TIME, Row, Search, build_plan, keep_s, key_of_tried, look, screening_of
from trimtab.flows.parts.space import Plan
from trimtab.plan.tuning.axes import axes_for
from trimtab.plan.tuning.race import Ask, Point, RaceResult, Seen, Space, drive, race

UNSEEN = "Their engine and weights were left out, or cannot run, for the reason given with each."


def settings_space(search: Search) -> Space:
    """Engines and weights that were looked at, the closest to winning first, with the settings that may matter for each engine."""
    recipes: dict[str, list[str]] = {}
    rows = [row for row in search.rows.values() if row.probe and not row.plan.source and not row.plan.extra.given()]
    for row in sorted(rows, key=lambda row: row.probe.ratio if row.probe else 0.0, reverse=True):
        recipes.setdefault(row.plan.engine, []).append(row.plan.recipe.name.removeprefix(f"{row.plan.engine}-"))
    return Space(
        recipes={name: tuple(names) for name, names in recipes.items()},
        axes={name: axes_for(name, search.workload, search.machine.n_cores) for name in recipes},
    )


def n_without_a_look(search: Search) -> int:
    """Combinations of settings with engines and weights that were not looked at themselves, or could not run."""
    recipes: dict[str, tuple[str, ...]] = {}
    for row in search.rows.values():
        if not row.probe and not row.plan.source and not row.plan.extra.given():
            recipes[row.plan.engine] = (*recipes.get(row.plan.engine, ()), row.plan.recipe.name)
    axes = {name: axes_for(name, search.workload, search.machine.n_cores) for name in recipes}
    return sum(bool(point.settings) and row_id(point) not in search.rows for point in Space(recipes=recipes, axes=axes).points())


async def tune_settings(search: Search, make_prompts: PromptMaker) -> None:
    """Add rows for settings that were tried, and say how many combinations were not, with the reason.

    A numeric setting is screened on the search texts like other weights are; a speed-only one shares the screening of its weights.
    """
    async with AsyncExitStack() as stack:
        screening = screening_of(search, make_prompts, stack)
        await screening.score_reference()
        key = digest_of(["settings", key_of_tried(search)])
        before: list[str] | None = search.session.cache.get_json("tried", key)
        n_rows, n_more = len(search.rows), n_without_a_look(search)
        result = await _drive(search, screening, settings_space(search), before)
        if before is None:
            search.session.cache.put_json("tried", key, list(search.rows)[n_rows:])
    search.skipped += [{"what": f"{part.n_points} combinations with other settings", "why": part.why} for part in result.skipped]
    if n_more:
        search.skipped.append({"what": f"{n_more} combinations with other settings", "why": UNSEEN})


async def _drive(search: Search, screening: Screening, space: Space, before: list[str] | None) -> RaceResult:
    """Answer the race from what is known of engines and weights, and by a look at each setting.

    before: what a search that asked the same question had time for, None if there was none
    """

    async def answer(ask: Ask) -> Seen | None:
        if row_id(ask.point) in search.rows:
            return _known(search, ask.point)
        return await _look(search, screening, ask.point, before)

    return await drive(race(space, rungs=()), answer)


def _known(search: Search, point: Point) -> Seen:
    row = search.rows[row_id(point)]
    if row.reasons or row.probe is None:
        return Seen(why=row.reasons[0] if row.reasons else OUT_OF_TIME)
    return Seen(gains=(math.log(row.probe.ratio),))


async def _look(search: Search, screening: Screening, point: Point, before: list[str] | None) -> Seen | None:
    """Screen and probe one changed setting, as a row of its own; None = there is no time for it."""
    if row_id(point) not in before if before is not None else search.session.seconds_left < keep_s(search):
        return None
    recipe = recipe_named(point.recipe, point.engine)
    row = Row(plan=Plan(id=row_id(point), engine=point.engine, recipe=recipe, extra=Settings.parse(dict(point.settings))))
    search.rows[row.plan.id] = row
    search.session.say("settings", row.plan.id)
    try:
        row.candidate = await build_plan(search, row.plan)
        probe = await look(search, screening, row, len(search.rows))
    except (InfeasibleError, MissingError) as error:
        search.note(row, "infeasible", str(error))
        return Seen(why=str(error))
    why = why_screened_out(row.screen, search.policy)
    search.note(row, "screened", why)
    return Seen(why=why) if why else Seen(gains=(math.log(probe.ratio),))


def row_id(point: Point) -> str:
    """The name its row has in the search."""
    return candidate_name(point.engine, recipe_named(point.recipe, point.engine), Settings.parse(dict(point.settings)))
