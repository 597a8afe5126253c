"""The retrieval suite and what is measured on it: ranks of the right passage, and how alike two models' orders and vectors are.

Each topic has two passages on one subject and a question for each; a question is put to the passages of all topics. Topics are the clusters
of every interval: what is hard about one subject is hard for both of its questions.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.core.evidence import Outcome
from trimtab.core.files import digest_of

SUITE_FILE = Path(__file__).parent / "suites" / "retrieval" / "topics.toml"
VERSION = "1"
FOUND_AMONG = 3
"""Places at the top within which the right passage counts as found."""
PERSISTENCE = 0.9
"""Of rank-biased overlap: the first ten places carry 86 % of the weight."""
DEPTH = 50
JACCARD_AMONG = 10
Vectors = npt.NDArray[np.float32]
Ranking = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """topics: of each question and, twice over, of each passage; right: the place of each question's passage"""

    questions: tuple[str, ...]
    passages: tuple[str, ...]
    topics: tuple[str, ...]
    right: tuple[int, ...]

    @property
    def digest(self) -> str:
        return digest_of([VERSION, self.questions, self.passages, self.topics, self.right])

    @property
    def texts(self) -> tuple[str, ...]:
        """What is embedded: questions, then passages."""
        return (*self.questions, *self.passages)


@cache
def load_retrieval() -> Retrieval:
    """The suite that ships."""
    topics: list[dict[str, Any]] = tomllib.loads(SUITE_FILE.read_text(encoding="utf-8"))["topic"]
    return Retrieval(
        questions=tuple(question for topic in topics for question in topic["questions"]),
        passages=tuple(passage for topic in topics for passage in topic["passages"]),
        topics=tuple(topic["id"] for topic in topics for _ in topic["questions"]),
        right=tuple(range(sum(len(topic["questions"]) for topic in topics))),
    )


@dataclass(frozen=True, kw_only=True)
class Found:
    """One model on the suite. vectors: unit, of Retrieval.texts; orders: [questions, passages], best first; ranks: of the right passages"""

    vectors: Vectors
    orders: Ranking
    ranks: Ranking


def found_by(suite: Retrieval, vectors: Vectors) -> Found:
    """Passages by cosine. Of equal ones the right one ranks last, so that a model that sees no difference finds nothing."""
    n = len(suite.questions)
    scores = vectors[:n].astype(np.float64) @ vectors[n:].astype(np.float64).T
    right = np.array(suite.right)
    own = scores[np.arange(n), right][:, None]
    ranks = (scores >= own).sum(1)
    return Found(vectors=vectors, orders=np.argsort(-scores, axis=1, kind="stable"), ranks=ranks)


def overlap(first: Sequence[int] | Ranking, second: Sequence[int] | Ranking, *, p: float = PERSISTENCE, depth: int = DEPTH) -> float:
    """Rank-biased overlap of two rankings, extrapolated beyond `depth`; 1 = the same order (Webber, Moffat, Zobel 2010, equation 32)."""
    depth = min(depth, len(first), len(second))
    seen: set[int] = set()
    shared, total = 0, 0.0
    for place in range(depth):
        for item in (int(first[place]), int(second[place])):
            shared += item in seen
            seen.add(item)
        total += shared / (place + 1) * p ** (place + 1)
    return shared / depth * p**depth + (1 - p) / p * total


def jaccard(first: Ranking, second: Ranking, *, among: int = JACCARD_AMONG) -> float:
    """Share of passages that both have in their first places, of those that either has."""
    a, b = set(first[:among].tolist()), set(second[:among].tolist())
    return len(a & b) / len(a | b)


def outcomes_of(suite: Retrieval, found: Found, reference: Found) -> tuple[Outcome, ...]:
    """Values by sub-suite: `rank` (reciprocal rank), `found` (1 or 0), `order` (overlap with the reference) and `vector` (cosine to its).

    Of the reference itself the last two are 1; without the last where vectors have another width.
    """
    outcomes: list[Outcome] = []
    for place, (topic, rank) in enumerate(zip(suite.topics, found.ranks.tolist(), strict=True)):
        same = found is reference
        values = {
            "rank": 1.0 / rank,
            "found": float(rank <= FOUND_AMONG),
            "order": 1.0 if same else overlap(found.orders[place], reference.orders[place]),
        }
        for name, value in values.items():
            correct = rank == 1 if name == "rank" else bool(value) if name == "found" else None
            outcomes.append(Outcome(item_id=f"{name}/{topic}/{place}", suite=name, cluster=topic, value=value, n_tokens=1, correct=correct))
    if found.vectors.shape != reference.vectors.shape:  # another model: its vectors lie in a space of their own
        return tuple(outcomes)
    cosines = (found.vectors.astype(np.float64) * reference.vectors.astype(np.float64)).sum(1)
    for place, (cosine, topic) in enumerate(zip(cosines.tolist(), suite.topics * 2, strict=True)):
        value = 1.0 if found is reference else cosine
        outcomes.append(Outcome(item_id=f"vector/{topic}/{place}", suite="vector", cluster=topic, value=value, n_tokens=1))
    return tuple(outcomes)
