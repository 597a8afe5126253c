"""Items to score requests on token ids, and the engine's numbers back to outcomes.

Prompt and option are tokenized together and cut where all of an item's options still agree with the prompt, so no option pays for a
boundary that no text has. An option that ends one token after a point which another option passes is not scored on its own: its last token
is watched there. Items of one cluster are merged into one request when that computes fewer tokens (the counterfactuals of a template
differ only from the name on).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from trimtab.core.errors import InputError
from trimtab.core.evidence import Item, Outcome
from trimtab.engines.base import ScoreRequest, ScoreResult

Ids = tuple[int, ...]
Render = Callable[[Sequence[Mapping[str, Any]]], str]
Encoded = tuple[Item, Ids, list[Ids]]
"""An item, the tokens its options share, and what follows for each option."""


class Tokenize(Protocol):
    """Engine.tokenize: token ids of a text without a leading BOS."""

    def __call__(self, text: str, *, parse_special: bool) -> list[int]: ...


class FirstId(Protocol):
    """EngineInfo.first_id: the token put before a text."""

    def __call__(self, *, chat: bool) -> int | None: ...


@dataclass(frozen=True, kw_only=True)
class OptionPlace:
    """Where an option's log-probability is found: positions first .. first+n_tokens-1 of one continuation.

    watched: the last token is not the continuation's own; it is this entry of the ids watched at that position
    """

    continuation: int
    first: int
    n_tokens: int
    watched: int | None = None


@dataclass(frozen=True, kw_only=True)
class ItemPlace:
    """An item and the places of its options, in order."""

    item: Item
    options: tuple[OptionPlace, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens scored: of the answer for nats_per_token, of all options together otherwise."""
        return sum(option.n_tokens for option in self.options)


