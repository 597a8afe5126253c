"""Mixes of types in a search: losses and times decide, what time does not allow is counted, the same question gets the same answer."""

import asyncio
from types import SimpleNamespace

import pytest

from trimtab.core.deployment import Settings
from trimtab.core.errors import InfeasibleError
from trimtab.core.model import TensorInfo
from trimtab.core.workload import Workload
from trimtab.decide.policies import load_policy
from trimtab.evaluate.screen import ScreenResult
from trimtab.flows.parts import mixed
from trimtab.flows.parts.opening import recipe_named
from trimtab.flows.parts.search import Row
from trimtab.flows.parts.space import Plan
from trimtab.flows.parts.timing import Probe

WORKLOAD = Workload(name="w", prompt_tokens=100, output_tokens=10, concurrency=(1,))
WORDS = {"attn_q": (64, 64), "attn_k": (32, 64), "ffn_down": (64, 256), "ffn_up": (256, 64)}
SPEED = {"Q4_1": (30.0, 9.0), "Q8_0": (20.0, 12.0), "Q4_0": (10.0, 8.0), "Q6_K": (25.0, 10.0)}
"""Prompt and output milliseconds per million weights."""


def tensors():
    found = [TensorInfo(name="token_embd.weight", shape=(512, 64), type_name="Q8_0", size_bytes=512 * 64 * 34 // 32)]
    for layer in range(6):
        for word, shape in WORDS.items():
            size = shape[0] * shape[1] * 20 // 32
            found.append(TensorInfo(name=f"blk.{layer}.{word}.weight", shape=shape, type_name="Q4_1", size_bytes=size))
    return found


class FakeScreening:
    """Times every build by SPEED; twice as slow a machine every other time, and the baseline beside it as slow."""

    def __init__(self, screen_loss):
        self.requests = [SimpleNamespace(continuations=((1,) * 1000,))] * 4
        self.results = [None] * 4
        self.reference = SimpleNamespace(numeric_sha256="ref")
        self.screen_loss = screen_loss
        self.numbers = []

    async def score_reference(self):
        return 100.0

    async def look_at(self, recipe, number):
        self.numbers.append(number)
        groups = mixed.tensor_groups(tensors(), mixed.N_BANDS)
        own = recipe.parameters.get("tensors", {})
        choice = {group.name: own[group.pattern] for group in groups if group.pattern in own}
        sums = [
            1.0 + sum(SPEED[kind][at] * n for (_, kind), n in mixed.columns_of(choice, groups, places).items())
            for at, places in enumerate((mixed.PREFILL_PLACES, mixed.DECODE_PLACES))
        ]
        slow = 1.0 + number % 2
        ttft, tpot = sums[0] * WORKLOAD.prompt_tokens * slow, sums[1] * slow
        e2e = ttft + tpot * (WORKLOAD.output_tokens - 1)
        probe = Probe(e2e_ms=e2e, ttft_ms=ttft, tpot_ms=tpot, ratio=1000.0 * slow / e2e)
        loss = ScreenResult(
            kl_nats=0.01, kl_se=0.001, top1_agreement=0.9, top1_se=0.01, delta_nats_per_token=-self.screen_loss, delta_se=0.001,
            n_tokens=2000, n_passages=18,
        )  # fmt: skip
        return loss, probe


@pytest.fixture
def search(monkeypatch, tmp_path):
    """All of Q4_0 would be fastest; the down matrices of the last layers must not be changed, and the output matrix neither."""
    screening = FakeScreening(0.0)
    losses = {"Q8_0": 0.0001, "Q4_0": 0.0005, "Q6_K": 0.0001}
    asked = []

    async def divergence(mixing, choice):
        asked.append(dict(choice))
        if not choice:
            return 0.003
        ((name, kind),) = choice.items()
        return 0.003 + losses[kind] * (1000 if kind == "Q4_0" and name in ("ffn_down 4-5", "token_embd") else 1)

    async def build(mixing, recipe):
        return recipe

    async def build_plan(search, plan):
        return plan.recipe

    cache: dict[tuple[str, str], object] = {}
    monkeypatch.setattr(mixed, "screening_of", lambda *_: screening)
    monkeypatch.setattr(mixed, "_divergence", divergence)
    monkeypatch.setattr(mixed.Mixing, "build", build)
    monkeypatch.setattr(mixed, "build_plan", build_plan)
    monkeypatch.setattr(mixed, "key_of_tried", lambda search: "this search")
    monkeypatch.setattr(mixed, "keep_s", lambda search: 100.0)
    plan = Plan(id="llamacpp q8_0", engine="llamacpp", recipe=recipe_named("q8_0", "llamacpp"), extra=Settings(threads=1))
    rows = {plan.id: Row(plan=plan, status="screened", probe=Probe(e2e_ms=1, ttft_ms=1, tpot_ms=1, ratio=1.2))}

    def note(row, status, *reasons):
        row.status = status
        row.reasons += [reason for reason in reasons if reason]

    return SimpleNamespace(
        session=SimpleNamespace(
            seconds_left=1000.0,
            caches=tmp_path,
            say=lambda *_: None,
            cache=SimpleNamespace(
                get_json=lambda kind, key: cache.get((kind, key)), put_json=lambda kind, key, value: cache.update({(kind, key): value})
            ),
        ),
        opened=SimpleNamespace(
            header=SimpleNamespace(tensors=tensors()), snapshot=SimpleNamespace(format="gguf", digest="d", root=tmp_path)
        ),
        engines={"llamacpp": None},
        rows=rows,
        workload=WORKLOAD,
        policy=load_policy("standard"),
        skipped=[],
        note=note,
        screening=screening,
        asked=asked,
    )


def mixes(search):
    return [row for name, row in search.rows.items() if "mixed" in name]


def test_the_mix_is_narrow_where_it_costs_little(search):
    asyncio.run(mixed.mix_types(search, None))
    best = mixes(search)[0]
    types = best.plan.recipe.parameters["tensors"]
    assert all(kind != "Q4_0" for pattern, kind in types.items() if "ffn_down" in pattern and "(4|5)" in pattern)
    assert "^token_embd\\.weight$" not in types
    assert types["^blk\\.(0|1)\\.(attn_q)\\.weight$"] == "Q4_0"
    assert best.status == "screened"
    assert not best.reasons
    assert best.plan.extra == Settings(threads=1), "the settings that served the engine best"
    assert len(mixes(search)) <= mixed.N_MIXES


def test_a_mix_that_loses_is_left_out_like_any_candidate(search):
    search.screening.screen_loss = 0.5
    asyncio.run(mixed.mix_types(search, None))
    assert mixes(search)[0].reasons[0].startswith("It loses 0.500")


def test_no_time_means_nothing_is_measured_and_it_is_said(search):
    search.session.seconds_left = 50.0
    asyncio.run(mixed.mix_types(search, None))
    assert not mixes(search)
    assert not search.asked
    why = " ".join(f"{part['what']}: {part['why']}" for part in search.skipped)
    assert "mixes with Q4_0: the time limit left room for 0 of" in why
    assert "mixes in llamacpp: the loss of no type was measured" in why


def test_the_same_question_gets_the_same_answer_with_more_time(search):
    """A type that there was no time for is not measured by a later run of the same question either."""
    left = iter([1000.0] * 14 + [0.0])

    class Session(SimpleNamespace):
        @property
        def seconds_left(self):
            return next(left, 0.0)

    plain = search.session
    search.session = Session(caches=plain.caches, say=plain.say, cache=plain.cache)
    asyncio.run(mixed.mix_types(search, None))
    first = [dict(choice) for choice in search.asked]
    assert {kind for choice in first for kind in choice.values()} == {"Q8_0", "Q4_0"}, "there was no time for Q6_K"
    search.asked.clear()
    search.session = plain
    asyncio.run(mixed.mix_types(search, None))
    assert search.asked == first


def test_a_build_that_is_refused_is_counted(search, monkeypatch):
    async def build(mixing, recipe):
        if "Q4_0" in recipe.parameters.get("tensors", {}).values():
            raise InfeasibleError("no such type here")
        return recipe

    monkeypatch.setattr(mixed.Mixing, "build", build)
    asyncio.run(mixed.mix_types(search, None))
    assert {"what": "mixes in llamacpp with blocks Q4_0", "why": "no such type here"} in search.skipped
    assert all("Q4_0" not in row.plan.recipe.parameters["tensors"].values() for row in mixes(search))


@pytest.mark.parametrize(("change", "words"), [("format", "this model is openvino"), ("engines", "not among the engines")])
def test_where_types_cannot_be_mixed_it_is_said(search, change, words):
    if change == "format":
        search.opened.snapshot.format = "openvino"
    else:
        search.engines = {"openvino": None}
    asyncio.run(mixed.mix_types(search, None))
    assert words in search.skipped[0]["why"]
    assert not mixes(search)
