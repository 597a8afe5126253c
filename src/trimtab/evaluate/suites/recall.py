"""The `recall` suite: is a fact that stands far back in a long prompt still found? Made to fill a context of a given length.

`recall` fills 900 tokens or so; `recall:4096` a context of 4,096, by the rule of thumb of 1.5 tokens a word. Facts stand at five depths.
"""

import random
from collections.abc import Iterator

from trimtab.core.errors import InputError
from trimtab.core.evidence import Item

VERSION = "1"
CONTEXT_TOKENS = 1024
TOKENS_PER_WORD = 1.5
ROOM_TOKENS = 120
"""For the question, the answer and the chat template's own words."""
LEAST_CONTEXT_TOKENS, MOST_CONTEXT_TOKENS = 512, 131_072
N_FACTS = 40
DEPTHS = (0.05, 0.3, 0.5, 0.7, 0.95)
PEOPLE = (
    "Alma",
    "Boris",
    "Clara",
    "Dario",
    "Edith",
    "Felix",
    "Greta",
    "Hugo",
    "Irene",
    "Jonas",
    "Karin",
    "Lars",
    "Mona",
    "Nils",
    "Olga",
    "Pavel",
)
THINGS = ("key", "letter", "camera", "violin", "map", "ticket", "coat", "lamp", "watch", "basket")
PLACES = (
    "the cellar",
    "the attic",
    "the garden shed",
    "the blue drawer",
    "the old car",
    "the kitchen cupboard",
    "the red box",
    "the laundry room",
)
SUBJECTS = (
    "The river",
    "The road",
    "The old mill",
    "The village",
    "The school",
    "The market",
    "The bakery",
    "The bridge",
    "The station",
    "The park",
)
VERBS = (
    "lies quietly in",
    "was painted before",
    "is known for",
    "was visited during",
    "grew slowly after",
    "stands empty in",
    "was repaired in",
)
ENDS = (
    "the spring",
    "the long winter",
    "the early morning",
    "the harvest",
    "the evening light",
    "the dry summer",
    "the first snow",
    "the holidays",
)


def recall_items(context_tokens: int = CONTEXT_TOKENS) -> tuple[Item, ...]:
    """Forty facts, each in a text of its own, the same on every machine. Raises InputError for a length that makes no sense."""
    if not LEAST_CONTEXT_TOKENS <= context_tokens <= MOST_CONTEXT_TOKENS:
        raise InputError(f"recall needs a context of {LEAST_CONTEXT_TOKENS} to {MOST_CONTEXT_TOKENS:,} tokens, not {context_tokens:,}.")
    return tuple(_items(context_tokens))


def _items(context_tokens: int) -> Iterator[Item]:
    n_words = int((context_tokens - ROOM_TOKENS) / TOKENS_PER_WORD)
    for number in range(N_FACTS):
        rng = random.Random(f"recall {number}")
        person, thing = rng.choice(PEOPLE), rng.choice(THINGS)
        place, *others = rng.sample(PLACES, 4)
        sentences = _filler(rng, n_words)
        depth = DEPTHS[number % len(DEPTHS)]
        sentences.insert(round(depth * len(sentences)), f"{person} put the {thing} in {place}.")
        yield Item(
            id=f"recall-{context_tokens}-{number + 1}",
            suite="recall",
            cluster=f"recall-{context_tokens}-{number + 1}",
            scorer="margin",
            prompt=f"{' '.join(sentences)}\n\nQuestion: Where did {person} put the {thing}?\nAnswer: in",
            options=tuple(f" {one}" for one in (place, *others)),
            group=f"depth {depth:.0%}",
        )


def _filler(rng: random.Random, n_words: int) -> list[str]:
    """Sentences about nothing, about so many words together; no two neighbours alike."""
    sentences: list[str] = []
    count = 0
    while count < n_words:
        sentence = f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(ENDS)}."
        if sentences and sentence == sentences[-1]:
            continue
        sentences.append(sentence)
        count += len(sentence.split())
    return sentences
