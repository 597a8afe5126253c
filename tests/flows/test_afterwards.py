"""The chosen deployment is timed again after it was chosen, and at its worst. The last test runs real workers, the others made-up rows."""

import asyncio
from types import SimpleNamespace

import pytest

from trimtab.core.deployment import Settings
from trimtab.core.workload import Workload
from trimtab.flows.parts import afterwards
from trimtab.flows.parts.afterwards import NO_TIME, retime, time_at_worst, worst_sentences
from trimtab.flows.parts.choice import choose, passed
from trimtab.flows.parts.objective import Aim
from trimtab.flows.parts.search import Row
from trimtab.flows.parts.timing import Timed

CHAT = Workload(name="w", prompt_tokens=48, output_tokens=8, concurrency=(1, 2))


def timed(e2e_ratio=1.0, e2e_ms=1000.0):
    ratio = {"ratio": e2e_ratio, "low": e2e_ratio, "high": e2e_ratio, "n_rounds": 3}
    points = [{"concurrency": level, "e2e_ms": {"p50": e2e_ms / e2e_ratio}} for level in (1, 2)]
    return Timed(
        measurement={"points": points, "load_s": 1.0, "cold_ttft_ms": 900.0},
        ratios={"base": {level: {"e2e_ms_p50": ratio} for level in "12"}},
    )


class Session(SimpleNamespace):
    async def once(self, kind, key, compute):
        self.kinds.append(kind)
        return self.known[kind] if kind in self.known else await compute()

    def say(self, step, *rest):
        self.said.append((step, *rest))


def searched(verdicts, *, known=None, seconds_left=1e6, candidates=None, **more):
    """verdicts: name -> gates' verdict, the first being the baseline, twice as fast from one to the next."""
    rows = {}
    for number, (name, verdict) in enumerate(verdicts.items()):
        candidate = (candidates or {}).get(name) or SimpleNamespace(deployment=SimpleNamespace(digest=name))
        row = Row(plan=SimpleNamespace(id=name, engine="e"), status="certified", timed=timed(2.0**number), candidate=candidate)
        row.verdict = verdict
        rows[name] = row

    def note(row, status, *reasons):
        row.status = status
        row.reasons += [reason for reason in reasons if reason]

    return SimpleNamespace(
        aim=Aim(),
        rows=rows,
        baseline=rows["base"],
        note=note,
        workload=CHAT,
        machine=SimpleNamespace(digest="m", n_cores=2, read_gb_s=None),
        session=Session(kinds=[], said=[], known=known or {}, seconds_left=seconds_left, limit_s=600.0, seed=0),
        settings=Settings(slots=2, context_tokens=128),
        retimed=None,
        **more,
    )


def again(**ratios):
    found = {name: timed(ratio) for name, ratio in ratios.items()}
    return {name: {"measurement": each.measurement, "ratios": each.ratios, "left": ""} for name, each in found.items()}


def test_what_is_claimed_comes_from_the_second_session():
    search = searched({"base": None, "a": "pass"}, known={"retimed": {"why": "", "timed": again(base=1.0, a=1.7)}})
    asyncio.run(retime(search, None))
    assert search.retimed == {"why": "", "ids": ["base", "a"]}
    assert search.rows["a"].timed.ratios["base"]["1"]["e2e_ms_p50"]["ratio"] == 1.7
    assert choose(search)[0].plan.id == "a"


def test_luck_in_the_first_session_is_found_out():
    search = searched({"base": None, "a": "pass"}, known={"retimed": {"why": "", "timed": again(base=1.0, a=0.97)}})
    asyncio.run(retime(search, None))
    assert choose(search) == (search.baseline, "pass")
    assert search.rows["a"].reasons == ["Not faster than the baseline when it was timed again after the choice."]


def test_what_breaks_the_second_time_is_not_chosen():
    timings = again(base=1.0, a=1.5, b=3.0)
    timings["b"] = {"measurement": None, "ratios": {}, "left": "The engine ended with code 9."}
    search = searched({"base": None, "a": "pass", "b": "pass"}, known={"retimed": {"why": "", "timed": timings}})
    assert choose(search)[0].plan.id == "b"
    asyncio.run(retime(search, None))
    assert [row.plan.id for row in passed(search)] == ["a"]
    assert search.rows["b"].status == "infeasible"


