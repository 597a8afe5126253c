"""What keeps other sites, other names and other people's scripts out: headers, the Host and Origin checks, tokens of forms.

CSP      nothing but files of this page: no inline script or style, no frames, no other host; trusted types stop scripts made of texts
Host     a name of loopback with our port, so that no other site's name can be pointed here (DNS rebinding)
Origin   of everything that changes something: ours
Sources: OWASP cheat sheets on session management and cross-site request forgery; W3C CSP level 3, trusted types.
"""

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trimtab.web.desk import Desk

CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    # same-origin and not no-referrer: browsers then send `Origin: null` with our own forms
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
SAFE = ("GET", "HEAD")


class Headers:
    """Refuses requests under a foreign name, and puts our headers on every answer."""

    def __init__(self, app: ASGIApp, desk: Desk) -> None:
        self._app = app
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._desk.hosts:
            refused = PlainTextResponse(f"This page is only at {self._desk.origins[0]}.\n", status_code=421)
            await refused(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)


def origin_fault(request: Request, *, by_cookie: bool) -> str:
    """Why a request that would change something may not, empty if it may. by_cookie: a browser sent it along, whoever asked."""
    origin = request.headers.get("origin")
    if origin is None:
        return "The request does not say where it comes from (Origin), as a browser would." if by_cookie else ""
    if origin != f"http://{request.headers['host']}":
        return "The request comes from another page than this one."
    return ""


def is_token(given: object, known: str) -> bool:
    """Whether a form's token is the session's."""
    return isinstance(given, str) and bool(known) and hmac.compare_digest(given.encode(), known.encode())


def own_path(text: object) -> str:
    """A path of this page from what a link said, `/` where that would lead elsewhere."""
    if not isinstance(text, str) or not text.startswith("/") or text.startswith(("//", "/\\")) or not text.isprintable():
        return "/"
    parts = urlsplit(text)
    return "/" if parts.scheme or parts.netloc or "\\" in text else text
