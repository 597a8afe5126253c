"""Recipes from TOML, and the cache of products: whole or absent, built once."""

import asyncio
import errno
import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from trimtab.compress import base
from trimtab.compress.base import known_product, load_recipes, make, read_recipe, snapshot_of
from trimtab.compress.child import make_apart
from trimtab.core.deployment import Recipe
from trimtab.core.errors import InfeasibleError, InputError, MissingError
from trimtab.core.model import Snapshot, SnapshotFile

GOOD = 'name = "a"\nfamily = "gguf"\nengine = "llamacpp"\n[parameters]\ntype = "Q8_0"\n'


class FakeBuilder:
    """Writes the calibration texts to a file."""

    def __init__(self) -> None:
        self.built = 0
        self.needs = 100
        self.says = "1"
        self.fail: BaseException | None = None
        self.pause_s = 0.0

    def build(
        self,
        recipe: Recipe,
        source: Snapshot,
        out_dir: Path,
        *,
        calibration: Sequence[str] = (),
        progress: base.Progress | None = None,
    ) -> Snapshot:
        self.built += 1
        (out_dir / "model.gguf").write_text(f"{recipe.parameters} {list(calibration)}")
        time.sleep(self.pause_s)
        if self.fail is not None:
            raise self.fail
        return snapshot_of(out_dir, ["model.gguf"], like=source, recipe=recipe, fmt="gguf")

    def version(self, recipe: Recipe) -> str:
        return self.says

    def product_bytes(self, recipe: Recipe, source: Snapshot) -> int:
        return self.needs


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> FakeBuilder:
    fake = FakeBuilder()
    monkeypatch.setattr(base, "builder_of", lambda family: fake)
    return fake


@pytest.fixture
def source(tmp_path: Path) -> Snapshot:
    return Snapshot(
        source="there", format="gguf", root=tmp_path, files=(SnapshotFile(name="m.gguf", size_bytes=3, sha256="a" * 64),), revision="r1"
    )


PLAIN = Recipe(name="plain", family="gguf", engine="llamacpp", parameters={"type": "Q8_0"})
TAUGHT = Recipe(name="taught", family="gguf", engine="llamacpp", parameters={"type": "Q8_0", "calibration": True})


def test_shipped_recipes_are_sound() -> None:
    recipes = load_recipes()
    assert len(recipes) > 15
    for recipe in recipes:
        assert recipe.title, recipe.name
        assert 1 <= recipe.bits_per_weight <= 32
        assert recipe.parameters.get("type") or recipe.family != "gguf", recipe.name
    assert {"llamacpp-as-shipped", "llamacpp-f16", "llamacpp-q8_0", "llamacpp-q4_k_m-imatrix"} <= {recipe.name for recipe in recipes}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (GOOD + "[extra]\n", "extra"),
        (GOOD.replace('name = "a"', "name = 3"), "name"),
        (GOOD.replace('name = "a"\n', ""), "name"),
        (GOOD.replace('"gguf"', '"zip"'), "zip"),
        ("name = ", "cannot be read"),
        ("bits_per_weight = true\n" + GOOD, "bits_per_weight"),
    ],
)
def test_wrong_recipe_files_are_named(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=word) as caught:
        read_recipe(path)
    assert "mine.toml" in str(caught.value)


def test_two_recipes_of_one_name(tmp_path: Path) -> None:
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text(GOOD)
    with pytest.raises(InputError, match="twice"):
        load_recipes(tmp_path)


def test_unknown_family() -> None:
    with pytest.raises(InputError, match="zip"):
        base.builder_of("zip")


