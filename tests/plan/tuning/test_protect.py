"""Which groups of weights to keep: the cheapest that give back enough of every gate's loss."""

import pytest

from trimtab.plan.tuning.protect import Sensitivity, protect


def group(name: str, mb: float, **gains: float) -> Sensitivity:
    return Sensitivity(group=name, type_name="keep", extra_bytes=int(mb * 1e6), gains=gains)


def test_the_cheapest_groups_that_give_back_enough() -> None:
    rows = [group("a", 10, fair=0.8), group("b", 1, fair=0.9), group("c", 1, fair=0.3)]
    found = protect(rows, {"fair": 0.8})
    assert found is not None
    assert dict(found.groups) == {"b": "keep", "c": "keep"}, "half of the gains for 2 MB; a alone would cost 10"
    assert found.extra_bytes == 2_000_000
    assert found.shares["fair"] == pytest.approx(0.4)


def test_a_larger_loss_keeps_more() -> None:
    rows = [group("a", 10, fair=0.8), group("b", 1, fair=0.9), group("c", 1, fair=0.3)]
    found = protect(rows, {"fair": 2.5})  # down to half a margin: a fifth of the gains may be given up
    assert found is not None
    assert set(found.groups) == {"a", "b"}


def test_every_gate_keeps_to_its_target() -> None:
    rows = [group("a", 5, fair=1.0, text=0.0), group("b", 5, fair=0.0, text=1.0), group("c", 1, fair=0.2, text=0.2)]
    found = protect(rows, {"fair": 0.6, "text": 0.6})
    assert found is not None
    assert set(found.groups) >= {"a", "b"}
    assert max(found.shares.values()) <= 0.5
    alone = protect(rows, {"fair": 0.6, "text": 0.0})
    assert alone is not None
    assert "b" not in alone.groups, "a gate that is not off asks for nothing"


def test_what_makes_it_worse_counts_as_no_gain() -> None:
    found = protect([group("a", 1, fair=-3.0), group("b", 1, fair=0.2)], {"fair": 1.0})
    assert found is not None
    assert set(found.groups) == {"b"}


def test_where_no_group_helps_none_is_kept() -> None:
    assert protect([group("a", 1, fair=0.0), group("b", 1, fair=-1.0)], {"fair": 1.0}) is None
    assert protect([group("a", 1, fair=1.0)], {"fair": 0.0}) is None
    assert protect([group("a", 1, fair=1.0, text=0.0)], {"fair": 1.0, "text": 1.0}) is None, "nothing mends the text"
