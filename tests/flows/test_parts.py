"""Choices of a run that need no model."""

import dataclasses
from types import SimpleNamespace

import pytest

from trimtab.core.deployment import Candidate, EngineBuild, Settings
from trimtab.core.errors import EngineRefused, InputError
from trimtab.core.evidence import GenerationCheck, Item
from trimtab.core.model import Snapshot, SnapshotFile
from trimtab.core.workload import Workload, WorkloadRequest
from trimtab.decide.policies import load_policy
from trimtab.evaluate.generation import check_generation
from trimtab.evaluate.screen import ScreenResult
from trimtab.evaluate.suites.registry import Suite
from trimtab.flows.parts import requests
from trimtab.flows.parts.evidence import looped, parity_controls
from trimtab.flows.parts.exam import load_suites, policy_for, suite_names
from trimtab.flows.parts.reference import common_settings
from trimtab.flows.parts.screening import pick_finalists, why_screened_out
from trimtab.flows.parts.session import run_sync
from trimtab.flows.parts.space import user_plans
from trimtab.flows.parts.timing import Probe, log_gain

POLICY = load_policy("standard")


def screened(delta, se=0.002):
    return ScreenResult(
        kl_nats=0.1, kl_se=0.01, top1_agreement=0.9, top1_se=0.01, delta_nats_per_token=delta, delta_se=se, n_tokens=2000, n_passages=18
    )


def probe(ratio):
    return Probe(e2e_ms=1000 / ratio, ttft_ms=100, tpot_ms=10, ratio=ratio)


def test_only_a_loss_surely_beyond_the_margin_screens_out():
    assert why_screened_out(screened(-0.19), POLICY).startswith("It loses 0.190 ± 0.002 nats per token on 2,000 tokens")
    assert why_screened_out(screened(-0.021), POLICY) == ""  # beyond the margin, but not surely
    assert why_screened_out(screened(0.0), POLICY) == ""
    assert why_screened_out(None, POLICY) == ""


def test_the_tempting_file_is_timed_although_it_lost_on_quality():
    probes = {
        "base": probe(1.0),
        "ov gguf": probe(2.1),
        "ov int8": probe(1.9),
        "ov int4": probe(2.2),
        "ll q8": probe(1.2),
        "ll q6": probe(1.1),
    }
    engines = {name: "llamacpp" if name[:2] in ("ba", "ll") else "openvino" for name in probes}
    passing = ["base", "ov int8", "ll q8", "ll q6"]
    chosen = pick_finalists(probes, {}, passing, engines, baseline="base", same_file=["ov gguf"], n_rivals=3)
    assert chosen == ["ov int8", "ll q8", "ov gguf"]
    assert pick_finalists(probes, {}, ["base"], engines, baseline="base", same_file=[], n_rivals=3) == []


def test_a_finalist_of_other_weights_follows_if_there_is_room():
    probes = {name: probe(ratio) for name, ratio in {"base": 1.0, "ov a": 3.0, "ov a fast": 3.5, "ov b": 2.0, "ll": 1.5}.items()}
    engines = {name: "llamacpp" if name in ("base", "ll") else "openvino" for name in probes}
    weights = {"base": "s", "ov a": "a", "ov a fast": "a", "ov b": "b", "ll": "q"}
    options = {"baseline": "base", "same_file": [], "weights": weights}
    assert pick_finalists(probes, {}, list(probes), engines, n_rivals=3, **options) == ["ov a fast", "ll", "ov b"]
    assert pick_finalists(probes, {}, list(probes), engines, n_rivals=2, **options) == ["ov a fast", "ll"]


def test_of_two_that_are_as_fast_the_closer_one_is_timed():
    probes = {"base": probe(1.0), "ll q6": probe(1.47), "ll q8": probe(1.41), "ll q5": probe(1.2)}
    engines = dict.fromkeys(probes, "llamacpp")
    losses = {"ll q6": 0.010, "ll q8": 0.004, "ll q5": 0.001}
    assert pick_finalists(probes, losses, list(probes), engines, baseline="base", same_file=[], n_rivals=1) == ["ll q8"]


def test_the_users_own_items_get_a_gate_and_absent_ones_lose_theirs():
    item = Item(id="m1", suite="mine", cluster="m1", scorer="margin", options=(" a", " b"), prompt="x")
    policy, notes = policy_for(POLICY, [Suite(name="mine", version="1", items=(item,))])
    assert [gate.name for gate in policy.gates if gate.suite] == ["mine"]
    assert {gate.kind for gate in policy.gates if not gate.suite} == {"parity", "generation"}
    assert notes[0].startswith("no items were asked for that these gates are about: text, cloze, choice")
    assert any("gate mine: added" in note for note in notes)


def test_suites_stand_with_commas_but_a_file_may_hold_one(tmp_path):
    path = tmp_path / "a,b.txt"
    path.write_text("Some words that are long enough to score.\n")
    assert suite_names(["core, bias", str(path), "recall:512"]) == ["core", "bias", str(path), "recall:512"]
    assert [suite.name for suite in load_suites(["tools,recall", str(path)])] == ["tools", "recall", "a,b"]
    with pytest.raises(InputError, match="'tools,' holds an empty name"):
        load_suites(["tools,"])


