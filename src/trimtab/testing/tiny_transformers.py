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


def write_tiny_embedding(folder: Path, *, pooling: str = "mean", seed: int = 0) -> Path:
    """Write a random BERT of two layers, 64 wide, as a sentence-transformers directory with a WordPiece vocabulary. Returns `folder`.

    pooling: mean or first
    """
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *(f"##{letter}" for letter in letters),
        "the",
        "##ing",
        "water",
        "when",
    ]
    tokenizer = Tokenizer(models.WordPiece(vocab={word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    held = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=256,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = transformers.BertModel(held)
        for weight in net.parameters():
            torch.nn.init.normal_(weight, mean=0.0 if weight.ndim > 1 else 0.5, std=0.2)
    net.save_pretrained(folder)
    modules = [{"idx": place, "path": path, "type": f"sentence_transformers.models.{kind}"} for place, (kind, path) in enumerate(
        (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    )]  # fmt: skip
    told = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": pooling == "mean", "pooling_mode_cls_token": pooling == "first"}
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(told))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 128}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder
