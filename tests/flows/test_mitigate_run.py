"""A comparison that failed, and what mends it, end to end on a tiny random model."""

import pytest

pytest.importorskip("llama_cpp")

from trimtab.core.errors import InputError
from trimtab.flows.certify import certify_run
from trimtab.flows.compare import compare
from trimtab.record.deploy import read_deploy_toml
from trimtab.testing.tiny_models import write_tiny_gguf

pytestmark = [pytest.mark.model, pytest.mark.slow]


@pytest.fixture(scope="module")
def failed(tmp_path_factory, liked):
    """A run under `run` in which 2-bit weights lose more than the policy allows, on items that the model likes."""
    root = tmp_path_factory.mktemp("failed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(root / "state"))
        model = write_tiny_gguf(
            root / "model.gguf", architecture="llama", seed=1, weight_type="F16", n_layers=3, hidden_size=256, feed_forward_size=256
        )  # rows that 2-bit types divide
        liked.write(model, root / "said.jsonl", n_texts=200)
        patch.setattr("trimtab.flows.parts.remedies.suites_with_twins", lambda names: ["core"])  # the items here name no groups
        patch.setattr("trimtab.flows.parts.remedies.N_BANDS", 1)
        patch.setattr("trimtab.flows.parts.remedies.TWIN_TOKENS", 2048)

        def judge(margin, out):
            text = liked.policy.replace("margin = 0.02", f"margin = {margin}").replace("max_attempts = 1", "max_attempts = 4")
            (root / f"{out}.toml").write_text(text)
            return compare(
                f"llamacpp:{model}", f"llamacpp:{model}?recipe=q2_k", suites=[str(root / "said.jsonl")], timing=False,
                policy=str(root / f"{out}.toml"), workload="64/16@1", out=root / out,
            )  # fmt: skip

        lost = -judge(0.02, "first")["gates"][0]["delta"]
        assert lost > 0.0
        decision = judge(round(0.3 * lost, 4), "run")
        assert decision["verdict"] == "fail", decision["reasons"]
        yield root


def test_remedies_are_tried_and_judged_by_the_same_gate(failed):
    options = {"suites": [str(failed / "said.jsonl")], "policy": str(failed / "run.toml")}
    assert not (failed / "run" / "deploy.toml").exists()
    found = certify_run(failed / "run", mitigate=True, out=failed / "mended", **options)
    told = found["mitigation"]
    assert told["gates"] == ["said"]
    assert told["attempts"]["planned"] == 2
    assert told["attempts"]["alpha_each"] == pytest.approx(0.05 / 4)
    calibrated, kept, point = told["remedies"]
    assert calibrated["recipe"]["parameters"]["calibration"] == ["core"]
    assert calibrated["extra_bytes"] == pytest.approx(0, abs=4096)
    assert calibrated["gates_after"][0]["margin"] == told["gates_before"][0]["margin"]
    assert len(kept["details"]["sensitivity"]) > 4
    assert all(row["extra_bytes"] > 0 for row in kept["details"]["sensitivity"])
    assert kept["gates_after"][0]["delta"] > told["gates_before"][0]["delta"], "what the gate depends on is kept"
    assert kept["extra_bytes"] > 0
    assert "no run of optimize" in point["why_not"]
    passed = [row["name"] for row in told["remedies"] if row["verdict"] == "pass"]
    assert (told["best"] in passed) if passed else told["best"] is None
    assert (failed / "mended" / "deploy.toml").exists() == bool(passed) == (found["verdict"] == "pass")
    page = (failed / "mended" / "report.html").read_text(encoding="utf-8")
    assert 'id="remedies"' in page
    assert "sensitive weights kept" in page
    again = certify_run(failed / "run", mitigate=True, out=failed / "mended-again", **options)
    assert again["work"]["computed"] == 0, "everything is known the second time"
    if passed:
        lock = read_deploy_toml(failed / "mended" / "deploy.toml")
        same = certify_run(failed / "mended", out=failed / "alone", **options)
        assert same["candidates"][0]["details"]["weights_sha256"] == lock.weights_sha256, "the lock holds all it takes to build them again"


def test_a_candidate_of_a_run_can_be_named(failed):
    options = {"suites": [str(failed / "said.jsonl")], "policy": str(failed / "run.toml")}
    found = certify_run(failed / "run", candidate="B: llamacpp q2_k model.gguf", out=failed / "named", **options)
    assert found["verdict"] == "fail"
    assert "mitigation" not in found
    with pytest.raises(InputError, match=r"has no candidate 'q9'; it has 'B: llamacpp q2_k model.gguf'"):
        certify_run(failed / "run", candidate="q9", out=failed / "none", **options)
    with pytest.raises(InputError, match="one of its candidates with --candidate"):
        certify_run(failed / "run", out=failed / "none", **options)
    with pytest.raises(InputError, match="is a run of certify"):
        certify_run(failed / "named", mitigate=True, out=failed / "none", **options)
