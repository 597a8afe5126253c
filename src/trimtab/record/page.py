"""What the pages have in common: templates that escape every text, in which a name that is not there is an error."""

from functools import cache
from typing import TYPE_CHECKING

from trimtab.core import phrases

if TYPE_CHECKING:
    import jinja2


@cache
def environment() -> "jinja2.Environment":
    """The templates of this room. Their texts are escaped; SVG drawn here is marked safe where it is printed."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("trimtab.record", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["line"] = phrases.line
    return made
