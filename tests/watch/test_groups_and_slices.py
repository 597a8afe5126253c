"""Fairness in operation and the search for what fares worst: true to their stated errors, in bounded memory, the same after a restart."""

import json
import random
from typing import Any

import numpy as np
import pytest

from trimtab.core.watching import Observed
from trimtab.watch.contrasts import Contrasts
from trimtab.watch.groups import MOST_ATTRIBUTES, MOST_GROUPS, GroupRates, GroupRow, parts_of
from trimtab.watch.slices import Slices


def request(n: int, *, refused: float = 0.0, ms: float = 200.0, labels: Any = None, groups: Any = None, dice: random.Random) -> Observed:
    flags = {"refused": dice.random() < refused, "error": False}
    return Observed(request=str(n), at_s=float(n), numbers={"total_ms": ms}, flags=flags, labels=labels or {}, groups=groups or {})


def row(rates: GroupRates, by: str, of: str, signal: str = "refused") -> GroupRow:
    return next(one for one in rates.rows() if (one.by, one.of, one.signal) == (by, of, signal))


def test_one_groups_refusals_are_told_with_intervals_and_what_is_missing() -> None:
    dice, rates = random.Random(1), GroupRates()
    for n in range(6000):
        said = dice.random() < 0.5
        sex = dice.choice(["female", "male"])
        groups = {"sex": sex, "age": dice.choice(["young", "old"])} if said else {}
        rates.take(request(n, refused=0.09 if sex == "female" else 0.02, groups=groups, labels={"language": "en"}, dice=dice))
    one, other = row(rates, "sex", "female"), row(rates, "sex", "male")
    assert (one.finding, other.finding, one.is_people) == ("worse", "better", True)
    assert one.difference.low is not None
    assert 0.0 < one.difference.low < 0.07 < (one.difference.high or 0.0)
    assert "the answer refuses" in one.reason
    assert "female fares worse" in one.reason
    assert row(rates, "age", "old").finding in ("within", "cannot tell")
    assert row(rates, "sex", "male", "error").finding == "within"
    crossed = {one.of for one in rates.rows() if one.by == "age x sex"}
    assert crossed == {"young x female", "young x male", "old x female", "old x male"}
    shares = {one.by: one.share for one in rates.missing()}
    assert shares["sex"] == pytest.approx(0.5, abs=0.03)
    assert shares["language"] == 0.0
    assert not [one for one in rates.rows() if one.by == "language"]  # one language only: nothing to compare


def test_few_are_no_ground_for_anything() -> None:
    dice, rates = random.Random(2), GroupRates()
    for n in range(500):
        rates.take(request(n, refused=1.0 if n < 40 else 0.0, groups={"sex": "female" if n < 40 else "male"}, dice=dice))
    one = row(rates, "sex", "female")
    assert one.finding == "cannot tell"
    assert one.reason == "40 requests of female, 100 are needed: cannot tell"
    assert row(rates, "sex", "male").reason.startswith("40 requests of the others")


def test_what_is_learnt_later_counts_for_groups_that_were_said_later() -> None:
    dice, rates = random.Random(3), GroupRates()
    for n in range(1200):
        worse = n % 2 == 0
        rates.take(request(n, dice=dice))
        said = parts_of({}, {"sex": "x" if worse else "y"}, ())
        rates.add(said, "thumbs", float(dice.random() > (0.5 if worse else 0.1)))
    assert row(rates, "sex", "x", "thumbs").finding == "worse"


def test_differences_that_are_not_there_are_never_told_however_often_one_looks() -> None:
    """Looked at after every 200 requests; at a stated 5 % an attribute and signal."""
    wrong = 0
    for seed in range(20):
        dice, rates = random.Random(seed), GroupRates(signals=("refused",))
        for n in range(2000):
            rates.take(request(n, refused=0.05, groups={"team": dice.choice("abcd")}, dice=dice))
            if n % 200 == 199 and any(one.finding in ("worse", "better") for one in rates.rows()):
                wrong += 1
                break
    assert wrong <= 1


