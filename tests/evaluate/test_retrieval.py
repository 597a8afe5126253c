"""Ranks, overlap of rankings and the retrieval suite itself; the embedding policy on planted losses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.evidence import Evidence
from trimtab.decide.decide import decide
from trimtab.decide.policies import load_policy
from trimtab.evaluate.retrieval import Retrieval, found_by, jaccard, load_retrieval, outcomes_of, overlap

WIDTH = 96


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def vectors_of(suite: Retrieval, noise: float, seed: int = 0) -> np.ndarray:
    """Questions near their passages; passages of one topic near each other."""
    random = np.random.default_rng(seed)
    topics = {topic: random.standard_normal(WIDTH) for topic in sorted(set(suite.topics))}
    passages = np.stack([topics[topic] for topic in suite.topics]) + 0.5 * random.standard_normal((len(suite.topics), WIDTH))
    questions = passages[list(suite.right)] + noise * random.standard_normal((len(suite.questions), WIDTH))
    return unit(np.concatenate([questions, passages]))


def test_the_suite_that_ships() -> None:
    suite = load_retrieval()
    assert len(set(suite.topics)) >= 60
    assert len(suite.questions) == len(suite.passages) == len(suite.right) == 2 * len(set(suite.topics))
    assert len(set(suite.texts)) == len(suite.texts)
    for topic, place in zip(suite.topics, suite.right, strict=True):
        assert suite.topics[place] == topic
    shared = [len(set(question.lower().split()) & set(suite.passages[place].lower().split())) / len(question.split())
              for question, place in zip(suite.questions, suite.right, strict=True)]  # fmt: skip
    assert np.mean(shared) < 0.5  # questions are worded otherwise: else counting words would find everything


def test_the_right_passage_ranks_last_among_equals() -> None:
    suite = Retrieval(questions=("a", "b"), passages=("p", "q", "r"), topics=("x", "y"), right=(0, 2))
    assert found_by(suite, np.ones((5, 4), np.float32) / 2).ranks.tolist() == [3, 3]
    vectors = unit(np.array([[1, 0], [0, 1], [1, 0.1], [0.5, 0.5], [1, 0.9]], np.float32))
    found = found_by(suite, vectors)
    assert found.ranks.tolist() == [1, 2]
    assert found.orders[0].tolist() == [0, 2, 1]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), p=st.floats(0.5, 0.98))
def test_overlap_is_the_formula_of_the_paper(seed: int, n: int, p: float) -> None:
    """Webber et al. 2010, equation 32, written out with sets; 1 for equal orders, symmetric."""
    random = np.random.default_rng(seed)
    first, second = random.permutation(n), random.permutation(n)
    agreement = [len(set(first[:d].tolist()) & set(second[:d].tolist())) / d for d in range(1, n + 1)]
    expected = agreement[-1] * p**n + (1 - p) / p * sum(value * p**d for d, value in enumerate(agreement, 1))
    assert overlap(first, second, p=p, depth=n) == pytest.approx(expected, abs=1e-12)
    assert overlap(second, first, p=p, depth=n) == pytest.approx(expected, abs=1e-12)
    assert overlap(first, first, p=p, depth=n) == pytest.approx(1.0, abs=1e-12)


def test_overlap_and_jaccard_of_rankings_without_anything_in_common() -> None:
    one, other = np.arange(20), np.arange(20, 40)
    assert overlap(one, other) == 0.0
    assert jaccard(one, other) == 0.0
    assert jaccard(one, np.concatenate([np.arange(5), other])) == pytest.approx(5 / 15)


def verdicts(candidate: np.ndarray, control: np.ndarray) -> tuple[str, dict[str, str]]:
    suite, rules = load_retrieval(), load_policy("embedding")
    reference = found_by(suite, vectors_of(suite, 0.5))
    planted = outcomes_of(suite, found_by(suite, control), reference)
    decision = decide(
        rules,
        Evidence(
            use="fixed_n",
            reference=outcomes_of(suite, reference, reference),
            candidate=outcomes_of(suite, found_by(suite, candidate), reference),
            controls={gate.name: tuple(one for one in planted if one.suite == gate.suite) for gate in rules.gates},
            noise={"again": outcomes_of(suite, found_by(suite, vectors_of(suite, 0.5)), reference)},
        ),
    )
    return decision.verdict, {gate.name: gate.verdict for gate in decision.gates}


def test_the_policy_passes_what_is_nearly_the_same_and_fails_what_finds_less() -> None:
    suite = load_retrieval()
    same, bad = vectors_of(suite, 0.5), vectors_of(suite, 10.0, seed=1)
    near = unit(same + 0.005 * np.random.default_rng(2).standard_normal(same.shape))
    verdict, gates = verdicts(near, bad)
    assert (verdict, set(gates.values())) == ("pass", {"pass"})
    verdict, gates = verdicts(bad, bad)
    assert verdict == "fail"
    assert gates == {"rank": "fail", "found": "fail", "order": "inconclusive", "vector": "inconclusive"}  # another order is no worse one


def test_without_a_control_that_fails_nothing_passes() -> None:
    same = vectors_of(load_retrieval(), 0.5)
    assert verdicts(same, same)[0] == "inconclusive"


def test_a_model_of_another_width_is_judged_by_what_it_finds() -> None:
    suite = load_retrieval()
    same = vectors_of(suite, 0.5)
    wider = np.concatenate([same, np.zeros((len(same), 8), np.float32)], axis=1)
    verdict, gates = verdicts(wider, vectors_of(suite, 10.0, seed=1))
    assert (verdict, gates["vector"]) == ("pass", "inconclusive")
