"""What another value of a setting costs: a numeric one is scored anew, a speed-only one shares the outcomes of its weights."""

import asyncio
import dataclasses
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from trimtab.core.deployment import Candidate, EngineBuild, Settings
from trimtab.core.evidence import Outcome
from trimtab.core.model import Snapshot, SnapshotFile
from trimtab.engines.registry import engine_class
from trimtab.flows.parts import evidence
from trimtab.record.cache import Cache
from trimtab.testing.engine_contract import SAMPLES
from trimtab.testing.fake_engine import FakeEngine

ITEMS = SimpleNamespace(requests=[SimpleNamespace(request="ids", places=[])], n_tokens=3)


def engine(name):
    if name == "fake":
        return FakeEngine
    pytest.importorskip({"llamacpp": "llama_cpp", "openvino": "openvino_genai"}[name])
    return engine_class(name)


@pytest.mark.parametrize("name", ["fake", "llamacpp", "openvino"])
def test_numeric_settings_are_scored_again_and_speed_only_ones_are_not(name, tmp_path, monkeypatch):
    kind, scored = engine(name), []

    async def score_items(client, prepared, on_progress):
        scored.append(client)
        return (Outcome(item_id="1", suite="text", cluster="1", value=0.5, n_tokens=3),)

    @asynccontextmanager
    async def lent(candidate, purpose):
        yield candidate.settings.given()

    monkeypatch.setattr(evidence, "score_items", score_items)
    workers = SimpleNamespace(lent=lent)
    session = SimpleNamespace(cache=Cache(tmp_path), workers=workers, fan=None, say=lambda *_: None, n_known=0, n_computed=0)
    files = (SnapshotFile(name="m.gguf", size_bytes=1, sha256="0" * 64),)
    plain = Candidate(
        id="a",
        engine=name,
        recipe="as-shipped",
        settings=Settings(),
        snapshot=Snapshot(source="m.gguf", format="gguf", root=tmp_path, files=files),
        source_sha256="1" * 64,
        template_sha256="2" * 64,
        build=EngineBuild(engine=name, version="1"),
        numeric=kind.numeric_settings,
    )

    def ask(**settings):
        candidate = dataclasses.replace(plain, settings=Settings.parse(settings))
        assert asyncio.run(evidence.outcomes_on(session, candidate, ITEMS, phase="certify", what="it"))
        return candidate.deployment.digest

    identities = {ask()}
    for setting in sorted(kind.speed_settings):
        identities.add(ask(**{setting: SAMPLES[setting]}))
    assert scored == [{}]
    assert len(identities) == 1 + len(kind.speed_settings), "another deployment all the same: its timings are its own"
    for setting in sorted(kind.numeric_settings):
        ask(**{setting: SAMPLES[setting]})
        assert len(scored[-1]) == 1
    assert len(scored) == 1 + len(kind.numeric_settings)