def test_bounds_hold_the_means_of_drifting_groups() -> None:
    """What is bounded is the average of what was to be expected, also where that moves."""
    dice = np.random.default_rng(5)
    missed = 0
    for _ in range(100):
        table = Contrasts(4)
        expected: dict[tuple[str, ...], list[float]] = {("a",): [0.0, 0], ("b",): [0.0, 0]}
        for n in range(400):
            key = ("a",) if dice.random() < 0.3 else ("b",)
            p = 0.05 + 0.2 * n / 400 if key == ("a",) else 0.1
            expected[key][0] += p
            expected[key][1] += 1
            table.add((key,), float(dice.random() < p))
        found = table.table(0.2)
        missed += any(
            not low <= expected[key][0] / expected[key][1] <= high for key, low, high in zip(found.keys, found.low, found.high, strict=True)
        )
    assert missed <= 10


def test_memory_is_bounded_and_what_was_left_out_is_said() -> None:
    dice, rates, slices = random.Random(6), GroupRates(), Slices(most=50)
    for n in range(3000):
        groups = {f"a{dice.randrange(20)}": f"g{dice.randrange(1000)}"}
        item = request(n, refused=0.1, groups=groups, labels={"language": f"l{dice.randrange(90)}", "topic": str(n)}, dice=dice)
        rates.take(item)
        slices.take(item)
    assert len(rates._tables) <= MOST_ATTRIBUTES * 3
    assert all(len(table.keys) <= MOST_GROUPS for table in rates._tables.values())
    assert rates.beyond > 0
    assert any(one.beyond > 0 for one in rates.missing())
    assert slices.dropped > 0
    assert len(json.dumps(slices.state())) + len(json.dumps(rates.state())) < 200_000


def test_the_same_after_a_restart() -> None:
    dice, rates, slices = random.Random(7), GroupRates(), Slices()
    whole_rates, whole_slices = GroupRates(), Slices()
    for n in range(1500):
        item = request(
            n,
            refused=0.3 if n % 3 == 0 else 0.02,
            groups={"sex": "f" if n % 3 == 0 else "m"},
            labels={"language": "de" if n % 3 == 0 else "en"},
            dice=dice,
        )
        for one in (rates, slices, whole_rates, whole_slices):
            one.take(item)
        if n == 700:
            rates = GroupRates.from_state(json.loads(json.dumps(rates.state())))
            slices = Slices.from_state(json.loads(json.dumps(slices.state())))
    assert rates.rows() == whole_rates.rows()
    assert rates.missing() == whole_rates.missing()
    assert slices.rows() == whole_slices.rows() != []


def kinds(dice: random.Random) -> dict[str, str]:
    return {
        "language": dice.choice(["de", "en", "fr", "es"]),
        "topic": dice.choice(list("abcdef")),
        "length": dice.choice(["short", "long"]),
    }


def test_nothing_is_found_where_there_is_nothing() -> None:
    """44 kinds in three signals, looked at four times: any finding at all in at most one of twenty streams in the long run."""
    wrong = 0
    for seed in range(12):
        dice, slices = random.Random(seed), Slices()
        for n in range(1600):
            slices.take(request(n, refused=0.05, ms=dice.expovariate(1 / 400), labels=kinds(dice), dice=dice))
            if n % 400 == 399 and slices.rows():
                wrong += 1
                break
    assert wrong <= 1


def test_a_planted_kind_is_found_and_a_pair_only_where_it_is_worse_than_its_parts() -> None:
    dice, slices = random.Random(9), Slices()
    for n in range(5000):
        labels = kinds(dice)
        bad = labels["language"] == "de" and labels["length"] == "long"
        slices.take(request(n, refused=0.35 if bad else 0.03, ms=3000 if labels["topic"] == "a" else 300, labels=labels, dice=dice))
    found = {(one.signal, tuple(sorted(one.labels.items()))): one for one in slices.rows()}
    assert ("refused", (("language", "de"), ("length", "long"))) in found
    assert ("total_ms", (("topic", "a"),)) in found
    assert not [key for key in found if key[0] == "total_ms" and len(key[1]) == 2]  # topic a alone says it
    worst = slices.rows()[0]
    assert worst.p <= slices.risk
    assert worst.difference.low is not None
    assert worst.difference.low > 0.0
    pair = found["refused", (("language", "de"), ("length", "long"))]
    assert pair.text.startswith("language de and length long: the answer refuses 3")
