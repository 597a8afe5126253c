"""Whose texts may be printed: of items about harm, and of their harmless look-alikes, only ids and numbers are. Pure."""

WORDS = ("harm", "refus", "safe", "jailbreak", "toxic", "abus", "danger", "attack", "fraud", "scam", "xstest")
"""Parts of names of sub-suites, items and groups that are about harm. A name too many hides a text too many: the safe side."""


def may_show(*names: str) -> bool:
    """Whether the texts of an item may be printed. names: its sub-suite, id and group."""
    said = " ".join(names).lower()
    return not any(word in said for word in WORDS)
