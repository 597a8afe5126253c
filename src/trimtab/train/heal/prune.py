"""Which weights, channels, heads and layers of a model matter least, and the smaller model without them.

Scores are of weights (magnitude), of weights times the size of their inputs (Wanda, Sun et al. 2023, arXiv:2306.11695) or of what a whole
unit adds: a feed-forward channel by its activation times the column that reads it, a group of heads by its output times the columns that
read it, a layer by how little it turns its input (1 - cosine: block influence of ShortGPT, Men et al. 2024, arXiv:2403.03853). Widths are
the same in all layers afterwards, so that config.json can say them and every engine opens the result; zeros inside a matrix (2:4 or
single weights) keep its size, and no engine here computes them faster: they are for kernels that do.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from trimtab.core.errors import InputError
from trimtab.train.models import blocks_of

Method = Literal["magnitude", "wanda"]
METHODS: tuple[Method, ...] = ("magnitude", "wanda")


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What is taken away.

    channels: feed-forward channels left in each layer; kv_groups: groups of heads left (a key-value head with its query heads); layers:
        layers left; 0 = all of them; zeros: share of single weights set to 0, or `2:4`: two of four neighbours in a row
    method: by what single weights are scored
    """

    channels: int = 0
    kv_groups: int = 0
    layers: int = 0
    zeros: float | Literal["2:4"] = 0.0
    method: Method = "wanda"


@dataclass(kw_only=True)
class Seen:
    """What calibration text showed.

    squares: by linear layer, summed squares of its input columns; n_rows: tokens; turned: by layer, summed 1 - cosine of output and input
    """

    squares: dict[str, torch.Tensor] = field(default_factory=dict)
    turned: list[float] = field(default_factory=list)
    n_rows: int = 0

    def size(self, name: str) -> torch.Tensor:
        """[columns]: root mean square of a layer's inputs."""
        return (self.squares[name] / max(self.n_rows, 1)).sqrt()


@torch.no_grad()
def look(model: nn.Module, sequences: Sequence[Sequence[int]]) -> Seen:
    """One forward pass over sequences of token ids."""
    seen = Seen(turned=[0.0] * len(blocks_of(model)))
    with _watched(model, seen):
        for sequence in sequences:
            model.get_decoder()(input_ids=torch.tensor([sequence]), use_cache=False)
            seen.n_rows += len(sequence)
    return seen


@torch.no_grad()
def pruned(model: nn.Module, cut: Cut, seen: Seen) -> nn.Module:
    """A smaller copy of the model. Raises InputError for more than there is, or an architecture whose parts have other names."""
    smaller = copy.deepcopy(model)
    config = smaller.config
    if cut.layers:
        _check("layers", cut.layers, config.num_hidden_layers)
        _drop_layers(smaller, [place for place, _ in _least(seen.turned, cut.layers)])
    numbers = getattr(smaller, "_kept_layers", list(range(config.num_hidden_layers)))
    if cut.channels:
        _check("channels", cut.channels, config.intermediate_size)
        for number, block in zip(numbers, blocks_of(smaller), strict=True):
            _cut_channels(block, cut.channels, seen.size(f"{_prefix(model, number)}.mlp.down_proj"))
        config.intermediate_size = cut.channels
    if cut.kv_groups:
        _check("kv_groups", cut.kv_groups, config.num_key_value_heads)
        for number, block in zip(numbers, blocks_of(smaller), strict=True):
            _cut_heads(block, cut.kv_groups, config, seen.size(f"{_prefix(model, number)}.self_attn.o_proj"))
        config.num_attention_heads = config.num_attention_heads // config.num_key_value_heads * cut.kv_groups
        config.num_key_value_heads = cut.kv_groups
    if cut.zeros:
        for name, layer in _linear(model):
            own = dict(_linear(smaller)).get(name)
            if own is not None and own.weight.shape == layer.weight.shape:
                own.weight *= mask(own.weight, cut.zeros, cut.method, seen.size(name))
    return smaller


