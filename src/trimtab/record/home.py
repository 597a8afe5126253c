"""Where trimtab keeps things: state (worth a backup) and caches (can be deleted at any time).

state  TRIMTAB_HOME, else the platform's data folder (Linux: ~/.local/share/trimtab)
cache  TRIMTAB_CACHE, else TRIMTAB_HOME/cache if TRIMTAB_HOME is set (one variable moves everything), else the platform's cache
       folder (Linux: ~/.cache/trimtab)
"""

import os
from pathlib import Path

from trimtab.core.errors import InputError
from trimtab.record.disk import sentences


def state_dir() -> Path:
    """Folder of the ledger, evidence and keys, created on demand. Raises InputError or MissingError."""
    given = _from_environment("TRIMTAB_HOME")
    return _made(given if given is not None else _platform_dir("data"))


def cache_dir() -> Path:
    """Folder of caches, created on demand. Raises InputError or MissingError."""
    given = _from_environment("TRIMTAB_CACHE")
    if given is not None:
        return _made(given)
    home = _from_environment("TRIMTAB_HOME")
    return _made(home / "cache" if home is not None else _platform_dir("cache"))


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(name, "")
    if not value:
        return None
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise InputError(f"{name}={value} names a user's home that does not exist; set {name} to a full path.") from None
    if not path.is_absolute():
        raise InputError(f"{name}={value} is not a full path; set {name} to one that starts at the root.")
    return path


def _platform_dir(kind: str) -> Path:
    import platformdirs

    if kind == "data":
        return Path(platformdirs.user_data_dir("trimtab", appauthor=False))
    return Path(platformdirs.user_cache_dir("trimtab", appauthor=False))


def _made(path: Path) -> Path:
    with sentences(path, "create"):
        path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"No permission to write {path}; change its permissions or set TRIMTAB_HOME to another folder.")
    return path
