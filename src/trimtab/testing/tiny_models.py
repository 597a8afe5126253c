"""Tiny random models for tests: GGUF files that engines load and decode, and Hugging Face directories with valid headers."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GEMMA_TURNS = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}"
    "{{ message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
_TEXT = (
    "the small boat turned slowly into the wind and the old sailor watched the water near the shore while the children on the beach were "
    "counting the waves and the birds that came from the north with the first cold days of the year when the harbour is quiet again "
)
_NORMAL, _CONTROL, _BYTE = 1, 3, 6
_N_MERGES = 128


def _merges(words: list[list[str]], count: int) -> list[tuple[str, str]]:
    """Byte-pair merges learned from words (lists of symbols), most frequent pair first, ties in alphabetical order."""
    learned: list[tuple[str, str]] = []
    for _ in range(count):
        pairs = Counter(pair for word in words for pair in pairwise(word))
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        learned.append(best)
        for word in words:
            place = 0
            while place < len(word) - 1:
                if (word[place], word[place + 1]) == best:
                    word[place : place + 2] = ["".join(best)]
                place += 1
    return learned


def _byte_letters() -> list[str]:
    """GPT-2's letter for each of the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(rest)}
    return [letters[byte] for byte in range(256)]


MARKERS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")


def bpe_tokens() -> tuple[list[str], list[tuple[str, str]]]:
    """A byte-level BPE vocabulary: MARKERS, 256 bytes and what learned merges join; and these merges, in order."""
    letters = _byte_letters()
    words = [[letters[byte] for byte in (" " + word).encode()] for word in _TEXT.split()]
    merges = _merges(words, _N_MERGES)
    tokens = [*MARKERS, *letters]
    tokens += [joined for joined in dict.fromkeys("".join(pair) for pair in merges) if joined not in tokens]
    return tokens, merges


def _bpe_vocabulary(writer: Any, pre: str) -> int:
    """The byte-level BPE vocabulary in a GGUF file. Returns its size."""
    tokens, merges = bpe_tokens()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL if token in MARKERS else _NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(3)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)
    return len(tokens)


