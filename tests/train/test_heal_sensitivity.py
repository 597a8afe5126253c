"""What each weight accounts for adds up to the whole, and points at the one that was hurt."""

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parent / "parts"))

from healing import text_file, tiny_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from trimtab.train.heal.divergence import divergences  # noqa: E402
from trimtab.train.heal.sensitivity import keep_precise, shares  # noqa: E402
from trimtab.train.heal.start import first_sequences  # noqa: E402


def test_shares_add_up_and_name_the_hurt_weight(tmp_path: Path) -> None:
    _, reference = tiny_model(tmp_path)
    sequences = first_sequences(reference.root, [str(text_file(tmp_path / "text.txt", 3000))], 64, 4)
    hurt = tmp_path / "hurt"
    hurt.mkdir()
    for path in reference.root.iterdir():
        if path.suffix == ".json":
            (hurt / path.name).write_bytes(path.read_bytes())
    weights = load_file(reference.root / "model.safetensors")
    noise = torch.Generator().manual_seed(0)
    for name, weight in weights.items():
        if "proj" in name:
            size = 0.05 if name == "model.layers.1.mlp.down_proj.weight" else 0.01
            weights[name] = weight + size * weight.std() * torch.randn(weight.shape, generator=noise)
    save_file(weights, hurt / "model.safetensors", metadata={"format": "pt"})
    found = shares(reference.root, hurt, sequences)
    assert len(found) == 14
    assert sum(found.values()) == pytest.approx(np.mean(divergences(reference.root, hurt, sequences)), rel=0.15)
    assert max(found, key=found.__getitem__) == "model.layers.1.mlp.down_proj.weight"


def test_the_least_time_is_spent_for_a_budget() -> None:
    found = {"a": 0.05, "b": 0.04, "c": 0.001, "d": -0.002}
    costs = {"a": 10.0, "b": 1.0, "c": 0.1, "d": 0.1}
    assert keep_precise(found, costs, budget_nats=0.06) == ("b",)
    assert set(keep_precise(found, costs, budget_nats=0.005)) == {"a", "b"}
    assert keep_precise(found, costs, budget_nats=1.0) == ()
