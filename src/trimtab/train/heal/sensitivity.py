"""How much of a compressed model's divergence comes from which weight.

Divergence is zero at the reference's weights and grows about with the square of the way from them, so along that way it is half the
gradient at its end times the way: the sum over weights is about the whole, and each weight's part is what it contributes together with
all the others (what integrated gradients give for a quadratic: Sundararajan et al. 2017, arXiv:1703.01365). One backward pass over a few
sequences tells all weights at once, where measuring them one by one would take a pass each.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from trimtab.train.heal.distil import head_divergence
from trimtab.train.heal.teacher import open_teacher


def shares(reference: Path, compressed: Path, sequences: Sequence[Sequence[int]]) -> dict[str, float]:
    """Nats a token of KL(reference || compressed) that each linear layer's weight accounts for; below 0 where it makes good what others do.

    Both are Hugging Face directories of one shape; sequences: token ids. Raises InputError for a folder without a model.
    """
    cpu = torch.device("cpu")
    theirs, own = open_teacher(reference, "fp32", cpu), open_teacher(compressed, "fp32", cpu)
    before = dict(theirs.model.named_parameters())
    layers = {f"{name}.weight": layer for name, layer in own.model.named_modules() if isinstance(layer, nn.Linear)}
    trained = {name: layer for name, layer in layers.items() if name in before and layer.weight is not own.head}
    for layer in trained.values():
        layer.weight.requires_grad_(True)
    n_tokens = sum(len(sequence) for sequence in sequences)
    for sequence in sequences:
        ids = torch.tensor(np.array(sequence, np.int64))[None]
        with torch.no_grad():
            wanted = theirs.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]
        hidden = own.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]
        (head_divergence(hidden, own.head, wanted, theirs.head, torch.ones(len(sequence))) / n_tokens).backward()
    return {
        name: float((layer.weight.grad * (layer.weight.detach() - before[name])).sum()) / 2
        for name, layer in trained.items()
        if layer.weight.grad is not None
    }


def keep_precise(found: Mapping[str, float], costs_ms: Mapping[str, float], *, budget_nats: float) -> tuple[str, ...]:
    """The weights to keep in high precision so that what the others account for stays within budget_nats, in little time.

    Most nats a millisecond first, then without those that turn out not to be needed: within one weight of the best choice (which takes a
    solver minutes for hundreds of weights). costs_ms: by weight, what keeping it costs a token
    """
    order = sorted((name for name, share in found.items() if share > 0), key=lambda name: (-found[name] / max(costs_ms[name], 1e-12), name))
    rest = sum(found[name] for name in order)
    kept = []
    for name in order:
        if rest <= budget_nats:
            break
        kept.append(name)
        rest -= found[name]
    for name in reversed(list(kept)):
        if rest + found[name] <= budget_nats:
            kept.remove(name)
            rest += found[name]
    return tuple(kept)
