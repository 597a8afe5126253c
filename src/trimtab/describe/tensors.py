"""Tensor names -> layer, part and logical parameters, for GGUF, Hugging Face and OpenVINO names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.core.model import ModelHeader, TensorInfo
from trimtab.describe.packing import packing_of

PARTS = ("embedding", "attention", "mlp", "experts", "norm", "output", "other")
MAX_LAYERS = 4096

_LAYER = re.compile(r"(?:^|\.)(?:blk|layers|h|blocks|block)\.(\d{1,4})\.(.+)$")
_TOWER = re.compile(
    r"(?:^|\.)(?:vision_tower|vision_model|visual|audio_tower|vision_encoder|multi_modal_projector|embed_vision|embed_audio)\."
)
_EXPERT = re.compile(r"_(?:ch)?exps\b|(?<!shared_)\bexperts?\b(?!_bias)|block_sparse_moe\.(?:experts|(?:in|out)put_linear)\b")
_SHARED = re.compile(r"_shexp\b|shared_experts?\b|shared_mlp\b")
_ROUTER = re.compile(r"ffn_gate_inp\b|\brouter\b|mlp\.gate\.|block_sparse_moe\.gate\.|feed_forward\.gate\.|exp_probs_b")
_NORM = re.compile(r"norm|\bln_|layer_?norm|ln\d?\b|\.ln_f")
_MIXER = re.compile(r"ssm_|time_mix|time_|shortconv|\bmamba|\bmixer\b|linear_attn|\.conv\.|conv1d|rg_lru|temporal_block|kda_")
# Hybrids name every kind of block `mixer` or `temporal_block`; the projections inside tell which it is.
_HYBRID_PROJECTION = re.compile(r"\b(?:mixer|temporal_block)\.(?:([qkvo])|up|down|gate)_proj\b")
_ATTENTION = re.compile(r"attn|attention|indexer|\bself_attention")
_MLP = re.compile(r"ffn|channel_mix|mlp|feed_forward|\bfc[12]\b|dense_(?:h_to_4h|4h_to_h)|\bw[123]\b")
_EMBEDDING = re.compile(
    r"token_embd\.weight|embed_tokens|\bwte\b|word_embeddings\b|\bembeddings?\.weight|tok_embeddings|embed_in\b|position_embd|embed_positions|\bwpe\b"
)
_OUTPUT = re.compile(
    r"^(?:output\.(?:weight|bias)|(?:language_model\.)?(?:model\.)?lm_head\b|embed_out\b|head\.weight)|\.lm_head\.|(?:^|\.)output_layer\b"
)
_AUXILIARY = re.compile(
    r"\.(?:scales|qzeros|g_idx|weight_scale(?:_inv|_2)?|weight_zero_point|weight_shape|weight_g_idx|(?:weight|input)_global_scale|input_scale|"
    r"output_scale|[kv]_scale|absmax|quant_map|nested_absmax|nested_quant_map|SCB|weight_format|quant_state\.\S+)$|_scales$|/(?:scale|zero_point)\b|"
    r"_(?:scale_inv|scale)$"
)
_HAS_ATTENTION = re.compile(
    r"attn_output\.|attn_out\.|attn_k\.|attn_kv_|(?:self_attn|\battn|self_attention|\battention|\bmixer|\btemporal_block)\.\S*"
    r"(?:k_proj|kv_a_proj|qkv|c_attn|query_key_value|Wqkv|\bwk\b|\bkey\b|kv_proj)"
)
_HAS_MIXER = re.compile(
    r"ssm_(?:conv1d|a\b|in\b|out\b|d\b)|time_mix_|time_decay|shortconv|A_log|linear_attn\.|conv\.conv\b|rg_lru|kda_|attention\.time_|\.x_proj\b"
)


_SIDE_TABLE = re.compile(r"position|\bwpe\b|per_layer|token_types")


def is_side_table(name: str) -> bool:
    """True for tables that are looked up beside the token embedding (positions, per-layer inputs): never an output matrix."""
    return bool(_SIDE_TABLE.search(name))


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A tensor with its place. layer None = outside the layers; n_params 0 for scales and zero points of quantised weights.

    routed: one of many experts, of which a token passes through a few
    tower: belongs to a vision or audio encoder, which a text token does not pass
    """

    tensor: TensorInfo
    layer: int | None
    part: str
    n_params: int
    routed: bool = False
    tower: bool = False

    @property
    def is_matmul(self) -> bool:
        return (
            self.n_params > 0
            and len([length for length in self.tensor.shape if length > 1]) >= 2
            and self.part not in ("norm", "embedding")
        )


@dataclass(frozen=True, kw_only=True)
class LayerTraits:
    """What the tensors of one layer show: keeps keys and values, keeps a recurrent state, or both."""

    attention: bool
    recurrent: bool


