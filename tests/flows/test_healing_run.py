"""`optimize --heal` end to end on a tiny random model: trained, looked at as a row of its own, and not trained twice."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llama_cpp")

from trimtab.flows.optimize import optimize
from trimtab.testing.tiny_models import write_tiny_gguf

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.training]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, liked):
    root = tmp_path_factory.mktemp("healing")
    write_tiny_gguf(root / "model.gguf", architecture="llama", seed=1, weight_type="F16", feed_forward_size=256, context_tokens=4096)
    liked.write(root / "model.gguf", root / "said.jsonl", n_texts=40)
    (root / "own.toml").write_text(liked.policy)
    (root / "bound.toml").write_text("healing = false\n" + liked.policy)
    (root / "shelf.toml").write_text('[[entry]]\nrecipe = "llamacpp-q4_0"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(root / "state"))
        patch.setattr("trimtab.flows.parts.space.SHELF", root / "shelf.toml")
        patch.setattr("trimtab.flows.parts.tuning.axes_for", lambda engine, workload, n_cores: {})
        # Timings of a model as small as this are noise, and its losses small: which row is healed is test_healing.py's.
        patch.setattr("trimtab.flows.parts.healing._lossy", lambda search: [search.rows["llamacpp q4_0"]])
        patch.setattr("trimtab.flows.parts.healing.LEAST_TOKENS", 256)
        patch.setattr("trimtab.flows.parts.healing.MOST_TOKENS", 1024)
        patch.setattr("trimtab.flows.parts.healing.START_TOKENS", 0)
        patch.setattr("trimtab.flows.parts.healing.keep_s", lambda search: 0.0)
        patch.setattr("trimtab.flows.parts.heal_training.SEQ_TOKENS", 64)
        patch.setattr("trimtab.flows.parts.heal_training.WRITERS", (("llamacpp", "llamacpp-q8_0"),))
        for name in ("TIMING_S", "NEEDED_TIMING_S", "LEAST_TIMING_S"):
            patch.setattr(f"trimtab.flows.parts.search.{name}", 3.0)
        yield root


def search(folder, out, policy="own.toml"):
    return optimize(
        str(folder / "model.gguf"),
        policy=str(folder / policy),
        suites=[str(folder / "said.jsonl")],
        workload="32/8@1",
        engines=("llamacpp",),
        time_limit_s=300,
        heal=True,
        out=folder / out,
    )


def test_the_healed_file_is_a_candidate_like_any_other(folder) -> None:
    document = search(folder, "run")
    rows = {row["id"]: row for row in document["candidates"]}
    assert [row["what"] for row in document["skipped"]].count("healing") == 0, document["skipped"]
    plain, healed = rows["llamacpp q4_0"], rows["llamacpp q4_0, healed"]
    assert healed["status"] in ("timed", "certified", "screened")
    assert healed["evidence"]["probe"] is not None
    assert healed["details"]["size_bytes"] == pytest.approx(plain["details"]["size_bytes"], rel=0.02)
    assert healed["details"]["weights_sha256"] != plain["details"]["weights_sha256"]
    steps = next((folder / "run" / "healing").glob("*/train/steps.jsonl"))
    trained = steps.read_text()
    assert len(trained.splitlines()) == 8
    assert json.loads(trained.splitlines()[-1])["tokens_seen"] <= 1024
    again = search(folder, "run")
    assert steps.read_text() == trained, "nothing is trained twice"
    assert {row["id"] for row in again["candidates"]} == set(rows)


def test_a_policy_may_forbid_it(folder) -> None:
    document = search(folder, "bound", policy="bound.toml")
    assert [row["why"] for row in document["skipped"] if row["what"] == "healing"] == ["policy 'own' allows no trained weights"]
    assert not (folder / "bound" / "healing").exists()
