"""What a small model is trained from scratch on: text out of files, a tokenizer learnt from it, and a shape with no weights yet.

    python prepare.py OUT FILE...
    trimtab train finetune OUT/model --from-scratch --data OUT/text.jsonl --steps 150 --processes 2

Writes OUT/text.jsonl (one document a file) and OUT/model (config.json, tokenizer.json, tokenizer_config.json), and prints the entropy of
single tokens: a model that knows no more than how often each token comes reaches that loss, and not less.
"""

import json
import math
import sys
from collections import Counter
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|end|>"
VOCABULARY = 512
SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "vocab_size": VOCABULARY,
    "bos_token_id": None,
    "eos_token_id": 0,
}


def prepare(out: Path, texts: list[str]) -> float:
    """Write everything; returns the entropy of single tokens in nats."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet))
    model = out / "model"
    model.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(model / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "model_max_length": 512}
    (model / "tokenizer_config.json").write_text(json.dumps(about, indent=1) + "\n")
    (model / "config.json").write_text(json.dumps(SHAPE, indent=1) + "\n")
    (out / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    counts = Counter(one for encoded in tokenizer.encode_batch(texts) for one in encoded.ids)
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values())


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    out = Path(sys.argv[1])
    entropy = prepare(out, [Path(name).read_text(encoding="utf-8") for name in sys.argv[2:]])
    print(f"{out / 'text.jsonl'} and {out / 'model'}; single tokens: {entropy:.2f} nats")
