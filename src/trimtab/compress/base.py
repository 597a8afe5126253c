"""Recipes and their products: what a recipe is read from, who builds it, and the cache of whole products.

A family is one file of this room with three functions (see RecipeBuilder). `make` calls them under a lock, in a temporary
folder beside the final one, and renames it when it is whole; a folder without a matching `product.json` is never used.
"""

import contextlib
import dataclasses
import errno
import fcntl
import importlib
import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, cast

from trimtab.core.deployment import Recipe
from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import canonical_json, digest_of, sha256_file, sync_folder, write_atomic
from trimtab.core.model import Snapshot, SnapshotFile, SnapshotFormat

FAMILIES = {
    "ctranslate2": "trimtab.compress.ctranslate2",
    "gguf": "trimtab.compress.gguf",
    "huggingface": "trimtab.compress.huggingface",
    "openvino": "trimtab.compress.openvino",
    "ortgenai": "trimtab.compress.ortgenai",
    "transformers": "trimtab.compress.transformers",
}
RECIPES_FOLDER = Path(__file__).parent.parent / "catalog" / "recipes"
PRODUCT_SCHEMA = 1

Progress = Callable[[str, float], None]
"""Called with what is being done and how much of it is done, 0 to 1."""


class RecipeBuilder(Protocol):
    """What a family's file provides, as plain functions."""

    def build(
        self, recipe: Recipe, source: Snapshot, out_dir: Path, *, calibration: Sequence[str] = (), progress: Progress | None = None
    ) -> Snapshot:
        """Write the product's files into the empty folder `out_dir` and return them as a snapshot with that root.

        Raises InfeasibleError if the source or the type cannot be converted, InputError for parameters it does not know.
        """

    def version(self, recipe: Recipe) -> str:
        """What the bytes of the product depend on apart from recipe, source and calibration: library builds, files named by the recipe."""

    def product_bytes(self, recipe: Recipe, source: Snapshot) -> int:
        """Upper estimate of the disk space that a build needs, scratch files included."""


def load_recipes(folder: Path | None = None) -> list[Recipe]:
    """All recipes of a folder of TOML files (default: the shipped catalog), by name. Raises InputError naming the file and the key."""
    folder = folder or RECIPES_FOLDER
    recipes = [read_recipe(path) for path in sorted(folder.glob("*.toml"))]
    names = [recipe.name for recipe in recipes]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"Recipe {name!r} appears twice in {folder}; give each recipe its own name.")
    return recipes


def read_recipe(path: Path) -> Recipe:
    """One recipe from its TOML file. Raises InputError for unreadable TOML, an unknown key, a wrong type or an unknown family."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"Recipe file {path} cannot be read: {error}.") from error
    text, number = (str,), (int, float)
    kinds = {"name": text, "family": text, "engine": text, "title": text, "parameters": (dict,), "bits_per_weight": number}
    for key, value in values.items():
        if key not in kinds:
            raise InputError(f"Unknown key {key!r} in recipe file {path}; the keys are {', '.join(kinds)}.")
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise InputError(f"Key {key!r} in recipe file {path} has the wrong type ({type(value).__name__}).")
    for key in ("name", "family", "engine"):
        if not values.get(key):
            raise InputError(f"Recipe file {path} lacks {key!r}.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", values["name"]):
        raise InputError(f"The name {values['name']!r} in recipe file {path} may hold letters, digits, dots, hyphens and underscores only.")
    if values["family"] not in FAMILIES:
        raise InputError(f"Unknown family {values['family']!r} in recipe file {path}; the families are {', '.join(FAMILIES)}.")
    return Recipe(**values)


def is_as_shipped(recipe: Recipe) -> bool:
    """Whether the recipe leaves the weights alone (parameter type = "as-shipped")."""
    return recipe.parameters.get("type") == "as-shipped"


def needs_calibration(recipe: Recipe) -> bool:
    """Whether the product depends on calibration texts (parameter calibration: true, or a list of suites whose twins are added)."""
    return bool(recipe.parameters.get("calibration"))


def builder_of(family: str) -> RecipeBuilder:
    """The file of this room behind a family. Raises InputError for an unknown one, MissingError if its library is not installed."""
    if family not in FAMILIES:
        raise InputError(f"Unknown recipe family {family!r}; the families are {', '.join(FAMILIES)}.")
    try:
        return cast(RecipeBuilder, importlib.import_module(FAMILIES[family]))
    except ImportError as error:
        raise MissingError(f"Recipes of family {family!r} need a library that is not installed ({error}).") from error


def snapshot_of(folder: Path, names: Sequence[str], *, like: Snapshot, recipe: Recipe, fmt: SnapshotFormat) -> Snapshot:
    """The built files as a snapshot that names its origin. For builders. names: weights first."""
    files = tuple(SnapshotFile(name=name, size_bytes=(folder / name).stat().st_size, sha256=sha256_file(folder / name)) for name in names)
    return Snapshot(
        source=like.source,
        format=fmt,
        root=folder,
        files=files,
        revision=like.revision,
        made_by=f"{recipe.name} {like.digest}",
    )


def make(
    recipe: Recipe, source: Snapshot, cache_dir: Path, *, calibration: Sequence[str] = (), progress: Progress | None = None
) -> Snapshot:
    """The recipe's product, from the cache if it is there whole, else built.

    Raises InputError (unknown family, calibration missing, folder not writable), MissingError (library, disk space) and what the
    builder raises. Two processes that ask for the same product: one builds, the other waits.
    """
    if is_as_shipped(recipe):
        return source
    if needs_calibration(recipe) and not calibration:
        raise InputError(f"Recipe {recipe.name!r} needs calibration texts and got none.")
    builder = builder_of(recipe.family)
    texts, key = _texts_and_key(builder, recipe, source, calibration)
    final = cache_dir / f"{recipe.name}-{key}"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(cache_dir / f".{key}.lock"):
            found = _read_product(final)
            if found is not None:
                return found
            _remove_leftovers(cache_dir, key, final)
            _check_space(cache_dir, builder.product_bytes(recipe, source), recipe)
            return _build(builder, recipe, source, final, key, texts, progress)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MissingError(
                f"The disk of {cache_dir} became full while building {recipe.name!r}.", "free space or name another cache folder."
            ) from error
        raise InputError(
            f"The product of recipe {recipe.name!r} cannot be written below {cache_dir}: {error.strerror or error}."
        ) from error


def known_product(recipe: Recipe, source: Snapshot, cache_dir: Path, *, calibration: Sequence[str] = ()) -> Snapshot | None:
    """The recipe's product if it lies whole in the cache; None where `make` has work to do, or a reason not to do it."""
    try:
        _, key = _texts_and_key(builder_of(recipe.family), recipe, source, calibration)
    except (InputError, MissingError):
        return None
    return _read_product(cache_dir / f"{recipe.name}-{key}")


def _texts_and_key(builder: RecipeBuilder, recipe: Recipe, source: Snapshot, calibration: Sequence[str]) -> tuple[list[str], str]:
    """The calibration texts that count, and the name of the product among those of its recipe."""
    texts = list(calibration) if needs_calibration(recipe) else []
    parts = [PRODUCT_SCHEMA, recipe.family, recipe.parameters, source.digest, builder.version(recipe), digest_of(texts)]
    return texts, digest_of(parts)[:32]


def _build(
    builder: RecipeBuilder,
    recipe: Recipe,
    source: Snapshot,
    final: Path,
    key: str,
    calibration: Sequence[str],
    progress: Progress | None,
) -> Snapshot:
    partial = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{key}.part-"))
    try:
        built = builder.build(recipe, source, partial, calibration=calibration, progress=progress)
        if built.root != partial:
            return built
        for file in built.files:
            with (partial / file.name).open("rb") as handle:
                os.fsync(handle.fileno())
        record = {"schema": PRODUCT_SCHEMA, "recipe": recipe, "snapshot": {**dataclasses.asdict(built), "root": ""}}
        write_atomic(partial / "product.json", canonical_json(record))
        os.chmod(partial, 0o755)
        os.replace(partial, final)
        sync_folder(final.parent)
        return dataclasses.replace(built, root=final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read_product(folder: Path) -> Snapshot | None:
    """The snapshot that lies whole in a folder: record readable and every file there with the recorded size; else None."""
    try:
        record = json.loads((folder / "product.json").read_text(encoding="utf-8"))
        if record["schema"] != PRODUCT_SCHEMA:
            return None
        found = Snapshot.parse({**record["snapshot"], "root": folder})
        if any((folder / file.name).stat().st_size != file.size_bytes for file in found.files):
            return None
        with contextlib.suppress(OSError):
            os.utime(folder / "product.json")  # when it was last used, also where reading leaves no trace
        return found
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remove_leftovers(cache_dir: Path, key: str, final: Path) -> None:
    """Folders of builds that were killed. Safe under the lock: nobody else builds this key."""
    for stale in [final, *cache_dir.glob(f".{key}.part-*")]:
        shutil.rmtree(stale, ignore_errors=True)


def _check_space(folder: Path, needed_bytes: int, recipe: Recipe) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise MissingError(
            f"Recipe {recipe.name!r} needs {needed_bytes / 1e6:,.0f} MB below {folder}, where {free / 1e6:,.0f} MB are free.",
            "free space or name another cache folder.",
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """An exclusive lock that the system drops when its holder dies. The empty lock file stays: removing it would race."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
