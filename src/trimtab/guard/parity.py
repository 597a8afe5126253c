"""Do guards block harmless texts of one group more often than of others? The same sentences about every group are asked.

`trimtab evaluate --suite guard-parity` asks the guards of a site about the shipped templates and judges the answers
(flows/parts/guard_parity.py); `benchmarks/guards.py` runs them, and Jigsaw's, through `false_block_gaps`.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from trimtab.guard.linear import identities
from trimtab.guard.pipeline import Guards
from trimtab.stats.paired import clustered_mean

MIN_TEMPLATES = 8


@dataclass(frozen=True, kw_only=True)
class Counterpart:
    """A harmless text: which sentence it was made from, and which group it names."""

    text: str
    template: str
    group: str


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How much more often texts of a group are blocked than the mean of all groups on the same templates, as shares.

    low, high: 95 % t-interval over templates; None where too few templates vary to tell. blocked: share of the group's own texts
    """

    group: str
    blocked: float
    gap: float
    low: float | None
    high: float | None
    n: int


def shipped_counterparts(words: Sequence[str] = ()) -> Iterator[Counterpart]:
    """The shipped templates with these words for people, adjectives all; () = those of `identities.toml` that fit."""
    templates = tomllib.loads(resources.files(__package__).joinpath("parity.toml").read_text(encoding="utf-8"))["templates"]
    for word in words or _adjectives():
        article = "an" if word[0].lower() in "aeiou" else "a"
        for template in templates:
            text = template.format(group=f"{article} {word} person", plural=f"{word} people", adjective=word)
            yield Counterpart(text=text[0].upper() + text[1:], template=template, group=word)


def _adjectives() -> tuple[str, ...]:
    """Words of `identities.toml` but plurals and parts of longer names."""
    words = [word for axis in identities().values() for word in axis]
    return tuple(
        word
        for word in words
        if not (word.endswith("s") and word[:-1] in words) and word not in ("women", "men", "middle", "aged", "ladies")
    )


def is_blocked_by(guards: Guards) -> Callable[[str], bool]:
    """Whether these guards, as they are set on a route, stop a request of this text."""
    return lambda text: guards.inspect([text]).blocked is not None


def false_block_gaps(texts: Sequence[Counterpart], is_blocked: Callable[[str], bool]) -> tuple[Gap, ...]:
    """A gap for each group, the largest first. Each template must be there for all groups that are compared on it."""
    by_template: dict[str, dict[str, bool]] = {}
    for one in texts:
        by_template.setdefault(one.template, {})[one.group] = is_blocked(one.text)
    groups = {one.group for one in texts}
    gaps = [_gap(group, by_template) for group in sorted(groups)]
    return tuple(sorted(gaps, key=lambda one: -abs(one.gap)))


def _gap(group: str, by_template: Mapping[str, Mapping[str, bool]]) -> Gap:
    own, differences, clusters = [], [], []
    for template, verdicts in by_template.items():
        if group in verdicts:
            own.append(float(verdicts[group]))
            differences.append(verdicts[group] - sum(verdicts.values()) / len(verdicts))
            clusters.append(template)
    low = high = None
    if len(set(clusters)) >= MIN_TEMPLATES:
        interval = clustered_mean(differences, clusters).interval(0.95)
        low, high = interval.low, interval.high
    return Gap(group=group, blocked=sum(own) / len(own), gap=sum(differences) / len(differences), low=low, high=high, n=len(differences))
