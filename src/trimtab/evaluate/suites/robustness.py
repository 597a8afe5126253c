"""The `robustness` suite: easy questions asked plainly, with typing mistakes, in capitals, politely wrapped, or beside an aside.

What it measures and does not, with an example, is in docs/suites.md. Changing any item changes the suite's digest.
"""

import random
import tomllib
from collections.abc import Callable
from importlib.resources import files

from trimtab.core.evidence import Item

VERSION = "1"
EXAMPLES = "Question: What do people sleep in?\nAnswer: a bed\n\nQuestion: Which animal barks?\nAnswer: a dog\n\n"
ASIDES = (
    "My neighbour painted his fence yesterday.",
    "It is rather windy today.",
    "The train to the coast was late again.",
    "My aunt collects old postcards.",
    "There were nine people in the queue.",
)
SHARE_OF_TYPOS = 0.12
"""Of the letters inside words."""


def robustness_items() -> tuple[Item, ...]:
    """All items, five of each question in one cluster, in a fixed order."""
    rows = tomllib.loads(files(__package__).joinpath("robustness", "questions.toml").read_text(encoding="utf-8"))["items"]
    return tuple(
        Item(
            id=f"robustness-{number}-{way}",
            suite="robustness",
            cluster=f"robustness-{number}",
            scorer="margin",
            prompt=f"{EXAMPLES}Question: {disturb(question, random.Random(f'robustness {number} {way}'))}\nAnswer:",
            options=tuple(f" {option}" for option in options),
            group=way,
        )
        for number, (question, *options) in enumerate(rows, 1)
        for way, disturb in WAYS.items()
    )


def _typos(question: str, rng: random.Random) -> str:
    """Neighbouring letters inside words change places, at least once."""
    letters = list(question)
    places = [index for index in range(1, len(letters) - 2) if all(one.isalpha() for one in letters[index - 1 : index + 2])]
    for index in sorted(rng.sample(places, max(1, round(SHARE_OF_TYPOS * len(places))))):
        letters[index], letters[index + 1] = letters[index + 1], letters[index]
    return "".join(letters)


WAYS: dict[str, Callable[[str, random.Random], str]] = {
    "plain": lambda question, rng: question,
    "typos": _typos,
    "capitals": lambda question, rng: question.upper(),
    "polite": lambda question, rng: f"Could you please help me with this? {question} Thank you very much!",
    "aside": lambda question, rng: f"{rng.choice(ASIDES)} {question}",
}
