"""Remedies: how each is made from a recipe, which weights are found to matter, how attempts are shared, and which one is chosen."""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from trimtab.core.decision import Decision, GateResult
from trimtab.core.deployment import EngineBuild, Recipe, Settings
from trimtab.core.errors import InfeasibleError
from trimtab.core.evidence import Evidence, Outcome
from trimtab.core.model import TensorInfo
from trimtab.core.policy import GateSpec, Policy
from trimtab.core.workload import Workload
from trimtab.evaluate.screen import ScreenResult
from trimtab.flows.parts import mitigate, remedies
from trimtab.flows.parts.evidence import Bench
from trimtab.flows.parts.opening import recipe_named
from trimtab.flows.parts.remedies import CALIBRATED, NEXT_POINT, PROTECTED, Mending, Remedy
from trimtab.flows.parts.timing import Probe
from trimtab.plan.tuning.protect import Protection

GATE = GateSpec(name="mine", kind="non_inferiority", suite="mine", margin=0.1, unit="nats", reason="test", min_clusters=4)
POLICY = Policy(name="own", version="1", gates=(GATE,), alpha=0.06, max_attempts=3)
WORKLOAD = Workload(name="w", prompt_tokens=100, output_tokens=10, concurrency=(1,))
Q4_0 = recipe_named("q4_0", "llamacpp")