def _spm_vocabulary(writer: Any) -> int:
    """A SentencePiece vocabulary with byte fallback, letters, learned pieces and turn markers. Returns its size."""
    words = [["\u2581", *word] for word in _TEXT.split()]
    merged = list(dict.fromkeys("".join(pair) for pair in _merges(words, _N_MERGES)))
    markers = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    single = ["\u2581", *(chr(code) for code in range(33, 127)), "\n"]
    tokens = [*markers, *(f"<0x{byte:02X}>" for byte in range(256)), *single, *(piece for piece in merged if len(piece) > 1)]
    n_fixed = len(markers) + 256
    kinds = [_CONTROL] * len(markers) + [_BYTE] * 256 + [_NORMAL] * (len(tokens) - n_fixed)
    kinds[3] = 2  # unknown
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    # Longer learned pieces come later and score lower, as in files made by SentencePiece.
    writer.add_token_scores([0.0] * n_fixed + [-float(place) for place in range(len(tokens) - n_fixed)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_eot_token_id(5)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(GEMMA_TURNS)
    return len(tokens)


def _shapes(
    architecture: str, hidden: int, feed: int, heads: int, kv_heads: int, head: int, n_layers: int, vocab: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(tensor name, row-major shape) of every tensor."""
    yield "token_embd.weight", (vocab, hidden)
    for layer in range(n_layers):
        start = f"blk.{layer}."
        yield start + "attn_norm.weight", (hidden,)
        for letter, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            yield f"{start}attn_{letter}.weight", (count * head, hidden)
            if architecture == "qwen2":
                yield f"{start}attn_{letter}.bias", (count * head,)
        yield start + "attn_output.weight", (hidden, heads * head)
        if architecture in ("gemma3", "qwen3"):
            yield start + "attn_q_norm.weight", (head,)
            yield start + "attn_k_norm.weight", (head,)
        if architecture == "gemma3":
            yield start + "post_attention_norm.weight", (hidden,)
            yield start + "post_ffw_norm.weight", (hidden,)
        yield start + "ffn_norm.weight", (hidden,)
        yield start + "ffn_gate.weight", (feed, hidden)
        yield start + "ffn_up.weight", (feed, hidden)
        yield start + "ffn_down.weight", (hidden, feed)
    yield "output_norm.weight", (hidden,)


def write_tiny_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    weight_type: str = "F32",
    hidden_size: int = 64,
    n_layers: int = 2,
    n_heads: int = 4,
    n_kv_heads: int = 2,
    feed_forward_size: int = 128,
    context_tokens: int = 512,
    sliding_window: int = 64,
    seed: int = 0,
    extra: Mapping[str, str] | None = None,
) -> Path:
    """Write a random model of `architecture` (llama, qwen2, qwen3 or gemma3) that llama.cpp loads and decodes. Returns `path`.

    weight_type: storage of the matrices: F32, F16, Q8_0, Q4_0 or Q4_1 (rows must be a multiple of 32)
    sliding_window: of gemma3 only, where all but every sixth layer slide
    extra: further text metadata, e.g. {"general.license": "mit"}
    The same arguments give the same bytes.
    """
    import gguf

    if architecture not in ARCHITECTURES:
        raise ValueError(f"Unknown architecture {architecture!r}; tiny models are made of {', '.join(ARCHITECTURES)}.")
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_type("model")
    writer.add_name(f"tiny {architecture}")
    for key, value in (extra or {"general.license": "apache-2.0"}).items():
        writer.add_string(key, value)
    head = hidden_size // n_heads
    writer.add_block_count(n_layers)
    writer.add_context_length(context_tokens)
    writer.add_embedding_length(hidden_size)
    writer.add_feed_forward_length(feed_forward_size)
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(int(gguf.LlamaFileType[f"ALL_{weight_type}" if weight_type == "F32" else f"MOSTLY_{weight_type}"]))
    if architecture == "gemma3":
        writer.add_sliding_window(sliding_window)
        vocab = _spm_vocabulary(writer)
    else:
        vocab = _bpe_vocabulary(writer, "qwen2" if architecture.startswith("qwen") else "smollm")
    writer.add_vocab_size(vocab)
    random = np.random.default_rng(seed)
    kind = gguf.GGMLQuantizationType[weight_type]
    for name, shape in _shapes(architecture, hidden_size, feed_forward_size, n_heads, n_kv_heads, head, n_layers, vocab):
        if len(shape) == 1:
            writer.add_tensor(name, np.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=np.float32))
            continue
        values = (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_tiny_lora(
    path: Path,
    *,
    architecture: str = "llama",
    hidden_size: int = 64,
    rank: int = 4,
    alpha: float = 8.0,
    seed: int = 0,
    general_type: str = "adapter",
    extra: Mapping[str, np.ndarray[Any, Any]] | None = None,
) -> Path:
    """Write a random LoRA adapter, in F32, of all matrices in the layers of `write_tiny_gguf(architecture=..., hidden_size=...)`.

    The change of a matrix W, of shape (rows, columns), is alpha / rank * B @ A: A (rank, columns) is `NAME.lora_a`, B (rows, rank)
    `NAME.lora_b`. It is about half as large as W.
    general_type: what the file says it is; extra: further tensors, by name. The same arguments give the same bytes. Returns `path`.
    """
    import gguf

    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_type(general_type)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    random = np.random.default_rng(seed)
    for name, shape in _shapes(architecture, hidden_size, 128, 4, 2, hidden_size // 4, 2, 1):
        if len(shape) == 2 and name.startswith("blk."):
            rows, columns = shape
            writer.add_tensor(f"{name}.lora_a", (random.standard_normal((rank, columns)) / np.sqrt(columns)).astype(np.float32))
            b = random.standard_normal((rows, rank)) * np.sqrt(rank) / (2 * alpha)
            writer.add_tensor(f"{name}.lora_b", b.astype(np.float32))
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


_HF_BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "vocab_size": 256,
    "tie_word_embeddings": True,
}
_SCHEMES: dict[str, dict[str, Any]] = {
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32},
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}},
    },
    "fp8": {"quant_method": "fp8", "weight_block_size": [32, 32]},
    "mxfp4": {"quant_method": "mxfp4"},
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
}


def _stored(name: str, rows: int, columns: int, scheme: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensors that a scheme stores for one matrix: name -> (dtype, shape)."""
    groups = columns // 32
    found: dict[str, tuple[str, tuple[int, ...]]]
    if scheme == "awq":
        found = {"qweight": ("I32", (columns, rows // 8)), "qzeros": ("I32", (groups, rows // 8)), "scales": ("F16", (groups, rows))}
    elif scheme == "gptq":
        found = {"qweight": ("I32", (columns // 8, rows)), "qzeros": ("I32", (groups, rows // 8)), "scales": ("F16", (groups, rows))}
        found["g_idx"] = ("I32", (columns,))
    elif scheme == "compressed-tensors":
        found = {"weight_packed": ("I32", (rows, columns // 8)), "weight_scale": ("BF16", (rows, groups)), "weight_shape": ("I64", (2,))}
    elif scheme == "fp8":
        found = {"weight": ("F8_E4M3", (rows, columns)), "weight_scale_inv": ("F32", (rows // 32, groups))}
    elif scheme == "mxfp4":
        found = {"weight_blocks": ("U8", (rows, groups, 16)), "weight_scales": ("U8", (rows, groups))}
    elif scheme == "bitsandbytes":
        found = {
            "weight": ("U8", (rows * columns // 2, 1)),
            "weight.absmax": ("U8", (rows * groups // 2,)),
            "weight.quant_map": ("F32", (16,)),
        }
    else:
        found = {"weight": ("BF16", (rows, columns))}
    return {f"{name}.{part}": stored for part, stored in found.items()}


def _hf_tensors(config: Mapping[str, Any], scheme: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    hidden, feed = config["hidden_size"], config["intermediate_size"]
    head = hidden // config["num_attention_heads"]
    kv = config["num_key_value_heads"] * head
    found: dict[str, tuple[str, tuple[int, ...]]] = {"model.embed_tokens.weight": ("BF16", (config["vocab_size"], hidden))}
    matrices = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden)}
    matrices |= {
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (feed, hidden),
        "mlp.up_proj": (feed, hidden),
        "mlp.down_proj": (hidden, feed),
    }
    for layer in range(config["num_hidden_layers"]):
        start = f"model.layers.{layer}."
        for name, (rows, columns) in matrices.items():
            found |= _stored(start + name, rows, columns, scheme)
        found |= {start + f"{name}.weight": ("BF16", (hidden,)) for name in ("input_layernorm", "post_attention_layernorm")}
    found["model.norm.weight"] = ("BF16", (hidden,))
    if not config.get("tie_word_embeddings"):
        found["lm_head.weight"] = ("BF16", (config["vocab_size"], hidden))
    return found


_BYTES = {"I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "U8": 1, "F8_E4M3": 1}


def write_safetensors_file(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> Path:
    """A .safetensors file of zeros: name -> (dtype, shape). Returns `path`."""
    header: dict[str, Any] = {}
    place = 0
    for name, (dtype, shape) in tensors.items():
        size = int(np.prod(shape, dtype=np.int64)) * _BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(place))
    return path


def write_tiny_safetensors(folder: Path, *, quantization: str = "none", n_shards: int = 1, config: Mapping[str, Any] | None = None) -> Path:
    """A Hugging Face directory of a small Llama with valid headers and zero weights. Returns `folder`.

    quantization: none, awq, gptq, compressed-tensors, fp8, mxfp4 or bitsandbytes: tensors and config as those checkpoints have them
    n_shards: number of weight files; above 1 an index is written
    config: entries that replace or extend config.json
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = {**_HF_BASE, **(config or {})}
    if quantization != "none":
        held["quantization_config"] = _SCHEMES[quantization]
    (folder / "config.json").write_text(json.dumps(held))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML, "eos_token": "<|im_end|>"}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nA tiny model of zeros.\n")
    tensors = _hf_tensors(held, quantization)
    if n_shards == 1:
        write_safetensors_file(folder / "model.safetensors", tensors)
        return folder
    names = list(tensors)
    places: dict[str, str] = {}
    for shard in range(n_shards):
        file = f"model-{shard + 1:05d}-of-{n_shards:05d}.safetensors"
        inside = {name: tensors[name] for name in names[shard::n_shards]}
        write_safetensors_file(folder / file, inside)
        places |= dict.fromkeys(inside, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder
