"""Arithmetic items from seeds: short problems with one right answer against plausible wrong ones.

Most wrong answers are near the right one (one off, ten off, the wrong operation), so that guessing the size is not enough.
"""

import random
from collections.abc import Callable, Iterator

from trimtab.core.evidence import Item

SEED = 20251
ITEMS_PER_TEMPLATE = 4
Problem = tuple[str, str, list[str]]
"""Text that ends where the answer begins, the right answer, wrong answers."""

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NAMES = ("Anna", "Ben", "Clara", "David", "Ella", "Frank", "Grace", "Henry")
THINGS = ("apples", "books", "coins", "stamps", "marbles", "pencils", "cards", "shells")


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
    neighbours = [right + 1, right - 1, right + 10, right - 10, right + 2]
    rng.shuffle(neighbours)
    pool += [number for number in neighbours if number >= 0]
    return [str(number) for number in dict.fromkeys(pool)][:3]


def _add(rng: random.Random) -> Problem:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    return f"2 + 3 = 5\n4 + 1 = 5\n{a} + {b} =", str(a + b), _near(rng, a + b, abs(a - b))


def _add_tens(rng: random.Random) -> Problem:
    a, b = 10 * rng.randint(1, 5), 10 * rng.randint(1, 4)
    return f"10 + 10 = 20\n{a} + {b} =", str(a + b), [str(a + b + 10), str(a + b - 10), str(a + b + 5)]


def _subtract(rng: random.Random) -> Problem:
    a, b = rng.randint(8, 19), rng.randint(2, 7)
    return f"7 - 3 = 4\n9 - 4 = 5\n{a} - {b} =", str(a - b), _near(rng, a - b, a + b)


def _multiply(rng: random.Random) -> Problem:
    a, b = rng.randint(2, 9), rng.choice((2, 3, 5, 10))
    return f"2 x 4 = 8\n3 x 3 = 9\n{a} x {b} =", str(a * b), _near(rng, a * b, a + b, a * (b + 1))


def _halve(rng: random.Random) -> Problem:
    a = 2 * rng.randint(2, 20)
    return f"Half of 8 is 4. Half of {a} is", str(a // 2), _near(rng, a // 2, a)


def _double(rng: random.Random) -> Problem:
    a = rng.randint(3, 15)
    return f"Twice 2 is 4. Twice {a} is", str(2 * a), _near(rng, 2 * a, a, a + 2)


def _next_number(rng: random.Random) -> Problem:
    start, step = rng.randint(1, 9), rng.choice((1, 2, 5, 10))
    shown = [start + step * index for index in range(4)]
    return f"{', '.join(map(str, shown))},", str(shown[-1] + step), _near(rng, shown[-1] + step, shown[-1] + step + 1, shown[-1])


def _count_down(rng: random.Random) -> Problem:
    start = rng.randint(12, 40)
    return f"{start}, {start - 1}, {start - 2},", str(start - 3), [str(start - 1), str(start + 1), str(start - 5)]


def _give_away(rng: random.Random) -> Problem:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    a, b = rng.randint(6, 12), rng.randint(1, 5)
    return f"{name} has {a} {thing} and gives away {b}. Now {name} has", str(a - b), _near(rng, a - b, a + b, a)


def _get_more(rng: random.Random) -> Problem:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    a, b = rng.randint(2, 9), rng.randint(1, 6)
    return f"{name} has {a} {thing} and buys {b} more. In total, {name} has", str(a + b), _near(rng, a + b, a, b)


def _share(rng: random.Random) -> Problem:
    people, each = rng.randint(2, 4), rng.randint(2, 6)
    text = f"{people * each} sweets are shared equally by {people} children. Each child gets"
    return text, str(each), _near(rng, each, people * each, people)


def _boxes(rng: random.Random) -> Problem:
    boxes, each = rng.randint(2, 5), rng.choice((2, 4, 5, 10))
    text = f"There are {boxes} boxes with {each} eggs in each box. Altogether there are"
    return text, str(boxes * each), _near(rng, boxes * each, boxes + each, each)


def _larger(rng: random.Random) -> Problem:
    a, b = rng.sample(range(10, 100), 2)
    return f"Which number is larger, {a} or {b}? The larger number is", str(max(a, b)), [str(min(a, b))]


def _smallest(rng: random.Random) -> Problem:
    numbers = rng.sample(range(1, 60), 3)
    text = f"The smallest of the numbers {numbers[0]}, {numbers[1]} and {numbers[2]} is"
    return text, str(min(numbers)), [str(number) for number in numbers if number != min(numbers)]


def _clock_forward(rng: random.Random) -> Problem:
    hour, later = rng.randint(1, 6), rng.randint(1, 5)
    text = f"The film starts at {hour} o'clock and lasts {later} hour{'s' if later > 1 else ''}. It ends at"
    return text, f"{hour + later} o'clock", [f"{hour} o'clock", f"{hour + later + 1} o'clock", f"{hour + later + 2} o'clock"]


def _minutes(rng: random.Random) -> Problem:
    hours = rng.randint(2, 6)
    text = f"One hour has 60 minutes. {hours} hours have"
    return text, f"{60 * hours} minutes", [f"{60 * hours + 60} minutes", f"{10 * hours} minutes", f"{60 + hours} minutes"]


def _price(rng: random.Random) -> Problem:
    price, n = rng.randint(2, 6), rng.randint(2, 5)
    text = f"One ticket costs ${price}. {n} tickets cost"
    return text, f"${price * n}", [f"${price * n + price}", f"${price + n}", f"${price}"]


def _change(rng: random.Random) -> Problem:
    price = rng.randint(2, 9)
    text = f"Tom pays for a ${price} book with a $10 note. His change is"
    return text, f"${10 - price}", [f"${10 + price}", f"${11 - price}", f"${9 - price if price < 9 else 3}"]


def _day_after(rng: random.Random) -> Problem:
    index = rng.randrange(7)
    wrong = [DAYS[(index + shift) % 7] for shift in (0, 2, 4)]
    return f"If today is {DAYS[index]}, then tomorrow is", DAYS[(index + 1) % 7], wrong


def _count_letters(rng: random.Random) -> Problem:
    word = rng.choice(("cat", "milk", "house", "garden", "sun", "tree", "apple", "window"))
    return (
        f"The word dog has 3 letters. The word {word} has",
        f"{len(word)} letters",
        [f"{len(word) + shift} letters" for shift in (1, -1, 2)],
    )


TEMPLATES: tuple[Callable[[random.Random], Problem], ...] = (
    _add,
    _add_tens,
    _subtract,
    _multiply,
    _halve,
    _double,
    _next_number,
    _count_down,
    _give_away,
    _get_more,
    _share,
    _boxes,
    _larger,
    _smallest,
    _clock_forward,
    _minutes,
    _price,
    _change,
    _day_after,
    _count_letters,
)
