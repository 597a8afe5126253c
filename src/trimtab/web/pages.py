"""What a page is, who may see it, and how it is written. Every route of the application stands in the ROUTES of one file of this room."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from trimtab.core.release import Person, Role
from trimtab.web.desk import Desk
from trimtab.web.sessions import Session

if TYPE_CHECKING:
    import jinja2

Allowed = Role | Literal["anyone"]
Method = Literal["GET", "POST"]

EVERY_ROLE: tuple[Role, ...] = get_args(Role)
"""Whoever has a role may look."""
ANYONE: tuple[Allowed, ...] = ("anyone",)
"""Also who is not signed in."""

ROOMS = (
    "overview",
    "live",
    "releases",
    "history",
    "runs",
    "plans",
    "models",
    "incidents",
    "audit",
    "people",
    "sign_in",
    "events",
    "api",
    "static_files",
)
"""Files of this room that have ROUTES, in the order of the navigation."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One request by somebody whose rights were checked.

    person: None = not signed in; form: fields of a form, or of the JSON object that a program sent
    """

    request: Request
    desk: Desk
    page: "Page"
    session: Session | None = None
    person: Person | None = None
    form: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.person.name if self.person else ""

    def may(self, roles: tuple[Allowed, ...]) -> bool:
        """Whether the visitor has one of these roles."""
        return is_allowed(roles, self.person)

    @property
    def has_key(self) -> bool:
        """Whether what is done in the visitor's name can be signed here."""
        return self.person is not None and self.desk.has_key(self.person)


class Refusal(Exception):
    """A request that is not answered. reasons: sentences; status: of HTTP; command: what to run instead, where there is something"""

    def __init__(
        self, status: int, title: str, reasons: Sequence[str], headers: Mapping[str, str] | None = None, *, command: str = ""
    ) -> None:
        super().__init__(*reasons)
        self.status = status
        self.title = title
        self.reasons = reasons
        self.headers = headers or {}
        self.command = command


Handler = Callable[[Visit], Response]
"""Plain and synchronous: it runs in a thread, so it may read and write. What it raises on purpose becomes a page with the sentence."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """A page as OpenAPI tells it. takes: fields of the body -> (JSON schema, required); gives: JSON schema of the answer"""

    summary: str
    gives: Mapping[str, Any]
    takes: Mapping[str, tuple[Mapping[str, Any], bool]] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Page:
    """One route. path: of starlette, e.g. `/releases/{release}`; name: unique, also the title's default

    roles: one of them is needed; nav: text in the navigation, empty = not there; told: of the JSON API, whose paths begin with /api/
    is_open: a POST that takes no token of the session, since there is none yet
    """

    path: str
    name: str
    roles: tuple[Allowed, ...]
    handler: Handler
    methods: tuple[Method, ...] = ("GET",)
    nav: str = ""
    told: Told | None = None
    is_open: bool = False

    def __post_init__(self) -> None:
        if not self.roles or not set(self.roles) <= {*EVERY_ROLE, *ANYONE}:
            raise ValueError(f"The page {self.name!r} does not say which roles may use it.")
        if self.is_api != (self.told is not None):
            raise ValueError(f"The page {self.name!r} is of the API and not told there, or the other way round.")
        if self.is_open and self.roles != ANYONE:
            raise ValueError(f"The page {self.name!r} acts for somebody and takes no token.")

    @property
    def is_api(self) -> bool:
        return self.path.startswith("/api/")


def is_allowed(roles: tuple[Allowed, ...], person: Person | None) -> bool:
    """Whether somebody (None = not signed in) may use what needs one of these roles."""
    return "anyone" in roles or (person is not None and bool(set(roles) & set(person.roles)))


@cache
def all_pages() -> tuple[Page, ...]:
    """Every page there is. Raises ValueError for two of one name."""
    pages = [page for room in ROOMS for page in importlib.import_module(f"trimtab.web.{room}").ROUTES]
    names = [page.name for page in pages]
    if len(set(names)) != len(names):
        raise ValueError(f"Two pages have one name: {sorted(names)}")
    return tuple(pages)


@cache
def environment() -> "jinja2.Environment":
    """The templates of this room. Every text is escaped, and a name that is not there is an error."""
    import jinja2

    from trimtab.web.words import FILTERS

    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [
                jinja2.PackageLoader("trimtab.web", "templates"),
                jinja2.PrefixLoader({"record": jinja2.PackageLoader("trimtab.record", "templates")}),  # tables of the reports
            ]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(FILTERS)
    return made


def render(visit: Visit, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page from a template that extends base.html. In it: `visit`, `csrf` for forms, `nav`, `notices`, and the values."""
    session = visit.session
    notices, nav = list(session.notices) if session else [], []
    if session:
        session.notices.clear()
        nav = [page for page in all_pages() if page.nav and visit.may(page.roles)]
    path = visit.request.url.path
    own = {"visit": visit, "csrf": session.csrf if session else "", "nav": nav, "here": path, "notices": notices}
    return HTMLResponse(environment().get_template(template).render({**own, **values}), status_code=status)


def answer(value: Any, *, status: int = 200) -> JSONResponse:
    """A JSON answer of the API."""
    return JSONResponse(value, status_code=status)


def go(visit: Visit, path: str, notice: str = "") -> RedirectResponse:
    """To another page after something was done, which says so there."""
    if notice and visit.session:
        visit.session.notices.append(notice)
    return RedirectResponse(path, status_code=303)
