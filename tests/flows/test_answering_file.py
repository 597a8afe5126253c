"""A file as a side that answers: through a worker, scored in its own template."""

import asyncio
import json
import math

import pytest

pytest.importorskip("llama_cpp")

from trimtab.core.deployment import Settings
from trimtab.evaluate.answers import asked_prompts
from trimtab.flows.compare import compare
from trimtab.flows.evaluate import evaluate
from trimtab.flows.parts.answering import LocalSide
from trimtab.flows.parts.opening import build_candidate, open_model, recipe_named
from trimtab.flows.parts.session import open_run
from trimtab.testing.fake_server import FakeServer, walk
from trimtab.testing.tiny_models import write_tiny_gguf

pytestmark = [pytest.mark.model, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "state"))


def test_it_answers_and_scores(tmp_path):
    model = write_tiny(tmp_path)
    prompts = asked_prompts([((("user", "Hello there"),), 6), ((("user", "word " * 400),), 6)])

    async def run():
        async with open_run(
            out=tmp_path / "run", digests={}, inputs={}, versions={}, fresh=False, offline=True, limit_s=600.0, seed=0, on_event=print
        ) as session:
            opened = open_model(str(model), cache_dir=session.caches, offline=True)
            settings = Settings(slots=2, context_tokens=128)
            candidate = await build_candidate(opened, "llamacpp", recipe_named("", "llamacpp"), settings, products_dir=session.products_dir)
            side = LocalSide(session, candidate, str(model))
            answers = await side.answers(prompts, 1)
            again = await side.answers(prompts, 1)
            scores = await side.score([(prompts[0], "a b c"), (prompts[1], "a b c"), ("Text:\n\n", "a b c"), ("x", "")])
            return answers, again, scores

    answers, again, scores = asyncio.run(run())
    assert again == answers
    assert answers[0].error == ""
    assert 1 <= answers[0].n_tokens <= 6
    assert answers[0].submit_ns < answers[0].piece_ns[0]
    assert "context" in answers[1].error  # too long for this side: missing, and the others are not lost
    assert [score.nats is None for score in scores] == [False, True, False, True]
    assert all(score.n_bytes == 5 and score.nats < 0 and math.isfinite(score.nats) for score in scores if score.nats is not None)


def test_a_file_is_compared_with_a_server(tmp_path):
    prompts = tmp_path / "mine.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Number {n}", "output_tokens": 8}) + "\n" for n in range(24)))
    with FakeServer() as server:
        decision = compare(f"llamacpp:{write_tiny(tmp_path)}", f"openai:{server.url}#m", prompts=str(prompts), out=tmp_path / "run")
    gates = {gate["name"]: gate for gate in decision["gates"]}
    assert gates["surprise"]["required"]
    assert gates["surprise"]["n"] > 0
    assert not gates["agreement"]["required"]
    assert "text" not in gates
    assert decision["reference"]["engine"] == "llamacpp"
    assert decision["verdict"] in ("fail", "inconclusive")


def test_a_server_is_evaluated_beside_a_file(tmp_path):
    rows = [{"id": f"t{n}", "text": " ".join(walk(f"text {n}", 30))} for n in range(6)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with FakeServer(prompt_scores=True) as server:
        address = f"openai:{server.url}#m"
        found = evaluate(address, reference=f"llamacpp:{write_tiny(tmp_path)}", suites=[str(tmp_path / "mine.jsonl")], out=tmp_path / "run")
    (row,) = found["levels"]
    assert (row["unit"], row["n_missing"], row["level"]["n"]) == ("nats/byte", 0, 6)
    assert row["change"]["value"] > 0, "the server knows the language, and random weights do not"
    assert (found["model"]["engine"], found["reference"]["engine"]) == ("openai", "llamacpp")


def write_tiny(folder):
    return write_tiny_gguf(folder / "m.gguf", architecture="qwen2", seed=1)
