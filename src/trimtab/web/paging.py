"""Fields of an address, and links to the pages before and after."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from trimtab.web.pages import Visit

LONGEST = 200


@dataclass(frozen=True, kw_only=True)
class Paging:
    """before, after: addresses, empty at the ends"""

    page: int
    n_pages: int
    before: str
    after: str


def asked(visit: Visit, name: str) -> str:
    """A field of the address, cut where nobody would type more; empty if it is not there."""
    return str(visit.request.query_params.get(name, "")).strip()[:LONGEST]


def asked_number(visit: Visit, name: str, default: int = 1) -> int:
    """A whole number of the address; the default for anything else."""
    text = asked(visit, name)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else default


def paging(visit: Visit, page: int, n_pages: int) -> Paging:
    """Links that keep everything else that was asked."""
    return Paging(
        page=page,
        n_pages=n_pages,
        before=address(visit, page=str(page - 1)) if page > 1 else "",
        after=address(visit, page=str(page + 1)) if page < n_pages else "",
    )


def address(visit: Visit, **changed: str) -> str:
    """This page's own address with some fields changed; an empty one is left out."""
    kept: Mapping[str, str] = {**visit.request.query_params, **changed}
    query = urlencode({key: value for key, value in kept.items() if value})
    return visit.request.url.path + (f"?{query}" if query else "")
