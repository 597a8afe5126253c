"""What a model's config.json says, from a GGUF file's metadata, and the other way round.

Both ways refuse what the other form cannot say: then the numbers would be right and the model wrong.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.core.errors import InfeasibleError

CLASSES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "gemma": ("gemma", "GemmaForCausalLM"),
    "gemma2": ("gemma2", "Gemma2ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
}
"""`general.architecture` to `model_type` and class."""
UNEVEN = "deci"
"""llama.cpp's name for a Llama whose layers have widths of their own; its loader of `llama` reads the first layer's only."""
GEMMA_LAYERS_OF_FULL_ATTENTION = {"gemma2": 2, "gemma3": 6}
"""Every so-manieth layer sees the whole context; both programs have this from the architecture."""
_LLAMA3_DEFAULTS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_GEMMA_LIKE = {"head_dim": 256, "max_position_embeddings": 8192, "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True}
_SLIDING = {"sliding_window": 4096, "query_pre_attn_scalar": 256}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"max_position_embeddings": 131072, "sliding_window": 4096},
    "qwen2": {"max_position_embeddings": 32768},
    "qwen3": {"max_position_embeddings": 32768, "head_dim": 128},
    "gemma": _GEMMA_LIKE,
    "gemma2": {**_GEMMA_LIKE, **_SLIDING, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": {**_GEMMA_LIKE, **_SLIDING, "max_position_embeddings": 131072},
}
"""What the configuration classes of transformers take for entries that a config.json leaves out, by `model_type`."""
Shapes = Mapping[str, tuple[int, ...]]


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json with what its class takes for entries that it leaves out."""
    model_type = config.get("model_type")
    filled = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, **DEFAULTS.get(str(model_type), {}), **config}
    if model_type == "gemma3_text" and "rope_theta" not in config and not config.get("rope_parameters"):
        filled["rope_theta"] = 1e6
    return filled


