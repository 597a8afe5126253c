"""What the makers of large models chose, among what they could have chosen: within 10 % of the best by the planner's own clock."""

import sys
from pathlib import Path

import pytest

from trimtab.plan.search.train import search
from trimtab.plan.search.why import why_not

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from parts.planner_runs import PUBLISHED, Published, ask_of


@pytest.mark.parametrize("run", PUBLISHED, ids=lambda run: run.name)
def test_the_authors_layout_is_near_the_best(run: Published) -> None:
    found = search(ask_of(run))
    theirs = why_not(found, run.layout)
    assert found.n_fit >= 5  # there was a choice
    assert theirs.slower is not None, theirs.sentence
    assert theirs.slower <= 0.10, theirs.sentence
    assert found.best[0].job.n_devices == run.n_devices
