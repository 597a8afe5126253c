"""`trimtab keys`: API keys made, listed, renewed and ended. A gateway that runs sees it within a second."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.record.home import state_dir
from trimtab.record.identities import ANY, Key, list_keys
from trimtab.record.identities import add_key as make
from trimtab.record.identities import revoke_key as end
from trimtab.record.identities import rotate_key as renew

DAY_S = 86400


def add_key(
    name: str,
    *,
    models: Sequence[str] = (),
    verbs: Sequence[str] = (),
    rpm: int | None = None,
    tokens_per_day: int | None = None,
    expires_s: float | None = None,
) -> dict[str, Any]:
    """Make a key; the answer holds its secret, which nobody can get again. Empty models or verbs = all. Raises InputError, MissingError."""
    key, secret = make(
        name,
        models=models or (ANY,),
        verbs=verbs or (ANY,),
        rpm=rpm,
        tokens_per_day=tokens_per_day,
        expires_unix_s=None if expires_s is None else time.time() + expires_s,
    )
    return {**_row(key), "secret": secret}


def rotate_key(which: str, *, overlap_s: float) -> dict[str, Any]:
    """Give a key a new secret, which the answer holds; the old one stays good for `overlap_s`. Raises InputError, MissingError."""
    key, secret = renew(which, overlap_s=overlap_s)
    return {**_row(key), "secret": secret, "old_until_unix_s": time.time() + overlap_s}


def revoke_key(which: str) -> dict[str, Any]:
    """End a key at once. Raises InputError, MissingError."""
    return _row(end(which))


def show_keys() -> list[dict[str, Any]]:
    """Every key that was ever made, with what it has used today (UTC). Raises InputError, MissingError."""
    today = _spent_of_day(int(time.time() // DAY_S))
    rows = []
    for key in list_keys():
        requests, tokens = today.get(key.id, (0, 0))
        rows.append({**_row(key), "requests_today": requests, "tokens_today": tokens})
    return rows


def _spent_of_day(day: int) -> Mapping[str, tuple[int, int]]:
    """Requests and tokens by key, of this gateway or of all that share a state."""
    if os.environ.get("TRIMTAB_STATE"):
        from trimtab.record.shared_state import SharedState

        with SharedState.open() as state:
            return state.spent_of_day(day)
    from trimtab.serve.limits import SpendFile

    return {key: (spent.requests, spent.tokens) for key, spent in SpendFile(state_dir()).of_day(day).items()}


def _row(key: Key) -> dict[str, Any]:
    return {**key.plain(), "state": key.state(time.time())}
