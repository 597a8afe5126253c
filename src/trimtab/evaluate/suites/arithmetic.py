"""Arithmetic items from seeds: short problems after worked examples, one right answer against plausible wrong ones.

The examples of a template are the same in all its items. Wrong answers are near the right one (one off, ten off, the wrong operation), so
that guessing the size is not enough.
"""

import random
from collections.abc import Callable, Iterator, Sequence

from trimtab.core.evidence import Item

SEED = 20251
ITEMS_PER_TEMPLATE = 5
Problem = tuple[str, str, list[str]]
"""Text that ends where the answer begins, the right answer, wrong answers."""

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
NAMES = ("Anna", "Ben", "Clara", "David", "Ella", "Frank", "Grace", "Henry")
THINGS = ("apples", "books", "coins", "stamps", "marbles", "pencils", "cards", "shells")
FRUITS = ("apple", "pear", "plum", "fig", "lemon", "melon", "peach", "cherry")


def arithmetic_items() -> Iterator[Item]:
    """The items, ITEMS_PER_TEMPLATE for each template, the same on every machine."""
    for template in TEMPLATES:
        name = template.__name__.removeprefix("_")
        rng = random.Random(f"{SEED}/{name}")
        seen: set[str] = set()
        while len(seen) < ITEMS_PER_TEMPLATE:
            text, right, wrong = template(rng)
            if text in seen:
                continue
            seen.add(text)
            yield Item(
                id=f"arithmetic-{name}-{len(seen)}",
                suite="arithmetic",
                cluster=f"arithmetic-{name}",
                scorer="margin",
                prompt=text,
                options=tuple(f" {option}" for option in (right, *wrong)),
            )


def _near(rng: random.Random, right: int, *also: int) -> list[str]:
    """Three wrong numbers: the given likely slips first, then neighbours."""
    pool = [number for number in also if number != right and number >= 0]
    neighbours = [right + 1, right - 1, right + 2, right + 10]
    rng.shuffle(neighbours)
    pool += [number for number in neighbours if number >= 0]
    return [str(number) for number in dict.fromkeys(pool)][:3]


def _after(rng: random.Random, sequence: Sequence[str], shown: int) -> Problem:
    """The element that follows `shown` others of a circular sequence."""
    start = rng.randrange(len(sequence))
    element = [sequence[(start + index) % len(sequence)] for index in range(shown + 3)]
    return f"{', '.join(element[:shown])},", element[shown], [element[shown - 1], element[shown + 1], element[shown + 2]]


def _add(rng: random.Random) -> Problem:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    return f"1 + 1 = 2\n2 + 3 = 5\n4 + 3 = 7\n6 + 2 = 8\n{a} + {b} =", str(a + b), _near(rng, a + b, abs(a - b))


def _add_tens(rng: random.Random) -> Problem:
    a, b = 10 * rng.randint(1, 5), 10 * rng.randint(1, 4)
    return f"10 + 10 = 20\n20 + 10 = 30\n30 + 20 = 50\n{a} + {b} =", str(a + b), [str(a + b + 10), str(a + b - 10), str(a + b + 5)]


def _add_one(rng: random.Random) -> Problem:
    a = rng.randint(11, 98)
    return f"12 + 1 = 13\n37 + 1 = 38\n54 + 1 = 55\n{a} + 1 =", str(a + 1), [str(a), str(a + 2), str(a + 10)]


def _subtract(rng: random.Random) -> Problem:
    a, b = rng.randint(5, 12), rng.randint(1, 4)
    return f"3 - 1 = 2\n7 - 3 = 4\n9 - 4 = 5\n8 - 2 = 6\n{a} - {b} =", str(a - b), _near(rng, a - b, a + b)


def _multiply(rng: random.Random) -> Problem:
    a, b = rng.randint(2, 9), rng.choice((2, 3, 5, 10))
    return f"2 x 2 = 4\n2 x 4 = 8\n3 x 3 = 9\n5 x 4 = 20\n{a} x {b} =", str(a * b), _near(rng, a * b, a + b, a * (b + 1))


