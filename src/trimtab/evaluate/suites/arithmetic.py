"""Arithmetic items from seeds: easy problems after worked examples, one right answer against plausible wrong ones.

A template is one wording; its examples are the same in all its items. Numbers are small, because a model that cannot do the sum at all has
a margin of noise. Wrong answers are the usual slips: one or two off, the wrong operation, a number of the problem.
"""

import random
from collections.abc import Iterator

from trimtab.core.evidence import Item

SEED = 20251
ITEMS_PER_TEMPLATE = 3
SHORT_WORDING = 24
"""Wordings up to this many characters are shown four examples, longer ones two."""
WORDINGS = {
    "add": (
        "{a} + {b} =",
        "{a} plus {b} is",
        "{a} and {b} make",
        "{b} more than {a} is",
        "The sum of {a} and {b} is",
        "Anna has {a} coins and finds {b} more. Now she has",
        "There are {a} birds on the roof. Then {b} more come. Now there are",
        "A bag holds {a} red and {b} blue balls. The number of balls is",
        "Tom is {a} years old. In {b} years his age will be",
        "The film starts at {a} and lasts {b} hours. It ends at",
    ),
    "subtract": (
        "{a} - {b} =",
        "{a} minus {b} is",
        "{b} less than {a} is",
        "Take {b} from {a} to get",
        "Ben has {a} cards and loses {b}. Now he has",
        "There are {a} cakes and {b} are eaten. Now there are",
        "Of {a} lamps, {b} are off. The number that is on is",
        "A pen costs {b} dollars. Eva pays with {a} dollars. Her change is",
    ),
    "multiply": (
        "{a} x {b} =",
        "{a} times {b} is",
        "The product of {a} and {b} is",
        "There are {a} boxes with {b} eggs in each. The number of eggs is",
        "A ticket costs {b} dollars. In dollars, {a} tickets cost",
    ),
    "halve": ("Half of {a} is", "{a} divided by 2 is", "Two children share {a} sweets equally. Each of them gets"),
    "double": ("Twice {a} is", "{a} + {a} =", "Two boxes with {a} pens each hold"),
    "next": ("After {a} comes", "{a} + 1 =", "The next page after page {a} is page"),
    "previous": ("Before {a} comes", "{a} - 1 ="),
    "larger": ("The larger of {a} and {b} is", "{a}, {b}. Maximum:"),
    "smaller": ("The smaller of {a} and {b} is", "{a}, {b}. Minimum:"),
    "count_by": ("{a}, {c}, {d}, {e},",),
    "count_down": ("{a}, {c}, {d}, {e},",),
}
EXAMPLES = {
    "add": ((2, 2), (4, 3), (2, 5), (6, 2)),
    "subtract": ((5, 3), (7, 3), (9, 4), (8, 2)),
    "multiply": ((2, 3), (5, 2), (3, 3), (2, 4)),
    "larger": ((12, 45), (80, 31), (67, 23), (50, 59)),
    "smaller": ((12, 45), (80, 31), (67, 23), (50, 59)),
    "count_by": ((1, 1), (10, 2)),
    "count_down": ((5, 1), (20, 2)),
}
ONE_NUMBER_EXAMPLES = ((4, 0), (10, 0), (2, 0), (6, 0))
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")


def arithmetic_items() -> Iterator[Item]:
    """The items, ITEMS_PER_TEMPLATE for each template, the same on every machine."""
    for operation, wordings in WORDINGS.items():
        for number, wording in enumerate(wordings, 1):
            yield from _number_items(f"arithmetic-{operation}-{number}", operation, wording)
    yield from _calendar_items("arithmetic-days", "{0} is followed by", DAYS)
    yield from _calendar_items("arithmetic-months", "{0} is followed by", MONTHS)


def _number_items(cluster: str, operation: str, wording: str) -> Iterator[Item]:
    shown = EXAMPLES.get(operation, ONE_NUMBER_EXAMPLES)[: 4 if len(wording) <= SHORT_WORDING else 2]
    examples = "".join(f"{_fill(wording, operation, a, b)} {_answer(operation, a, b)}\n" for a, b in shown)
    rng = random.Random(f"{SEED}/{cluster}")
    taken = set(shown)
    for number in range(1, ITEMS_PER_TEMPLATE + 1):
        while (pair := _draw(rng, operation)) in taken:
            pass
        taken.add(pair)
        right = _answer(operation, *pair)
        wrong = _wrong(rng, operation, *pair)
        yield _item(cluster, number, examples + _fill(wording, operation, *pair), [str(right), *map(str, wrong)])


def _calendar_items(cluster: str, wording: str, names: tuple[str, ...]) -> Iterator[Item]:
    examples = f"{wording.format(names[0])} {names[1]}\n{wording.format(names[4])} {names[5]}\n"
    starts = [index for index in range(len(names)) if index not in (0, 4)]
    for number, start in enumerate(random.Random(f"{SEED}/{cluster}").sample(starts, ITEMS_PER_TEMPLATE), 1):
        options = [names[(start + step) % len(names)] for step in (1, 2, -1, 3)]
        yield _item(cluster, number, examples + wording.format(names[start]), options)


def _item(cluster: str, number: int, prompt: str, options: list[str]) -> Item:
    return Item(
        id=f"{cluster}-{number}",
        suite="arithmetic",
        cluster=cluster,
        scorer="margin",
        prompt=prompt,
        options=tuple(f" {option}" for option in options),
    )


def _draw(rng: random.Random, operation: str) -> tuple[int, int]:
    """Two numbers of a problem; the second is 0 where there is only one."""
    if operation == "add":
        return rng.randint(2, 8), rng.randint(2, 5)
    if operation == "subtract":
        return rng.randint(5, 10), rng.randint(2, 4)
    if operation == "multiply":
        return rng.randint(2, 5), rng.randint(2, 5)
    if operation in ("larger", "smaller"):
        low, high = sorted(rng.sample(range(10, 100), 2))
        return (low, high) if rng.random() < 0.5 else (high, low)
    if operation == "count_by":
        return rng.randint(2, 9), rng.choice((2, 5, 10))
    if operation == "count_down":
        return rng.randint(12, 60), rng.choice((1, 2))
    return (2 * rng.randint(4, 10) if operation == "halve" else rng.randint(3, 12)), 0


def _answer(operation: str, a: int, b: int) -> int:
    return {
        "add": a + b,
        "subtract": a - b,
        "multiply": a * b,
        "halve": a // 2,
        "double": 2 * a,
        "next": a + 1,
        "previous": a - 1,
        "larger": max(a, b),
        "smaller": min(a, b),
        "count_by": a + 4 * b,
        "count_down": a - 4 * b,
    }[operation]


def _fill(wording: str, operation: str, a: int, b: int) -> str:
    step = {"count_by": b, "count_down": -b}.get(operation, 0)
    return wording.format(a=a, b=b, c=a + step, d=a + 2 * step, e=a + 3 * step)


def _wrong(rng: random.Random, operation: str, a: int, b: int) -> list[int]:
    """Three wrong answers (one where two numbers are compared): likely slips first, then neighbours."""
    right = _answer(operation, a, b)
    if operation in ("larger", "smaller"):
        return [a + b - right]
    slips = {"add": [abs(a - b)], "subtract": [a + b], "multiply": [a + b], "halve": [a], "double": [a]}.get(operation, [a])
    neighbours = [right + 1, right - 1, right + 2]
    rng.shuffle(neighbours)
    return [number for number in dict.fromkeys(slips + neighbours) if number != right and number >= 0][:3]