def place_tensors(header: ModelHeader) -> tuple[Placed, ...]:
    """Every tensor with its layer, part and logical number of parameters."""
    count = _packing(header)
    placed = [_place(tensor, count(tensor)) for tensor in header.tensors]
    if header.format == "openvino" and not any(item.layer is not None for item in placed):
        return _nameless(placed)
    return tuple(placed)


def _place(tensor: TensorInfo, n_params: int) -> Placed:
    name = tensor.name.removeprefix("self.")
    match = _LAYER.search(name)
    layer, inner = (int(match[1]), match[2]) if match else (None, name)
    if _TOWER.search(name[: match.start()] + "." if match else name) or name.startswith(("v.", "mm.", "a.")):
        return Placed(tensor=tensor, layer=None, part="other", n_params=n_params, tower=True)
    if layer is not None and layer >= MAX_LAYERS:
        layer = None
    routed = bool(_EXPERT.search(inner)) and not _SHARED.search(inner) and not _ROUTER.search(inner)
    return Placed(tensor=tensor, layer=layer, part=_part(inner, layer, routed), n_params=n_params, routed=routed)


def _part(inner: str, layer: int | None, routed: bool) -> str:
    if layer is None:
        if _OUTPUT.search(inner):
            return "output"
        if _EMBEDDING.search(inner) and not _NORM.search(inner):
            return "embedding"
        return "norm" if _NORM.search(inner) else "other"
    if routed or _ROUTER.search(inner):
        return "experts"
    if _NORM.search(inner):
        return "norm"
    hybrid = _HYBRID_PROJECTION.search(inner)
    if hybrid:
        return "attention" if hybrid[1] else "mlp"
    if _MIXER.search(inner):
        return "other"
    if _SHARED.search(inner) or (_MLP.search(inner) and not _ATTENTION.search(inner)):
        return "mlp"
    return "attention" if _ATTENTION.search(inner) else "other"


def _packing(header: ModelHeader) -> Any:
    """Function: tensor -> logical parameters, which differ from stored elements where several values share one integer."""
    config = header.metadata.get("quantization_config")
    scheme = header.quantization
    in_four = scheme == "bitsandbytes" and isinstance(config, dict) and bool(config.get("load_in_4bit"))
    packing = packing_of(header.metadata)

    def bits_of(name: str) -> int:
        found = packing.scheme_of(name.rpartition(".")[0]).bits if packing is not None and packing.schemes else 0
        return found if found in (2, 3, 4, 5, 6, 7, 8) else 4

    def count(tensor: TensorInfo) -> int:
        if header.format == "gguf":
            return tensor.n_params
        if header.format == "openvino":
            scale = tensor.n_params > 1 and len(tensor.shape) > 1 and tensor.shape[-1] == 1
            return 0 if scale or "/scale" in tensor.name or "/zero_point" in tensor.name else tensor.n_params
        if scheme == "none":
            return tensor.n_params
        if _AUXILIARY.search(tensor.name):
            return 0
        if tensor.name.endswith((".qweight", ".weight_packed")):
            return tensor.n_params * 8 * (tensor.size_bytes // max(tensor.n_params, 1)) // bits_of(tensor.name)
        if tensor.name.endswith("_blocks") or (in_four and tensor.type_name == "U8") or (scheme == "modelopt" and tensor.type_name == "U8"):
            return tensor.n_params * 2
        return tensor.n_params

    return count


def _nameless(placed: Sequence[Placed]) -> tuple[Placed, ...]:
    """OpenVINO graphs built from GGUF have no names: the largest table is the embedding, an equal one after it the output."""
    largest = max(placed, key=lambda item: item.n_params)
    rows = largest.tensor.shape[0] if largest.tensor.shape else 0
    seen, result = 0, []
    for item in placed:
        part = item.part
        if rows and item.tensor.shape[:1] == (rows,) and item.n_params == largest.n_params:
            part = "output" if seen else "embedding"
            seen += 1
        result.append(Placed(tensor=item.tensor, layer=None, part=part, n_params=item.n_params))
    return tuple(result)


def layer_traits(placed: Sequence[Placed]) -> dict[int, LayerTraits]:
    """What each layer's tensors show; layers without tensors are absent."""
    names: dict[int, list[str]] = {}
    for item in placed:
        if item.layer is not None:
            names.setdefault(item.layer, []).append(item.tensor.name)
    found = {}
    for layer, inside in names.items():
        recurrent = any(_HAS_MIXER.search(name) for name in inside)
        attention = any(_HAS_ATTENTION.search(name) for name in inside if "linear_attn" not in name)
        found[layer] = LayerTraits(attention=attention, recurrent=recurrent)
    return found
