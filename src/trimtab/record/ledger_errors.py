"""One sentence for what a database refuses. Nothing of the address but what `Place.shown` holds stands in it."""

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from trimtab.core.errors import InputError, MissingError, TrimtabError
from trimtab.record.ledger_entries import DamagedLedger

LOCK_S = 30
"""So long does a writer wait for its turn."""

_IN_SQLITE = {
    "SQLITE_BUSY": "locked",
    "SQLITE_LOCKED": "locked",
    "SQLITE_READONLY_DBMOVED": "moved",
    "SQLITE_READONLY": "read-only",
    "SQLITE_PERM": "read-only",
    "SQLITE_AUTH": "read-only",
    "SQLITE_FULL": "full",
    "SQLITE_IOERR": "disk",
    "SQLITE_CANTOPEN": "cannot open",
    "SQLITE_NOTADB": "damaged",
    "SQLITE_CORRUPT": "damaged",
    "SQLITE_FORMAT": "damaged",
    "SQLITE_MISMATCH": "damaged",
    "SQLITE_ERROR": "no table",
    "SQLITE_CONSTRAINT": "refused",
}
_IN_POSTGRESQL = {
    "55P03": "locked",
    "40P01": "locked",
    "57014": "locked",
    "25006": "read-only",
    "42501": "read-only",
    "53100": "full",
    "58030": "disk",
    "28": "login",
    "3D": "no database",
    "42P01": "no table",
    "42703": "no table",
    "23": "refused",
    "53300": "busy",
    "53": "busy",
    "57P": "gone",
    "08": "gone",
    "XX001": "damaged",
    "XX002": "damaged",
}


def is_lost(error: SQLAlchemyError) -> bool:
    """Whether the connection broke, so that nobody knows how far the database came."""
    return _reason(error) == "gone"


def is_locked(error: SQLAlchemyError) -> bool:
    """Whether another writer has its turn."""
    return _reason(error) == "locked"


def sentence(error: SQLAlchemyError, shown: str, doing: str, *, noun: str = "ledger") -> TrimtabError:
    """The error a user reads. doing: `read` or `write`; noun: what it is a database of"""
    what = f"The {noun} {shown}"
    sentences: dict[str, TrimtabError] = {
        "locked": MissingError(f"{what} was locked by others for more than {LOCK_S} s; nothing was written.", "try again."),
        "moved": _removed(shown),
        "read-only": InputError(f"No permission to {doing} the {noun} {shown}; change its permissions, or use another {noun}."),
        "full": MissingError(f"No space left to {doing} the {noun} {shown}; nothing was written.", "free some disk space there."),
        "disk": MissingError(f"The disk of the {noun} {shown} failed or is full; nothing was written.", "check the disk, then try again."),
        "cannot open": InputError(f"Cannot open the {noun} {shown}; check the path and its permissions."),
        "damaged": DamagedLedger(f"{what} is damaged or is no {noun}; put it back from a backup."),
        "refused": InputError(f"{what} refused the entry: it takes only the next one, and changes none."),
        "login": InputError(f"{what} does not let this user in; check the user's name in its address and the password in PGPASSWORD."),
        "no database": InputError(f"There is no database {shown}; make it with `createdb`, or give another address."),
        "no table": DamagedLedger(f"{what} lacks a table or a column that it had; put it back from a backup."),
        "busy": MissingError(f"{what} has no room for another connection; nothing was written.", "try again later."),
        "gone": MissingError(
            f"{what} does not answer; nothing was written.", "see that the server runs and can be reached, then try again."
        ),
    }
    found = sentences.get(_reason(error))
    return found if found is not None else MissingError(f"{what} failed: {_first_words(error)}.", "see the database's own log.")


def _removed(shown: str) -> MissingError:
    return MissingError(
        f"The ledger {shown} was removed or replaced while it was open; nothing more was written.", "put it back, then try again."
    )


def removed_error(shown: str) -> MissingError:
    """For a file that is no longer the one that was opened."""
    return _removed(shown)


def _reason(error: SQLAlchemyError) -> str:
    if not isinstance(error, DBAPIError) or error.orig is None:
        return ""
    name = getattr(error.orig, "sqlite_errorname", None)
    if name is not None:
        return _by_prefix(_IN_SQLITE, name)
    if "Could not decode to UTF-8" in str(error.orig):
        return "damaged"
    fields = error.orig.args[0] if error.orig.args else None
    if isinstance(fields, dict):
        return _by_prefix(_IN_POSTGRESQL, str(fields.get("C", "")))
    return "gone" if type(error.orig).__name__ == "InterfaceError" else ""


def _by_prefix(reasons: dict[str, str], code: str) -> str:
    matching = [prefix for prefix in reasons if code.startswith(prefix)]
    return reasons[max(matching, key=len)] if matching else ""


def _first_words(error: SQLAlchemyError) -> str:
    """The database's own words, in one line."""
    original = error.orig if isinstance(error, DBAPIError) else error
    fields = original.args[0] if original is not None and original.args else ""
    text = str(fields.get("M", "")) if isinstance(fields, dict) else str(original)
    return " ".join(text.split())[:200].rstrip(".") or type(error).__name__
