"""The order: every sequence once an epoch, and the same batches on any number of processes."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.train.data.order import WINDOW_SHARDS, Order, batch_of_step, permutation, positions_of

counts = st.lists(st.integers(0, 7), min_size=1, max_size=45).filter(any)


@given(counts=counts, seed=st.integers(-3, 10**12), epoch=st.integers(0, 10**6), shuffle=st.booleans())
@settings(max_examples=80, deadline=None)
def test_each_sequence_comes_once_an_epoch(counts: list[int], seed: int, epoch: int, shuffle: bool) -> None:
    order = Order(counts, shuffle=shuffle, seed=seed)
    positions = np.arange(epoch * order.n_sequences, (epoch + 1) * order.n_sequences)
    shards, rows = order.locate(positions)
    assert (rows < np.array(counts)[shards]).all()
    numbers = order.numbers(shards, rows)
    assert sorted(numbers) == list(range(order.n_sequences))
    if not shuffle:
        assert list(numbers) == list(range(order.n_sequences))


@given(counts=counts, seed=st.integers(0, 99), starts=st.lists(st.integers(0, 400), min_size=1, max_size=5), n=st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_a_position_is_found_without_those_before_it(counts: list[int], seed: int, starts: list[int], n: int) -> None:
    whole = Order(counts, shuffle=True, seed=seed).locate(np.arange(450))
    here = Order(counts, shuffle=True, seed=seed)
    for start in starts:
        shards, rows = here.locate(np.arange(start, start + n))
        assert (shards == whole[0][start : start + n]).all()
        assert (rows == whole[1][start : start + n]).all()


@given(counts=counts, position=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_the_shards_at_hand_are_those_needed_and_few(counts: list[int], position: int) -> None:
    order = Order(counts, shuffle=True, seed=5)
    now, next_ = order.shards_from(position)
    assert int(order.locate(np.array([position]))[0][0]) in now
    assert len(now) <= WINDOW_SHARDS
    end = position
    while int(order.locate(np.array([end]))[0][0]) in now and end < position + 2 * order.n_sequences:
        end += 1
    if end < position + 2 * order.n_sequences:  # the first shard of another window is one of the next
        assert int(order.locate(np.array([end]))[0][0]) in next_


def test_epochs_and_seeds_differ_and_are_far_from_the_files_order() -> None:
    order = Order([500] * 3, shuffle=True, seed=0)
    first, second = (order.numbers(*order.locate(np.arange(e * 1500, (e + 1) * 1500))) for e in (0, 1))
    other = Order([500] * 3, shuffle=True, seed=1)
    third = other.numbers(*other.locate(np.arange(1500)))
    for one, two in itertools.combinations([first, second, third, np.arange(1500)], 2):
        assert abs(np.corrcoef(one, two)[0, 1]) < 0.13  # 5 standard errors of an uncorrelated pair


def test_an_order_stays_what_it_was() -> None:
    """A run that is taken up under another version must go on where it was: these numbers may never change."""
    assert permutation(8, 0, "sequences/0/0").tolist() == [3, 5, 1, 2, 4, 7, 6, 0]
    order = Order([3, 4, 2], shuffle=True, seed=7)
    assert order.numbers(*order.locate(np.arange(12))).tolist() == [0, 3, 5, 1, 6, 2, 7, 8, 4, 1, 4, 2]


@given(world=st.integers(1, 6), accum=st.integers(1, 5), seqs=st.integers(1, 4), batch=st.integers(0, 10**9))
def test_processes_share_a_batch(world: int, accum: int, seqs: int, batch: int) -> None:
    size = world * accum * seqs
    parts = [positions_of(batch, rank=rank, world=world, micro_batch_seqs=seqs, grad_accum=accum) for rank in range(world)]
    assert all(part.shape == (accum, seqs) for part in parts)
    assert sorted(np.concatenate(parts, axis=None)) == list(range(batch * size, (batch + 1) * size))


@given(left=st.sets(st.integers(0, 30)), n=st.integers(1, 40))
def test_left_out_batches_are_the_only_ones_that_never_come(left: set[int], n: int) -> None:
    kept = [batch for batch in range(n + len(left) + 1) if batch not in left]
    assert [batch_of_step(step, left) for step in range(n)] == kept[:n]