def tensors(kind="Q4_1"):
    return [
        TensorInfo(name=f"blk.{layer}.{word}.weight", shape=(64, 64), type_name=kind, size_bytes=64 * 64 * 20 // 32)
        for layer in range(6)
        for word in ("attn_q", "ffn_down")
    ]


def candidate(name, size_bytes=100, recipe="q4_0"):
    return SimpleNamespace(
        id=name, engine="llamacpp", recipe=recipe, settings=Settings(slots=1), build=EngineBuild(engine="llamacpp", version="1"),
        snapshot=SimpleNamespace(size_bytes=size_bytes, digest=f"weights of {name}", root=None),
        deployment=SimpleNamespace(digest=f"digest of {name}"), numeric_sha256=name, source_sha256="s", numeric=frozenset(),
    )  # fmt: skip


def outcomes(loss):
    return tuple(Outcome(item_id=f"m-{n}", suite="mine", cluster=f"m-{n}", value=1.0 - loss + n % 2 / 1000, n_tokens=4) for n in range(12))


@pytest.fixture
def mending(tmp_path, monkeypatch):
    """Everything compressed loses 0.2; what single candidates lose is in `losses`."""
    losses = {"reference": 0.0, "q4_0": 0.2}
    steps = {}

    async def scored(session, one, items, *, phase, what):
        return outcomes(losses[one.id])

    async def build(self, recipe, settings, *, products_dir, candidate_id):
        return candidate(candidate_id, 150, recipe.name)

    monkeypatch.setattr(mitigate, "outcomes_on", scored)
    monkeypatch.setattr(remedies, "outcomes_on", scored)
    monkeypatch.setattr(Mending, "build", build)
    session = SimpleNamespace(
        say=lambda *_: None, seconds=0.0, seconds_left=1000.0, caches=tmp_path, products_dir=tmp_path, losses=losses,
        run=SimpleNamespace(path=tmp_path, step=lambda key, compute: steps.setdefault(key, compute()), steps=steps),
    )  # fmt: skip
    bench = Bench(
        reference=candidate("reference"), weak=None, weak_missing="", variants={}, policy=POLICY,
        exam=SimpleNamespace(search=SimpleNamespace(only=lambda suites: tuple(suites))),
    )  # fmt: skip
    opened = SimpleNamespace(header=SimpleNamespace(tensors=tensors()), snapshot=SimpleNamespace(format="gguf"))
    return Mending(
        session=session, opened=opened, lock=SimpleNamespace(recipe=Q4_0, id="q4_0"), bench=bench, candidate=candidate("q4_0"),
        gates=(GATE,), suites=["core"], decision=None,
    )  # fmt: skip


def gate_result(verdict):
    return GateResult(
        name="mine", kind="non_inferiority", suite="mine", unit="nats", margin=0.1, required=True, verdict=verdict, informative=True,
        reasons=("why",), n=12, n_clusters=12, n_missing=0, delta=-0.2, low=-0.3, high=-0.1, confidence=0.96,
    )  # fmt: skip


def decision(verdict, attempt=1):
    return Decision(
        verdict=verdict, reasons=(verdict,), gates=(gate_result(verdict),), policy="own", policy_sha256="p", use="fixed_n", attempt=attempt
    )


@pytest.fixture
def judged(monkeypatch, mending):
    """Verdicts by the candidate's id; keeps by which policy and attempt each was judged."""
    verdicts, by = {}, {}

    class FakeScreening:
        def __init__(self, *, session, **_):
            self.session = session

        async def score_reference(self):
            return 1.0

        async def look_at(self, one, number):
            screen = ScreenResult(
                kl_nats=0.1,
                kl_se=0.01,
                top1_agreement=0.9,
                top1_se=0.01,
                delta_nats_per_token=-0.1,
                delta_se=0.01,
                n_tokens=9,
                n_passages=3,
            )
            return screen, Probe(e2e_ms=1.0, ttft_ms=1.0, tpot_ms=1.0, ratio=0.9)

    async def certify(session, bench, one, *, attempt, concurrency, swapped):
        if verdicts[one.id] == "broken":
            raise InfeasibleError("it crashed")
        by[one.id] = (bench.policy, attempt)
        seen = Evidence(use="fixed_n", reference=(), candidate=())
        return SimpleNamespace(decision=decision(verdicts[one.id], attempt), candidate=(), reference=(), evidence=seen)

    monkeypatch.setattr(mitigate, "Screening", FakeScreening)
    monkeypatch.setattr(mitigate, "PromptMaker", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(mitigate, "certify", certify)
    return SimpleNamespace(verdicts=verdicts, by=by)


def run(mending, monkeypatch, found, attempts=("digest of q4_0",)):
    async def remedies_for(_):
        return found

    monkeypatch.setattr(mitigate, "remedies_for", remedies_for)
    return asyncio.run(mitigate.mitigate(mending, decision("fail"), WORKLOAD, attempts=attempts, concurrency=1))


def remedy(name, one, size_bytes=100):
    return Remedy(name=name, what="w", recipe=Q4_0, candidate=candidate(one, size_bytes))


def test_remedies_share_what_attempts_left_of_alpha_and_the_smallest_that_passes_is_chosen(mending, judged, monkeypatch):
    mending.session.losses.update(a=0.1, b=0.0, c=0.0)
    judged.verdicts.update(a="fail", b="pass", c="pass")
    found = run(mending, monkeypatch, [remedy(CALIBRATED, "a"), remedy(PROTECTED, "b", 130), remedy(NEXT_POINT, "c", 120)])
    assert found.best.remedy.candidate.id == "c"
    assert found.document["best"] == NEXT_POINT
    each = {name: policy.alpha / policy.max_attempts for name, (policy, _) in judged.by.items()}
    assert each == pytest.approx(dict.fromkeys("abc", 0.06 * 2 / 3 / 3)), "two of three attempts were left, for three remedies"
    assert [attempt for _, attempt in judged.by.values()] == [1, 2, 3]
    assert list(mending.session.run.steps) == [f"attempt/digest of {name}" for name in ("q4_0", "a", "b", "c")]
    rows = {row["name"]: row for row in found.document["remedies"]}
    assert rows[NEXT_POINT]["extra_bytes"] == 20
    assert rows[CALIBRATED]["search"]["mine"]["margins"] == pytest.approx(1.0)
    assert found.document["before"]["search"]["mine"]["margins"] == pytest.approx(2.0)
    assert rows[CALIBRATED]["speed"] == 0.9
    assert [row.verdict for row in found.rows()] == ["fail", "pass", "pass"]


def test_what_the_run_tried_before_costs_no_attempt(mending, judged, monkeypatch):
    mending.session.losses.update(a=0.1, c=0.0)
    judged.verdicts.update(a="inconclusive", c="pass")
    found = run(mending, monkeypatch, [remedy(CALIBRATED, "a"), remedy(NEXT_POINT, "c")], attempts=("digest of q4_0", "digest of c"))
    assert judged.by["c"] == (POLICY, 2)
    assert judged.by["a"][0].alpha / judged.by["a"][0].max_attempts == pytest.approx(0.02), "the last of three attempts"
    assert found.document["attempts"]["planned"] == 1


def test_when_attempts_are_used_up_nothing_is_judged(mending, judged, monkeypatch):
    mending.session.losses.update(a=0.1)
    found = run(mending, monkeypatch, [remedy(CALIBRATED, "a")], attempts=("digest of q4_0", "x", "y"))
    assert judged.by == {}
    assert found.best is None
    assert "used up" in found.document["remedies"][0]["why_not"]
    assert found.document["remedies"][0]["search"]["mine"]["margins"] == pytest.approx(1.0), "its cost and the search's items are told"


def test_one_that_breaks_or_cannot_be_built_is_a_row_with_the_reason(mending, judged, monkeypatch):
    mending.session.losses.update(a=0.1)
    judged.verdicts.update(a="broken")
    found = run(mending, monkeypatch, [remedy(CALIBRATED, "a"), Remedy(name=PROTECTED, what="", why_not="no recipe")])
    whys = [row["why_not"] for row in found.document["remedies"]]
    assert whys == ["it cannot run: it crashed", "no recipe"]
    assert [row.status for row in found.rows()] == ["screened"]


def test_without_a_gate_to_mend_nothing_is_tried(mending):
    import dataclasses

    none = dataclasses.replace(mending, gates=())
    found = asyncio.run(mitigate.mitigate(none, decision("fail"), WORKLOAD, attempts=("a",), concurrency=1))
    assert (found.tried, found.best) == ((), None)
    assert "no weights" in found.document["why_not"]


def test_the_groups_that_the_gate_depends_on_are_kept(mending, monkeypatch):
    asked = []

    async def kept_alone(_, recipe, reference, scratch):
        (pattern,) = recipe.parameters["tensors"]
        asked.append(pattern)
        gain = 1.9 if "ffn_down" in pattern and "(4|5)" in pattern else 0.01
        return {"size_bytes": 110, "margins": {"mine": 2.0 - gain}}

    monkeypatch.setattr(remedies, "_kept_alone", kept_alone)
    found = asyncio.run(remedies._protected(mending))
    assert len(asked) == 6, "two kinds of matrices in three bands"
    assert list(found.recipe.parameters["tensors"].values()) == ["keep"]
    assert "ffn_down" in next(iter(found.recipe.parameters["tensors"]))
    assert found.recipe.parameters["type"] == "Q4_0"
    assert found.what == "kept: ffn_down 4-5 in its own type"
    assert len(found.details["sensitivity"]) == 6
    assert found.candidate.id.endswith("sensitive weights kept")


def test_without_time_for_all_groups_none_is_kept(mending, monkeypatch):
    async def kept_alone(one, recipe, reference, scratch):
        one.session.seconds += 200.0
        return {"size_bytes": 110, "margins": {"mine": 1.0}}

    monkeypatch.setattr(remedies, "_kept_alone", kept_alone)
    found = asyncio.run(remedies._protected(mending))
    assert found.candidate is None
    assert found.why_not == "the time limit left room to measure 3 of 6 groups of weights"


def test_floats_are_kept_in_8_bits_and_quantised_weights_as_they_are(mending):
    (group, *_) = remedies.tensor_groups(tensors("F16"), 3)
    assert remedies.high_type(group) == "Q8_0"
    (group, *_) = remedies.tensor_groups(tensors("Q4_1"), 3)
    assert remedies.high_type(group) == "keep"
    (odd, *_) = remedies.tensor_groups([TensorInfo(name="blk.0.attn_q.weight", shape=(64, 40), type_name="F16", size_bytes=5120)], 1)
    assert remedies.high_type(odd) == "keep", "no block of 32 divides its rows"


def test_a_recipe_gets_the_twins_and_a_method_that_reads_them():
    changed = remedies.with_twins(Q4_0, ["core"])
    assert changed.parameters == {"type": "Q4_0", "calibration": ["core"], "calibration_tokens": remedies.TWIN_TOKENS}
    packed = remedies.with_twins(recipe_named("int4-asym-g64", "openvino"), ["core"])
    assert packed.parameters["scale_estimation"] is True
    assert packed.name == "openvino-int4-asym-g64-twins"


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (recipe_named("q8_0", "llamacpp"), "Q8_0 is made without"),
        (recipe_named("", "llamacpp"), "as shipped"),
        (recipe_named("int8-asym", "openvino"), "int8_asym is made without"),
        (Recipe(name="x", family="gguf", engine="llamacpp", parameters={"type": "Q4_0", "calibration": ["core"]}), "already"),
    ],
)
def test_what_takes_no_text_says_so(mending, recipe, words):
    mending.lock.recipe = recipe
    found = asyncio.run(remedies._calibrated(mending))
    assert found.candidate is None
    assert words in found.why_not


