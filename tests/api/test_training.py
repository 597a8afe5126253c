"""finetune, heal and debias from Python, with flows that answer at once."""

from pathlib import Path
from typing import Any

import pytest

import trimtab as tt
from trimtab.core.training import TrainConfig
from trimtab.train.config import tables_of


def test_finetune_takes_the_keys_of_train_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def flow(config: TrainConfig, **asked: Any) -> dict[str, Any]:
        seen.append((config, asked))
        return {"model_folder": str(tmp_path / "model"), "result": {"first_loss": 3.0, "last_loss": 1.0, "steps": 7}}

    monkeypatch.setattr("trimtab.flows.train_finetune.train_finetune", flow)
    found = tt.finetune("m", tmp_path / "a.jsonl", out=tmp_path, steps=7, lr=0.5, lora_rank=4, lora_targets=("q_proj",), processes=2)
    config, asked = seen[0]
    assert (config.train.steps, config.optimizer.lr, config.model.lora_rank, config.model.lora_targets) == (7, 0.5, 4, ("q_proj",))
    assert (config.data.files, asked["processes"], asked["kind"]) == ((str(tmp_path / "a.jsonl"),), 2, "finetune")
    assert (found.model, found.verdict, found.passed) == (tmp_path / "model", "", False)
    assert found.explain() == "Loss from 3.000 to 1.000 nats a token in 7 steps."
    assert "<p>Loss from" in found._repr_html_()
    (tmp_path / "report.html").write_text("<p>page</p>")
    assert "srcdoc" in found._repr_html_()
    tt.finetune("m", ["a", "b"], out=tmp_path, init="random")
    assert (seen[1][0].train.epochs, seen[1][1]["kind"]) == (1.0, "pretrain")
    with pytest.raises(tt.InputError, match="no setting 'learning_rate'"):
        tt.finetune("m", "a", out=tmp_path, learning_rate=1)


@pytest.mark.parametrize("name", ["heal", "debias"])
def test_what_is_judged_has_its_verdict(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flow(what: Any, *, out: Path, on_event: Any, tokens: int) -> dict[str, Any]:
        return {"verdict": "pass", "reasons": ["All gates passed."], "model": str(out / "x"), "tokens": tokens}

    monkeypatch.setattr(f"trimtab.flows.train_{name}.train_{name}", flow)
    found = getattr(tt, name)("it", out=tmp_path, tokens=9)
    assert found.passed
    assert found.model == tmp_path / "x"
    assert found.explain() == "pass. All gates passed."


def test_every_key_has_one_table() -> None:
    assert tables_of({"name": "sgd", "kind": "distil", "layout": "padded", "dp": 2}) == {
        "optimizer": {"name": "sgd"},
        "objective": {"kind": "distil"},
        "data": {"layout": "padded"},
        "layout": {"dp": 2},
    }
