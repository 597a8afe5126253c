"""FLOPs of training by the conventions in use, and back from a published TFLOP/s or MFU to tokens/s.

The same run is told 4 to 50 % apart by different conventions, so a figure means nothing without its own. A convention says what is counted
for one token: which weights, how much of attention over the sequence, how often. Sources are at each; `convention_of` says who uses which.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from trimtab.core.errors import InputError
from trimtab.core.planning import Architecture, Attention
from trimtab.plan.operators import FLOPS_PER_STATE_VALUE, matmuls, pair_flops, shape_params, visible_pairs

Weights = Literal["all", "no-embedding", "no-vocabulary", "matrices"]
Seen = Literal["none", "whole", "half", "half-no-window"]


@dataclass(frozen=True, kw_only=True)
class Convention:
    """What one trained token is said to cost.

    weights: `all` parameters (each once, look-up tables too; of experts those in use), `no-embedding` = without the input tables unless
        they are the output matrix, `no-vocabulary` = without the output matrix as well, `matrices` = what a token is multiplied by, output
        matrix included
    seen: tokens of context that a query is charged for: `whole` sequence, whatever the mask and windows; `half` of it (causal), or what a
        window lets it see; `half-no-window`
    passes, attention_passes, output_passes: forward passes' worth of work: 3 = forward and backward, 4 = all computed again once
    router: the routers of experts are counted; predict: so are layers that predict further tokens
    gated: False = the two matrices up of a gated network are counted as one
    mamba_inner: inner width of state-space layers in model widths, whatever the model has; 0 = its own
    """

    name: str
    formula: str
    source: str
    weights: Weights
    seen: Seen
    passes: float = 3.0
    attention_passes: float = 3.0
    output_passes: float = 3.0
    router: bool = True
    predict: bool = False
    gated: bool = True
    mamba_inner: int = 0


_MEGATRON_PAPER = "https://arxiv.org/abs/2104.04473 (appendix)"
_RECOMPUTE_PAPER = "https://arxiv.org/abs/2205.05198 (equations 7 to 9)"
_BRIDGE = "https://github.com/NVIDIA-NeMo/Megatron-Bridge/blob/main/src/megatron/bridge/training/utils/flop_utils.py"
_MAXTEXT = "https://github.com/AI-Hypercomputer/maxtext/blob/main/src/maxtext/utils/maxtext_utils.py"

_ALL = (
    Convention(name="6n", formula="6 N", source="https://arxiv.org/abs/2203.15556 (appendix F)", weights="all", seen="none"),
    Convention(
        name="6n-kaplan",
        formula="6 (N - tables)",
        source="https://arxiv.org/abs/2001.08361 (section 2.1)",
        weights="no-vocabulary",
        seen="none",
    ),
    Convention(
        name="palm", formula="6 N + 12 L H Q T", source="https://arxiv.org/abs/2204.02311 (appendix B)", weights="all", seen="whole"
    ),
    Convention(
        name="torchtitan",
        formula="6 (N - embedding) + 12 L H Q T",
        source="https://github.com/pytorch/torchtitan/blob/v0.1.0/torchtitan/models/llama3/model/args.py",
        weights="no-embedding",
        seen="whole",
    ),
    Convention(
        name="megatron",
        formula="72 B s l h^2 (1 + s/6h + V/12lh), with the model's own heads and widths",
        source=_RECOMPUTE_PAPER,
        weights="matrices",
        seen="whole",
        router=False,
    ),
    Convention(
        name="megatron-hfu-full",
        formula="96 B s l h^2 (1 + s/6h + V/16lh)",
        source=_MEGATRON_PAPER,
        weights="matrices",
        seen="whole",
        passes=4.0,
        attention_passes=4.0,
        router=False,
    ),
    Convention(
        name="megatron-hfu-selective",
        formula="72 B s l h^2 (1 + s/3h + V/12lh)",
        source=_RECOMPUTE_PAPER,
        weights="matrices",
        seen="whole",
        attention_passes=6.0,
        router=False,
    ),
    Convention(
        name="megatron-causal",
        formula="6 (matrices without routers, further-token layers too) + 6 L H Q T, or what windows let see",
        source=_BRIDGE,
        weights="matrices",
        seen="half",
        router=False,
        predict=True,
        mamba_inner=2,
    ),
    Convention(
        name="megatron-causal-2025",
        formula="megatron-causal without windows, and gated networks of other gates than SiLU counted as two matrices",
        source=_BRIDGE,
        weights="matrices",
        seen="half-no-window",
        router=False,
        predict=True,
        gated=False,
        mamba_inner=2,
    ),
    Convention(
        name="megatron-lora",
        formula="4 matrices: frozen weights have no gradient of their own, and packed short sequences little attention",
        source=_BRIDGE,
        weights="matrices",
        seen="none",
        passes=2.0,
        output_passes=2.0,
        router=False,
    ),
    Convention(
        name="megatron-packed",
        formula="6 matrices: attention of packed short sequences is negligible",
        source="https://github.com/NVIDIA/NeMo (24.07, fine-tuning on packed SQuAD)",
        weights="matrices",
        seen="none",
        router=False,
    ),
    Convention(
        name="maxtext", formula="6 matrices + 12 L H Q T", source=_MAXTEXT + " (before pull request 1988)", weights="matrices", seen="whole"
    ),
    Convention(name="maxtext-causal", formula="6 matrices + 6 L H Q T", source=_MAXTEXT, weights="matrices", seen="half"),
)
CONVENTIONS: Mapping[str, Convention] = {convention.name: convention for convention in _ALL}
DEFAULT = "megatron-causal"


def convention(name: str) -> Convention:
    """The convention of that name. Raises InputError."""
    if name in CONVENTIONS:
        return CONVENTIONS[name]
    raise InputError(f"The FLOPs convention {name!r} is not known; use one of {', '.join(CONVENTIONS)}.")


@dataclass(frozen=True, kw_only=True)
class Use:
    """Who counts how. All words must occur in what a published row says of itself; the first use that fits counts.

    framework, kind, model: text to be found (lower case, no spaces) in the row's framework, kind of figure and model; "" = any
    hint: word to be found in its source or notes; "" = any
    below: the framework's version is below this, () = any
    measured: how it was found: published pairs of tokens/s and FLOP/s that it reproduces, and how closely
    """

    convention: str
    framework: str = ""
    kind: str = ""
    hint: str = ""
    model: str = ""
    below: tuple[int, ...] = ()
    measured: str = ""


USES = (
    Use(convention="megatron-lora", hint="lora", measured="7 pairs, median 0.4 %: packed sequences of unknown length add up to 1 %"),
    Use(convention="megatron-packed", framework="nemo", hint="sft", measured="3 pairs, median 0.4 %"),
    Use(convention="palm", framework="composer", measured="168 pairs, median 0.15 %: FLOP/s are cut, not rounded"),
    Use(convention="palm", framework="llm-foundry", measured="as Composer"),
    Use(convention="palm", framework="nanogpt", measured="from its source; no pairs"),
    Use(convention="palm", framework="pathways", measured="1 pair, 0.1 %"),
    Use(
        convention="megatron-causal-2025",
        framework="megatron-bridge",
        model="oss",
        below=(26, 6),
        measured="14 pairs, median 0.1 %: no windows, and its gate is not recognised as one",
    ),
    Use(
        convention="megatron-causal",
        framework="megatron-bridge",
        measured="216 pairs, median 0.1 %; tokens/s of some are printed to 1 %",
    ),
    Use(convention="megatron", framework="nemo", below=(25, 4), measured="10 pairs of 24.07, at most 0.1 %"),
    Use(convention="megatron-causal", framework="nemo", measured="its formulas count causal attention since April 2025; no pairs"),
    Use(convention="megatron-hfu-full", kind="hardware", measured="4 pairs of Megatron-DeepSpeed, at most 0.5 %"),
    Use(convention="megatron", framework="megatron", measured="7 pairs of examples and of the selective recomputation paper, median 0.1 %"),
    Use(convention="maxtext-causal", framework="maxtext", model="llama4", measured="1 pair, 0.0 %: after pull request 1988"),
    Use(convention="maxtext", framework="maxtext", measured="17 pairs of recipes, 0.0 %: before pull request 1988"),
    Use(convention="torchtitan", framework="torchtitan", measured="from its source; no pairs"),
    Use(convention="torchtitan", framework="nanochat", measured="from its source; no pairs"),
    Use(convention="megatron", framework="nanotron", measured="from its source; no pairs"),
    Use(convention="maxtext", framework="levanter", measured="from its source, which adds 0.6 % for masks; no pairs"),
    Use(convention="6n", kind="6nd"),
)


def convention_of(framework: str, kind: str = "", hint: str = "", model: str = "", *, recompute: bool = False) -> tuple[str, str]:
    """(convention, why) of a published FLOP/s or MFU. `("", reason)` where nothing tells who counted.

    kind: as the row says, e.g. `model` or `hardware`; hint: its source and notes; recompute: it is an HFU of selective recomputation
    """
    if recompute:
        return "megatron-hfu-selective", "hardware FLOPs with selective recomputation"
    for use in USES:
        fits = (
            _tells(framework, use.framework)
            and _tells(kind, use.kind)
            and _tells(model, use.model)
            and (not use.hint or re.search(rf"\b{use.hint}\b", hint, re.IGNORECASE) is not None)
            and (not use.below or () < _version(framework) < use.below)
        )
        if fits:
            return use.convention, use.measured or "as the row says"
    return "", f"nothing tells how {framework or 'the source'} counts FLOPs; give the convention."


def _tells(text: str, wanted: str) -> bool:
    """Whether a cell holds a text, whatever its case and separators."""
    return wanted in re.sub(r"[\s_]+", "", text.lower())


def _version(framework: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)", framework)
    return (int(found[1]), int(found[2])) if found else ()


def train_flops_per_token(architecture: Architecture, seq_tokens: int, name: str = DEFAULT) -> float:
    """FLOPs that one token of sequences of seq_tokens tokens costs in training, as a convention counts. Raises InputError."""
    chosen = convention(name)
    return _weight_flops(architecture, seq_tokens, chosen) + _mixing_flops(architecture, seq_tokens, chosen)


def tokens_per_s(architecture: Architecture, seq_tokens: int, flop_s: float, name: str) -> float:
    """Tokens/s of a device that a publisher says does flop_s (of its own convention). Raises InputError."""
    return flop_s / train_flops_per_token(architecture, seq_tokens, name)


def _weight_flops(architecture: Architecture, seq_tokens: int, chosen: Convention) -> float:
    if chosen.weights != "matrices":
        return 2.0 * chosen.passes * _counted_params(architecture, seq_tokens, chosen.weights)
    total = 0.0
    for matmul in matmuls(architecture):
        if matmul.part == "router" and not chosen.router:
            continue
        share = 1.0
        if not chosen.gated and matmul.part in ("mlp", "experts") and matmul.name.endswith(" up"):
            share = 0.5 if _is_gated(architecture) else 1.0
        passes = chosen.output_passes if matmul.part == "output" else chosen.passes
        total += passes * share * matmul.flops_per_token
    if chosen.predict and architecture.predict_layers:
        total += chosen.passes * architecture.predict_layers * _predict_flops(architecture, chosen)
    if chosen.mamba_inner:
        total += chosen.passes * _mamba_correction(architecture, chosen.mamba_inner)
    return total


def _counted_params(architecture: Architecture, seq_tokens: int, weights: Weights) -> float:
    """N of a 6 N convention: of experts, those that a token is sent to. A learned table of positions is as long as the trained sequence."""
    idle = sum(matmul.k * matmul.n * (matmul.stored - matmul.count) for matmul in matmuls(architecture) if matmul.part == "experts")
    total = shape_params(architecture) - idle
    positions = architecture.position_rows * architecture.d_model
    table = architecture.vocab_size * architecture.d_model
    if weights == "all":
        return total - positions + (seq_tokens * architecture.d_model if positions else 0)
    inside = total - positions - table * (1 if architecture.tied else 2)
    return inside if weights == "no-vocabulary" else inside + table


def _is_gated(architecture: Architecture) -> bool:
    return any(block.feedforward is not None and block.feedforward.gated for block in architecture.blocks)


def _predict_flops(architecture: Architecture, chosen: Convention) -> float:
    """Forward FLOPs of one further-token layer: the last attention and network again, a projection of two widths, the output matrix."""
    d_model = architecture.d_model
    last: dict[str, float] = {}
    for block in architecture.blocks:
        alone = Architecture(
            name="",
            d_model=d_model,
            vocab_size=0,
            blocks=(type(block)(n_layers=1, attention=block.attention, feedforward=block.feedforward),),
        )
        parts = {"attention": 0.0, "network": 0.0}
        for matmul in matmuls(alone):
            if matmul.part != "router" or chosen.router:
                parts["attention" if matmul.part == "attention" else "network"] += matmul.flops_per_token
        if block.attention is not None and block.attention.kind != "recurrent":
            last["attention"] = parts["attention"]
        if block.feedforward is not None:
            last["network"] = parts["network"]
    hybrid = any(block.attention is None or block.feedforward is None for block in architecture.blocks)
    projection = 0.0 if hybrid else 4.0 * d_model**2  # Megatron's formula for hybrids leaves it out
    return sum(last.values()) + projection + 2.0 * d_model * architecture.vocab_size


def _mamba_correction(architecture: Architecture, widths: int) -> float:
    """Forward FLOPs to add where a formula takes state-space layers to be `widths` model widths wide inside, and they are not."""
    total = 0.0
    for block in architecture.blocks:
        layer = block.attention
        if layer is None or layer.kind != "recurrent" or layer.head_dim < 2:
            continue
        inner = layer.n_heads * layer.head_dim
        missing = widths * architecture.d_model - inner
        if missing:
            state = layer.state_values / inner
            total += block.n_layers * missing * (3 * 2.0 * architecture.d_model + FLOPS_PER_STATE_VALUE * state)
    return total


def _mixing_flops(architecture: Architecture, seq_tokens: int, chosen: Convention) -> float:
    """FLOPs of attention over the sequence and of states, for one token."""
    if chosen.seen == "none":
        return 0.0
    total, last = 0.0, 0.0
    for block in architecture.blocks:
        layer = block.attention
        if layer is None:
            continue
        if layer.kind == "recurrent":
            total += block.n_layers * FLOPS_PER_STATE_VALUE * layer.state_values if chosen.weights == "matrices" else 0.0
            continue
        last = pair_flops(layer) * _tokens_seen(layer, seq_tokens, chosen.seen)
        total += block.n_layers * last
    if chosen.predict:
        total += architecture.predict_layers * last
    return chosen.attention_passes * total


def _tokens_seen(layer: Attention, seq_tokens: int, seen: Seen) -> float:
    if seen == "whole":
        return float(seq_tokens)
    if seen == "half" and layer.window_tokens and layer.window_tokens < seq_tokens:
        return float(visible_pairs(seq_tokens, seq_tokens, layer.window_tokens)) / seq_tokens
    return seq_tokens / 2.0
