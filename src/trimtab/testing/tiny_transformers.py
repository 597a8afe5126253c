"""Tiny random Hugging Face directories that transformers opens: config, safetensors, tokenizer and chat template. Needs torch."""

import json
from pathlib import Path
from typing import Any

from trimtab.testing.tiny_models import CHATML, bpe_tokens

_SIZES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "intermediate_size": 128},
    "qwen2": {"num_key_value_heads": 2, "intermediate_size": 128},
    "gpt2": {},
    "gemma3_text": {"num_key_value_heads": 2, "intermediate_size": 128, "head_dim": 16, "sliding_window": 24},
    "mistral": {"num_key_value_heads": 2, "intermediate_size": 128, "sliding_window": 24},
    "bloom": {},
    "mamba": {"state_size": 8, "expand": 2},
}
"""What a model type is told beside width, layers and heads."""


def write_tiny_transformers(
    folder: Path, *, model_type: str = "llama", dtype: str = "float32", context_tokens: int = 512, seed: int = 0, **config: Any
) -> Path:
    """Write a random model of two layers, 64 wide, with a byte-level vocabulary of about 400 tokens. Returns `folder`.

    model_type: any of transformers' causal language models; dtype: of the stored weights; config: further entries of config.json
    """
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    vocab_size = _write_tokenizer(folder, context_tokens)
    told = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": context_tokens,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 3,
        "tie_word_embeddings": True,
        **_SIZES.get(model_type, {}),
        **config,
    }
    held = transformers.AutoConfig.for_model(model_type, **told)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = transformers.AutoModelForCausalLM.from_config(held)
        for name, weight in net.named_parameters():
            if weight.ndim > 1:  # larger than at the start of a training, so that tokens differ in probability
                torch.nn.init.normal_(weight, std=0.12 if "embed" in name or "wte" in name else 0.25)
    net.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def _write_tokenizer(folder: Path, context_tokens: int) -> int:
    """tokenizer.json, tokenizer_config.json and the template. Returns the number of tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, merges = bpe_tokens()
    made = Tokenizer(models.BPE(vocab={token: place for place, token in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True) for token in tokens[:4]])
    made.save(str(folder / "tokenizer.json"))
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[0],
        "eos_token": tokens[2],
        "pad_token": tokens[3],
        "model_max_length": context_tokens,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "chat_template.jinja").write_text(CHATML)
    return len(tokens)
