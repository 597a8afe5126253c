"""Joining a Ray cluster."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

TRIES = 4
LOST_CHILD = ("Starting Ray client server failed", "ZombieProcess", "NoSuchProcess")
"""What the head says when the process that it forked for a client died before it ran: it forks with threads of gRPC under way, and about
one in ten dies of that (github.com/ray-project/ray/issues/63202). Nothing of the client has happened by then."""


def show_token() -> None:
    """Have Ray show this user's token, if there is one (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token). To be called before Ray is
    imported.

    A head of Ray 2.60 asks for the token by itself once there is one, but who joins it shows it only if RAY_AUTH_MODE says so, and then
    waits in vain. A cluster that asks for none is joined all the same. A RAY_AUTH_MODE of the user's stays.
    """
    files = [os.environ.get("RAY_AUTH_TOKEN_PATH", ""), str(Path("~/.ray/auth_token").expanduser())]
    if os.environ.get("RAY_AUTH_TOKEN") or any(path and Path(path).is_file() for path in files):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def join_ray(init: Callable[..., Any], address: str, **options: Any) -> None:
    """`ray.init`, tried up to four times where the head's server for clients lost the process it made for this one.

    init: ray.init; options: as it takes them. Raises what it raises.
    """
    for n_tries in range(1, TRIES + 1):
        try:
            init(address=address, **options)
            return
        except ConnectionAbortedError as error:
            if n_tries == TRIES or not any(words in str(error) for words in LOST_CHILD):
                raise