def test_without_time_or_winner_nothing_is_timed_and_the_reason_is_kept():
    search = searched({"base": None, "a": "pass"}, seconds_left=20.0)
    asyncio.run(retime(search, None))
    assert search.retimed == {"why": NO_TIME, "ids": ["base", "a"]}
    kept = searched({"base": None, "a": "fail"})
    asyncio.run(retime(kept, None))
    assert asyncio.run(time_at_worst(kept)) is None
    assert (kept.retimed, kept.session.kinds) == (None, [])


def case(what="with every slot full to the last token", ratio=(1.2, 1.1, 1.3), **left):
    names = ("ratio", "low", "high")
    return {"what": what, "left": left, "ratio": dict(zip(names, ratio, strict=True)) if ratio else None}


def test_one_that_breaks_at_its_worst_gives_way_to_the_next():
    search = searched({"base": None, "a": "pass", "b": "pass"}, known={"worst": {"why": "", "cases": [case(b="out of memory")]}})
    assert asyncio.run(time_at_worst(search)) == {"why": "", "cases": [case(b="out of memory")]}
    assert choose(search)[0].plan.id == "a"
    assert search.rows["b"].reasons == ["It broke at its worst, with every slot full to the last token: out of memory"]


def test_what_is_said_of_worst_cases():
    assert worst_sentences(None) == []
    assert worst_sentences({"why": "", "cases": [case(), case(ratio=None)]}) == []
    assert worst_sentences({"why": NO_TIME, "cases": []}) == []
    slower = case(ratio=(0.8, 0.7, 0.9))
    assert worst_sentences({"why": "", "cases": [slower]}) == [
        "With every slot full to the last token it is slower than the baseline: 0.80x."
    ]


@pytest.mark.model
@pytest.mark.slow
def test_real_workers_are_timed_again_with_full_slots_and_beside_a_neighbour(tmp_path, monkeypatch):
    pytest.importorskip("llama_cpp")
    from trimtab.flows.parts.opening import build_candidate, open_model, recipe_named
    from trimtab.flows.parts.reference import PromptMaker
    from trimtab.testing.tiny_models import write_tiny_gguf

    monkeypatch.setattr(afterwards, "STARTING_S", 0.5)  # as the model is, so that there is time for all of it within a few seconds
    write_tiny_gguf(tmp_path / "model.gguf", architecture="qwen2", seed=1, weight_type="Q4_1")
    opened = open_model(str(tmp_path / "model.gguf"), cache_dir=tmp_path, offline=True)
    settings = Settings(slots=2, context_tokens=128)

    async def built(name):
        recipe = recipe_named(name, "llamacpp")
        return await build_candidate(opened, "llamacpp", recipe, settings, products_dir=tmp_path / "products", candidate_id=name)

    async def run():
        candidates = {"base": await built("as-shipped"), "a": await built("q8_0")}
        candidates = {name: one.__class__(**{**one.__dict__, "id": name}) for name, one in candidates.items()}
        search = searched(
            {"base": None, "a": "pass"},
            candidates=candidates,
            seconds_left=6.0,
            reference=SimpleNamespace(candidate=candidates["base"]),
        )
        for row, ratio in zip(search.rows.values(), (1.0, 2.0), strict=True):
            row.timed = timed(ratio, e2e_ms=50.0)
        with PromptMaker(candidates["base"], CHAT) as prompts:
            found = await afterwards._retime(search, [search.rows["base"], search.rows["a"]], prompts)
        return found, await time_at_worst(search)

    found, worst = asyncio.run(run())
    assert found["why"] == ""
    assert set(found["timed"]["a"].ratios["base"]) == {"1", "2"}
    assert found["timed"]["base"].measurement["load_s"] == 1.0, "what was seen of cold starts is kept"
    assert [one["concurrency"] for one in worst["cases"]] == [2, 2]
    assert worst["cases"][0]["prompt_tokens"] + worst["cases"][0]["output_tokens"] == 128
    assert worst["cases"][1]["prompt_tokens"] == CHAT.prompt_tokens
    for one in worst["cases"]:
        assert one["chosen"]["failed"] == 0
        assert one["chosen"]["n_requests"] >= 2
        assert one["left"] == {}
