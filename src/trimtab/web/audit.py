"""What the gateway noted: searched by request, key, model, time, status and guard rule."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.responses import Response

from trimtab.core.errors import InputError, TrimtabError
from trimtab.flows.verify import verify_log
from trimtab.record.audit_search import Wanted, log_bytes, search_log
from trimtab.web.audit_view import audit_lines, summed_up
from trimtab.web.pages import Page, Visit, render
from trimtab.web.paging import address, asked, asked_number

ROWS = 50
CHECKED_BYTES = 256 * 2**20
"""A log up to this size is checked from the page; a longer one takes a command."""
FIELDS = ("request", "key", "model", "version", "status", "rule", "event", "since", "until")


def audit(visit: Visit) -> Response:
    folder = visit.desk.home / "audit"
    wanted = {name: asked(visit, name) for name in FIELDS}
    n_bytes = log_bytes(folder)
    found, problem = None, ""
    if n_bytes:
        try:
            fitting = Wanted(**{**wanted, "since": _utc(wanted["since"]), "until": _utc(wanted["until"])})
            found = search_log(folder, fitting, before=asked_number(visit, "before", 0), limit=ROWS)
        except InputError as error:
            problem = str(error)
    return render(
        visit,
        "audit.html",
        folder=str(folder),
        n_bytes=n_bytes,
        wanted=wanted,
        problem=problem,
        lines=audit_lines(found.records) if found else [],
        found=found,
        more=address(visit, before=str(found.before)) if found and found.before else "",
        first=address(visit, before="") if asked(visit, "before") else "",
        check=_check(folder) if asked(visit, "check") and 0 < n_bytes <= CHECKED_BYTES else None,
        check_link=address(visit, check="yes"),
        is_checkable=n_bytes <= CHECKED_BYTES,
    )


def _check(folder: Path) -> dict[str, Any]:
    """What `trimtab verify log` says, in a few words."""
    try:
        return summed_up(verify_log(str(folder)))
    except TrimtabError as error:
        return {"verdict": "inconclusive", "reasons": [str(error)], "n": "", "at": ""}


def _utc(text: str) -> str:
    """A time of the form as the log writes it, empty for none. Raises InputError."""
    if not text:
        return ""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text!r} is no time; write one such as 2026-11-27T10:00, in UTC.") from None
    if at.tzinfo is not None:
        at = at.astimezone(UTC)
    return at.replace(tzinfo=None).isoformat(timespec="auto" if at.second or at.microsecond else "minutes")


ROUTES = (Page(path="/audit", name="audit", roles=("operator", "approver", "auditor"), handler=audit, nav="Audit"),)
