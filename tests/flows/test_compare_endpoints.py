"""`compare` on servers: what is judged by which means, what is noticed, and what is said of every way it can go wrong."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from trimtab.cli.main import main
from trimtab.core.endpoint import Answer, Endpoint
from trimtab.core.errors import InputError, MissingError
from trimtab.engines import endpoint as endpoint_module
from trimtab.flows.compare import compare
from trimtab.flows.parts.answering import sitting
from trimtab.record.report import render_report
from trimtab.testing.fake_server import FakeServer, fake_prompts, walk

N = 50


@pytest.fixture(autouse=True)
def _own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_S", 0.01)


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = [{"id": f"t{n}", "text": " ".join(walk(f"text {n}", 80))} for n in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_prompts(path, n=N, words=""):
    path.write_text("".join(json.dumps({"prompt": words + text, "output_tokens": 24}) + "\n" for text in fake_prompts(n)))
    return str(path)


def run(folder, a, b, *, n=N, words="", **more):
    out = more.pop("out", folder / "run")
    return compare(
        f"openai:{a.url}#m",
        f"openai:{b.url}#m",
        prompts=write_prompts(folder / "prompts.jsonl", n, words),
        timing=more.pop("timing", False),
        out=out,
        **more,
    )


def gate(decision, name):
    return next(gate for gate in decision["gates"] if gate["name"] == name)


def test_a_server_is_no_worse_than_itself(tmp_path):
    with FakeServer() as a, FakeServer() as b:
        decision = run(tmp_path, a, b)
    assert decision["verdict"] == "pass"
    assert {one["name"] for one in decision["gates"]} == {"sound", "refusal", "length", "agreement"}
    assert all(one["informative"] and one["required"] for one in decision["gates"])
    assert decision["judged_by"] == "answers"
    assert decision["reference"]["capabilities"][0]["name"] == "list of models"
    for name in ("run.json", "decision.json", "report.html", "answers.jsonl"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    assert not (tmp_path / "run" / "deploy.toml").exists()
    assert "&lt;" not in decision["reference"]["id"]
    assert "openai:" in render_report(decision)


@pytest.mark.slow
def test_other_answers_of_an_unscored_server_cannot_be_told_from_worse_ones(tmp_path):
    with FakeServer() as a, FakeServer(drift=0.5) as b:
        decision = run(tmp_path, a, b)
    assert decision["verdict"] == "inconclusive"
    assert "whether it is worse cannot be told" in decision["reasons"][0]


@pytest.mark.slow
def test_a_scoring_reference_tells_other_answers_from_worse_ones(tmp_path):
    with FakeServer(prompt_scores=True) as a, FakeServer(drift=0.5) as other, FakeServer(damage=0.3) as worse:
        fine = run(tmp_path, a, other, out=tmp_path / "fine")
        bad = run(tmp_path, a, worse, out=tmp_path / "bad")
    assert fine["verdict"] == "pass"
    assert not gate(fine, "agreement")["required"]
    assert gate(fine, "surprise")["verdict"] == "pass"
    assert bad["verdict"] == "fail"
    assert gate(bad, "surprise")["verdict"] == "fail"
    assert gate(bad, "surprise")["positive_control"]["caught"]


@pytest.mark.slow
def test_texts_are_scored_where_both_sides_can(tmp_path, texts):
    with FakeServer(scores=True) as a, FakeServer(prompt_scores=True) as b, FakeServer() as silent:
        both = run(tmp_path, a, b, suites=[texts], out=tmp_path / "both")
        one = run(tmp_path, a, silent, suites=[texts], out=tmp_path / "one")
    assert gate(both, "text")["verdict"] == "pass"
    assert gate(both, "text")["informative"]
    assert gate(both, "text")["level"] < 0
    assert "text" not in {found["name"] for found in one["gates"]}
    assert any(row["what"] == "gate text" and "gives no log-probabilities" in row["why"] for row in one["skipped"])


@pytest.mark.slow
def test_a_reference_that_does_not_repeat_itself_lifts_the_noise_floor(tmp_path):
    with FakeServer(noise=0.9) as a, FakeServer(noise=0.9) as b:
        decision = run(tmp_path, a, b)
    found = gate(decision, "agreement")
    assert found["level"] < 0.9
    assert abs(found["delta"]) < 0.1
    assert decision["verdict"] in ("pass", "inconclusive")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (lambda messages: "and then and then " * 40, "sound"),
        (lambda messages: "I'm sorry, but I can't help with that.", "refusal"),
        (lambda messages: "lukat bamot", "length"),
    ],
)
def test_a_fault_fails_the_gate_that_is_for_it(tmp_path, answer, name):
    with FakeServer() as a, FakeServer(answer=answer) as b:
        decision = run(tmp_path, a, b)
    assert decision["verdict"] == "fail"
    assert gate(decision, name)["verdict"] == "fail"


@pytest.mark.slow
def test_answers_that_are_no_json_where_json_was_asked_for(tmp_path):
    def sound(messages):
        return json.dumps({"case": messages[-1]["content"][-20:], "words": walk(str(messages), 12)})

    with FakeServer(answer=sound) as a, FakeServer(answer=lambda messages: f"Here you are: {sound(messages)}") as b:
        decision = run(tmp_path, a, b, words="Return only JSON. ")
    assert decision["verdict"] == "fail"
    assert gate(decision, "format")["flips_lost"] == N


def test_a_few_prompts_cannot_tell(tmp_path):
    with FakeServer() as a, FakeServer() as b:
        decision = run(tmp_path, a, b, n=12)
    assert decision["verdict"] == "inconclusive"
    assert any("are needed" in reason for reason in decision["reasons"])


@pytest.mark.slow
def test_requests_without_an_answer_stay_in_the_count(tmp_path):
    faults = [None] * 12 + ["400", None] * 6
    with FakeServer() as a, FakeServer(faults=faults) as b:
        decision = run(tmp_path, a, b)
    assert decision["verdict"] == "inconclusive"
    assert gate(decision, "sound")["n_missing"] == 6
    assert gate(decision, "sound")["n"] == N - 6


@pytest.mark.slow
@pytest.mark.parametrize(("changed", "said"), [(("m", "f2"), "f2"), (("m-tuned", "f1"), "m-tuned")])
def test_a_model_that_changes_in_the_middle_makes_it_inconclusive(tmp_path, changed, said):
    with FakeServer(fingerprint="f1") as a, FakeServer(fingerprint="f1", changes_after=30, changed=changed) as b:
        decision = run(tmp_path, a, b)
    assert decision["verdict"] == "inconclusive"
    assert decision["decision"]["verdict"] == "inconclusive"
    assert decision["reasons"][0].startswith("B: m at ")
    assert "changed during the run" in decision["reasons"][0]
    assert said in decision["reasons"][0]


@pytest.mark.slow
def test_a_server_that_answers_as_another_of_its_models_is_named(tmp_path):
    with FakeServer(models=("small", "m")) as a, FakeServer() as b:
        decision = run(tmp_path, a, b, n=20)
    assert decision["verdict"] == "inconclusive"
    assert "was asked for 'm', and 'small' answered, another model that it has" in decision["reasons"][0]


@pytest.mark.slow
def test_a_model_that_is_taken_off_the_list_is_noticed(tmp_path):
    with FakeServer(models=("m", "n")) as a, FakeServer() as b:
        n_asked = 0

        def answer(messages):
            nonlocal n_asked
            n_asked += 1
            if n_asked > 100:
                a.models = ("n",)
            return " ".join(walk(str(messages), 24))

        a.answer = answer
        decision = run(tmp_path, a, b)
    assert decision["verdict"] == "inconclusive"


@pytest.mark.slow
def test_a_broken_run_goes_on_and_a_finished_one_is_asked_anew(tmp_path, monkeypatch):
    with FakeServer() as a, FakeServer() as b:
        asked = 0
        plain = endpoint_module.EndpointClient.ask_now

        def interrupted(client, messages, max_tokens, **more):
            nonlocal asked
            asked += 1
            if asked > 60:
                raise KeyboardInterrupt
            return plain(client, messages, max_tokens, **more)

        with monkeypatch.context() as patch:
            patch.setattr(endpoint_module.EndpointClient, "ask_now", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path, a, b)
        went_on = run(tmp_path, a, b)
        assert went_on["work"]["known"] > 30
        again = run(tmp_path, a, b)
    assert again["work"]["known"] == 0
    assert went_on["verdict"] == again["verdict"] == "pass"


def test_how_long_answers_are_kept_for():
    began = datetime(2026, 1, 1, 12, tzinfo=UTC)
    head = {"started": began.isoformat(), "finished": None}
    soon, late = began + timedelta(hours=5), began + timedelta(hours=7)
    assert sitting(head, began) == sitting(head, soon) != sitting(head, late)
    done = head | {"finished": soon.isoformat()}
    assert sitting(done, soon) != sitting(head, soon)
    assert sitting(done, soon) != sitting(done, soon + timedelta(seconds=1))


@pytest.mark.slow
def test_both_are_timed_in_turns_with_fresh_prompts(tmp_path):
    with FakeServer(gap_s=0.004, delay_s=0.02) as a, FakeServer(gap_s=0.002, delay_s=0.01) as b:
        decision = run(tmp_path, a, b, n=24, timing=True)
        asked = [json.dumps(body["messages"]) for path, body in b.requests if path.endswith("chat/completions")]
    ratios = decision["speedup"]["over_baseline"]
    assert set(ratios) == {"1", "4"}
    for level in ratios.values():
        assert level["tpot_ms_p50"]["ratio"] == pytest.approx(2.0, rel=0.35)
        assert level["e2e_ms_p50"]["low"] > 1.2
        assert level["ttft_ms_p50"]["n_rounds"] >= 3
    fresh = [text for text in asked if asked.count(text) == 1]
    assert len(fresh) > 40
    point = decision["candidates"][0]["measurement"]["points"][0]
    assert point["ttft_ms"]["p50"] >= 10
    assert point["prefill_tok_s"] is None
    assert "network" in decision["candidates"][0]["measurement"]["conditions"]["where"]


@pytest.mark.slow
def test_a_server_asked_one_at_a_time_is_not_timed_with_four(tmp_path):
    with FakeServer() as a, FakeServer() as b:
        decision = compare(
            f"openai:{a.url}#m?concurrency=1",
            f"openai:{b.url}#m",
            prompts=write_prompts(tmp_path / "p.jsonl", 24),
            out=tmp_path / "run",
        )
    assert set(decision["speedup"]["over_baseline"]) == {"1"}
    assert any("at most 1 at once" in row["why"] for row in decision["skipped"])


@pytest.mark.slow
def test_rate_limits_are_lived_with(tmp_path):
    with FakeServer(faults=["429", None, "503", None] * 20, retry_after="0.01") as a, FakeServer() as b:
        decision = run(tmp_path, a, b)
    assert decision["verdict"] == "pass"


def test_the_answers_are_there_to_be_read(tmp_path):
    with FakeServer() as a, FakeServer(drift=0.5) as b:
        run(tmp_path, a, b, n=20)
    rows = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    assert rows[0]["reference"]["text"] == rows[0]["reference_again"]["text"] != rows[0]["candidate"]["text"]


def test_nothing_there_and_wrong_input(tmp_path):
    with FakeServer() as server:
        url = server.url
        with pytest.raises(InputError, match=r"it has m\."):
            compare(f"openai:{url}#other", f"openai:{url}#m", out=tmp_path / "a")
        with pytest.raises(InputError, match="does not exist"):
            compare(f"openai:{url}#m", f"openai:{url}#m", prompts=str(tmp_path / "gone.jsonl"), out=tmp_path / "b")
        with pytest.raises(InputError, match="--offline"):
            compare(f"openai:{url}#m", f"openai:{url}#m", offline=True, out=tmp_path / "c")
        with pytest.raises(InputError, match="no gate that answers can be judged by"):
            compare(f"openai:{url}#m", f"openai:{url}#m", policy="strict", out=tmp_path / "d")
    with pytest.raises(MissingError, match="refuses connections"):
        compare(f"openai:{url}#m", f"openai:{url}#m", out=tmp_path / "e")


@pytest.mark.slow
def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prompts = write_prompts(tmp_path / "mine.jsonl")
    with FakeServer() as a, FakeServer(damage=0.5) as b:
        same = ["compare", f"openai:{a.url}#m", f"openai:{a.url}#m", "--prompts", prompts, "--no-timing", "-q"]
        assert main([*same, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["verdict"] == "pass"
        assert main([*same[:2], f"openai:{b.url}#m", *same[3:]]) == 4
        out = capsys.readouterr().out
        assert "Cannot tell whether B: m at" in out
        assert len(list((tmp_path / "runs").iterdir())) == 2
        assert main(["compare", f"openai:{a.url}#x", f"openai:{b.url}#m", "-q"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "has no model 'x'; it has m." in said
    assert main(["compare", f"openai:{a.url}#m", f"openai:{b.url}#m", "--out", "gone", "-q"]) == 3


def test_an_answer_keeps_its_times_in_the_cache():
    from trimtab.core.files import to_plain
    from trimtab.evaluate.answers import kept

    answer = Answer(text="a", finish="stop", n_tokens=2, submit_ns=1, piece_ns=(2, 3))
    assert kept(to_plain(answer)) == answer
    assert Endpoint(url="http://x/v1").key_env == "OPENAI_API_KEY"
