"""The demo model in transformers: tokens and log-probabilities of llama.cpp, and what is served is what is scored."""

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llama_cpp")

from trimtab.compress.base import make
from trimtab.core.deployment import Settings
from trimtab.core.evidence import ParityProbe
from trimtab.core.model import Snapshot
from trimtab.decide.parity import divergence_of
from trimtab.engines.base import ScoreRequest
from trimtab.engines.client import WorkerClient
from trimtab.engines.llamacpp import LlamaCppEngine
from trimtab.engines.transformers import TransformersEngine
from trimtab.evaluate.parity import MIN_TOKENS, rescore, sample_answers
from trimtab.flows.parts.opening import recipe_named
from trimtab.sources.open import open_source
from trimtab.testing.engine_contract import all_logprobs

pytestmark = pytest.mark.model
SETTINGS = Settings(context_tokens=512, threads=1)
TEXT = "The harbour was quiet.\n\nGulls stood on the wall, and nobody had come for the 12 boats since 1994: naïve hopes, said the old man. "
LLAMACPP_TOLERANCE = 0.02
"""Nats. llama.cpp keeps keys and values in 16 bits; over 1,022 tokens of prose they differed by 0.006 at most and 0.00007 on average."""


@pytest.fixture(scope="module")
def source(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return open_source(str(demo_model), cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def float32(source: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return make(recipe_named("fp32", "transformers"), source, tmp_path_factory.mktemp("products"))


def test_tokens_and_log_probabilities_are_those_of_llamacpp(source: Snapshot, float32: Snapshot) -> None:
    here = TransformersEngine(float32, SETTINGS)
    there = LlamaCppEngine(source, SETTINGS)  # its Q4_1 blocks are what the float32 numbers were expanded from
    exact = LlamaCppEngine(make(recipe_named("f32", "llamacpp"), source, float32.root.parent), SETTINGS)
    for text in (TEXT, "<|im_start|>user\n" + TEXT, "  漢字\t🙂 don't\n"):
        for parse_special in (False, True):
            assert here.tokenize(text, parse_special=parse_special) == there.tokenize(text, parse_special=parse_special)
    messages = [{"role": "user", "content": TEXT}]
    assert here.render(messages) == there.render(messages)
    assert here.end_ids[0] in there.end_ids
    ids = tuple(here.tokenize(2 * TEXT, parse_special=False))
    requests = [ScoreRequest(prefix_ids=ids[:5], continuations=(ids[5:], ids[5:9], ids[20:28]))]
    for engine in (here, exact):
        engine.load("score")
    assert all_logprobs(here.score(requests)) == pytest.approx(all_logprobs(exact.score(requests)), abs=LLAMACPP_TOLERANCE)
    for engine in (here, there, exact):
        engine.close()


@pytest.mark.slow
def test_what_is_served_is_what_is_scored(source: Snapshot, float32: Snapshot) -> None:
    """The parity probe through the worker, four requests at once: a divergence far below the margin of the policy, 0.02 nats a token."""
    made = make(recipe_named("int8", "transformers"), source, float32.root.parent)

    async def probe() -> ParityProbe:
        client = await WorkerClient.start("transformers", made, SETTINGS)
        try:
            prompts = []
            for topic in ("boats", "bread", "rain", "iron"):
                ids, _ = await client.prompt([{"role": "user", "content": f"Tell me about {topic}."}])
                prompts.append(ids)
            await client.load("serve")
            answers = await sample_answers(client, prompts, n_tokens=MIN_TOKENS, concurrency=4, seed=0)
            await client.load("score")
            return await rescore(client, answers)
        finally:
            await client.close()

    found = asyncio.run(probe())
    assert len(found.differences) >= MIN_TOKENS
    assert found.n_failed == 0
    assert divergence_of(found).estimate < 0.01
