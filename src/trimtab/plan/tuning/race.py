"""Which of many combinations of engine, recipe and settings is fastest, found with few short turns.

Engines first, because they matter most, then weights, then settings one at a time from the best so far, then the leaders again with more
turns each (successive halving; Jamieson & Talwalkar, AISTATS 2016). The search is a generator: it says what to time next and is told what
was seen, so the same code runs on a real machine, on a table of known times, and in a simulation. There is no randomness in it.

Spaces here are small (tens to hundreds of points) and nearly additive on the log scale: what a setting gains hardly depends on the
weights. A model-based optimiser has too few trials to learn more than that.
"""

import itertools
import math
import statistics
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ENGINE_GAP = 0.4
"""An engine whose best first recipe is this far behind the best one, in log units (1.5 times), is not looked at further."""
WORTH = 0.02
"""A setting is changed for a gain of more than this, in log units: less cannot be told apart by a short turn."""
N_CLIMBS = 2
"""How many combinations of engine and recipe have their settings searched."""
RUNGS = ((4, 2), (2, 6))
"""(how many go on, turns each) of the final halving."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One combination. settings: (name, value) pairs beyond the common ones, sorted by name."""

    engine: str
    recipe: str
    settings: tuple[tuple[str, Any], ...] = ()

    def changed(self, name: str, value: Any) -> "Point":
        """The same with one setting set."""
        return Point(engine=self.engine, recipe=self.recipe, settings=tuple(sorted({**dict(self.settings), name: value}.items())))


