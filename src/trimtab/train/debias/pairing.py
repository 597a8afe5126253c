"""The objective `paired`: group-balanced distillation, and a penalty on what a pair of texts differs by.

Rows 2i and 2i+1 of a micro-batch are one text told about two groups. The teacher is the model before training: the same weights with the
adapters off. Up to the word that names the group the student is to say what the teacher says. Behind it both rows are to say the same: the
mean of what the teacher says in the one, and what it says in the other with the roles reversed, the probability of `man` here going to
`woman` there (Gupta et al. 2022, Findings of ACL, arXiv 2203.12574). A text about a woman still goes on with `she`, as often as one about a
man with `he`. The penalty, squared differences in log-probability of what the two texts say, is counterfactual logit pairing (Garg et al.
2019, AIES, arXiv 1809.10610).
"""

import math
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

UNCLEAR = ("her", "him", "his", "hers")
Stretch = tuple[int, int, int, int]
"""First and end place in the one row, first and end place in the other."""


@dataclass(frozen=True, kw_only=True)
class Twins:
    """What two rows have in common behind the first token in which they differ, as places of their targets.

    same: pairs of places with the same token; exchanged: stretches that stand for each other, of any lengths (`DeShawn` for `Tom`)
    words: single tokens that stand for each other, those of the first difference among them
    """

    same: tuple[tuple[int, int], ...]
    exchanged: tuple[Stretch, ...]
    words: tuple[tuple[int, int], ...] = ()


def twins_of(one: Sequence[int], other: Sequence[int]) -> Twins | None:
    """How two token sequences correspond; None for texts that are no twins, or that are the same."""
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    if list(one) == list(other) or matcher.ratio() < LEAST_ALIKE:
        return None
    same: list[tuple[int, int]] = []
    exchanged: list[Stretch] = []
    words: list[tuple[int, int]] = []
    differed = False
    for kind, a, a_end, b, b_end in matcher.get_opcodes():
        if kind == "equal" and differed:
            same += zip(range(a, a_end), range(b, b_end), strict=True)
        elif kind == "replace" and differed:
            exchanged.append((a, a_end, b, b_end))
        if kind == "replace" and a_end - a == b_end - b == 1:
            words.append((one[a], other[b]))
        differed = differed or kind != "equal"
    return Twins(same=tuple(same), exchanged=tuple(exchanged), words=tuple(dict.fromkeys(words)))


@dataclass(frozen=True, kw_only=True)
class GenderTokens:
    """Words of gender that are one token. pairs: each other's reverse; unclear: `her`, `him`, `his`, `hers`, which have no single one."""

    pairs: tuple[tuple[int, int], ...]
    unclear: tuple[int, ...]


def gender_tokens(encode: Callable[[str], Sequence[int]]) -> GenderTokens:
    """The words of gender in the swap lists as tokens, with and without a space before them and with a capital."""
    n_before = len(encode(""))  # what some tokenizers put before every text

    def token(word: str) -> int | None:
        ids = list(encode(word))[n_before:]
        return ids[0] if len(ids) == 1 else None

    table = swap_lists().gender
    both_ways = [(word, other) for word, other in table.items() if table.get(other) == word and word < other]
    pairs: list[tuple[int, int]] = []
    used: set[int] = set()
    for lead in ("", " "):
        for form in (str, str.capitalize):
            for word, other in both_ways:
                one, two = token(lead + form(word)), token(lead + form(other))
                if one is not None and two is not None and not {one, two} & used:
                    pairs.append((one, two))
                    used |= {one, two}
    unclear = {token(lead + form(word)) for lead in ("", " ") for form in (str, str.capitalize) for word in UNCLEAR}
    return GenderTokens(pairs=tuple(pairs), unclear=tuple(sorted(each for each in unclear if each is not None)))


class Paired:
    """The objective. gender: words that are reversed where a pair differs by gender; pair_weight: of the penalty, at least 0.

    Raises InputError for an odd number of rows, or a model without adapters: it would be its own teacher.
    """

    def __init__(self, gender: GenderTokens, pair_weight: float) -> None:
        self.gender, self.pair_weight = gender, pair_weight
        self.of_gender = {token for pair in gender.pairs for token in pair} | set(gender.unclear)

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
                target[row, one], target[row + 1, other] = self._reversed_mean(before[row, one], before[row + 1, other], twins)
            penalty = penalty + weight * self._gap(now[row : row + 2], tokens, places, twins)
        divergence = (target.exp() * (target - now)).sum(-1)
        return (divergence * batch.weights).sum() + self.pair_weight * penalty

    def _reversed_mean(self, one: torch.Tensor, other: torch.Tensor, twins: Twins) -> tuple[torch.Tensor, torch.Tensor]:
        by_gender = any(token in self.of_gender for pair in twins.words for token in pair)
        pairs = dict(self.gender.pairs) if by_gender else {}
        for a, b in twins.words:
            if not {a, b} & ({*pairs} | {*pairs.values()} | set(self.gender.unclear)):
                pairs[a] = b
        return balanced(one, other, tuple(pairs.items()), self.gender.unclear if by_gender else ())

    def _gap(self, now: torch.Tensor, tokens: list[list[int]], places: list[torch.Tensor], twins: Twins) -> torch.Tensor:
        """Sum of the squared differences in log-probability of what stands for each other in the two rows."""
        said = [now[side, places[side], tokens[side]] for side in (0, 1)]
        differences = [said[0][a:a_end].sum() - said[1][b:b_end].sum() for a, a_end, b, b_end in twins.exchanged]
        parts = [torch.stack(differences)] if differences else []
        if twins.same:
            one, other = zip(*twins.same, strict=True)
            parts.append(said[0][list(one)] - said[1][list(other)])
        return torch.cat(parts).square().sum() if parts else now.new_zeros(())


def balanced(
    one: torch.Tensor, other: torch.Tensor, pairs: Sequence[tuple[int, int]], kept: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [n,V] of both rows to their targets: the mean of a row's own and of the other's with `pairs` of tokens reversed.

    kept: tokens that keep a row's own probability; the rest, in all as probable as before, is shared out as in the mean.
    """
    order = torch.arange(one.shape[-1], device=one.device)
    for a, b in pairs:
        order[a], order[b] = b, a
    own = torch.zeros(one.shape[-1], dtype=torch.bool, device=one.device)
    own[list(kept)] = True
    return _shared(one, other[:, order], own), _shared(other, one[:, order], own)


def _shared(one: torch.Tensor, other: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    rests = [values.masked_fill(own, -torch.inf) for values in (one, other)]
    masses = [values.logsumexp(-1, keepdim=True) for values in rests]
    mean = torch.logaddexp(rests[0] - masses[0], rests[1] - masses[1]) - math.log(2.0)
    return torch.where(own, one, mean + masses[0])


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
