"""trimtab's contract tests on this engine, as it is and in a worker process."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
from byte_bigrams import ByteBigrams, train, write_model

from trimtab.core.deployment import Settings
from trimtab.core.model import Snapshot
from trimtab.engines.base import Engine
from trimtab.engines.client import WorkerEngine
from trimtab.sources.open import open_source
from trimtab.testing.engine_contract import TEXT, EngineContract


class Contract(EngineContract):
    numeric_settings = ByteBigrams.numeric_settings
    speed_settings = ByteBigrams.speed_settings
    open_settings: ClassVar[dict[str, Any]] = {"context_tokens": 2048}  # with fewer it is done before a cancellation arrives
    snapshot: ClassVar[Snapshot]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _model(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.mktemp("model")
        path: Path = write_model(folder / "small.gguf", train(TEXT.encode()))
        cls.snapshot = open_source(str(path), cache_dir=folder)


class TestHere(Contract):
    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        return ByteBigrams(cls.snapshot, settings)


class TestInWorker(Contract):
    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        return WorkerEngine(cls.snapshot, settings, engine="bytebigrams")
