"""Sequences out of documents, against a version that goes token by token."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.train.batch import MicroBatch
from trimtab.train.data.packing import Packing, ShardArrays, empty_batch, packed_count, padded_counts
from trimtab.train.data.shards import content_digest, counted


@dataclass(frozen=True)
class Case:
    documents: list[list[tuple[int, int]]]  # (token, learnt)
    weights: list[float]
    arrays: ShardArrays


@st.composite
def cases(draw: st.DrawFn) -> Case:
    token = st.tuples(st.integers(0, 299), st.integers(0, 1))
    documents = draw(st.lists(st.lists(token, min_size=1, max_size=12), min_size=1, max_size=8))
    weights = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=len(documents), max_size=len(documents)))
    flat = [pair for document in documents for pair in document]
    arrays = ShardArrays(
        tokens=np.array([token for token, _ in flat], dtype=np.uint16),
        starts=np.cumsum([0, *map(len, documents)]).astype(np.int64),
        learnt=np.array([learnt for _, learnt in flat], dtype=np.uint8),
        weights=np.array(weights, dtype=np.float32),
    )
    return Case(documents, weights, arrays)


def filled(case: Case, seq_tokens: int, *, padded: bool, masked: bool) -> MicroBatch:
    n = int(sum(padded_counts(np.diff(case.arrays.starts), seq_tokens))) if padded else packed_count(len(case.arrays.tokens), seq_tokens)
    batch = empty_batch(n, seq_tokens)
    packing = Packing(case.arrays, seq_tokens=seq_tokens, padded=padded, mask_documents=masked)
    for row in range(n):
        packing.fill(row, row, batch)
    return batch


def plainly(case: Case, seq_tokens: int, *, padded: bool, masked: bool) -> list[list[tuple[int, int, float, int, int]]]:
    """Rows of (input, target, weight, position, document), without the padding."""
    whole = [(token, learnt, number) for number, document in enumerate(case.documents) for token, learnt in document]
    runs = [[item for item in whole if item[2] == number] for number in range(len(case.documents))] if padded else [whole]
    rows = []
    for run in runs:
        for begin in range(0, len(run) - 1, seq_tokens):
            row: list[tuple[int, int, float, int, int]] = []
            position, numbers = 0, [run[begin][2]]
            for at in range(begin, min(begin + seq_tokens, len(run) - 1)):
                (token, _, document), (target, learnt, of_target) = run[at], run[at + 1]
                if document != numbers[-1]:
                    numbers.append(document)
                    position = 0 if masked else position
                weight = case.weights[of_target] * learnt * (not masked or document == of_target)
                row.append((token, target if weight else 0, weight, position, len(numbers) - 1 if masked else 0))
                position += 1
            rows.append(row)
    return rows


@given(case=cases(), seq_tokens=st.integers(1, 20), padded=st.booleans(), masked=st.booleans())
@settings(max_examples=120, deadline=None)
def test_as_token_by_token(case: Case, seq_tokens: int, padded: bool, masked: bool) -> None:
    batch = filled(case, seq_tokens, padded=padded, masked=masked)
    rows = plainly(case, seq_tokens, padded=padded, masked=masked)
    assert len(batch.input_ids) == len(rows)
    fields = (batch.input_ids, batch.target_ids, batch.weights, batch.position_ids, batch.document_ids)
    for number, row in enumerate(rows):
        found = list(zip(*(field[number, : len(row)].tolist() for field in fields), strict=True))
        assert found == row
        assert (batch.document_ids[number, len(row) :] == -1).all()
        assert not any(field[number, len(row) :].any() for field in fields[:4])


@given(case=cases(), seq_tokens=st.integers(1, 20), padded=st.booleans(), masked=st.booleans())
@settings(max_examples=80, deadline=None)
def test_the_targets_of_an_epoch_are_known_before_it(case: Case, seq_tokens: int, padded: bool, masked: bool) -> None:
    n_targets, n_first = counted(case.arrays)
    batch = filled(case, seq_tokens, padded=padded, masked=masked)
    assert int((batch.weights > 0).sum()) == n_targets + n_first * (not masked and not padded)


@given(case=cases())
@settings(max_examples=40, deadline=None)
def test_content_has_one_digest_and_other_content_another(case: Case) -> None:
    arrays = case.arrays
    assert content_digest(arrays) == content_digest(ShardArrays(**vars(arrays)))
    assert arrays.weights is not None
    assert arrays.learnt is not None
    others = [
        {"tokens": arrays.tokens + 1},
        {"tokens": arrays.tokens.astype(np.uint32)},
        {"learnt": 1 - arrays.learnt},
        {"learnt": None},
        {"weights": arrays.weights + 1},
        {"weights": None},
        {"starts": np.append(arrays.starts, arrays.starts[-1])},
    ]
    assert content_digest(arrays) not in [content_digest(ShardArrays(**vars(arrays) | other)) for other in others]