def config_of_gguf(metadata: Mapping[str, Any], shapes: Shapes, rope_factors: npt.NDArray[np.float32] | None = None) -> dict[str, Any]:
    """config.json of the model in a GGUF file. shapes: of its tensors, rows first, by GGUF name.

    rope_factors: the numbers of its tensor rope_freqs.weight, None if it has none
    Raises InfeasibleError for architectures, per-layer widths and rotary embeddings that have no such form.
    """
    architecture = str(metadata["general.architecture"])
    if architecture not in CLASSES:
        raise InfeasibleError(f"GGUF files of architecture {architecture!r} cannot be converted; known are {', '.join(CLASSES)}.")
    model_type, class_name = CLASSES[architecture]

    def value(key: str, otherwise: Any = None) -> Any:
        found = metadata.get(f"{architecture}.{key}", otherwise)
        if isinstance(found, list):
            if len(set(found)) > 1:
                raise InfeasibleError(f"Its layers differ in {key}, which no Hugging Face class of {architecture} can say.")
            found = found[0]
        if found is None:
            raise InfeasibleError(f"Its metadata lacks {architecture}.{key}.")
        return found

    if metadata.get(f"{architecture}.expert_count"):
        raise InfeasibleError("It is a mixture of experts, which cannot be converted.")
    heads, hidden = value("attention.head_count"), value("embedding_length")
    head_size = value("attention.key_length", hidden // heads)
    if value("attention.value_length", head_size) != head_size or value("rope.dimension_count", head_size) != head_size:
        raise InfeasibleError("Its heads are partly rotated, or have values of another size than keys, which cannot be converted.")
    config = {
        "architectures": [class_name],
        "model_type": model_type,
        "vocab_size": shapes["token_embd.weight"][0],
        "hidden_size": hidden,
        "intermediate_size": value("feed_forward_length"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": value("attention.head_count_kv", heads),
        "head_dim": head_size,
        "max_position_embeddings": value("context_length"),
        "rms_norm_eps": _short(value("attention.layer_norm_rms_epsilon")),
        "tie_word_embeddings": "output.weight" not in shapes,
        "use_cache": True,
        "torch_dtype": "float32",
    }
    config |= _biases(architecture, shapes) | _gemma(architecture, config, metadata)
    return config | _rotary(architecture, metadata, config, rope_factors)


def metadata_of_config(config: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Key-values of a GGUF file (without the vocabulary) for a Hugging Face model. shapes: of its parameters, by Hugging Face name.

    The key `general.architecture` says which names the tensors have: `deci` for a Llama with layers of different widths. Values are int,
    float, str, bool or lists of int. Raises InfeasibleError for what the GGUF form cannot say.
    """
    from trimtab.compress.names import names_of

    names = names_of(config)
    architecture = names.architecture
    if architecture not in CLASSES:
        raise InfeasibleError(f"Models of type {config.get('model_type')!r} cannot be written as GGUF.")
    _refuse_unsayable(config, architecture)
    n_layers = int(config["num_hidden_layers"])
    widths = {
        "attention.head_count": _rows(shapes, n_layers, "self_attn.q_proj.weight", names.head_size),
        "attention.head_count_kv": _rows(shapes, n_layers, "self_attn.k_proj.weight", names.head_size),
        "feed_forward_length": _rows(shapes, n_layers, "mlp.up_proj.weight", 1),
    }
    uneven = any(len(set(rows)) > 1 for rows in widths.values())
    if uneven and architecture != "llama":
        raise InfeasibleError(f"The layers of this {config['model_type']} model have different widths, which GGUF can say of a Llama only.")
    written = UNEVEN if uneven else architecture
    said: dict[str, Any] = {
        "block_count": n_layers,
        "context_length": int(config["max_position_embeddings"]),
        "embedding_length": int(config["hidden_size"]),
        "vocab_size": shapes["model.embed_tokens.weight"][0],
        "attention.key_length": names.head_size,
        "attention.value_length": names.head_size,
        "rope.dimension_count": names.head_size,
        "rope.freq_base": float(rotary_of(config).get("rope_theta", 10000.0)),
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        **{key: list(rows) if uneven else rows[0] for key, rows in widths.items()},
    }
    if architecture in GEMMA_LAYERS_OF_FULL_ATTENTION:
        said["attention.sliding_window"] = int(config["sliding_window"])
    if architecture == "gemma2":
        said["attn_logit_softcapping"] = float(config["attn_logit_softcapping"])
        said["final_logit_softcapping"] = float(config["final_logit_softcapping"])
    scaling = rotary_of(config)
    if scaling["rope_type"] == "linear":
        said |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling["factor"])}
    return {"general.architecture": written, **{f"{written}.{key}": value for key, value in said.items()}}


def rotary_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary embedding of a config.json: `rope_type`, `rope_theta` and what the type needs, whichever release wrote it."""
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    if "full_attention" in found:  # of layers by kind; GGUF has the sliding ones' base from the architecture
        found = dict(found["full_attention"])
    found["rope_type"] = found.get("rope_type") or found.get("type") or "default"
    if config.get("rope_theta") is not None:
        found.setdefault("rope_theta", config["rope_theta"])
    return found


def llama3_factors(scaling: Mapping[str, Any], head_size: int) -> npt.NDArray[np.float32]:
    """What each pair's wavelength is divided by under rope_type `llama3` [head_size / 2], as the tensor rope_freqs.weight holds it.

    transformers/modeling_rope_utils.py `_compute_llama3_parameters`; llama.cpp's converter writes the same.
    """
    base, factor = float(scaling["rope_theta"]), float(scaling["factor"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    old = float(scaling["original_max_position_embeddings"])
    factors = []
    for place in range(0, head_size, 2):
        wavelength = 2 * math.pi * base ** (place / head_size)
        if wavelength < old / high:
            factors.append(1.0)
        elif wavelength > old / low:
            factors.append(factor)
        else:
            smooth = (old / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


def _short(value: float) -> float:
    """A 32-bit float as the shortest decimal that is read back as it: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _biases(architecture: str, shapes: Shapes) -> dict[str, Any]:
    """attention_bias and mlp_bias where the class has them."""
    biased = {name.split(".", 2)[2] for name in shapes if name.startswith("blk.") and name.endswith(".bias")}
    if architecture == "qwen2":
        if biased - {"attn_q.bias", "attn_k.bias", "attn_v.bias"}:
            raise InfeasibleError("It has biases that Qwen2 has none of.")
        return {}
    inputs, output = {"attn_q.bias", "attn_k.bias", "attn_v.bias"}, {"attn_output.bias"}
    if architecture == "llama":
        attention = biased & (inputs | output)
        if attention and attention != inputs | output:
            raise InfeasibleError("It has biases in some matrices of attention only, which no Llama has.")
        return {"attention_bias": bool(attention), "mlp_bias": "ffn_up.bias" in biased}
    return {"attention_bias": bool(biased)}


def _gemma(architecture: str, config: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    if not architecture.startswith("gemma"):
        return {"hidden_act": "silu"}
    found: dict[str, Any] = {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}
    every = GEMMA_LAYERS_OF_FULL_ATTENTION.get(architecture)
    if every is not None:
        found["sliding_window"] = metadata[f"{architecture}.attention.sliding_window"]
        found["layer_types"] = layer_types(architecture, config["num_hidden_layers"])
        found["query_pre_attn_scalar"] = _attention_scalar(architecture, config)
    if architecture == "gemma2":
        for key in ("attn_logit_softcapping", "final_logit_softcapping"):
            found[key] = _short(metadata[f"gemma2.{key}"])
    return found


def layer_types(architecture: str, n_layers: int) -> list[str]:
    """Which layers of Gemma 2 and 3 slide."""
    every = GEMMA_LAYERS_OF_FULL_ATTENTION[architecture]
    return ["full_attention" if (layer + 1) % every == 0 else "sliding_attention" for layer in range(n_layers)]


def _attention_scalar(architecture: str, config: Mapping[str, Any]) -> int:
    """What llama.cpp takes the root of to scale attention: the head's size, or the width of its share in the largest of each."""
    largest = {"gemma2": 46, "gemma3": 62}[architecture]
    if config["num_hidden_layers"] == largest:
        return int(config["hidden_size"]) // int(config["num_attention_heads"])
    return int(config["head_dim"])


def _rotary(
    architecture: str, metadata: Mapping[str, Any], config: Mapping[str, Any], factors: npt.NDArray[np.float32] | None
) -> dict[str, Any]:
    """Entries of the rotary embedding."""
    base = _short(metadata.get(f"{architecture}.rope.freq_base", 10000.0))
    kind = metadata.get(f"{architecture}.rope.scaling.type", "none")
    plain: dict[str, Any] = {"rope_theta": base}
    if factors is not None:
        scaling = {"rope_type": "llama3", "rope_theta": base, "factor": _short(factors.max()), **_LLAMA3_DEFAULTS}
        if architecture != "llama" or not np.array_equal(llama3_factors(scaling, config["head_dim"]), factors):
            raise InfeasibleError("Its rotary embedding has factors of its own, which no known rope_type gives.")
        plain["rope_scaling"] = {key: value for key, value in scaling.items() if key != "rope_theta"}
    elif kind == "linear":
        plain["rope_scaling"] = {"rope_type": "linear", "factor": _short(metadata[f"{architecture}.rope.scaling.factor"])}
    elif kind != "none":
        raise InfeasibleError(f"Its rotary embedding is scaled by {kind!r}, which cannot be converted.")
    if architecture == "gemma3":
        if kind != "none":
            raise InfeasibleError("It is a Gemma 3 with a scaled rotary embedding, which cannot be converted.")
        plain["rope_local_base_freq"] = _short(metadata.get("gemma3.rope.freq_base_swa", 10000.0))
    return plain


def _rows(shapes: Shapes, n_layers: int, name: str, size: int) -> Sequence[int]:
    """How many rows of `size` a matrix has in each layer."""
    found = []
    for layer in range(n_layers):
        shape = shapes.get(f"model.layers.{layer}.{name}")
        if shape is None:
            raise InfeasibleError(f"Layer {layer} has no {name}, which the GGUF form of this model needs.")
        if shape[0] % size:
            raise InfeasibleError(f"{name} of layer {layer} has {shape[0]} rows, no whole number of heads of {size}.")
        found.append(shape[0] // size)
    return found


def _refuse_unsayable(config: Mapping[str, Any], architecture: str) -> None:
    """Raise InfeasibleError for settings that llama.cpp's graph of the architecture does not have."""
    scaling = rotary_of(config)
    known = (
        ("default", "linear", "llama3") if architecture == "llama" else ("default", "linear") if "qwen" in architecture else ("default",)
    )
    if scaling["rope_type"] not in known:
        raise InfeasibleError(f"Its rotary embedding is of type {scaling['rope_type']!r}, which has no GGUF form here.")
    if float(scaling.get("partial_rotary_factor", 1.0)) != 1.0:
        raise InfeasibleError("Its heads are partly rotated, which has no GGUF form here.")
    activation = config.get("hidden_activation") or config.get("hidden_act") or ("gelu_pytorch_tanh" if "gemma" in architecture else "silu")
    if activation not in (
        ("gelu_pytorch_tanh", "gelu") if architecture == "gemma" else ("gelu_pytorch_tanh",) if "gemma" in architecture else ("silu",)
    ):
        raise InfeasibleError(f"Its activation is {activation!r}, which llama.cpp's graph of {architecture} does not have.")
    if architecture in GEMMA_LAYERS_OF_FULL_ATTENTION:
        _refuse_gemma(config, architecture)
        return
    window, types = config.get("sliding_window"), config.get("layer_types") or []
    slides = "sliding_attention" in types if types else config.get("use_sliding_window", config["model_type"] == "mistral")
    if window and slides and window < config["max_position_embeddings"]:
        raise InfeasibleError(f"Its attention slides over {window} tokens, which llama.cpp's graph of {architecture} does not.")


def _refuse_gemma(config: Mapping[str, Any], architecture: str) -> None:
    n_layers = int(config["num_hidden_layers"])
    types = config.get("layer_types")
    if config.get("use_bidirectional_attention"):
        raise InfeasibleError("Its attention looks forward too, which a causal language model's does not.")
    if types and list(types) != layer_types(architecture, n_layers):
        raise InfeasibleError(f"Its layers slide in another pattern than llama.cpp's graph of {architecture} has.")
    if config.get("query_pre_attn_scalar", 256) != _attention_scalar(architecture, config):
        raise InfeasibleError(f"Its query_pre_attn_scalar is {config.get('query_pre_attn_scalar')}, which GGUF cannot say.")
    local = (config.get("rope_parameters") or {}).get("sliding_attention", {})
    if architecture == "gemma3" and float(local.get("rope_theta", config.get("rope_local_base_freq", 10000.0))) != 10000.0:
        raise InfeasibleError("The rotary base of its sliding layers is not 10000, which llama.cpp's graph takes it to be.")
    if architecture == "gemma3" and (config.get("attn_logit_softcapping") or config.get("final_logit_softcapping")):
        raise InfeasibleError("Its logits are capped, which llama.cpp's graph of gemma3 does not do.")
