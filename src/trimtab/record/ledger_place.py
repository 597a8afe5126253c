"""Where a ledger is, from what the user gave: a file of SQLite or a database of PostgreSQL. Passwords never leave the URL."""

import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from trimtab.core.errors import InputError
from trimtab.record.disk import sentences

_FORMS = "give sqlite:///FILE or postgresql://USER@HOST/DATABASE (its password in PGPASSWORD)"
_SSL_MODES = ("disable", "prefer", "require", "verify-ca", "verify-full")


@dataclass(frozen=True, kw_only=True)
class Place:
    """shown: for people and in checkpoints, without user and password; path: of SQLite's file, None for PostgreSQL

    url, connect_args: of PostgreSQL, for its driver
    """

    shown: str
    path: Path | None = None
    url: URL | None = None
    connect_args: dict[str, Any] = field(default_factory=dict, repr=False)


def server_of(url: str, what: str) -> Place:
    """A database of PostgreSQL. what: for people, such as `shared state`. Raises InputError, in which no password stands."""
    place = None
    with contextlib.suppress(InputError):
        place = place_of(url, Path())
    if place is None or place.path is not None:
        raise InputError(
            f"The address of the {what} is not a PostgreSQL database's; give postgresql://USER@HOST/DATABASE, its password in PGPASSWORD."
        )
    return place


def place_of(url: str, default: Path) -> Place:
    """url: empty = the SQLite file `default`; a path, sqlite:///PATH or postgresql://USER[:PASSWORD]@HOST[:PORT]/DATABASE[?sslmode=...]

    Raises InputError, in which no password stands.
    """
    if not url:
        return _of_file(default)
    scheme, separator, _ = url.partition("://")
    if not separator:
        return _of_file(Path(url))
    scheme = {"postgres": "postgresql"}.get(scheme, scheme)
    try:
        parsed = make_url(f"{scheme}://{url.partition('://')[2]}")
    except (ArgumentError, ValueError):
        raise InputError(f"The address of the ledger is not a database's URL; {_FORMS}.") from None
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        if not parsed.database or parsed.database == ":memory:" or parsed.query:
            raise InputError(f"A ledger in SQLite needs a file and nothing else, as in sqlite:///{default}.")
        return _of_file(Path(parsed.database))
    if parsed.drivername not in ("postgresql", "postgresql+pg8000"):
        kind = f"{scheme}://" if re.fullmatch(r"[a-z][a-z0-9+]{0,30}", scheme) else "This address"
        raise InputError(f"{kind} is no database that a ledger can be in; {_FORMS}.")
    return _of_server(parsed)


def _of_file(path: Path) -> Place:
    try:
        path = path.expanduser().absolute()
    except RuntimeError:
        raise InputError(f"{path} names a user's home that does not exist; give the ledger's full path.") from None
    return Place(shown=str(path), path=path)


def _of_server(url: URL) -> Place:
    if not url.username or not url.database:
        raise InputError(f"The address of the ledger names no {'database' if url.username else 'user'}; {_FORMS}.")
    unknown = sorted(set(url.query) - {"sslmode", "sslrootcert"})
    if unknown:
        raise InputError(f"The address of the ledger has an unknown part, {unknown[0]}; after `?` only sslmode and sslrootcert may stand.")
    host, port = url.host or "localhost", url.port or 5432
    shown_host = f"[{host}]" if ":" in host else host
    password = url.password or os.environ.get("PGPASSWORD") or None
    options = {name: str(value) for name, value in url.query.items()}
    return Place(
        shown=f"postgresql://{shown_host}:{port}/{url.database}",
        url=URL.create("postgresql+pg8000", url.username, password, host, port, url.database),
        connect_args={"ssl_context": _ssl_context(options.get("sslmode", "prefer"), options.get("sslrootcert", ""))},
    )


def _ssl_context(mode: str, root: str) -> Any:
    """What the driver takes: False = no TLS, None = TLS if the server offers it, else a context."""
    if mode not in _SSL_MODES:
        raise InputError(f"sslmode={mode} in the address of the ledger is unknown; it may be {', '.join(_SSL_MODES)}.")
    if mode in ("disable", "prefer"):
        return None if mode == "prefer" else False
    import ssl

    try:
        with sentences(Path(root), "read"):
            context = ssl.create_default_context(cafile=root or None)
    except ssl.SSLError:
        raise InputError(f"{root} holds no certificates in PEM form; give the server's root certificates as sslrootcert.") from None
    context.check_hostname = mode == "verify-full"
    if mode == "require":
        context.verify_mode = ssl.CERT_NONE
    return context