def test_a_product_that_is_there_is_found_without_a_process(
    tmp_path: Path, builder: FakeBuilder, source: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert known_product(PLAIN, source, tmp_path / "cache") is None
    built = make(PLAIN, source, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "create_subprocess_exec", None)
        assert asyncio.run(make_apart(PLAIN, source, tmp_path / "cache")) == built
    builder.says = "2"
    assert known_product(PLAIN, source, tmp_path / "cache") is None, "another build of the library makes another product"
    builder.says = "1"
    built.path.write_text("torn")
    assert known_product(PLAIN, source, tmp_path / "cache") is None
    assert builder.built == 1


def test_a_product_is_built_once(tmp_path: Path, builder: FakeBuilder, source: Snapshot) -> None:
    first = make(PLAIN, source, tmp_path / "cache")
    second = make(PLAIN, source, tmp_path / "cache", calibration=["not used by this recipe"])
    assert builder.built == 1
    assert second == first
    assert first.path.is_file()
    assert (first.source, first.revision) == ("there", "r1")
    assert first.made_by == f"plain {source.digest}"


def test_use_of_a_product_is_noted_where_reading_leaves_no_trace(tmp_path: Path, builder: FakeBuilder, source: Snapshot) -> None:
    product = make(PLAIN, source, tmp_path)
    for path in product.root.iterdir():
        os.utime(path, (1, 1))
    make(PLAIN, source, tmp_path)
    assert (product.root / "product.json").stat().st_mtime > 1e9
    assert all(path.stat().st_mtime == 1 for path in product.root.iterdir() if path.name != "product.json")


def test_what_the_bytes_depend_on_makes_another_product(tmp_path: Path, builder: FakeBuilder, source: Snapshot) -> None:
    cache = tmp_path / "cache"
    digests = {
        make(TAUGHT, source, cache, calibration=["one"]).path,
        make(TAUGHT, source, cache, calibration=["two"]).path,
        make(PLAIN, source, cache).path,
    }
    builder.says = "2"
    digests.add(make(PLAIN, source, cache).path)
    assert len(digests) == builder.built == 4


def test_calibration_is_asked_for(tmp_path: Path, builder: FakeBuilder, source: Snapshot) -> None:
    with pytest.raises(InputError, match="calibration"):
        make(TAUGHT, source, tmp_path)
    assert builder.built == 0


def test_as_shipped_is_the_source_itself(tmp_path: Path, builder: FakeBuilder, source: Snapshot) -> None:
    recipe = Recipe(name="as", family="gguf", engine="llamacpp", parameters={"type": "as-shipped"})
    assert make(recipe, source, tmp_path / "cache") is source
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("failure", [InfeasibleError("no"), KeyboardInterrupt(), RuntimeError("bug")])
def test_a_failed_build_leaves_nothing(tmp_path: Path, builder: FakeBuilder, source: Snapshot, failure: BaseException) -> None:
    builder.fail = failure
    with pytest.raises(type(failure)):
        make(PLAIN, source, tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []
    builder.fail = None
    assert make(PLAIN, source, tmp_path / "cache").path.is_file()


@pytest.mark.parametrize("damage", ["short file", "no record", "broken record", "no file"])
def test_half_a_product_is_never_taken_for_a_whole(tmp_path: Path, builder: FakeBuilder, source: Snapshot, damage: str) -> None:
    made = make(PLAIN, source, tmp_path / "cache")
    match damage:
        case "short file":
            made.path.write_text("")
        case "no record":
            (made.root / "product.json").unlink()
        case "broken record":
            (made.root / "product.json").write_text('{"schema": 1')
        case "no file":
            made.path.unlink()
    again = make(PLAIN, source, tmp_path / "cache")
    assert builder.built == 2
    assert again.digest == made.digest
    assert again.path.read_text() == f"{PLAIN.parameters} []"


def test_leftovers_of_a_killed_build_are_removed(tmp_path: Path, builder: FakeBuilder, source: Snapshot) -> None:
    made = make(PLAIN, source, tmp_path / "cache")
    key = made.root.name.removeprefix("plain-")
    shutil.rmtree(made.root)
    stale = tmp_path / "cache" / f".{key}.part-old"
    stale.mkdir()
    (stale / "model.gguf").write_text("half")
    make(PLAIN, source, tmp_path / "cache")
    assert not stale.exists()


def test_two_who_want_the_same_share_one_build(tmp_path: Path, builder: FakeBuilder, source: Snapshot) -> None:
    builder.pause_s = 0.2
    made: list[Snapshot] = []
    threads = [threading.Thread(target=lambda: made.append(make(PLAIN, source, tmp_path / "cache"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builder.built == 1
    assert len(made) == 3
    assert made[0] == made[1] == made[2]


def test_too_little_disk_is_said_before_building(tmp_path: Path, builder: FakeBuilder, source: Snapshot) -> None:
    builder.needs = 10**18
    with pytest.raises(MissingError, match="MB") as caught:
        make(PLAIN, source, tmp_path / "cache")
    assert builder.built == 0
    assert "free space" in caught.value.fix


def test_a_disk_that_fills_up(tmp_path: Path, builder: FakeBuilder, source: Snapshot) -> None:
    builder.fail = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(MissingError, match="full"):
        make(PLAIN, source, tmp_path / "cache")
    builder.fail = PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(InputError, match="Permission denied"):
        make(PLAIN, source, tmp_path / "cache")


def test_a_cache_that_is_no_folder(tmp_path: Path, builder: FakeBuilder, source: Snapshot) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="plain"):
        make(PLAIN, source, tmp_path / "file" / "cache")
