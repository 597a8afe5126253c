"""Settings are tried one at a time beside the best engines and weights, and what was not tried is counted."""

import asyncio
from types import SimpleNamespace

import pytest

from trimtab.core.deployment import Settings
from trimtab.core.errors import EngineRefused
from trimtab.core.workload import Workload
from trimtab.decide.policies import load_policy
from trimtab.evaluate.screen import ScreenResult
from trimtab.flows.parts import tuning
from trimtab.flows.parts.opening import recipe_named
from trimtab.flows.parts.search import Row
from trimtab.flows.parts.space import Plan
from trimtab.flows.parts.timing import Probe
from trimtab.plan.tuning.axes import axes_for
from trimtab.plan.tuning.race import Space

WORKLOAD = Workload(name="w", prompt_tokens=64, output_tokens=8, concurrency=(1,))


def probe(ratio):
    return Probe(e2e_ms=100 / ratio, ttft_ms=10, tpot_ms=1, ratio=ratio)


def screened(loss):
    return ScreenResult(
        kl_nats=0.1, kl_se=0.01, top1_agreement=0.9, top1_se=0.01, delta_nats_per_token=-loss, delta_se=0.001, n_tokens=2000, n_passages=18
    )


def row(engine, recipe, ratio):
    plan = Plan(id=f"{engine} {recipe}", engine=engine, recipe=recipe_named(recipe, engine), extra=Settings())
    return Row(plan=plan, status="screened", probe=probe(ratio))


class FakeScreening:
    """Knows the speed of each setting: micro-batches of 128 help, a quantised cache helps but loses, half the threads cannot be used."""

    def __init__(self, **_):
        pass

    async def score_reference(self):
        return None

    async def look_at(self, candidate, number):
        if candidate.get("threads"):
            raise EngineRefused("no such threads")
        ratio = 1.4 * (1.2 if candidate.get("microbatch_tokens") == 128 else 1.0) * (1.3 if candidate.get("kv_type") else 1.0)
        return screened(0.5 if candidate.get("kv_type") else 0.0), probe(ratio)


@pytest.fixture
def search(monkeypatch):
    async def build(search, plan):
        return plan.extra.given()

    cache: dict[tuple[str, str], object] = {}
    monkeypatch.setattr(tuning, "screening_of", lambda *_: FakeScreening())
    monkeypatch.setattr(tuning, "build_plan", build)
    monkeypatch.setattr(tuning, "key_of_tried", lambda search: "this search")
    rows = {each.plan.id: each for each in (row("llamacpp", "as-shipped", 1.0), row("llamacpp", "q8_0", 1.4), row("openvino", "fp16", 0.6))}
    rows["llamacpp as-shipped"].candidate = SimpleNamespace()
    session = SimpleNamespace(
        seconds_left=1000.0,
        say=lambda *_: None,
        cache=SimpleNamespace(
            get_json=lambda kind, key: cache.get((kind, key)), put_json=lambda kind, key, value: cache.update({(kind, key): value})
        ),
    )

    def note(row, status, *reasons):
        row.status = status
        row.reasons += [reason for reason in reasons if reason]

    monkeypatch.setattr(tuning, "keep_s", lambda search: 100.0)
    return SimpleNamespace(
        session=session,
        rows=rows,
        baseline=rows["llamacpp as-shipped"],
        workload=WORKLOAD,
        machine=SimpleNamespace(n_cores=2),
        policy=load_policy("standard"),
        reference=SimpleNamespace(candidate=None),
        exam=None,
        skipped=[],
        note=note,
    )


def test_a_setting_that_helps_is_kept_and_one_that_loses_is_not(search):
    asyncio.run(tuning.tune_settings(search, None))
    best = search.rows["llamacpp q8_0 microbatch_tokens=128"]
    assert best.probe.ratio == pytest.approx(1.68)
    assert not best.reasons
    quantised = search.rows["llamacpp q8_0 microbatch_tokens=128 kv_type=q8_0"]
    assert quantised.reasons[0].startswith("It loses 0.500")
    assert search.rows["llamacpp q8_0 threads=1 microbatch_tokens=128"].status == "infeasible"
    why = " ".join(part["why"] for part in search.skipped)
    assert "openvino was 2.33 times slower" in why
    assert "no such threads" in why


def test_every_combination_is_tried_or_counted_with_its_reason(search):
    unseen = row("llamacpp", "q6_k", 1.0)
    unseen.probe, unseen.reasons = None, ["Not tried: no time."]
    search.rows[unseen.plan.id] = unseen
    asyncio.run(tuning.tune_settings(search, None))
    recipes = {"llamacpp": ("as-shipped", "q8_0", "q6_k"), "openvino": ("fp16",)}
    everything = Space(recipes=recipes, axes={engine: axes_for(engine, WORKLOAD, 2) for engine in recipes}).points()
    counted = [int(part["what"].split()[0]) for part in search.skipped]
    assert sum(counted) + len(search.rows) == len(everything)
    assert next(part["what"] for part in search.skipped if part["why"] == tuning.UNSEEN) == "47 combinations with other settings"
    assert all(part["why"] for part in search.skipped)


def test_no_time_means_nothing_is_tried_and_it_is_said(search):
    search.session.seconds_left = 50.0
    before = list(search.rows)
    asyncio.run(tuning.tune_settings(search, None))
    assert list(search.rows) == before
    assert any("time limit" in part["why"] for part in search.skipped)


def test_the_same_question_tries_the_same_settings(search):
    asyncio.run(tuning.tune_settings(search, None))
    first = list(search.rows)
    search.rows = {name: search.rows[name] for name in first[:3]}
    search.session.seconds_left = 0.0
    asyncio.run(tuning.tune_settings(search, None))
    assert list(search.rows) == first
