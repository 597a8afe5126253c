"""`openai:URL#model` as an Endpoint: any server that speaks the OpenAI API."""

import os
import re
from dataclasses import replace
from urllib.parse import urlsplit

from trimtab.core.endpoint import Endpoint
from trimtab.core.errors import InputError

SCHEME = "openai:"
MOST_CONCURRENCY = 64
_EXAMPLE = "openai:http://localhost:8000/v1#model"


def is_endpoint(spec: str) -> bool:
    """Whether a spec names a server."""
    return spec.startswith(SCHEME)


def parse_endpoint(spec: str) -> Endpoint:
    """`openai:http://host:8000/v1#model?key_env=NAME&concurrency=2` as an Endpoint; all after the URL may be left out.

    Options stand after the model, because a `?` before the `#` is part of the URL. Raises InputError.
    """
    place, _, rest = spec.removeprefix(SCHEME).partition("#")
    model, _, query = rest.partition("?")
    try:
        parts = urlsplit(place)
        port = parts.port
    except ValueError as error:
        raise InputError(f"{spec!r} has a broken address ({error}); write it like {_EXAMPLE}.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise InputError(f"{spec!r} names no server; write it like {_EXAMPLE}.")
    if parts.username is not None or parts.password is not None:
        raise InputError(
            "An address must not hold a name or password; put the key into an environment variable and name that: ?key_env=NAME."
        )
    return _with_options(Endpoint(url=_without_slash(place), model=model), query, spec)


def key_of(endpoint: Endpoint) -> str:
    """The key, from the environment; empty if the variable is not set (servers of one's own want none)."""
    return os.environ.get(endpoint.key_env, "").strip()


def _without_slash(url: str) -> str:
    path, question, query = url.partition("?")
    return path.rstrip("/") + question + query


def _with_options(endpoint: Endpoint, query: str, spec: str) -> Endpoint:
    for pair in filter(None, query.split("&")):
        key, _, value = pair.partition("=")
        if key == "key_env" and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            endpoint = replace(endpoint, key_env=value)
        elif key == "concurrency" and value.isascii() and value.isdecimal() and 1 <= int(value) <= MOST_CONCURRENCY:
            endpoint = replace(endpoint, concurrency=int(value))
        elif key in ("key_env", "concurrency"):
            wanted = "the name of an environment variable" if key == "key_env" else f"a whole number from 1 to {MOST_CONCURRENCY}"
            # What was written is not repeated: it may be the key itself.
            raise InputError(f"{key} of an endpoint takes {wanted}.")
        else:
            raise InputError(f"Unknown option {key!r} in {spec!r}; a server takes key_env and concurrency after its model.")
    return endpoint
