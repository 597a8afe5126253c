"""From texts about people to what each method trains on: rows for train.jsonl, in order.

counterfactual  every text, and the same about the other group, with half the weight each (Lu et al. 2018, arXiv 1807.11714)
balanced        such pairs beside each other for the objective `paired` (train/debias/pairing.py)
reweigh         every text once, weighted so that groups and attributes are independent (Kamiran & Calders 2012, KAIS 33(1), section 5.3)
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from trimtab.core.errors import InputError
from trimtab.train.debias.swaps import twin_of

Method = Literal["counterfactual", "balanced", "reweigh"]
METHODS: tuple[Method, ...] = ("counterfactual", "balanced", "reweigh")
JOINED_CHARACTERS = 900
"""About so long are documents made of several texts: a model that is only shown single sentences learns to stop after one."""


@dataclass(frozen=True, kw_only=True)
class PersonText:
    """A text about somebody, and its versions about somebody else.

    text: as it reads, chats in the model's template; twins: () where it names nobody
    alone: it is a document by itself (a conversation)
    axis, group, attribute: for `reweigh`; "" = not known
    """

    text: str
    twins: tuple[str, ...] = ()
    alone: bool = False
    axis: str = ""
    group: str = ""
    attribute: str = ""


def rows_of(method: Method, texts: Sequence[PersonText], seed: int) -> list[dict[str, Any]]:
    """Documents with `text` and `weight`. Raises InputError where the texts do not serve the method."""
    match method:
        case "counterfactual":
            return counterfactual(texts, seed)
        case "balanced":
            return balanced(texts, seed)
        case "reweigh":
            return reweighed(texts, seed)


def counterfactual(texts: Sequence[PersonText], seed: int) -> list[dict[str, Any]]:
    """Each text and each of its twins; a text counts 1 in all, however many versions it has."""
    if not any(text.twins for text in texts):
        raise InputError("No text names somebody of a group in the swap lists, so there is nothing to swap; give texts about people.")
    mixed = Random(seed).sample(list(texts), len(texts))
    rows: list[dict[str, Any]] = []
    for n_versions in sorted({1 + len(text.twins) for text in mixed}):
        some = [text for text in mixed if 1 + len(text.twins) == n_versions]
        for version in range(n_versions):
            said = [(text.twins[version - 1] if version else text.text, text.alone) for text in some]
            rows += [{"text": joined, "weight": 1.0 / n_versions} for joined in _joined(said)]
    return rows


def balanced(texts: Sequence[PersonText], seed: int) -> list[dict[str, Any]]:
    """Two rows a pair, pairs in random order; texts without a twin stand beside each other, for the distillation alone."""
    random = Random(seed)
    pairs = [(text.text, random.choice(text.twins)) for text in texts if text.twins]
    if not pairs:
        raise InputError("No text names somebody of a group in the swap lists, so there are no pairs; give texts about people.")
    rest = [text.text for text in texts if not text.twins]
    pairs += zip(rest[::2], rest[1::2], strict=False)
    random.shuffle(pairs)
    return [{"text": text, "weight": 1.0} for pair in pairs for text in pair]


def reweighed(texts: Sequence[PersonText], seed: int) -> list[dict[str, Any]]:
    """Texts with the weight of their group and attribute; those of one weight are joined."""
    mixed = Random(seed).sample(list(texts), len(texts))
    if any(not text.group or not text.attribute for text in mixed):
        raise InputError("`reweigh` needs to know the group and the attribute of each text; give them as fields `group` and `attribute`.")
    weights = independence_weights([(text.axis, text.group, text.attribute) for text in mixed])
    rows: list[dict[str, Any]] = []
    for weight in sorted(set(weights)):
        said = [(text.text, text.alone) for text, own in zip(mixed, weights, strict=True) if own == weight]
        rows += [{"text": joined, "weight": weight} for joined in _joined(said)]
    return rows


def independence_weights(cells: Sequence[tuple[str, str, str]]) -> list[float]:
    """n_group n_attribute / (n n_both) of each (axis, group, attribute), counted within the axis.

    Their mean is 1 within an axis all of whose groups have every attribute.
    """
    n = Counter(axis for axis, _, _ in cells)
    of_group = Counter((axis, group) for axis, group, _ in cells)
    of_attribute = Counter((axis, attribute) for axis, _, attribute in cells)
    both = Counter(cells)
    return [of_group[cell[:2]] * of_attribute[cell[0], cell[2]] / (n[cell[0]] * both[cell]) for cell in cells]


def own_texts(rows: Iterable[tuple[str, Mapping[str, Any]]], seed: int) -> list[PersonText]:
    """Texts of the user's. rows: (where, object with `text`, and for `reweigh` `group` and `attribute`).

    Raises InputError with the place.
    """
    random, found = Random(seed), []
    for where, row in rows:
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f'{where}: a text is needed, such as {{"text": ...}}.')
        group, attribute = (str(row.get(name, "")) for name in ("group", "attribute"))
        found.append(PersonText(text=text, twins=twin_of(text, random), alone=True, axis="group", group=group, attribute=attribute))
    return found


def without(texts: Sequence[PersonText], dropped: set[str]) -> list[PersonText]:
    """The texts but for those that are, or have a twin, among `dropped`."""
    return [text for text in texts if not dropped.intersection((text.text, *text.twins))]


def _joined(said: Sequence[tuple[str, bool]]) -> list[str]:
    """Texts one after another in documents of about JOINED_CHARACTERS; those that stand alone by themselves."""
    documents = [text for text, alone in said if alone]
    waiting: list[str] = []
    for text, alone in said:
        if alone:
            continue
        waiting.append(text)
        if sum(map(len, waiting)) >= JOINED_CHARACTERS:
            documents.append(" ".join(waiting))
            waiting = []
    return documents + ([" ".join(waiting)] if waiting else [])
