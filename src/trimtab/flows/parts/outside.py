"""Items of another tool, which asks the engine by itself and judges answers by its own rules: `--suite lm-eval:arc_easy,bbq`.

What stands before the colon is an entry point of the group trimtab.outside; it is called with what stands after it (`text`, and `offline`)
and gives an OutsideSuite.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol

from trimtab.core.deployment import Candidate
from trimtab.core.errors import InputError
from trimtab.core.evidence import Item, Outcome
from trimtab.flows.parts.exam import Exam, suite_names
from trimtab.flows.parts.outcome_keys import SCORER_VERSION
from trimtab.flows.parts.session import Session

ENTRY_POINTS = "trimtab.outside"
Progress = Callable[[int, int], None]
"""Called with (requests done, requests in all); may raise to stop the work."""


class OutsideSuite(Protocol):
    """name, version: as documents tell them. digest: of all that is asked and how it is judged. items: id -> item, for their texts."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def items(self) -> Mapping[str, Item]: ...

    def score(self, candidate: Candidate, on_progress: Progress) -> tuple[Sequence[Outcome], Mapping[str, str]]:
        """Outcomes of all items, and each sub-suite's unit of values. Opens the engine itself. Raises InputError, InfeasibleError."""
        ...


def split_names(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """(suites of trimtab, of other tools). Names stand with commas; those that follow a tool's name and colon are all the tool's."""
    tools = sorted({point.name for point in entry_points(group=ENTRY_POINTS)})
    own: list[str] = []
    others: list[str] = []
    for text in texts:
        places = [place for tool in tools if (place := f",{text}".find(f",{tool}:")) >= 0]
        first = min(places, default=len(text))
        own += suite_names([head]) if (head := text[:first].strip(",")) else []
        others += [text[first:]] if places else []
    return own, others


def load_outside(name: str, *, offline: bool) -> OutsideSuite:
    """`lm-eval:arc_easy,bbq`, of an installed tool. Raises InputError, MissingError."""
    tool, _, text = name.partition(":")
    (point, *_) = entry_points(group=ENTRY_POINTS, name=tool)
    suite: OutsideSuite = point.load()(text, offline=offline)
    return suite


def check_names(suites: Sequence[OutsideSuite], exam: Exam) -> None:
    """Sub-suites are told apart by name. Raises InputError for a name that two have."""
    taken = {item.suite: exam.name for item in exam.items.values()}
    for suite in suites:
        mine = {item.suite for item in suite.items.values()}
        for name in sorted(mine & taken.keys()):
            raise InputError(f"{suite.name} and {taken[name]} both have items called {name!r}; ask for them in two runs.")
        taken |= dict.fromkeys(mine, suite.name)


async def outside_outcomes(
    session: Session, candidate: Candidate, suites: Sequence[OutsideSuite], *, what: str
) -> tuple[tuple[Outcome, ...], dict[str, str]]:
    """Outcomes on all these suites and units by sub-suite, from the cache if this deployment's numerics were ever scored on them."""
    outcomes: list[Outcome] = []
    units: dict[str, str] = {}
    for suite in suites:
        found = await _once(session, candidate, suite, f"{what}: {suite.name}")
        outcomes += [Outcome(**{**row, "p_options": tuple(row["p_options"])}) for row in found["outcomes"]]
        units |= found["units"]
    return tuple(outcomes), units


async def _once(session: Session, candidate: Candidate, suite: OutsideSuite, what: str) -> dict[str, Any]:
    stop = threading.Event()

    def progress(done: int, total: int) -> None:
        if stop.is_set():
            raise InputError("The run was stopped.")  # nobody waits for it any more: the thread ends at its next step
        session.say("evaluate", what, done, total)

    async def compute() -> Any:
        await session.workers.end_all()  # the tool opens the engine again: the weights need not lie in memory twice
        try:
            outcomes, units = await asyncio.to_thread(suite.score, candidate, progress)
        finally:
            stop.set()
        return {"outcomes": outcomes, "units": units}

    key = [candidate.numeric_sha256, suite.digest, SCORER_VERSION]
    found: dict[str, Any] = await session.once("outside", key, compute)
    return found
