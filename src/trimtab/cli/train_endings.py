"""How the verdict of a trained model is shown."""

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from trimtab.core import phrases

WORDS = {"pass": ("passed", "green"), "fail": ("failed", "red"), "inconclusive": ("inconclusive", "yellow")}


def verdict_line(what: str, verdict: str) -> Text:
    """`heal: passed`."""
    word, style = WORDS[verdict]
    return Text.assemble((f"{what}: ", "bold"), (word, f"bold {style}"))


def reasons_of(found: Mapping[str, Any]) -> list[Text]:
    """One line a reason."""
    return [Text(phrases.line(reason)) for reason in found["reasons"]]