def test_one_item_id_in_two_suites_is_refused(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text('{"id": "same", "text": "Some words that are long enough to score."}\n')
    with pytest.raises(InputError, match="'same' is in suite 'one' and in 'two'"):
        load_suites([str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")])


def test_user_candidates_are_called_after_their_files():
    plans = user_plans(["mine-q4.gguf", "openvino:mine-q4.gguf?kv_type=u8", "llamacpp:mine-q4.gguf?recipe=q8_0"])
    assert [plan.id for plan in plans] == ["llamacpp mine-q4", "openvino mine-q4 kv_type=u8", "llamacpp mine-q4 q8_0"]
    with pytest.raises(InputError, match="Two candidates would be called"):
        user_plans(["a/m.gguf", "b/m.gguf"])


def test_common_settings_leave_room_and_respect_the_model():
    assert common_settings(640, (1, 4), 8192) == Settings(slots=4, context_tokens=1024)
    assert common_settings(2000, (1,), 8192) == Settings(slots=1, context_tokens=2000)
    assert common_settings(200, (2,), 512) == Settings(slots=2, context_tokens=512)


def test_gain_is_the_mean_log_ratio_over_concurrencies():
    assert log_gain({"1": {"e2e_ms_p50": {"ratio": 2.0}}, "4": {"e2e_ms_p50": {"ratio": 0.5}}}) == pytest.approx(0.0)
    assert log_gain({}) == 0.0


def test_the_planted_generation_control_is_broken_for_every_prompt():
    sound = check_generation(
        ("p",) * 8, ("The old boat lay in the harbour, and nobody had painted it for years because paint was dear.",) * 8
    )
    assert not any(sound.broken)
    control: GenerationCheck = looped(sound)
    assert all(control.broken)
    assert control.prompts == sound.prompts


def weights(digit, draft=None):
    files = (SnapshotFile(name="m.gguf", size_bytes=10, sha256=digit * 64),)
    return Snapshot(source="m.gguf", format="gguf", root=None, files=files, draft=draft)


def deployed(snapshot, recipe):
    return Candidate(
        id=recipe, engine="llamacpp", recipe=recipe, settings=Settings(draft="d.gguf" if snapshot.draft else None), snapshot=snapshot,
        source_sha256="", template_sha256="", build=EngineBuild(engine="llamacpp", version="1"), numeric=frozenset({"kv_type"}),
    )  # fmt: skip


@pytest.mark.parametrize("draft", [None, weights("d")])
def test_swapped_weights_are_others_whatever_drafts_for_them(draft):
    good, weak = deployed(weights("a", draft), "q8_0"), deployed(weights("b"), "q2_k")
    swapped = parity_controls(good, weak)["weights-swapped"]
    assert swapped.snapshot == weights("b", draft), "the draft that its settings name stays with it"
    assert "weights-swapped" not in parity_controls(deployed(weights("b", draft), "q2_k"), weak), "the same weights are no planted fault"
    assert "weights-swapped" not in parity_controls(good, None)


def test_a_prompt_that_the_template_does_not_take_is_named(monkeypatch):
    class Client:
        async def render(self, messages):
            if messages[0]["role"] == "system":
                raise EngineRefused("m.gguf has no chat template.")
            return messages[0]["content"]

        async def tokenize(self, texts, parse_special):
            return [[1] * len(text) for text in texts]

        async def close(self):
            pass

    async def start(*_):
        return Client()

    monkeypatch.setattr(requests.WorkerClient, "start", start)
    opened = SimpleNamespace(snapshot=None)
    fine = WorkloadRequest(prompt_tokens=0, output_tokens=4, messages=(("user", "word"),))
    odd = WorkloadRequest(prompt_tokens=0, output_tokens=4, messages=(("system", "Be brief."), ("user", "word")))
    workload = Workload(name="p.jsonl", prompt_tokens=16, output_tokens=4, concurrency=(1,), requests=(fine,))
    found = run_sync(requests.counted(opened, workload, "llamacpp"))
    assert found.requests[0].prompt_tokens == 4 + requests.MARK_TOKENS
    with pytest.raises(InputError, match=r"Prompt 2 of p\.jsonl cannot be put to the model: m\.gguf has no chat template\. Change it"):
        run_sync(requests.counted(opened, dataclasses.replace(workload, requests=(fine, odd)), "llamacpp"))


def test_a_coroutine_runs_from_a_notebook_too():
    async def work():
        return 7

    async def cell():
        return run_sync(work())

    assert run_sync(work()) == 7
    assert run_sync(cell()) == 7


def test_a_policy_without_a_text_gate_screens_nobody():
    no_text = dataclasses.replace(POLICY, gates=tuple(gate for gate in POLICY.gates if gate.suite != "text"))
    assert why_screened_out(screened(-0.5), no_text) == ""
