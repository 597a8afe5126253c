"""A text as a reader sees it: look-alike letters as plain ones, invisible characters left out, with the place of each character kept."""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

# Letters of other scripts that look like Latin ones (after Unicode's confusables), lower and upper case.
LOOK_ALIKES = {
    **dict(zip("аеорсухіјѕһԁԛԝӏьгтпвкмн", "aeopcyxijshdqwlbrtnbkmh", strict=True)),
    **dict(zip("АВЕКМНОРСТУХІЈЅԚԜӀ", "ABEKMHOPCTYXIJSQWI", strict=True)),
    **dict(zip("αεικνορτυχωβηκγ", "aeikvoptuxwbnky", strict=True)),
    **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEZHIKMNOPTYX", strict=True)),
    **dict(zip("ıłøđɑɡɩʟɴʀ", "ilodagilnr", strict=True)),
    **dict(zip("‘’‚‛′`´“”„″–—‐‑−", "''''''" + "'" + '""""' + "-----", strict=True)),
}
# Accents of Latin letters. Marks of other scripts carry meaning and stay.
LATIN_MARKS = range(0x0300, 0x0370)


@dataclass(frozen=True, kw_only=True)
class Folded:
    """text: what is seen; places: for each of its characters where it stands in the original, and one more for the end."""

    text: str
    places: tuple[int, ...] | range

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The original span of a span of `text`."""
        return self.places[start], self.places[end - 1] + 1 if end > start else self.places[start]


def fold(text: str) -> Folded:
    """What is seen of a text. Letters keep their case; marks above Latin letters go (e for é), compatibility forms become plain ones."""
    if text.isascii():
        return Folded(text=text, places=range(len(text) + 1))
    parts: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text):
        seen = char if char < "\x80" else _seen(char)
        parts.append(seen)
        places.extend([place] * len(seen))
    return Folded(text="".join(parts), places=(*places, len(text)))


@lru_cache(maxsize=8192)
def _seen(char: str) -> str:
    if char in LOOK_ALIKES:
        return LOOK_ALIKES[char]
    if is_invisible(char) or ord(char) in LATIN_MARKS:
        return ""
    plain = unicodedata.normalize("NFKD", char)
    if plain == char:
        return char
    return "".join(LOOK_ALIKES.get(one, one) for one in plain if ord(one) not in LATIN_MARKS and not is_invisible(one))


def is_invisible(char: str) -> bool:
    """Whether a character takes no room and says nothing by itself: zero width, direction, tags, variation selectors, odd fillers."""
    code = ord(char)
    if code < 0x80:
        return False
    return (
        unicodedata.category(char) == "Cf"
        or 0xFE00 <= code <= 0xFE0F
        or 0xE0000 <= code <= 0xE0FFF
        or 0x180B <= code <= 0x180F
        or code in (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, 0x2800)
    )
