"""The style sheet, the script and the icon; nothing else is reachable."""

import hashlib
from functools import cache
from importlib import resources

from starlette.responses import Response

from trimtab.web.pages import ANYONE, Page, Visit

_KINDS = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """name -> content, kind, tag"""
    folder = resources.files("trimtab.web") / "static"
    read = {one.name: one.read_bytes() for one in folder.iterdir() if one.name.rpartition(".")[2] in _KINDS}
    return {name: (data, _KINDS[name.rpartition(".")[2]], f'"{hashlib.sha256(data).hexdigest()[:32]}"') for name, data in read.items()}


def static(visit: Visit) -> Response:
    """One file; not sent again where the browser has it already."""
    name = visit.request.path_params["name"]
    if name not in _files():
        return Response("There is no such file.\n", status_code=404, media_type="text/plain")
    data, kind, tag = _files()[name]
    headers = {"etag": tag, "cache-control": "no-cache"}
    if visit.request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=kind, headers=headers)


ROUTES = (Page(path="/static/{name}", name="static", roles=ANYONE, handler=static),)
