"""Which items are for searching, which for certifying, and in which order: by hashes of clusters, so that no cluster is in two parts.

Clusters of a sub-suite are ranked by a hash of their name; a part is a range of ranks. So shares are met to within one cluster in every
sub-suite, and the answer depends on names alone.
"""

import hashlib
import itertools
from collections.abc import Iterable, Sequence

from trimtab.core.errors import InputError
from trimtab.core.evidence import Item
from trimtab.evaluate.requests import PreparedRequest, PreparedSuite


def split(items: Sequence[Item], share_search: float = 0.25) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """(search, certify): disjoint in clusters, each sub-suite of two clusters or more in both; a lone cluster goes to certify.

    Raises InputError for a share outside 0..1.
    """
    if not 0.0 <= share_search <= 1.0:
        raise InputError(f"The share of items for the search must lie between 0 and 1, not {share_search}.")
    ranks = _ranks(((item.suite, item.cluster) for item in items), "split")
    n_clusters = {suite: sum(1 for known, _ in ranks if known == suite) for suite, _ in ranks}

    def searched(item: Item) -> bool:
        n = n_clusters[item.suite]
        n_search = round(share_search * n)
        if 0.0 < share_search < 1.0 and n > 1:
            n_search = min(max(n_search, 1), n - 1)
        elif share_search < 1.0 and n == 1:
            n_search = 0
        return ranks[item.suite, item.cluster] < n_search

    return tuple(item for item in items if searched(item)), tuple(item for item in items if not searched(item))


def interleaved(prepared: PreparedSuite) -> PreparedSuite:
    """The requests in an order any beginning of which is a fair sample of every sub-suite."""
    place = _fractions(prepared)
    ordered = sorted(prepared.requests, key=lambda one: (place[one.suite, one.cluster], one.suite, one.cluster))
    return PreparedSuite(requests=tuple(ordered))


def looks(prepared: PreparedSuite, shares: Sequence[float] = (1 / 3, 2 / 3, 1.0)) -> tuple[PreparedSuite, ...]:
    """Disjoint parts, in the order of the planned looks: look k is made on parts 0..k together, shares[k] of each sub-suite's clusters.

    Raises InputError unless the shares rise to 1.
    """
    if not shares or shares[-1] != 1.0 or shares[0] <= 0.0 or any(b <= a for a, b in itertools.pairwise(shares)):
        raise InputError(f"The shares of the looks must rise from above 0 to 1, not {tuple(shares)}.")
    place = _fractions(prepared)
    parts: list[list[PreparedRequest]] = [[] for _ in shares]
    for one in interleaved(prepared).requests:
        parts[next(index for index, share in enumerate(shares) if place[one.suite, one.cluster] < share)].append(one)
    return tuple(PreparedSuite(requests=tuple(part)) for part in parts)


def _fractions(prepared: PreparedSuite) -> dict[tuple[str, str], float]:
    """Each cluster's rank in its sub-suite as a fraction, at the middle of its step: strictly between 0 and 1."""
    ranks = _ranks(((one.suite, one.cluster) for one in prepared.requests), "order")
    totals: dict[str, int] = {}
    for suite, _ in ranks:
        totals[suite] = totals.get(suite, 0) + 1
    return {key: (rank + 0.5) / totals[key[0]] for key, rank in ranks.items()}


def _ranks(clusters: Iterable[tuple[str, str]], salt: str) -> dict[tuple[str, str], int]:
    """Rank of each (suite, cluster) within its suite by hash. The salt keeps the split and the order independent."""
    by_suite: dict[str, set[str]] = {}
    for suite, cluster in clusters:
        by_suite.setdefault(suite, set()).add(cluster)
    ranks: dict[tuple[str, str], int] = {}
    for suite, names in by_suite.items():
        ordered = sorted(names, key=lambda name: (hashlib.sha256(f"{salt}\0{suite}\0{name}".encode()).digest(), name))
        ranks.update({(suite, name): rank for rank, name in enumerate(ordered)})
    return ranks
