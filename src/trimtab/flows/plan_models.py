"""The catalog of models as JSON types: all of it, or what a few are made of and what a token of theirs costs."""

from collections.abc import Sequence
from typing import Any

from trimtab.core.files import to_plain
from trimtab.core.planning import Architecture
from trimtab.flows.parts.plan_model import plan_model

SCHEMA = "trimtab.plan-models/1"
WEIGHT_TYPES = ("bf16", "fp8", "nvfp4", "mxfp4", "int4", "Q8_0", "Q4_K_M")
CONTEXTS = (1, 8192, 131072)


def list_models(names: Sequence[str] = (), *, seq: int = 8192, offline: bool = False) -> dict[str, Any]:
    """Every model of the catalog, or the named ones (anything that a plan takes as MODEL) with their costs.

    Each: name, parameters (all, active, published), layers by kind of attention, cache bytes of a token, where it is from. Named ones also:
    parameters by part, FLOPs of a trained token of sequences of `seq` tokens by convention, weight bytes by type, cache bytes by context.
    Raises InputError, MissingError.
    """
    from trimtab.plan.architectures import entries

    if names:
        return {"schema": SCHEMA, "seq_tokens": seq, "models": [_costs(plan_model(name, offline=offline), seq) for name in names]}
    return {"schema": SCHEMA, "models": [_row(entry.architecture) for entry in entries()]}


def _row(shape: Architecture) -> dict[str, Any]:
    from trimtab.plan import operators
    from trimtab.plan.architectures import entries

    entry = next((entry for entry in entries() if entry.architecture is shape), None)
    one, two = (float(operators.kv_bytes(shape, tokens)) for tokens in (1, 2))
    return {
        "name": shape.name,
        "aliases": list(shape.aliases),
        "n_params": operators.n_params(shape),
        "active_params": operators.active_params(shape),
        "published_params": entry.published_params if entry else 0,
        "n_layers": shape.n_layers,
        "d_model": shape.d_model,
        "attention": dict(operators.attention_kinds(shape)),
        "kv_bytes_per_token": two - one,
        "context_tokens": shape.context_tokens,
        "source": shape.source,
        "verified": bool(entry and entry.verified),
    }


def _costs(shape: Architecture, seq: int) -> dict[str, Any]:
    from trimtab.plan import operators
    from trimtab.plan.flops import CONVENTIONS, train_flops_per_token

    contexts = sorted({*CONTEXTS, *([shape.context_tokens] if shape.context_tokens else [])})
    types = (*WEIGHT_TYPES, *(("stored",) if shape.weight_bytes else ()))
    return {
        **_row(shape),
        "blocks": to_plain(shape.blocks),
        "params_by_part": operators.params_by_part(shape),
        "decode_flops_per_token": operators.matmul_flops(shape),
        "train_flops_per_token": {name: train_flops_per_token(shape, seq, name) for name in CONVENTIONS},
        "conventions": {name: to_plain(convention) for name, convention in CONVENTIONS.items()},
        "weight_bytes": {kind: operators.weight_bytes(shape, kind) for kind in types},
        "read_bytes_of_one_token": {kind: float(operators.active_weight_bytes(shape, kind, 1)) for kind in types},
        "kv_bytes": {
            tokens: {kind: float(size) for kind, size in operators.kv_bytes_by_kind(shape, tokens).items()} for tokens in contexts
        },
    }
