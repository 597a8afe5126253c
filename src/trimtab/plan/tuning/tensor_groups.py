"""Weights in groups that share a type when types are mixed: the same matrices of neighbouring layers, and the output matrix."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.core.model import TensorInfo

KINDS = {
    "attn_kv": ("attn_k", "attn_v", "attn_kv_a_mqa", "attn_kv_b"),
    "attn_qo": ("attn_q", "attn_output", "attn_qkv", "attn_q_a", "attn_q_b"),
    "ffn_in": ("ffn_gate", "ffn_up", "ffn_gate_exps", "ffn_up_exps", "ffn_gate_shexp", "ffn_up_shexp"),
    "ffn_down": ("ffn_down", "ffn_down_exps", "ffn_down_shexp"),
}
"""Matrices of a layer, by GGUF name. What is named here nowhere (routers, state-space parts) stays as it is."""
HEAD, EMBEDDING = "output.weight", "token_embd.weight"
_IN_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


@dataclass(frozen=True, kw_only=True)
class TensorGroup:
    """Weights that get one type.

    place: `blocks` (multiplied for every token), `head` (for tokens that are decoded, and the last one of a prompt) or `table` (an
        embedding that is looked up and costs no time)
    pattern: a regular expression that finds these weights and no other
    row_lengths: lengths of their rows; a type is possible only if its blocks divide them all
    """

    name: str
    place: str
    pattern: str
    tensors: tuple[TensorInfo, ...]

    @property
    def n_params(self) -> int:
        return sum(tensor.n_params for tensor in self.tensors)

    @property
    def row_lengths(self) -> frozenset[int]:
        return frozenset(tensor.shape[-1] for tensor in self.tensors)

    @property
    def stored_types(self) -> frozenset[str]:
        """Types that the file has them in."""
        return frozenset(tensor.type_name for tensor in self.tensors)


def tensor_groups(tensors: Sequence[TensorInfo], n_bands: int) -> list[TensorGroup]:
    """Groups of a GGUF file's weights: each kind in `n_bands` bands of neighbouring layers, then output and embedding matrix."""
    found: dict[tuple[str, int], list[TensorInfo]] = {}
    matches = {tensor.name: match for tensor in tensors if len(tensor.shape) > 1 and (match := _IN_LAYER.fullmatch(tensor.name))}
    n_layers = 1 + max((int(match[1]) for match in matches.values()), default=-1)
    for tensor in tensors:
        match = matches.get(tensor.name)
        kind = next((kind for kind, words in KINDS.items() if match and match[2] in words), None)
        if match and kind:
            found.setdefault((kind, int(match[1]) * n_bands // n_layers), []).append(tensor)
    groups = [_group(kind, members) for (kind, _), members in sorted(found.items(), key=lambda item: item[0])]
    names = {tensor.name: tensor for tensor in tensors}
    for name in (HEAD, EMBEDDING):
        if name in names:
            place = "head" if name == HEAD or HEAD not in names else "table"
            groups.append(
                TensorGroup(name=name.removesuffix(".weight"), place=place, pattern=f"^{re.escape(name)}$", tensors=(names[name],))
            )
    return groups


def _group(kind: str, members: Sequence[TensorInfo]) -> TensorGroup:
    places = [match for tensor in members if (match := _IN_LAYER.fullmatch(tensor.name))]
    layers = sorted({int(match[1]) for match in places})
    words = sorted({match[2] for match in places})
    pattern = rf"^blk\.({'|'.join(map(str, layers))})\.({'|'.join(words)})\.weight$"
    return TensorGroup(name=f"{kind} {layers[0]}-{layers[-1]}", place="blocks", pattern=pattern, tensors=tuple(members))
