"""Secondary check on free generation: is an answer empty, gibberish, or caught in a loop? Pure functions on text."""

import itertools
import re
import zlib
from collections import Counter
from collections.abc import Sequence

from trimtab.core.evidence import GenerationCheck

NGRAM_WORDS = 6
LOOP_SHARE = 0.5
MIN_LOOP_WORDS = 30
MIN_COMPRESSION = 0.12
MIN_LOOP_CHARACTERS = 240
MAX_REPLACEMENT_SHARE = 0.02
MIN_READABLE_SHARE = 0.55
MAX_WORD_CHARACTERS = 40


def generation_prompts() -> tuple[str, ...]:
    """User messages that any chat model can answer at length."""
    return (
        "Write a short story about a lost umbrella that finds its way home.",
        "Explain to a beginner how a bicycle stays upright when it moves.",
        "I have an hour before guests arrive and the flat is a mess. What should I do first?",
        "Describe a walk through a market on a Saturday morning.",
        "What are the advantages and disadvantages of living in a small town?",
        "Write a Python function that checks whether a word is a palindrome, and explain it.",
        "Tell me how to choose a good melon, and what to do with it afterwards.",
        "Give me some tips for speaking in front of a large audience.",
        "Write a letter to a neighbour whose dog barks at night.",
        "What should I pack for three days in the mountains in autumn?",
        "Explain why the sky is blue to a child of eight.",
        "Describe the kitchen of a grandmother who loves baking.",
        "How do I mend a bicycle tyre without special tools?",
        "Tell me about the life of a lighthouse keeper a hundred years ago.",
        "Write a short dialogue between a tailor and an impatient customer.",
        "Which plants grow well on a balcony that faces north, and why?",
    )


def check_generation(prompts: Sequence[str], texts: Sequence[str]) -> GenerationCheck:
    """Which answers are broken and why (`why` is empty for a sound one)."""
    reasons = tuple(what_is_broken(text) for _, text in zip(prompts, texts, strict=True))
    return GenerationCheck(prompts=tuple(prompts), broken=tuple(bool(reason) for reason in reasons), why=reasons, texts=tuple(texts))


def what_is_broken(text: str) -> str:
    """`empty`, `looping` or `gibberish` with a figure, or nothing."""
    stripped = text.strip()
    if not any(character.isalnum() for character in stripped):
        return "empty" if len(stripped) < 20 else "gibberish: no letter or digit"
    return _looping(stripped) or _gibberish(stripped)


def _looping(text: str) -> str:
    """A passage that comes back again and again: by repeated word sequences, and by compression where there are few words."""
    words = re.findall(r"\w+", text.lower())
    if len(words) >= MIN_LOOP_WORDS:
        grams = [tuple(words[start : start + NGRAM_WORDS]) for start in range(len(words) - NGRAM_WORDS + 1)]
        repeated = sum(count - 1 for count in Counter(grams).values()) / len(grams)
        if repeated > LOOP_SHARE:
            return f"looping: {repeated:.0%} of its sequences of {NGRAM_WORDS} words had come before"
    raw = text.encode()
    if len(raw) >= MIN_LOOP_CHARACTERS:
        ratio = len(zlib.compress(raw, 9)) / len(raw)
        if ratio < MIN_COMPRESSION:
            return f"looping: it compresses to {ratio:.0%} of its size"
    return ""


def _gibberish(text: str) -> str:
    """Broken bytes, hardly any readable characters, or words no language has."""
    broken = text.count("\ufffd") / len(text)
    if broken > MAX_REPLACEMENT_SHARE:
        return f"gibberish: {broken:.0%} of its characters are not text"
    readable = sum(character.isalnum() or character.isspace() for character in text) / len(text)
    if readable < MIN_READABLE_SHARE and len(text) >= 20:
        return f"gibberish: only {readable:.0%} of its characters are letters, digits or spaces"
    # Only Latin words are measured: other scripts may be written without spaces.
    words = re.findall(r"[A-Za-z]+", text)
    if len(words) >= 8:
        long = sum(len(word) > MAX_WORD_CHARACTERS for word in words) / len(words)
        unsayable = sum(_unsayable(word) for word in words) / len(words)
        if long > 0.1 or unsayable > 0.3:
            return f"gibberish: {max(long, unsayable):.0%} of its words cannot be spoken"
    return ""


def _unsayable(word: str) -> bool:
    """Six consonants or more in a row, or a change to capitals inside a word more than twice."""
    changes = sum(a.islower() and b.isupper() for a, b in itertools.pairwise(word))
    return changes > 2 or re.search(r"[bcdfghjklmnpqrstvwxz]{6,}", word.lower()) is not None
