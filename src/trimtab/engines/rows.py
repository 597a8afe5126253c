"""Score requests as rows of tokens that are computed beside each other: what engines that take a batch of sequences share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trimtab.engines.tally import Place, Tally

MOST_PADDING = 0.2
"""A row joins others only if padding stays below this share of the tokens."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Tokens that are computed as one sequence. places: for each of the last tokens, what it predicts; branches: that follow later"""

    tally: Tally
    ids: tuple[int, ...]
    places: tuple[tuple[Place, ...], ...]
    branches: tuple[int, ...] = ()


def rows_of(tally: Tally, *, shares: bool) -> Iterator[Row]:
    """The rows of one request.

    shares: the prefix is a row of its own, on which continuations of two tokens and more follow later. Else each of these is a row with the
    prefix before it, and the first of them also tells of the continuations of one token, which the prefix predicts.
    """
    request = tally.request
    prefix = request.prefix_ids
    single = tuple((branch, 0) for branch, ids in enumerate(request.continuations) if len(ids) == 1)
    longer = tuple(branch for branch, ids in enumerate(request.continuations) if len(ids) > 1)
    if shares and len(request.continuations) > 1:
        yield Row(tally=tally, ids=prefix, places=(tuple((branch, 0) for branch in range(len(request.continuations))),), branches=longer)
        return
    if not longer:
        yield Row(tally=tally, ids=prefix, places=(single,))
    for branch in longer:
        ids = request.continuations[branch]
        first = ((branch, 0), *single) if branch == longer[0] else ((branch, 0),)
        yield Row(tally=tally, ids=(*prefix, *ids[:-1]), places=(first, *(((branch, place),) for place in range(1, len(ids)))))


def groups_of(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[Row]]:
    """Rows that are computed together: of about the same length, and of one kind. batch_tokens: 0 = each alone"""
    for kind in (False, True):
        group: list[Row] = []
        n_tokens = 0
        for row in sorted((row for row in rows if bool(row.branches) == kind), key=lambda row: -len(row.ids)):
            padded = (len(group) + 1) * len(group[0].ids) if group else 0
            if group and (padded > batch_tokens or padded - n_tokens - len(row.ids) > MOST_PADDING * padded):
                yield group
                group, n_tokens = [], 0
            group.append(row)
            n_tokens += len(row.ids)
        if group:
            yield group
