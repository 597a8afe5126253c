"""Arithmetic items from seeds: easy problems after a worked example; what is scored is the right answer with its working.

A template is one wording; its examples are the same in all its items. The working makes the answer some ten tokens long: with the bare
number alone (or its margin over wrong numbers) a small model's answers are so uncertain that even two-bit weights change nothing that
a hundred items could show.
"""

import random
from collections.abc import Iterator

from trimtab.core.evidence import Item

SEED = 20251
ITEMS_PER_TEMPLATE = 2
SHORT_WORDING = 30
"""Wordings up to this many characters are shown two examples, longer ones one."""
WORDINGS = {
    "add": (
        "{a} + {b} is",
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
        "{a} - {b} is",
        "{a} minus {b} is",
        "{b} less than {a} is",
        "Take {b} from {a} to get",
        "Ben has {a} cards and loses {b}. Now he has",
        "There are {a} cakes and {b} are eaten. Now there are",
        "Of {a} lamps, {b} are off. The number that is on is",
        "A pen costs {b} dollars. Eva pays with {a} dollars. Her change is",
    ),
    "multiply": (
        "{a} x {b} is",
        "{a} times {b} is",
        "The product of {a} and {b} is",
        "There are {a} boxes with {b} eggs in each. The number of eggs is",
        "A ticket costs {b} dollars. In dollars, {a} tickets cost",
    ),
    "halve": ("Half of {a} is", "{a} divided by 2 is", "Two children share {a} sweets equally. Each of them gets"),
    "double": ("Twice {a} is", "{a} + {a} is", "Two boxes with {a} pens each hold"),
    "next": ("After {a} comes", "{a} + 1 is", "The next page after page {a} is page"),
    "previous": ("Before {a} comes", "{a} - 1 is"),
    "larger": ("The larger of {a} and {b} is", "Of {a} and {b}, the maximum is"),
    "smaller": ("The smaller of {a} and {b} is", "Of {a} and {b}, the minimum is"),
    "count_by": ("{a}, {c}, {d}, {e},",),
    "count_down": ("{a}, {c}, {d}, {e},",),
}
WORKING = {
    "add": "{r}, because {a} + {b} = {r}.",
    "subtract": "{r}, because {a} - {b} = {r}.",
    "multiply": "{r}, because {a} x {b} = {r}.",
    "halve": "{r}, because {r} + {r} = {a}.",
    "double": "{r}, because {a} + {a} = {r}.",
    "next": "{r}, because {a} + 1 = {r}.",
    "previous": "{r}, because {a} - 1 = {r}.",
    "larger": "{r}, because {r} is more than {o}.",
    "smaller": "{r}, because {r} is less than {o}.",
    "count_by": "{r}, {s}, {t}",
    "count_down": "{r}, {s}, {t}",
}
EXAMPLES = {
    "add": ((4, 3), (2, 5)),
    "subtract": ((7, 3), (9, 4)),
    "multiply": ((5, 2), (3, 4)),
    "larger": ((12, 45), (80, 31)),
    "smaller": ((12, 45), (80, 31)),
    "count_by": ((1, 1), (10, 2)),
    "count_down": ((9, 1), (20, 2)),
}
ONE_NUMBER_EXAMPLES = ((4, 0), (10, 0))
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")


def arithmetic_items() -> Iterator[Item]:
    """The items, ITEMS_PER_TEMPLATE for each template, the same on every machine."""
    for operation, wordings in WORDINGS.items():
        for number, wording in enumerate(wordings, 1):
            yield from _number_items(f"arithmetic-{operation}-{number}", operation, wording)
    yield from _calendar_items("arithmetic-days", DAYS)
    yield from _calendar_items("arithmetic-months", MONTHS)


def _number_items(cluster: str, operation: str, wording: str) -> Iterator[Item]:
    shown = EXAMPLES.get(operation, ONE_NUMBER_EXAMPLES)[: 2 if len(wording) <= SHORT_WORDING else 1]
    line = f"{wording} {WORKING[operation]}"
    examples = "".join(_fill(line, operation, a, b) + "\n" for a, b in shown)
    rng = random.Random(f"{SEED}/{cluster}")
    taken = set(shown)
    for number in range(1, ITEMS_PER_TEMPLATE + 1):
        while (pair := _draw(rng, operation)) in taken:
            pass
        taken.add(pair)
        yield _item(cluster, number, examples + _fill(wording, operation, *pair), _fill(WORKING[operation], operation, *pair))


def _calendar_items(cluster: str, names: tuple[str, ...]) -> Iterator[Item]:
    starts = random.Random(f"{SEED}/{cluster}").sample(range(1, len(names)), ITEMS_PER_TEMPLATE)
    for number, start in enumerate(starts, 1):
        later = [names[(start + step) % len(names)] for step in range(4)]
        prompt = f"{names[0]}, then {names[1]}, {names[2]} and {names[3]}\n{later[0]}, then"
        yield _item(cluster, number, prompt, f"{later[1]}, {later[2]} and {later[3]}")


def _item(cluster: str, number: int, prompt: str, answer: str) -> Item:
    return Item(
        id=f"{cluster}-{number}", suite="arithmetic", cluster=cluster, scorer="nats_per_token", prompt=prompt, options=(f" {answer}",)
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
        return rng.randint(16, 60), rng.choice((1, 2))
    return (2 * rng.randint(4, 10) if operation == "halve" else rng.randint(3, 12)), 0


def answer_of(operation: str, a: int, b: int) -> int:
    """The right answer to a problem."""
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


def _fill(text: str, operation: str, a: int, b: int) -> str:
    """Slots: r the answer, o the other of two numbers; c, d, e and s, t go on with a series before and after the answer."""
    step = {"count_by": b, "count_down": -b}.get(operation, 0)
    r = answer_of(operation, a, b)
    return text.format(a=a, b=b, r=r, o=a + b - r, c=a + step, d=a + 2 * step, e=a + 3 * step, s=r + step, t=r + 2 * step)
