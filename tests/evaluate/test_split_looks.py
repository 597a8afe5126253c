"""Splits and looks keep clusters whole and shares even."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.core.evidence import Item
from trimtab.evaluate.requests import PreparedSuite, build_requests
from trimtab.evaluate.split import interleaved, looks, split
from trimtab.testing.fake_client import fake_render, fake_tokenize

SHAPES = st.dictionaries(st.sampled_from(["text", "choice", "mine"]), st.lists(st.integers(1, 5), min_size=1, max_size=30), min_size=1)


def items_of(shape: dict[str, list[int]]) -> list[Item]:
    """One entry a cluster: how many items it has."""
    return [
        Item(
            id=f"{suite}-{cluster}-{n}",
            suite=suite,
            cluster=f"c{cluster}",
            scorer="nats_per_token",
            prompt=f"{suite}{cluster}{n}",
            options=(" x",),
        )
        for suite, sizes in shape.items()
        for cluster, size in enumerate(sizes)
        for n in range(size)
    ]


def prepared_of(shape: dict[str, list[int]]) -> PreparedSuite:
    return build_requests(items_of(shape), fake_tokenize, fake_render, lambda *, chat: None)


def clusters(items: tuple[Item, ...] | list[Item]) -> set[tuple[str, str]]:
    return {(item.suite, item.cluster) for item in items}


@given(SHAPES, st.floats(0.05, 0.95))
def test_split_parts_are_disjoint_complete_and_near_their_share(shape: dict[str, list[int]], share: float) -> None:
    items = items_of(shape)
    search, certify = split(items, share)
    assert not clusters(search) & clusters(certify)
    assert sorted(item.id for item in (*search, *certify)) == sorted(item.id for item in items)
    for suite, sizes in shape.items():
        n = len({cluster for name, cluster in clusters(search) if name == suite})
        assert abs(n - share * len(sizes)) <= 1.0
        if len(sizes) > 1:
            assert 0 < n < len(sizes)


@given(SHAPES, st.randoms(use_true_random=False))
def test_split_does_not_depend_on_the_order_of_items(shape: dict[str, list[int]], rng: object) -> None:
    items = items_of(shape)
    shuffled = list(items)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert {item.id for item in split(items)[0]} == {item.id for item in split(shuffled)[0]}


def test_a_lone_cluster_is_certified() -> None:
    search, certify = split(items_of({"mine": [3]}))
    assert (len(search), len(certify)) == (0, 3)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_zero_to_one_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        split(items_of({"text": [1, 1]}), share)


@given(SHAPES)
def test_looks_are_disjoint_complete_and_rise_with_their_shares(shape: dict[str, list[int]]) -> None:
    prepared = prepared_of(shape)
    shares = (1 / 3, 2 / 3, 1.0)
    parts = looks(prepared, shares)
    assert [one for part in parts for one in part.requests] == list(interleaved(prepared).requests)
    seen: set[tuple[str, str]] = set()
    for part, share in zip(parts, shares, strict=True):
        new = clusters(part.items)
        assert not new & seen
        seen |= new
        for suite, sizes in shape.items():
            n = len([1 for name, _ in seen if name == suite])
            assert abs(n - share * len(sizes)) <= 1.0


@given(SHAPES)
def test_any_beginning_of_the_order_is_a_fair_sample(shape: dict[str, list[int]]) -> None:
    order = interleaved(prepared_of(shape)).requests
    half = clusters([place.item for one in order[: len(order) // 2] for place in one.places])
    shares = [len([1 for name, _ in half if name == suite]) / len(sizes) for suite, sizes in shape.items() if len(sizes) >= 15]
    if len(shares) > 1 and all(size == 1 for sizes in shape.values() for size in sizes):
        assert max(shares) - min(shares) <= 0.2


@pytest.mark.parametrize("shares", [(), (0.5,), (0.7, 0.3, 1.0), (0.0, 1.0)])
def test_looks_must_rise_to_one(shares: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="rise"):
        looks(prepared_of({"text": [1, 1]}), shares)


def test_split_and_order_are_independent() -> None:
    """Else every search cluster would come first in the order, and a look would be a split."""
    shape = {"text": [1] * 200}
    search, _ = split(items_of(shape), 0.5)
    first = looks(prepared_of(shape), (0.5, 1.0))[0].items
    assert 30 < len(clusters(search) & clusters(first)) < 70
