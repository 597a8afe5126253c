"""report.html of `trimtab fairness`: one self-contained page. It loads nothing, runs nothing and escapes every text it prints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.core import phrases
from trimtab.core.files import digest_of, write_atomic
from trimtab.record import fairness_view
from trimtab.record.disk import sentences


def render_fairness(document: Mapping[str, Any]) -> str:
    """The page of a document of decisions (schema trimtab.fairness/1) or of data (trimtab.fairness_data/1)."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trimtab.record", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["line"] = phrases.line
    is_data = str(document["schema"]).startswith("trimtab.fairness_data/")
    template = environment.get_template("fairness_data.html.j2" if is_data else "fairness.html.j2")
    return template.render(page=document, view=fairness_view, phrases=phrases, digest=digest_of(document)) + "\n"


def write_fairness_report(path: Path, document: Mapping[str, Any]) -> None:
    """Write the page, whole or not at all. Raises InputError or MissingError."""
    text = render_fairness(document)
    with sentences(path, "write"):
        write_atomic(path, text)
