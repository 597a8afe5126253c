"""report.html: one self-contained page of a decision. It loads nothing, runs nothing and escapes every text it prints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import digest_of, write_atomic
from trimtab.core.phrases import visible
from trimtab.record.disk import check_schema, sentences
from trimtab.record.page import environment
from trimtab.record.run import DECISION_SCHEMA

_SECTIONS = (
    ("answer", "What is compared", ()),
    ("speed", "How much faster", ("speed",)),
    ("demands", "Demands", ("demands", "objective")),
    ("tradeoffs", "Time, memory, quality", ("front",)),
    ("what-if", "What if", ("what_if",)),
    ("engines", "Engine by engine", ("engines",)),
    ("prices", "Price of tokens", ("engines",)),
    ("candidates", "Candidates", ()),
    ("gates", "Is it no worse?", ("gates",)),
    ("remedies", "Remedies", ("mitigation",)),
    ("power", "What it can show", ("power",)),
    ("flips", "Changed answers", ("gates",)),
    ("fairness", "Fairness by group", ("fairness",)),
    ("memory", "Memory", ("memory", "roofline")),
    ("served", "Served as scored", ("served", "parity")),
    ("conditions", "Conditions", ()),
    ("negative", "Negative results", ("negative",)),
    ("reproduce", "Reproduce it", ()),
)


def render_report(decision: Mapping[str, Any], *, command: str = "", items: str = "") -> str:
    """The page of a decision (schema trimtab.decision/1, plain JSON types). Takes about a second: plots are drawn.

    command: what to type to run it again; items: name of the page of single items beside it, if there is one
    Raises InputError if the decision lacks what the schema demands.
    """
    from trimtab.record.view import page_of

    check_schema(decision, DECISION_SCHEMA, "The decision")
    try:
        page = page_of(decision)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError) as error:
        raise InputError(f"The decision is not a whole {DECISION_SCHEMA} document ({type(error).__name__}: {error}).") from error
    page |= {"command": visible(command), "digest": digest_of(decision), "items_page": items}
    sections = [(name, title) for name, title, needs in _SECTIONS if not needs or any(page[need] for need in needs)]
    return environment().get_template("report.html.j2").render(page=page, sections=sections) + "\n"


def write_report(path: Path, decision: Mapping[str, Any], *, command: str = "", items: str = "") -> None:
    """Write the page, whole or not at all. Raises InputError or MissingError."""
    text = render_report(decision, command=command, items=items)
    with sentences(path, "write"):
        write_atomic(path, text)
