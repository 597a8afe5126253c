"""Calibration text and fresh timing prompts, from sentences that share nothing with the suites."""

import random
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files

from trimtab.core.errors import InputError

SENTENCES_PER_TEXT = 8
MAX_NUMBER = 10**8
CHARACTERS_PER_TOKEN = 10


@cache
def sentences() -> tuple[str, ...]:
    """The sentence bank."""
    content = files(__package__).joinpath("suites", "calibration.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(content)["sentences"])


def calibration_texts(n: int = 48, seed: int = 0) -> tuple[str, ...]:
    """Texts of eight sentences each for importance matrices and data-aware recipes. Nothing in them is in any suite."""
    rng = random.Random(f"calibration/{seed}")
    texts: list[str] = []
    pool: list[str] = []
    for _ in range(n):
        if len(pool) < SENTENCES_PER_TEXT:
            pool = rng.sample(sentences(), len(sentences()))
        texts.append(" ".join(pool.pop() for _ in range(SENTENCES_PER_TEXT)))
    return tuple(texts)


def fresh_texts(seed: int, n: int, n_tokens: int) -> list[str]:
    """`n` texts long enough for n_tokens tokens of any tokenizer of English, each different from its first characters on.

    They read like a user's notes: a number of its own, then sentences in a random order. Equal arguments give equal texts; other seeds give
    other numbers.
    """
    rng = random.Random(f"prompts/{seed}")
    texts: list[str] = []
    for number in rng.sample(range(MAX_NUMBER), n):
        parts = [f"{number:08d}:"]
        length = 0
        while length < CHARACTERS_PER_TOKEN * n_tokens:
            order = rng.sample(sentences(), len(sentences()))
            parts += order
            length += sum(map(len, order))
        texts.append(" ".join(parts)[: CHARACTERS_PER_TOKEN * n_tokens])
    return texts


def fresh_prompts(seed: int, n: int, n_tokens: int, tokenize: Callable[[str], list[int]]) -> list[list[int]]:
    """`fresh_texts` as prompts of exactly n_tokens token ids, so that no prefix cache helps: each begins with a number of its own.

    Raises InputError for fewer than 16 tokens, which leave no room to be different, or for a tokenizer that needs more text for a token.
    """
    if n_tokens < 16:
        raise InputError(f"Fresh prompts need at least 16 tokens to differ, not {n_tokens}.")
    return [exactly(tokenize(text), n_tokens) for text in fresh_texts(seed, n, n_tokens)]


@cache
def agent_prefix() -> str:
    """What all requests of an agent begin with: instructions, tools as JSON, examples."""
    return files(__package__).joinpath("suites", "agent_prefix.txt").read_text(encoding="utf-8")


def prompts_with_prefix(seed: int, n: int, n_tokens: int, shared_tokens: int, tokenize: Callable[[str], list[int]]) -> list[list[int]]:
    """`fresh_prompts` whose first `shared_tokens` ids are those of `agent_prefix`, the same in all. Raises InputError as they do."""
    if not shared_tokens:
        return fresh_prompts(seed, n, n_tokens, tokenize)
    text = agent_prefix()
    ids = tokenize(text)
    while len(ids) < shared_tokens:  # a tokenizer of few, long tokens
        text += agent_prefix()
        ids = tokenize(text)
    return [ids[:shared_tokens] + rest for rest in fresh_prompts(seed, n, n_tokens - shared_tokens, tokenize)]


def mark(seed: int) -> str:
    """A number that makes a prompt differ from all others."""
    return f"{random.Random(f'mark/{seed}').randrange(MAX_NUMBER):08d}: "


def marked(messages: Sequence[tuple[str, str]], seed: int) -> list[dict[str, str]]:
    """A user's own messages, with a number before the last one of the user, so that no cache of an earlier use helps.

    What comes before that message stays as it is: a cache of it would help in service too.
    """
    last = max((place for place, (role, _) in enumerate(messages) if role == "user"), default=len(messages) - 1)
    return [{"role": role, "content": mark(seed) + content if place == last else content} for place, (role, content) in enumerate(messages)]


def exactly(ids: list[int], n_tokens: int) -> list[int]:
    """The first n_tokens ids. Raises InputError if there are fewer."""
    if len(ids) < n_tokens:
        raise InputError(f"This tokenizer makes only {len(ids)} tokens of a text meant for {n_tokens}; use a shorter workload.")
    return ids[:n_tokens]
