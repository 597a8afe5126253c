"""What a first search tries: the shelf of recipes, for the engines at hand, and what the user adds."""

import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.compress.base import is_as_shipped
from trimtab.core.deployment import CandidateSpec, Recipe, Settings, parse_spec
from trimtab.core.errors import InputError
from trimtab.engines.registry import engine_class, engine_names
from trimtab.flows.parts.opening import AS_SHIPPED, DEFAULT_ENGINE, Opened, as_opened, candidate_name, recipe_named, settings_text
from trimtab.sources.local import find_model

SHELF = Path(__file__).parents[2] / "catalog" / "shelf.toml"
SOURCE_FORMATS = {
    "ctranslate2": {"gguf", "safetensors"},
    "llamacpp": {"gguf", "safetensors"},
    "openvino": {"gguf", "openvino", "safetensors"},
    "ortgenai": {"gguf", "safetensors"},
    "transformers": {"gguf", "safetensors"},
    "vllm": {"gguf", "safetensors"},
}
"""What an engine's recipes start from. Weights as shipped need an engine that opens them."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One thing to try. extra: settings beyond the common ones; source: the model's own, or the user's file."""

    id: str
    engine: str
    recipe: Recipe
    extra: Settings
    source: str = ""


def shelf_plans(opened: Opened, engines: Collection[str]) -> tuple[list[Plan], list[dict[str, str]]]:
    """Plans from the shelf for these engines, and what is skipped with the reason. Raises InputError for a broken catalog."""
    plans: list[Plan] = []
    skipped: list[dict[str, str]] = []
    for entry in tomllib.loads(SHELF.read_text(encoding="utf-8"))["entry"]:
        name = str(entry["recipe"])
        engine = name.partition("-")[0]
        extra = Settings.parse(entry.get("settings", {}))
        if engine not in engines:
            continue
        recipe = recipe_named(name, engine)
        label = candidate_name(engine, recipe, extra)
        known = engine_class(engine).formats if is_as_shipped(recipe) else SOURCE_FORMATS.get(engine, set())
        if opened.snapshot.format not in known:
            skipped.append({"what": label, "why": f"{engine} does not read {opened.snapshot.format} files"})
        else:
            plans.append(Plan(id=label, engine=engine, recipe=recipe, extra=extra))
    return plans, skipped


def user_plans(specs: Sequence[str]) -> list[Plan]:
    """Plans for what the user named with --candidate. Raises InputError."""
    plans = []
    for text in specs:
        spec: CandidateSpec = parse_spec(text, engine_names())
        engine = spec.engine or _engine_of(spec.source)
        recipe = recipe_named(spec.recipe, engine)
        name = Path(spec.source.partition(":")[2] or spec.source).stem if spec.source else spec.source
        settings = "".join(f" {text}" for text in settings_text(spec.settings))
        suffix = "" if is_as_shipped(recipe) else f" {recipe.name.removeprefix(f'{engine}-')}"
        plans.append(Plan(id=f"{engine} {name}{suffix}{settings}", engine=engine, recipe=recipe, extra=spec.settings, source=spec.source))
    ids = [plan.id for plan in plans]
    for label in ids:
        if ids.count(label) > 1:
            raise InputError(f"Two candidates would be called {label!r}; give their files different names.")
    return plans


def _engine_of(source: str) -> str:
    """The engine of a candidate whose user named none: of a directory as its files say, else llama.cpp. Raises InputError."""
    path = Path(source).expanduser()
    return DEFAULT_ENGINE[find_model(path.absolute()).format] if path.is_dir() else "llamacpp"


def baseline_plan(opened: Opened, engines: Collection[str]) -> Plan:
    """What a user would have run: the file as shipped, llama.cpp with its own defaults; other directories in the engine that they are for.

    Raises InputError where no engine at hand opens the source.
    """
    engine = DEFAULT_ENGINE[opened.snapshot.format]
    if engine not in engines and opened.snapshot.format == "gguf":
        engine = "openvino"
    if engine not in engines or opened.snapshot.format not in SOURCE_FORMATS[engine]:
        raise InputError(
            f"{opened.snapshot.source} ({opened.snapshot.format}) can be opened by none of the engines at hand ({', '.join(engines)})."
        )
    return Plan(
        id=f"{engine} {AS_SHIPPED}",
        engine=engine,
        recipe=as_opened(opened, engine, recipe_named(AS_SHIPPED, engine)),
        extra=Settings(),
    )
