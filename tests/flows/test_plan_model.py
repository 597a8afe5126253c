import json

import pytest

from trimtab.core.errors import InputError, MissingError
from trimtab.flows.parts.plan_model import plan_model
from trimtab.plan import operators
from trimtab.plan.architectures import architecture
from trimtab.testing.tiny_models import write_tiny_gguf, write_tiny_safetensors

CONFIG = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
CONFIG |= {"intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False, "max_position_embeddings": 131072}


def test_a_catalog_name_needs_nothing_else():
    assert plan_model("Llama 3.1 8B") == architecture("llama-3.1-8b")
    assert plan_model("deepseek-ai/DeepSeek-R1") == architecture("deepseek-v3")
    assert plan_model("hf:meta-llama/Llama-3.1-8B-Instruct", offline=True) == architecture("llama-3.1-8b")


def test_a_config_alone_is_enough(tmp_path):
    path = tmp_path / "mine" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(CONFIG))
    known = architecture("llama-3.1-8b")
    for spec in (str(path), str(path.parent)):
        found = plan_model(spec)
        assert found.blocks == known.blocks
        assert operators.n_params(found) == operators.n_params(known)
        assert found.context_tokens == 131072
        assert found.name == "mine"


def test_a_file_with_weights_is_read_from_its_header(tmp_path):
    gguf = plan_model(str(write_tiny_gguf(tmp_path / "tiny.gguf")))
    folder = plan_model(str(write_tiny_safetensors(tmp_path / "tiny")))
    for found in (gguf, folder):
        assert found.weight_bytes > 0
        assert operators.weight_bytes(found, "stored") == pytest.approx(found.weight_bytes)
        assert found.n_layers == 2


def test_of_a_hub_model_only_the_config_is_fetched(tmp_path, monkeypatch):
    asked = []

    def download(repo, name, *, revision, local_files_only):
        asked.append((repo, name, revision, local_files_only))
        path = tmp_path / "config.json"
        path.write_text(json.dumps(CONFIG))
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    found = plan_model("hf:somebody/fine-tune@abc")
    assert found.blocks == architecture("llama-3.1-8b").blocks
    assert asked == [("somebody/fine-tune", "config.json", "abc", False)]


def test_a_hub_without_network_says_what_to_do(monkeypatch):
    def download(*_args, **_more):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(MissingError, match="could not be fetched"):
        plan_model("hf:somebody/fine-tune@abc")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "No model was named"),
        ("lama-3.1-8b", r"near names: .*llama-3\.1-8b"),
        ("./nothing.gguf", "does not exist"),
        ("hf:a/b/c/d", "is not a Hugging Face model"),
    ],
)
def test_mistakes_are_told_in_a_sentence(spec, message):
    with pytest.raises(InputError, match=message):
        plan_model(spec)


def test_a_damaged_config_is_told(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json"):
        plan_model(str(tmp_path / "config.json"))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="does not tell its layers"):
        plan_model(str(tmp_path))
