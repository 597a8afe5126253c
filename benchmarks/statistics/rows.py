"""One line of the table: a figure, how sure the simulation is of it, and what was promised."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Draw = Callable[[np.random.Generator, int], np.ndarray]
ALPHA = 0.05
PER_ATTEMPT = ALPHA / 3
MARGIN = 0.05
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Row:
    """value: a share unless `se` is given; runs: replications behind it; least, most: the promise, None = shown for comparison only."""

    name: str
    value: float
    runs: int
    least: float | None = None
    most: float | None = None
    se: float | None = None

    @property
    def error(self) -> float:
        """Standard error of the simulation itself."""
        return self.se if self.se is not None else (self.value * (1.0 - self.value) / self.runs) ** 0.5

    @property
    def kept(self) -> bool | None:
        """Whether the promise is kept, allowing for three standard errors of the simulation; None = nothing was promised."""
        if self.least is None and self.most is None:
            return None

        def slack(limit: float) -> float:
            return 3.0 * (self.se if self.se is not None else (limit * (1.0 - limit) / self.runs) ** 0.5)

        enough = self.least is None or self.value >= self.least - slack(self.least)
        return enough and (self.most is None or self.value <= self.most + slack(self.most))


def rate(name: str, hits: Sequence[bool] | np.ndarray, least: float | None = None, most: float | None = None) -> Row:
    """A share of replications."""
    return Row(name=name, value=float(np.mean(hits)), runs=len(hits), least=least, most=most)


def average(name: str, values: Sequence[float] | np.ndarray, least: float | None = None, most: float | None = None) -> Row:
    """A mean over replications."""
    sample = np.asarray(values, dtype=float)
    return Row(
        name=name,
        value=float(sample.mean()),
        runs=sample.size,
        least=least,
        most=most,
        se=float(sample.std(ddof=1) / sample.size**0.5),
    )


def coverage(name: str, hits: Sequence[bool] | np.ndarray) -> Row:
    """Coverage of a nominal 95 % interval: promised within two points."""
    return rate(name, hits, least=0.93, most=0.97)


def normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal(n)


def heavy(rng: np.random.Generator, n: int) -> np.ndarray:
    """t with 4 degrees of freedom, variance one."""
    return rng.standard_t(4, n) / 2**0.5


def rare_losses(rng: np.random.Generator, n: int) -> np.ndarray:
    """Mean zero, variance one, most values a little above and some far below: an exponential tail of losses."""
    return 1.0 - rng.exponential(size=n)


def sample(rng: np.random.Generator, n_clusters: int, shape: Draw, icc: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences with mean zero and sd one, in clusters of 1 to 11 items, with token weights."""
    clusters = np.repeat(np.arange(n_clusters), rng.integers(1, 12, n_clusters))
    values = icc**0.5 * shape(rng, n_clusters)[clusters] + (1 - icc) ** 0.5 * shape(rng, clusters.size)
    return values, clusters, rng.integers(5, 60, clusters.size)
