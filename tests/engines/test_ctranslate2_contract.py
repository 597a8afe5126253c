"""The shipped contract on CTranslate2: a tiny random Llama that its converter made, in both number formats, here and in a worker (slow)."""

from typing import Any, ClassVar

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("ctranslate2")

from trimtab.compress.base import make
from trimtab.core.deployment import Settings
from trimtab.core.model import Snapshot
from trimtab.engines.base import Engine
from trimtab.engines.client import WorkerEngine
from trimtab.engines.ctranslate2 import CTranslate2Engine
from trimtab.flows.parts.opening import recipe_named
from trimtab.sources.open import open_source
from trimtab.testing.engine_contract import EngineContract
from trimtab.testing.tiny_transformers import write_tiny_transformers


class CTranslate2Contract(EngineContract):
    numeric_settings = CTranslate2Engine.numeric_settings
    speed_settings = CTranslate2Engine.speed_settings
    abilities = CTranslate2Engine.abilities
    open_settings: ClassVar[dict[str, Any]] = {"context_tokens": 256, "threads": 1}
    recipe: ClassVar[str] = "float32"
    opened: ClassVar[Snapshot]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _snapshot(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.mktemp("tiny")
        source = open_source(str(write_tiny_transformers(folder / "model")), cache_dir=folder / "cache")
        cls.opened = make(recipe_named(cls.recipe, "ctranslate2"), source, folder / "products")

    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        return CTranslate2Engine(cls.opened, settings)


class TestFloat32(CTranslate2Contract):
    pass


class TestSmallBatches(CTranslate2Contract):
    """Prompts that begin together and rows that are scored together are few."""

    open_settings: ClassVar[dict[str, Any]] = {"context_tokens": 256, "threads": 1, "batch_tokens": 7, "slots": 2}


class TestInt8(CTranslate2Contract):
    """Activations are rounded for each token by itself, so no batch shape may change a scale; roundings at a tie may."""

    recipe = "int8"
    token_tolerance = 0.05
    mean_tolerance = 0.01


@pytest.mark.slow
class TestInWorker(CTranslate2Contract):
    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        return WorkerEngine(cls.opened, settings, engine="ctranslate2")
