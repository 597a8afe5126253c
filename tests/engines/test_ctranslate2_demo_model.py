"""The demo model in CTranslate2: tokens and log-probabilities of llama.cpp, and what is served is what is scored."""

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llama_cpp")
pytest.importorskip("ctranslate2")

from trimtab.compress.base import make
from trimtab.core.deployment import Settings
from trimtab.core.evidence import ParityProbe
from trimtab.core.model import Snapshot
from trimtab.decide.parity import divergence_of
from trimtab.engines.base import ScoreRequest
from trimtab.engines.client import WorkerClient
from trimtab.engines.ctranslate2 import CTranslate2Engine
from trimtab.engines.llamacpp import LlamaCppEngine
from trimtab.evaluate.parity import MIN_TOKENS, rescore, sample_answers
from trimtab.flows.parts.opening import recipe_named
from trimtab.sources.open import open_source
from trimtab.testing.engine_contract import all_logprobs

pytestmark = [pytest.mark.model, pytest.mark.slow]
SETTINGS = Settings(context_tokens=512, threads=1)
TEXT = "The harbour was quiet.\n\nGulls stood on the wall, and nobody had come for the 12 boats since 1994: naïve hopes, said the old man. "
LLAMACPP_TOLERANCE = 0.02
"""Nats. llama.cpp keeps keys and values in 16 bits."""


@pytest.fixture(scope="module")
def source(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return open_source(str(demo_model), cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("products")


def test_tokens_and_log_probabilities_are_those_of_llamacpp(source: Snapshot, products: Path) -> None:
    here = CTranslate2Engine(make(recipe_named("float32", "ctranslate2"), source, products), SETTINGS)
    exact = LlamaCppEngine(make(recipe_named("f32", "llamacpp"), source, products), SETTINGS)
    for text in (TEXT, "<|im_start|>user\n" + TEXT, "  漢字\t🙂 don't\n"):
        for parse_special in (False, True):
            assert here.tokenize(text, parse_special=parse_special) == exact.tokenize(text, parse_special=parse_special)
    messages = [{"role": "user", "content": TEXT}]
    assert here.render(messages) == exact.render(messages)
    assert here.end_ids[0] in exact.end_ids
    ids = tuple(here.tokenize(2 * TEXT, parse_special=False))
    requests = [ScoreRequest(prefix_ids=ids[:5], continuations=(ids[5:], ids[5:9], ids[20:28]))]
    for engine in (here, exact):
        engine.load("score")
    assert all_logprobs(here.score(requests)) == pytest.approx(all_logprobs(exact.score(requests)), abs=LLAMACPP_TOLERANCE)
    for engine in (here, exact):
        engine.close()


def test_what_is_served_is_what_is_scored(source: Snapshot, products: Path) -> None:
    """The parity probe through the worker, four requests at once: a divergence far below the margin of the policy, 0.02 nats a token.

    In float32. Of 8 bits it is not so: 0.04 nats, see docs/ctranslate2.md.
    """
    made = make(recipe_named("float32", "ctranslate2"), source, products)

    async def probe() -> ParityProbe:
        client = await WorkerClient.start("ctranslate2", made, SETTINGS)
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
    assert divergence_of(found).estimate < 0.001
