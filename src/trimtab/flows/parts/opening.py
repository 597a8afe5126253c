"""From what a user typed to a candidate that can be started: source, header, recipe, engine."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.compress.base import is_as_shipped, load_recipes, read_recipe
from trimtab.compress.child import make_apart
from trimtab.core.deployment import Candidate, CandidateSpec, Recipe, Settings, parse_spec
from trimtab.core.errors import EngineRefused, InputError, MissingError
from trimtab.core.files import digest_of, to_plain
from trimtab.core.model import ModelHeader, Snapshot
from trimtab.describe.packing import packing_of
from trimtab.engines.base import Engine
from trimtab.engines.registry import engine_class, engine_names
from trimtab.flows.parts.calibration import calibration_of
from trimtab.sources.gguf import read_gguf_array
from trimtab.sources.open import open_source, read_header

AS_SHIPPED = "as-shipped"
UNPACKED = "huggingface-fp32"
TOKENS_KEY = "tokenizer.ggml.tokens"
DEFAULT_ENGINE = {"gguf": "llamacpp", "openvino": "openvino", "safetensors": "transformers", "ctranslate2": "ctranslate2"}


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A source on this machine: its files and its validated header. draft: the model that its settings name to draft for it, if any"""

    snapshot: Snapshot
    header: ModelHeader
    draft: Snapshot | None = None

    @property
    def template_sha256(self) -> str:
        return digest_of(self.header.chat_template)


def open_model(source: str, *, cache_dir: Path, offline: bool) -> Opened:
    """Fetch if need be, hash, read and validate the header. Raises InputError, MissingError."""
    snapshot = open_source(source, cache_dir=cache_dir, offline=offline)
    return Opened(snapshot=snapshot, header=read_header(snapshot))


def with_draft(opened: Opened, draft: str | None, *, cache_dir: Path, offline: bool) -> Opened:
    """The same with the draft model of its settings opened; its vocabulary is compared where both headers hold one.

    draft: its source, None = none. Raises InputError (another vocabulary, or what open_model raises), MissingError.
    """
    if draft is None:
        return opened
    other = open_model(draft, cache_dir=cache_dir, offline=offline).snapshot
    if opened.snapshot.format == other.format == "gguf":
        own, found = (read_gguf_array(snapshot.path, TOKENS_KEY) for snapshot in (opened.snapshot, other))
        if own != found:
            raise InputError(
                f"{draft} cannot draft for {opened.snapshot.source}: its vocabulary is another ({len(found)} tokens, not {len(own)}, or "
                "other ones); give a smaller model of the same family."
            )
    return dataclasses.replace(opened, draft=other)


def open_typed(spec: CandidateSpec, *, cache_dir: Path, offline: bool) -> Opened:
    """The source that a user typed, with the draft that its settings name. Raises InputError, MissingError."""
    opened = open_model(spec.source, cache_dir=cache_dir, offline=offline)
    return with_draft(opened, spec.settings.draft, cache_dir=cache_dir, offline=offline)


def engines_at_hand(wanted: Sequence[str] = ()) -> tuple[dict[str, type[Engine]], dict[str, str]]:
    """Engine classes that can run here, and why the others cannot. Raises InputError for a name that no engine has."""
    found: dict[str, type[Engine]] = {}
    absent: dict[str, str] = {}
    for name in wanted or engine_names():
        try:
            kind = engine_class(name)
            kind.build()
            found[name] = kind
        except MissingError as error:
            absent[name] = str(error)
    return found, absent


def is_recipe_file(name: str) -> bool:
    """Whether a recipe is named by its file, and not by the name of a shipped one."""
    return name.endswith(".toml")


def own_recipe(name: str, recipe: Recipe) -> dict[str, Any]:
    """What a document says of a recipe beside its name: all of it, if it came from a file, which may change."""
    return {"own_recipe": to_plain(recipe)} if is_recipe_file(name) else {}


def own_recipes_digest(specs: Sequence[str]) -> dict[str, str]:
    """What recipe files of the user's that are named in specs hold, as a digest that a run is bound to; empty if there are none.

    Raises InputError.
    """
    names = [parse_spec(text, engine_names()).recipe for text in specs]
    own = [read_recipe(Path(name).expanduser()) for name in names if is_recipe_file(name)]
    return {"recipe files": digest_of(own)} if own else {}


def recipe_named(name: str, engine: str) -> Recipe:
    """A shipped recipe by name, the engine's own prefix may be left out; or a recipe from a TOML file of the user's. Raises InputError."""
    if name in ("", AS_SHIPPED):
        return Recipe(name=AS_SHIPPED, family="gguf", engine=engine, title="weights as shipped", parameters={"type": AS_SHIPPED})
    recipes = {recipe.name: recipe for recipe in load_recipes()}
    recipe = read_recipe(Path(name).expanduser()) if is_recipe_file(name) else recipes.get(name) or recipes.get(f"{engine}-{name}")
    if is_recipe_file(name) and recipe is not None and recipe.name in (AS_SHIPPED, *recipes):
        raise InputError(f"Recipe file {name} is called {recipe.name!r} like a shipped recipe; give it a name of its own.")
    if recipe is None:
        raise InputError(f"Unknown recipe {name!r}; the recipes are {', '.join(recipes)}; or name a .toml file.")
    if recipe.engine != engine:
        raise InputError(f"Recipe {recipe.name!r} is for engine {recipe.engine}, not {engine}.")
    return recipe