@dataclass(frozen=True, kw_only=True)
class PreparedRequest:
    """One score request and the items it answers (all of one cluster)."""

    request: ScoreRequest
    places: tuple[ItemPlace, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens computed: the prefix once, and every continuation."""
        return len(self.request.prefix_ids) + sum(map(len, self.request.continuations))

    @property
    def suite(self) -> str:
        return self.places[0].item.suite

    @property
    def cluster(self) -> str:
        return self.places[0].item.cluster


@dataclass(frozen=True, kw_only=True)
class PreparedSuite:
    """Items as requests for one tokenizer and chat template."""

    requests: tuple[PreparedRequest, ...]

    @property
    def items(self) -> tuple[Item, ...]:
        return tuple(place.item for prepared in self.requests for place in prepared.places)

    @property
    def n_tokens(self) -> int:
        return sum(prepared.n_tokens for prepared in self.requests)

    def tokens_by_suite(self) -> dict[str, int]:
        """Tokens computed for each sub-suite."""
        totals: dict[str, int] = {}
        for prepared in self.requests:
            totals[prepared.suite] = totals.get(prepared.suite, 0) + prepared.n_tokens
        return totals

    def only(self, suites: Iterable[str]) -> "PreparedSuite":
        """The requests of some sub-suites."""
        wanted = set(suites)
        return PreparedSuite(requests=tuple(prepared for prepared in self.requests if prepared.suite in wanted))


def messages_of(item: Item) -> list[dict[str, str]]:
    """The conversation of a chat item."""
    system = [{"role": "system", "content": item.system}] if item.system else []
    return [*system, {"role": "user", "content": item.prompt}]


def build_requests(items: Sequence[Item], tokenize: Tokenize, render: Render, first_id: FirstId) -> PreparedSuite:
    """Items as requests, in the order of their clusters' first items.

    first_id: token put before every text that does not begin with it. None: a text without a prompt gives its first token as the prefix and
    is scored from its second token on.
    Raises InputError for an item with an empty option or too short to score.
    """
    encoded: dict[tuple[str, str], list[Encoded]] = {}
    for item in items:
        prefix, rests = _encode(item, tokenize, render, first_id(chat=item.chat))
        encoded.setdefault((item.suite, item.cluster), []).append((item, prefix, rests))
    requests: list[PreparedRequest] = []
    for group in encoded.values():
        requests += _cheapest(group)
    return PreparedSuite(requests=tuple(requests))


def outcomes(prepared: Sequence[PreparedRequest], results: Sequence[ScoreResult]) -> tuple[Outcome, ...]:
    """Outcomes of the items of `prepared` from the engine's results, in order. A value that is not finite is missing, with the reason."""
    return tuple(_outcome(place, result) for one, result in zip(prepared, results, strict=True) for place in one.places)


def missing(prepared: PreparedRequest, error: str) -> tuple[Outcome, ...]:
    """Outcomes without a value for all items of a request, with the reason."""
    return tuple(
        Outcome(
            item_id=place.item.id,
            suite=place.item.suite,
            cluster=place.item.cluster,
            value=None,
            n_tokens=place.n_tokens,
            group=place.item.group,
            error=error,
        )
        for place in prepared.places
    )


def biased_against(prepared: PreparedSuite, nats: float, *, group: str = "") -> PreparedSuite:
    """A planted control for contrast items: the logits of the tokens that begin their favoured options lowered by `nats`.

    group: only that group's items are kept and biased, what a model that treats one group worse would do; the other groups' outcomes are
    those of the unbiased run. Empty: all contrast items. Raises InputError if no contrast item is left.
    """
    requests: list[PreparedRequest] = []
    for one in prepared.requests:
        for place in one.places:
            if place.item.scorer == "contrast" and (not group or place.item.group == group):
                requests.append(_biased_item(one.request, place, nats))
    if not requests:
        wanted = f" of the group {group!r}" if group else ""
        raise InputError(f"The suite has no contrast item{wanted} to bias; name a group or sub-suite that has.")
    return PreparedSuite(requests=tuple(requests))


def _encode(item: Item, tokenize: Tokenize, render: Render, first: int | None) -> tuple[Ids, list[Ids]]:
    """(shared prefix, what follows for each option); both at least one token long."""
    head = render(messages_of(item)) if item.chat else item.prompt
    base = tuple(tokenize(head, parse_special=item.chat)) if head else ()
    whole = [tuple(tokenize(head + option, parse_special=item.chat)) for option in item.options]
    cut = _agreement([base, *whole]) if head else 0
    cut = min([cut, *(len(ids) - 1 for ids in whole)])
    if first is not None and not all(ids[:1] == (first,) for ids in whole):
        whole = [(first, *ids) for ids in whole]
        cut += 1
    cut = max(cut, 1)
    if len({ids[:cut] for ids in whole}) > 1:
        raise InputError(f"The options of item {item.id!r} of suite {item.suite!r} share no first token; give it a longer prompt.")
    if any(len(ids) <= cut for ids in whole):
        raise InputError(f"Item {item.id!r} of suite {item.suite!r} has an option too short to score; make it at least two tokens long.")
    return whole[0][:cut], [ids[cut:] for ids in whole]


def _agreement(sequences: Sequence[Ids]) -> int:
    """How many leading tokens all sequences share."""
    shortest = min(map(len, sequences))
    for position in range(shortest):
        if len({ids[position] for ids in sequences}) > 1:
            return position
    return shortest


def _cheapest(group: Sequence[Encoded]) -> list[PreparedRequest]:
    """The items of a cluster in one request if they share a beginning and it computes fewer tokens, else one request each."""
    apart = [_request([entry], len(entry[1])) for entry in group]
    shared = _agreement([prefix for _, prefix, _ in group])
    if len(group) == 1 or shared == 0:
        return apart
    together = _request(group, shared)
    return [together] if together.n_tokens < sum(one.n_tokens for one in apart) else apart


def _request(group: Sequence[Encoded], shared: int) -> PreparedRequest:
    """One request for some items of a cluster, whose first `shared` tokens are its prefix."""
    continuations: list[Ids] = []
    watch: list[list[list[int]]] = []
    places: list[ItemPlace] = []
    for item, prefix, rests in group:
        found = _place_options(prefix[shared:], rests, continuations, watch)
        places.append(ItemPlace(item=item, options=found))
    watched = tuple(tuple(tuple(ids) for ids in rows) for rows in watch) if any(ids for rows in watch for ids in rows) else ()
    request = ScoreRequest(prefix_ids=group[0][1][:shared], continuations=tuple(continuations), watch=watched)
    return PreparedRequest(request=request, places=tuple(places))


def _place_options(lead: Ids, rests: Sequence[Ids], continuations: list[Ids], watch: list[list[list[int]]]) -> tuple[OptionPlace, ...]:
    """Add an item's options to the continuations and the watched ids; long ones first, so that short ones can be watched on them."""
    mine: list[tuple[int, Ids]] = []
    found: dict[int, OptionPlace] = {}
    for option in sorted(range(len(rests)), key=lambda index: -len(rests[index])):
        rest = rests[option]
        host = next((where for where, ids in mine if ids[: len(rest) - 1] == rest[:-1]), None)
        if host is None:
            mine.append((len(continuations), rest))
            found[option] = OptionPlace(continuation=len(continuations), first=len(lead), n_tokens=len(rest))
            continuations.append((*lead, *rest))
            watch.append([[] for _ in continuations[-1]])
            continue
        ids = watch[host][len(lead) + len(rest) - 1]
        ids.append(rest[-1])
        found[option] = OptionPlace(continuation=host, first=len(lead), n_tokens=len(rest), watched=len(ids) - 1)
    return tuple(found[option] for option in range(len(rests)))


def _biased_item(request: ScoreRequest, place: ItemPlace, nats: float) -> PreparedRequest:
    """A request cut down to one of its items, the tokens that begin its favoured options lowered by `nats`."""
    kept = sorted({option.continuation for option in place.options})
    options = tuple(replace(option, continuation=kept.index(option.continuation)) for option in place.options)
    biased = replace(
        request,
        continuations=tuple(request.continuations[index] for index in kept),
        watch=tuple(request.watch[index] for index in kept) if request.watch else (),
        logit_bias=tuple((token, -nats) for token in sorted(_telling_ids(request, place))),
    )
    return PreparedRequest(request=biased, places=(replace(place, options=options),))


def _telling_ids(request: ScoreRequest, place: ItemPlace) -> set[int]:
    """For each favoured option, the first token that sets it apart from all other options."""
    every = [_option_ids(request, option) for option in place.options]
    others = [ids for index, ids in enumerate(every) if index not in place.item.favoured]
    favoured = [every[index] for index in place.item.favoured]
    return {ids[min(max(_agreement([ids, other]) for other in others), len(ids) - 1)] for ids in favoured}


def _option_ids(request: ScoreRequest, option: OptionPlace) -> Ids:
    last = option.first + option.n_tokens - 1
    ids = request.continuations[option.continuation][option.first : last + 1]
    return ids if option.watched is None else (*ids[:-1], request.watch[option.continuation][last][option.watched])


def _logprob(option: OptionPlace, result: ScoreResult) -> float:
    """Natural-log probability of an option after its prompt."""
    last = option.first + option.n_tokens - 1
    before = sum(result.logprobs[option.continuation][option.first : last])
    if option.watched is None:
        return before + result.logprobs[option.continuation][last]
    return before + result.watched[option.continuation][last][option.watched]


def _outcome(place: ItemPlace, result: ScoreResult) -> Outcome:
    item = place.item
    logprobs = [_logprob(option, result) for option in place.options]
    per_token = [logprob / option.n_tokens for logprob, option in zip(logprobs, place.options, strict=True)]
    return outcome_of(item, logprobs, per_token, place.n_tokens)


def outcome_of(item: Item, logprobs: Sequence[float], per_unit: Sequence[float], n_tokens: int) -> Outcome:
    """An item's outcome from the log-probabilities of its options.

    logprobs: of each whole option; per_unit: the same by its length, in tokens as a rule; n_tokens: what a text is weighed by
    """
    value, picked, correct = _score(item, logprobs, per_unit)
    finite = math.isfinite(value)
    return Outcome(
        item_id=item.id,
        suite=item.suite,
        cluster=item.cluster,
        value=value if finite else None,
        n_tokens=n_tokens,
        group=item.group,
        picked=picked if finite else None,
        correct=correct if finite else None,
        error="" if finite else "the engine gave a log-probability that is not finite",
        p_options=option_probabilities(logprobs, item.answer) if finite and item.scorer == "margin" else (),
    )


def option_probabilities(logprobs: Sequence[float], right: int) -> tuple[float, ...]:
    """Probability of each option among these, the right one first, from their log-probabilities as a whole (not per token)."""
    total = _log_sum_exp(logprobs)
    shares = [math.exp(value - total) for value in logprobs]
    return shares[right], *(share for index, share in enumerate(shares) if index != right)


def _score(item: Item, logprobs: Sequence[float], per_token: Sequence[float]) -> tuple[float, int | None, bool | None]:
    """(value, picked, correct) by the item's scorer; see core.evidence.Item. NaN if the engine gave one for any option."""
    if any(math.isnan(value) for value in logprobs):
        return math.nan, None, None
    if item.scorer == "nats_per_token":
        return per_token[0], None, None
    if item.scorer == "margin":
        picked = max(range(len(per_token)), key=per_token.__getitem__)
        others = max(value for index, value in enumerate(per_token) if index != item.answer)
        return per_token[item.answer] - others, picked, picked == item.answer
    favoured = _log_sum_exp([value for index, value in enumerate(logprobs) if index in item.favoured])
    rest = _log_sum_exp([value for index, value in enumerate(logprobs) if index not in item.favoured])
    picked = max(range(len(logprobs)), key=logprobs.__getitem__)
    # A counterfactual item has no right answer; a request that should be refused, or answered, has.
    return favoured - rest, picked, None if item.group else favoured > rest


def _log_sum_exp(values: Sequence[float]) -> float:
    peak = max(values)
    if not math.isfinite(peak):
        return peak
    return peak + math.log(sum(math.exp(value - peak) for value in values))