def mask(weight: torch.Tensor, zeros: float | Literal["2:4"], method: Method, input_size: torch.Tensor) -> torch.Tensor:
    """1 where a weight stays, [rows, columns]. Weights of one row are compared with each other, as Wanda does.

    input_size: [columns], root mean square of the inputs
    """
    scores = weight.abs() * (input_size if method == "wanda" else 1.0)
    if zeros == "2:4":
        rows, columns = weight.shape
        if columns % 4:
            raise InputError(f"2:4 sparsity needs rows of a multiple of 4 weights, not {columns}.")
        fours = scores.reshape(rows, columns // 4, 4)
        kept = torch.zeros_like(fours).scatter_(-1, fours.topk(2, -1).indices, 1.0)
        return kept.reshape(rows, columns)
    if not 0 <= float(zeros) < 1:
        raise InputError(f"A share of zeros lies between 0 and 1, not {zeros}.")
    n_kept = max(1, round(scores.shape[1] * (1 - float(zeros))))
    return torch.zeros_like(scores).scatter_(-1, scores.topk(n_kept, -1).indices, 1.0)


def _drop_layers(model: nn.Module, kept: Sequence[int]) -> None:
    decoder = model.get_decoder()
    blocks = blocks_of(model)
    name = next(name for name, child in decoder.named_children() if isinstance(child, nn.ModuleList) and child[0] is blocks[0])
    setattr(decoder, name, nn.ModuleList(blocks[place] for place in kept))
    for place, block in enumerate(getattr(decoder, name)):
        if hasattr(block.self_attn, "layer_idx"):
            block.self_attn.layer_idx = place
    model._kept_layers = list(kept)
    model.config.num_hidden_layers = len(kept)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[place] for place in kept]


def _cut_channels(block: nn.Module, count: int, activation_size: torch.Tensor) -> None:
    """Keep the channels whose activation, read by the columns of down_proj, is largest."""
    scores = activation_size * block.mlp.down_proj.weight.norm(dim=0)
    kept = scores.topk(count).indices.sort().values
    _keep_rows(block.mlp.gate_proj, kept)
    _keep_rows(block.mlp.up_proj, kept)
    _keep_columns(block.mlp.down_proj, kept)


def _cut_heads(block: nn.Module, count: int, config: Any, output_size: torch.Tensor) -> None:
    attention = block.self_attn
    size = attention.head_dim
    queries = config.num_attention_heads // config.num_key_value_heads
    columns = (output_size * attention.o_proj.weight.norm(dim=0)).square().reshape(config.num_key_value_heads, -1).sum(-1)
    kept = columns.topk(count).indices.sort().values
    wide = _spans(kept, queries * size)
    _keep_rows(attention.q_proj, wide)
    _keep_columns(attention.o_proj, wide)
    for part in (attention.k_proj, attention.v_proj):
        _keep_rows(part, _spans(kept, size))


def _spans(places: torch.Tensor, length: int) -> torch.Tensor:
    return (places[:, None] * length + torch.arange(length)).reshape(-1)


def _keep_rows(layer: nn.Linear, kept: torch.Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight[kept].clone(), requires_grad=layer.weight.requires_grad)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[kept].clone(), requires_grad=layer.bias.requires_grad)
    layer.out_features = len(kept)


def _keep_columns(layer: nn.Linear, kept: torch.Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight[:, kept].clone(), requires_grad=layer.weight.requires_grad)
    layer.in_features = len(kept)


def _least(turned: Sequence[float], count: int) -> list[tuple[int, float]]:
    """The `count` layers that turn their input most, in their order."""
    best = sorted(enumerate(turned), key=lambda one: -one[1])[:count]
    return sorted(best)


def _linear(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    head = model.get_output_embeddings()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and layer is not head:
            yield name, layer


def _prefix(model: nn.Module, number: int) -> str:
    block = blocks_of(model)[number]
    return str(next(name for name, module in model.named_modules() if module is block))


def _check(what: str, asked: int, there: int) -> None:
    if not 0 < asked <= there:
        raise InputError(f"{asked} {what} cannot be kept of {there}.")


@contextmanager
def _watched(model: nn.Module, seen: Seen) -> Iterator[None]:
    def size(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            squares = inputs[0].float().square().reshape(-1, inputs[0].shape[-1]).sum(0)
            seen.squares[name] = seen.squares.get(name, 0) + squares

        return hook

    def turn(number: int) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
            after = output[0] if isinstance(output, tuple) else output
            seen.turned[number] += float((1 - functional.cosine_similarity(inputs[0], after, dim=-1)).sum())

        return hook

    handles = [layer.register_forward_pre_hook(size(name)) for name, layer in _linear(model)]
    handles += [block.register_forward_hook(turn(number)) for number, block in enumerate(blocks_of(model))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def write_pruned(source: Path, out: Path, cut: Cut, sequences: Sequence[Sequence[int]]) -> None:
    """The Hugging Face directory `out`: `source` without what `cut` takes away. sequences: token ids of calibration text.

    Raises InputError.
    """
    from transformers import AutoModelForCausalLM

    from trimtab.train.models import export_model

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="sdpa").eval()
    export_model(pruned(model, cut, look(model, sequences)), source, out)
