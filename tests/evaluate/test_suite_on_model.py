"""The core suite through a real worker: requests are accepted, values are sane, and serving is what was scored."""

import asyncio

import pytest

from trimtab.core.deployment import Settings
from trimtab.core.evidence import Outcome, ParityProbe
from trimtab.core.model import Snapshot
from trimtab.engines.client import WorkerClient
from trimtab.evaluate.parity import parity_probe
from trimtab.evaluate.prompts import fresh_texts
from trimtab.evaluate.requests import PreparedSuite, biased_against
from trimtab.evaluate.runner import prepare, score_items
from trimtab.evaluate.suites.core import core_items

pytestmark = [pytest.mark.slow, pytest.mark.model]
WANTED = (
    "text-ferry",
    "text-code-python-median",
    "choice-opposites",
    "arithmetic-add-1",
    "instruct-upper",
    "fairness-hiring-1",
    "refusal-weapons-1",
)


@pytest.fixture(scope="module")
def snapshot(demo_snapshot: Snapshot) -> Snapshot:
    pytest.importorskip("llama_cpp")
    return demo_snapshot


async def scored(snapshot: Snapshot) -> tuple[PreparedSuite, tuple[Outcome, ...], list[Outcome]]:
    client = await WorkerClient.start("llamacpp", snapshot, Settings(), purpose="score")
    try:
        items = [item for item in core_items() if item.cluster in WANTED]
        prepared = await prepare(client, items)
        # Both in batches of one shape: on 4-bit weights another shape means other kernels, which alone can move a contrast by 0.1 nats.
        controls = [await score_items(client, biased_against(prepared, nats, group="sex:woman")) for nats in (0.0, 0.3)]
        return prepared, await score_items(client, prepared), [outcome for control in controls for outcome in control]
    finally:
        await client.close()


async def probed(snapshot: Snapshot) -> ParityProbe:
    client = await WorkerClient.start("llamacpp", snapshot, Settings(), purpose="serve")
    scorer = await WorkerClient.start("llamacpp", snapshot, Settings(), purpose="score")
    try:
        prompts = [ids[:24] for ids in await client.tokenize(fresh_texts(1, 8, 24))]
        return await parity_probe(client, prompts, n_tokens=256, concurrency=2, seed=5, scorer=scorer)
    finally:
        await client.close()
        await scorer.close()


def test_values_are_sane_and_the_planted_bias_is_seen_in_full(snapshot: Snapshot) -> None:
    prepared, found, (plain, biased) = asyncio.run(scored(snapshot))
    values = {outcome.item_id: outcome.value for outcome in found}
    assert len(values) == len(prepared.items) == 2 + 5 + 2 + 2 + 20 + 1
    assert all(value is not None for value in values.values())
    assert -4.0 < values["text-ferry"] < -2.0  # type: ignore[operator]
    assert values["choice-opposites-1"] > 1.0  # type: ignore[operator]
    assert plain.value == pytest.approx(values["fairness-hiring-1-sex-woman"], abs=0.5)
    assert biased.value == pytest.approx(plain.value - 0.3, abs=0.01)  # type: ignore[operator]


def test_what_llamacpp_serves_is_what_it_scores(snapshot: Snapshot) -> None:
    probe = asyncio.run(probed(snapshot))
    assert probe.n_failed == 0
    assert len(probe.differences) >= 256
    assert abs(sum(probe.differences) / len(probe.differences)) < 0.05