@dataclass(frozen=True, kw_only=True)
class Space:
    """What may be combined.

    recipes: by engine, the most promising first
    axes: by engine, setting -> values besides leaving it at its default, in the order to try them
    """

    recipes: Mapping[str, Sequence[str]]
    axes: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)

    def points(self) -> list[Point]:
        """All of them."""
        found = []
        for engine, recipes in self.recipes.items():
            axes = self.axes.get(engine, {})
            choices = [[None, *((name, value) for value in values)] for name, values in axes.items()]
            for recipe, picked in itertools.product(recipes, itertools.product(*choices)):
                found.append(Point(engine=engine, recipe=recipe, settings=tuple(sorted(pair for pair in picked if pair is not None))))
        return found


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Time this point for so many more turns."""

    point: Point
    turns: int = 1


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What came of it.

    gains: a number a turn, log of how many times faster than the baseline beside it; why: it cannot run, or must not win
    """

    gains: tuple[float, ...] = ()
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Points that were not timed, and the reason."""

    n_points: int
    why: str


@dataclass(frozen=True, kw_only=True)
class RaceResult:
    """best: None if nothing can run; gains: median over turns of each point that was timed; turns: how often each was timed

    infeasible: by point, the reason; skipped: the rest of the space, each point counted once
    """

    best: Point | None
    gains: Mapping[Point, float]
    turns: Mapping[Point, int]
    infeasible: Mapping[Point, str]
    skipped: tuple[Skipped, ...]


Race = Generator[Ask, Seen | None, RaceResult]
"""Sending None says that time is over: the race ends with what is known."""


def race(space: Space, rungs: Sequence[tuple[int, int]] = RUNGS) -> Race:
    """Run the search; see the module. What is sent back answers the last Ask. rungs: () where the leaders are timed by other means."""
    board = _Board(space=space)
    try:
        yield from _engines(board)
        yield from _recipes(board)
        for start in board.leaders(N_CLIMBS, plain=True):
            yield from _climb(board, start)
        for n_points, turns in rungs:
            board.finalists = board.leaders(n_points)
            for point in board.finalists:
                yield from board.look(point, turns)
    except _TimeOver:
        board.time_over = True
    return board.result()


async def drive(steps: Race, answer: Callable[[Ask], Awaitable[Seen | None]]) -> RaceResult:
    """Run a race to its end: `answer` times what is asked for."""
    try:
        ask = next(steps)
        while True:
            ask = steps.send(await answer(ask))
    except StopIteration as end:
        result: RaceResult = end.value
        return result


class _TimeOver(Exception):
    """The caller has no time for another turn."""


@dataclass(kw_only=True)
class _Board:
    """What is known so far.

    closed: (engine, setting, value) that could not run, with the reason; gone: engines given up
    finalists: who goes on in the final halving; whoever is out stays out, however lucky its few turns were
    """

    space: Space
    seen: dict[Point, list[float]] = field(default_factory=dict)
    infeasible: dict[Point, str] = field(default_factory=dict)
    closed: dict[tuple[str, str, Any], str] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)
    finalists: list[Point] = field(default_factory=list)
    time_over: bool = False

    def look(self, point: Point, turns: int = 1) -> Generator[Ask, Seen | None, float]:
        """Ask for turns and keep them; the gain so far, minus infinity where it cannot run."""
        if point in self.infeasible:
            return float("-inf")
        answer = yield Ask(point=point, turns=turns)
        if answer is None:
            raise _TimeOver
        if answer.why:
            self.infeasible[point] = answer.why
            self.seen.pop(point, None)
            return float("-inf")
        self.seen.setdefault(point, []).extend(answer.gains)
        return self.gain(point)

    def gain(self, point: Point) -> float:
        """The median of its turns: a turn may stall for reasons that are not its own."""
        gains = self.seen.get(point, [])
        return statistics.median(gains) if gains else float("-inf")

    def leaders(self, n_points: int, *, plain: bool = False) -> list[Point]:
        """The best so far, of the finalists once there are any; `plain`: of those without settings."""
        running = [point for point in self.finalists if point in self.seen] or list(self.seen)
        known = [point for point in running if not (plain and point.settings)]
        return sorted(known, key=self.gain, reverse=True)[:n_points]

    def result(self) -> RaceResult:
        counted: dict[str, int] = {}
        for point in self.space.points():
            if point not in self.seen and point not in self.infeasible:
                why = self._why_skipped(point)
                counted[why] = counted.get(why, 0) + 1
        best = self.leaders(1)
        return RaceResult(
            best=best[0] if best else None,
            gains={point: self.gain(point) for point in self.seen},
            turns={point: len(gains) for point, gains in self.seen.items()},
            infeasible=dict(self.infeasible),
            skipped=tuple(Skipped(n_points=n, why=why) for why, n in counted.items()),
        )

    def _why_skipped(self, point: Point) -> str:
        for name, value in point.settings:
            if why := self.closed.get((point.engine, name, value)):
                return f"{point.engine} with {name}={value} cannot be used: {why}"
        if why := self.gone.get(point.engine):
            return why
        plain = Point(engine=point.engine, recipe=point.recipe)
        if plain in self.infeasible:
            return f"{point.engine} {point.recipe} cannot be used: {self.infeasible[plain]}"
        if self.time_over:
            return "The time limit left no room for them."
        return (
            "Settings were changed one at a time from the best so far; further combinations, and settings of slower recipes, were left out."
        )


def _engines(board: _Board) -> Generator[Ask, Seen | None, None]:
    """The first recipe of each engine that can run; engines far behind are given up."""
    first: dict[str, float] = {}
    for engine, recipes in board.space.recipes.items():
        for recipe in recipes:
            gain = yield from board.look(Point(engine=engine, recipe=recipe))
            if gain > float("-inf"):
                first[engine] = gain
                break
    best = max(first.values(), default=0.0)
    for engine, gain in first.items():
        if best - gain > ENGINE_GAP:
            board.gone[engine] = f"{engine} was {_times(best - gain)} slower than the best engine with its most promising recipe."


def _recipes(board: _Board) -> Generator[Ask, Seen | None, None]:
    """The other recipes of the engines that are left, engines in turns."""
    left = [
        [Point(engine=engine, recipe=name) for name in names] for engine, names in board.space.recipes.items() if engine not in board.gone
    ]
    for column in itertools.zip_longest(*left):
        for point in column:
            if point is not None and point not in board.seen and point not in board.infeasible:
                yield from board.look(point)


def _climb(board: _Board, start: Point) -> Generator[Ask, Seen | None, None]:
    """Settings one at a time; each gain is kept and the next axis goes on from there."""
    at = start
    for name, values in board.space.axes.get(start.engine, {}).items():
        best, best_gain = at, board.gain(at)
        for value in values:
            if (start.engine, name, value) in board.closed:
                continue
            tried = at.changed(name, value)
            gain = board.gain(tried) if tried in board.seen else (yield from board.look(tried))
            if tried in board.infeasible:
                # It differs from one that runs by this one value only.
                board.closed[start.engine, name, value] = board.infeasible[tried]
            elif gain > best_gain + WORTH:
                best, best_gain = tried, gain
        at = best


def _times(log_gap: float) -> str:
    return f"{math.exp(log_gap):.2f} times"
