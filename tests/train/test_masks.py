"""Architectures keep packed documents apart, or are refused."""

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

sys.path.insert(0, str(Path(__file__).parent / "parts"))

from tiny import config_for, train  # noqa: E402

from trimtab.core.errors import InputError  # noqa: E402
from trimtab.train.processes import Processes  # noqa: E402

pytestmark = pytest.mark.slow
ALONE = Processes(rank=0, world=1, device=torch.device("cpu"))
TINY = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {**TINY, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
APART = {
    "gemma3_text": {**HEADS, "sliding_window": 8, "num_hidden_layers": 6},
    "gemma2": {**HEADS, "sliding_window": 8},
    "qwen3": HEADS,
    "mixtral": {**HEADS, "num_local_experts": 4},
    "gpt2": {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4},
}
NOT_APART = {"mamba": {**TINY, "state_size": 4}}


def write(folder: Path, kind: str, shape: dict) -> Path:
    transformers.AutoConfig.for_model(kind, **shape).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", APART)
def test_kept_apart(tmp_path: Path, kind: str) -> None:
    train(config_for(write(tmp_path, kind, APART[kind]), micro_batch_seqs=2), [], ALONE)


@pytest.mark.parametrize("kind", NOT_APART)
def test_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match="set \\[data\\] mask_documents = false"):
        train(config_for(write(tmp_path, kind, NOT_APART[kind]), micro_batch_seqs=2), [], ALONE)