def default_engine(opened: Opened) -> str:
    """The engine for a source whose user named none. Raises InputError where no engine at hand opens such weights."""
    packing = packing_of(opened.header.metadata) if opened.snapshot.format == "safetensors" else None
    if packing is not None and packing.why_not:
        raise InputError(
            f"{opened.snapshot.source} holds {opened.snapshot.format} weights ({packing.text}), which no engine at hand runs and which "
            f"cannot be unpacked here: {packing.why_not}; give the original weights, or convert it to GGUF (llama.cpp's "
            "convert_hf_to_gguf.py) or to OpenVINO (optimum-cli export openvino) and give that."
        )
    return DEFAULT_ENGINE[opened.snapshot.format]


def as_opened(opened: Opened, engine: str, recipe: Recipe) -> Recipe:
    """The recipe; but of a quantised checkpoint as shipped, that transformers does not open itself, the one that unpacks it."""
    if engine != "transformers" or not is_as_shipped(recipe) or opened.snapshot.format != "safetensors":
        return recipe
    packed = packing_of(opened.header.metadata) is not None
    return recipe_named(UNPACKED, engine) if packed and engine_class(engine).refuses(opened.snapshot, opened.header, Settings()) else recipe


def check_settings(opened: Opened, engine: str, common: Settings, typed: Settings) -> None:
    """Raise InputError for settings that a user typed and that the engine refuses, where it would open the model without them."""
    kind = engine_class(engine)
    snapshot = dataclasses.replace(opened.snapshot, draft=opened.draft)
    refusal = kind.refuses(snapshot, opened.header, dataclasses.replace(common, **typed.given()))
    if refusal and not kind.refuses(opened.snapshot, opened.header, common):
        raise InputError(f"{engine} cannot open {opened.snapshot.source} with the settings given: {refusal}.")


async def build_candidate(
    opened: Opened,
    engine: str,
    recipe: Recipe,
    settings: Settings,
    *,
    products_dir: Path,
    candidate_id: str = "",
) -> Candidate:
    """Apply the recipe (cached) and make the candidate, with its draft if the settings name one.

    Raises EngineRefused, InfeasibleError, InputError, MissingError.
    """
    kind = engine_class(engine)
    recipe = as_opened(opened, engine, recipe)
    snapshot = await make_apart(recipe, opened.snapshot, products_dir, calibration=calibration_of(recipe))
    header = opened.header if snapshot is opened.snapshot else None
    if settings.draft is not None:
        snapshot = dataclasses.replace(snapshot, draft=opened.draft)
    refusal = kind.refuses(snapshot, header, settings)
    if refusal:
        raise EngineRefused(f"{engine} cannot open {opened.snapshot.source}: {refusal}.")
    return Candidate(
        id=candidate_id or candidate_name(engine, recipe, Settings()),
        engine=engine,
        recipe=recipe.name,
        settings=settings,
        snapshot=snapshot,
        source_sha256=opened.snapshot.digest,
        template_sha256=opened.template_sha256,
        build=kind.build(),
        numeric=kind.numeric_settings,
    )


async def build_typed(opened: Opened, spec: CandidateSpec, common: Settings, *, products_dir: Path, side: str = "") -> Candidate:
    """What a user typed, as a candidate that is called after it; the settings typed go over the common ones.

    opened: the source of the spec with its draft; side: goes before the name
    Raises EngineRefused, InfeasibleError, InputError, MissingError.
    """
    engine = spec.engine or default_engine(opened)
    recipe = as_opened(opened, engine, recipe_named(spec.recipe, engine))
    check_settings(opened, engine, common, spec.settings)
    name = f"{candidate_name(engine, recipe, spec.settings)} {Path(spec.source).name}"
    return await build_candidate(
        opened,
        engine,
        recipe,
        dataclasses.replace(common, **spec.settings.given()),
        products_dir=products_dir,
        candidate_id=f"{side}: {name}" if side else name,
    )


def candidate_name(engine: str, recipe: Recipe, extra: Settings) -> str:
    """`openvino int8-asym kv_type=u8`: engine, recipe without the engine's prefix, settings beyond the common ones."""
    return " ".join([engine, recipe.name.removeprefix(f"{engine}-"), *settings_text(extra)])


def settings_text(settings: Settings) -> list[str]:
    """`kv_type=u8` for each setting given; of a draft's source no folders."""
    return [f"{key}={Path(value).name if key == 'draft' else value}" for key, value in settings.given().items()]
