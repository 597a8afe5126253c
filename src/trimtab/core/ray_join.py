"""Joining a Ray cluster."""

from collections.abc import Callable
from typing import Any

TRIES = 4
LOST_CHILD = ("Starting Ray client server failed", "ZombieProcess", "NoSuchProcess")
"""What the head says when the process that it forked for a client died before it ran: it forks with threads of gRPC under way, and about
one in ten dies of that (github.com/ray-project/ray/issues/63202). Nothing of the client has happened by then."""


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
