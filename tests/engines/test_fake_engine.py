"""The shipped contract on the shipped fake, in this process and in a worker: who tests with it relies on it behaving like an engine."""

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest

from trimtab.core.deployment import Settings
from trimtab.core.errors import EngineRefused
from trimtab.core.model import Snapshot, SnapshotFile
from trimtab.engines.base import Engine, GenerateRequest
from trimtab.engines.client import WorkerEngine
from trimtab.testing.engine_contract import EngineContract, run_all, tokens_of
from trimtab.testing.fake_engine import VOCAB_SIZE, FakeEngine, bigram_logprobs

SNAPSHOT = Snapshot(
    source="fake", format="gguf", root=Path("/nowhere"), files=(SnapshotFile(name="m.gguf", size_bytes=1, sha256="0" * 64),)
)


class FakeEngineContract(EngineContract):
    numeric_settings = FakeEngine.numeric_settings
    speed_settings = FakeEngine.speed_settings
    abilities = FakeEngine.abilities
    open_settings: ClassVar[dict[str, Any]] = {}  # its context is fixed


class TestFake(FakeEngineContract):
    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        return FakeEngine(SNAPSHOT, settings)


class TestFakeInWorker(FakeEngineContract):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _installed(cls, tmp_path_factory: pytest.TempPathFactory):
        """What an installed third-party package looks like to the worker: a dist-info with an entry point on the path."""
        folder = tmp_path_factory.mktemp("site")
        info = folder / "fake_engine-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-engine\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[trimtab.engines]\nfake = trimtab.testing.fake_engine:FakeEngine\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(folder))
            yield

    @classmethod
    def open_engine(cls, settings: Settings) -> Engine:
        return WorkerEngine(SNAPSHOT, settings, engine="fake")


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    """At temperature 1 from one fixed prompt, only tokens of the nucleus come, and each of its likely ones does."""
    row = bigram_logprobs(5, {})
    best = sorted(range(VOCAB_SIZE), key=lambda token: -row[token])
    engine = FakeEngine(SNAPSHOT, Settings())
    requests = [GenerateRequest(request_id=n, prompt_ids=(5,), max_tokens=1, temperature=1.0, top_p=0.5, seed=n) for n in range(400)]
    found = {tokens_of(events)[0] for events in run_all(engine, requests).values()}
    mass, nucleus = 0.0, []
    for token in best:
        nucleus.append(token)
        mass += math.exp(row[token])
        if mass >= 0.5:
            break
    assert found <= set(nucleus)
    assert set(nucleus[: len(nucleus) // 2]) <= found


@pytest.mark.parametrize("prompt", [(), (VOCAB_SIZE,), (-1,)])
def test_a_prompt_it_cannot_read_is_refused(prompt: tuple[int, ...]) -> None:
    with pytest.raises(EngineRefused):
        FakeEngine(SNAPSHOT, Settings()).submit(GenerateRequest(request_id=1, prompt_ids=prompt, max_tokens=1))