def _halve(rng: random.Random) -> Problem:
    a = 2 * rng.randint(2, 20)
    return f"Half of 4 is 2. Half of 8 is 4. Half of 20 is 10. Half of {a} is", str(a // 2), _near(rng, a // 2, a)


def _double(rng: random.Random) -> Problem:
    a = rng.randint(3, 15)
    return f"Twice 1 is 2. Twice 2 is 4. Twice 10 is 20. Twice {a} is", str(2 * a), _near(rng, 2 * a, a)


def _count_up(rng: random.Random) -> Problem:
    start = rng.randint(11, 80)
    return f"{', '.join(str(start + index) for index in range(5))},", str(start + 5), [str(start + 4), str(start + 6), str(start + 15)]


def _count_by(rng: random.Random) -> Problem:
    step = rng.choice((2, 5, 10))
    start = step * rng.randint(1, 6)
    last = start + 4 * step
    return (
        f"{', '.join(str(start + step * index) for index in range(5))},",
        str(last + step),
        [str(last + 1), str(last + 2 * step), str(last)],
    )


def _count_down(rng: random.Random) -> Problem:
    start = rng.randint(16, 60)
    return f"{', '.join(str(start - index) for index in range(5))},", str(start - 5), [str(start - 3), str(start - 6), str(start)]


def _number_word(rng: random.Random) -> Problem:
    index = rng.randrange(3, 11)
    text = f"one is 1, two is 2, three is 3, twelve is 12, {WORDS[index]} is"
    return text, str(index + 1), [str(index), str(index + 2), str(index + 3)]


def _word_sequence(rng: random.Random) -> Problem:
    start = rng.randrange(len(WORDS) - 6)
    return _shown(WORDS, start, 4)


def _ordinals(rng: random.Random) -> Problem:
    return _shown(ORDINALS, rng.randrange(len(ORDINALS) - 5), 3)


def _shown(sequence: Sequence[str], start: int, shown: int) -> Problem:
    element = sequence[start : start + shown + 2]
    return f"{', '.join(element[:shown])},", element[shown], [element[shown - 1], element[shown + 1], element[0]]


def _days(rng: random.Random) -> Problem:
    return _after(rng, DAYS, 3)


def _months(rng: random.Random) -> Problem:
    return _after(rng, MONTHS, 3)


def _give_away(rng: random.Random) -> Problem:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    a, b = rng.randint(4, 9), rng.randint(1, 3)
    text = f"Lisa has 5 cups and gives away 1. Now Lisa has 4 cups.\n{name} has {a} {thing} and gives away {b}. Now {name} has"
    return text, str(a - b), _near(rng, a - b, a + b, a)


def _get_more(rng: random.Random) -> Problem:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    a, b = rng.randint(2, 6), rng.randint(1, 4)
    text = f"Lisa has 2 cups and buys 1 more. Now Lisa has 3 cups.\n{name} has {a} {thing} and buys {b} more. Now {name} has"
    return text, str(a + b), _near(rng, a + b, a, b)


def _larger(rng: random.Random) -> Problem:
    a, b = rng.sample(range(10, 100), 2)
    text = f"The larger of 12 and 45 is 45. The larger of 80 and 31 is 80. The larger of {a} and {b} is"
    return text, str(max(a, b)), [str(min(a, b))]


def _price(rng: random.Random) -> Problem:
    price, n = rng.randint(2, 5), rng.randint(2, 4)
    examples = "One cup costs $1. Three cups cost $3.\nOne lamp costs $10. Two lamps cost $20.\n"
    text = f"{examples}One ticket costs ${price}. {WORDS[n - 1].title()} tickets cost"
    return text, f"${price * n}", [f"${price * n + price}", f"${price + n}", f"${price}"]


def _clock(rng: random.Random) -> Problem:
    hour = rng.randint(1, 8)
    text = f"An hour after 2:15 it is 3:15. An hour after 9:40 it is 10:40. An hour after {hour}:30 it is"
    return text, f"{hour + 1}:30", [f"{hour}:30", f"{hour + 2}:30", f"{hour}:45"]


def _count_things(rng: random.Random) -> Problem:
    fruit, n = rng.choice(FRUITS), rng.randint(2, 5)
    text = f"cup cup: 2\nhat hat hat hat: 4\nbook: 1\nbell bell bell: 3\n{' '.join([fruit] * n)}:"
    return text, str(n), [str(n + 1), str(n - 1), str(n + 2)]


TEMPLATES: tuple[Callable[[random.Random], Problem], ...] = (
    _add,
    _add_tens,
    _add_one,
    _subtract,
    _multiply,
    _halve,
    _double,
    _count_up,
    _count_by,
    _count_down,
    _number_word,
    _word_sequence,
    _ordinals,
    _days,
    _months,
    _give_away,
    _get_more,
    _larger,
    _price,
    _clock,
    _count_things,
)
