"""LoRA adapters by their headers: what is none, and what is not for a model."""

from pathlib import Path

import numpy as np
import pytest

from trimtab.core.errors import InputError
from trimtab.sources.adapters import read_adapter, why_unfit
from trimtab.sources.gguf import read_gguf_header
from trimtab.testing.tiny_models import write_tiny_gguf, write_tiny_lora


def test_an_adapter_fits_the_model_that_it_is_for_and_says_why_not_another(tmp_path: Path) -> None:
    def model(name: str, **options: object):
        return read_gguf_header((write_tiny_gguf(tmp_path / f"{name}.gguf", **options),))

    lora = read_adapter(write_tiny_lora(tmp_path / "lora.gguf"))
    assert why_unfit(lora, model("own")) == ""
    assert why_unfit(lora, model("packed", weight_type="Q8_0")) == "", "stored in another way it is the same model"
    assert why_unfit(lora, model("other", architecture="qwen3")) == "it is for the architecture llama, and the model is qwen3"
    assert "which the model does not have" in why_unfit(lora, model("short", n_layers=1))
    assert why_unfit(lora, model("wide", hidden_size=128)).endswith("with 64 columns, and the model's has 128")
    assert "with 128 rows, and the model's has 256" in why_unfit(lora, model("deep", feed_forward_size=256))


def test_what_is_no_adapter_is_told(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("no adapter, but long enough to be one")
    (tmp_path / "peft.safetensors").write_bytes(b"\0" * 64)
    ones = np.ones(64, np.float32)
    for path, why in (
        (write_tiny_gguf(tmp_path / "model.gguf"), "is no adapter: its general.type is 'model'"),
        (write_tiny_lora(tmp_path / "norm.gguf", extra={"blk.0.attn_norm.weight": ones}), "holds blk.0.attn_norm.weight"),
        (tmp_path / "text.gguf", "is not a usable GGUF file"),
        (tmp_path / "peft.safetensors", "convert_lora_to_gguf.py"),
    ):
        with pytest.raises(InputError, match=why) as caught:
            read_adapter(path)
        assert str(path) in str(caught.value)
