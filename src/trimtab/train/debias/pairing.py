"""The objective `paired`: group-balanced distillation, and a penalty on what a pair of texts differs by.

Rows 2i and 2i+1 of a micro-batch are one text told about two groups. The teacher is the model before training: the same weights with the
adapters off. Up to the word that names the group the student is to say what the teacher says. Behind it both rows have one target: the
mean of the teacher's two distributions over tokens that name nobody, while each row keeps the teacher's own probabilities of those that do
(a text about a woman goes on with `she`). That is distillation from a teacher that saw the roles reversed (Gupta et al. 2022, Findings of
ACL, arXiv 2203.12574). The penalty, squared differences in log-probability of what the two texts say, is counterfactual logit pairing
(Garg et al. 2019, AIES, arXiv 1809.10610).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from trimtab.core.errors import InputError
from trimtab.train.debias.swaps import swap_lists
from trimtab.train.objectives import TorchBatch, all_logits

LEAST_ALIKE = 0.5
"""Rows that share fewer of their tokens than this are two texts beside each other, not one text twice."""

Stretch = tuple[int, int, int, int]
"""First and end place in the one row, first and end place in the other."""


@dataclass(frozen=True, kw_only=True)
class Twins:
    """What two rows have in common behind the first token in which they differ, as places of their targets.

    same: pairs of places with the same token; exchanged: stretches that stand for each other, of any lengths (`DeShawn` for `Tom`)
    """

    same: tuple[tuple[int, int], ...]
    exchanged: tuple[Stretch, ...]


def twins_of(one: Sequence[int], other: Sequence[int]) -> Twins | None:
    """How two token sequences correspond; None for texts that are no twins, or that are the same."""
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    if list(one) == list(other) or matcher.ratio() < LEAST_ALIKE:
        return None
    same: list[tuple[int, int]] = []
    exchanged: list[Stretch] = []
    differed = False
    for kind, a, a_end, b, b_end in matcher.get_opcodes():
        if kind == "equal" and differed:
            same += zip(range(a, a_end), range(b, b_end), strict=True)
        elif kind == "replace" and differed:
            exchanged.append((a, a_end, b, b_end))
        differed = differed or kind != "equal"
    return Twins(same=tuple(same), exchanged=tuple(exchanged))


def identity_ids(encode: Callable[[str], Sequence[int]]) -> list[int]:
    """Tokens that name somebody by themselves: words of gender, first names and groups that are one token, with and without a space."""
    lists = swap_lists()
    words = {*lists.gender, *lists.gender.values(), "him", "his", "her", "hers", *lists.names}
    words |= {name for axis in lists.axes.values() for name in axis["adjectives"]}
    words |= {name for axis in lists.axes.values() for row in axis.get("nouns", ()) for name in row}
    forms = {form for word in words for form in (word, word[:1].upper() + word[1:])}
    n_before = len(encode(""))  # what some tokenizers put before every text
    found = (encode(lead + form)[n_before:] for form in forms for lead in ("", " "))
    return sorted({ids[0] for ids in found if len(ids) == 1})


class Paired:
    """The objective. identity: int64 [n], tokens that name somebody; pair_weight: of the penalty against the distillation, at least 0.

    Raises InputError for an odd number of rows, or a model without adapters: it would be its own teacher.
    """

    def __init__(self, identity: Sequence[int], pair_weight: float) -> None:
        self.identity = torch.tensor(list(identity), dtype=torch.int64)
        self.pair_weight = pair_weight

    def __call__(self, model: nn.Module, batch: TorchBatch) -> torch.Tensor:
        """SUM over tokens of weight * loss, nats."""
        if batch.input_ids.shape[0] % 2:
            raise InputError("The objective `paired` takes rows two by two; give an even micro_batch_seqs.")
        batch = trimmed(batch)
        with torch.no_grad(), adapters_off(model):
            before = _log_shares(all_logits(model, batch))
        now = _log_shares(all_logits(model, batch))
        target = before.clone()
        penalty = now.new_zeros(())
        for row in range(0, batch.input_ids.shape[0], 2):
            places = [torch.nonzero(batch.weights[row + side]).reshape(-1) for side in (0, 1)]
            tokens = [batch.target_ids[row + side][places[side]].tolist() for side in (0, 1)]
            twins = twins_of(*tokens)
            if twins is None:
                continue
            weight = batch.weights[row : row + 2].amax()
            if twins.same:
                one, other = (places[side][[pair[side] for pair in twins.same]] for side in (0, 1))
                target[row, one], target[row + 1, other] = balanced(before[row, one], before[row + 1, other], self.identity)
            penalty = penalty + weight * self._gap(now[row : row + 2], tokens, places, twins)
        divergence = (target.exp() * (target - now)).sum(-1)
        return (divergence * batch.weights).sum() + self.pair_weight * penalty

    def _gap(self, now: torch.Tensor, tokens: list[list[int]], places: list[torch.Tensor], twins: Twins) -> torch.Tensor:
        """Sum of the squared differences in log-probability of what stands for each other in the two rows."""
        said = [now[side, places[side], tokens[side]] for side in (0, 1)]
        differences = [said[0][a:a_end].sum() - said[1][b:b_end].sum() for a, a_end, b, b_end in twins.exchanged]
        parts = [torch.stack(differences)] if differences else []
        if twins.same:
            one, other = zip(*twins.same, strict=True)
            parts.append(said[0][list(one)] - said[1][list(other)])
        return torch.cat(parts).square().sum() if parts else now.new_zeros(())


def balanced(one: torch.Tensor, other: torch.Tensor, identity: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [n,V] of both rows to their targets: tokens of `identity` keep theirs, the rest, in all as probable as before, is
    shared out as in the mean of both."""
    names = torch.zeros(one.shape[-1], dtype=torch.bool, device=one.device)
    names[identity.to(one.device)] = True
    rests = [values.masked_fill(names, -torch.inf) for values in (one, other)]
    masses = [values.logsumexp(-1, keepdim=True) for values in rests]
    shared = torch.logaddexp(rests[0] - masses[0], rests[1] - masses[1]) - torch.log(torch.tensor(2.0, dtype=one.dtype))
    first, second = (torch.where(names, values, shared + mass) for values, mass in zip((one, other), masses, strict=True))
    return first, second


def trimmed(batch: TorchBatch) -> TorchBatch:
    """The batch without the places at the end where every row is padding: pairs are short, and of many lengths."""
    used = (batch.weights != 0).any(0).nonzero()
    end = int(used[-1]) + 1 if used.numel() else 1
    names = ("input_ids", "target_ids", "weights", "position_ids", "document_ids")
    return replace(batch, counted=None, **{name: getattr(batch, name)[:, :end] for name in names})


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The model as it was before training. Raises InputError where there is nothing to switch off."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if not layers:
        raise InputError("The objective `paired` needs adapters: the model without them is its teacher. Give a lora_rank of 1 or more.")
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _log_shares(logits: torch.Tensor) -> torch.Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.log_softmax(wide, -1)
