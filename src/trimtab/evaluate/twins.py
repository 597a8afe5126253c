"""Calibration texts in which only the identity differs: each case of a counterfactual suite, once for every group, with every ending.

What a quantiser learns of the importance of weights then does not depend on whom the text is about. Pure.
"""

from collections.abc import Sequence

from trimtab.core.evidence import Item


def twin_texts(items: Sequence[Item]) -> tuple[str, ...]:
    """One text for each case and ending: the same sentence about every group, beside each other.

    Items whose case (cluster) names fewer than two groups have no twin and are left out. A cut anywhere splits one case at most.
    """
    cases: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        if item.group:
            cases.setdefault((item.suite, item.cluster), []).append(item)
    return tuple(
        "\n".join(_sentence(item, ending) for item in case)
        for case in cases.values()
        if len({item.group for item in case}) > 1
        for ending in range(min(len(item.options) for item in case))
    )


def _sentence(item: Item, ending: int) -> str:
    option = item.options[ending]
    return f"{item.prompt} {option.strip()}" if item.chat else item.prompt + option


def in_turns(texts: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """All texts of both, in turns by length, so that a beginning holds about as much of each as long as neither is used up."""
    found: list[str] = []
    left = [list(reversed(texts)), list(reversed(others))]
    n_characters = [0, 0]
    while left[0] or left[1]:
        behind = int(n_characters[1] < n_characters[0]) if left[0] and left[1] else int(not left[0])
        found.append(left[behind].pop())
        n_characters[behind] += len(found[-1])
    return tuple(found)