def test_only_recipes_of_llamacpp_keep_single_weights(mending):
    mending.lock.recipe = recipe_named("int4-asym-g64", "openvino")
    assert "llama.cpp" in asyncio.run(remedies._protected(mending)).why_not
    chosen = Protection(groups={"attn_qo 0-1": "keep"}, shares={}, extra_bytes=1)
    mending.lock.recipe = remedies.keeping(Q4_0, chosen, remedies.tensor_groups(tensors(), 3))
    assert "already" in asyncio.run(remedies._protected(mending)).why_not


def row(name, e2e_ms, memory_mb, loss, verdict=None):
    spread = {"p50": e2e_ms, "min": e2e_ms, "max": e2e_ms}
    return {
        "id": name, "verdict": verdict, "details": {"weights_sha256": name}, "recipe": name, "engine": "llamacpp", "settings": {},
        "measurement": {"points": [{"concurrency": 1, "e2e_ms": spread}], "peak_memory_bytes": memory_mb * 1e6},
        "evidence": {"screen": {"delta_nats_per_token": -loss, "low": -loss, "high": -loss}},
    }  # fmt: skip


def test_the_next_point_is_the_fastest_on_the_front_that_is_nearer_to_the_reference():
    rows = [
        row("q4_0", 100, 90, 0.3), row("q5", 120, 100, 0.1), row("q8", 150, 150, 0.01), row("slow", 200, 150, 0.02), row("q2", 90, 80, 0.5)
    ]  # fmt: skip
    found = remedies.next_row({"candidates": rows, "kind": "optimize"}, "q4_0")
    assert found["id"] == "q5"
    rows[1]["verdict"] = "fail"
    assert remedies.next_row({"candidates": rows}, "q4_0")["id"] == "q8", "what failed is no remedy"
    rows[1]["verdict"] = None
    rows[2]["verdict"] = "pass"
    assert remedies.next_row({"candidates": rows}, "q4_0")["id"] == "q8", "what passed goes first"
    assert remedies.next_row({"candidates": rows}, "q8") is None
    assert remedies.next_row({"candidates": []}, "q4_0") is None
