"""The gateway's sockets: HTTP in, answers and events out, for clients and, on a port of its own, for whoever runs it."""

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from trimtab.core.errors import InputError, TrimtabError
from trimtab.core.files import to_plain
from trimtab.core.site import Listen
from trimtab.record.identities import Key
from trimtab.serve.base import Refusal
from trimtab.serve.connections import CLOSE_S, IDLE_S, LOOK_EVERY, Connection, raise_file_limit
from trimtab.serve.door import Incoming
from trimtab.serve.errors import error_body, error_headers, internal_error
from trimtab.serve.feedback import FEEDBACK_PATHS, MOST_BYTES
from trimtab.serve.gateway import Gateway, Stream, Whole
from trimtab.serve.openapi import openapi_document
from trimtab.serve.schema import PATHS
from trimtab.serve.sse import DONE, sse_error

BODY_S = 30.0
"""A request body that takes longer to come gets 408."""
DRAIN_S = 30.0
JSON = "application/json"
Sockets = tuple[socket.socket, socket.socket | None]
"""For clients, and for whoever runs it."""

log = logging.getLogger("trimtab.serve")


class Gone(Exception):
    """The client closed its connection before its request was read."""


class Inference:
    """One path that models answer on, as an ASGI application."""

    def __init__(self, gateway: Gateway, path: str) -> None:
        self.gateway = gateway
        self.path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = f"req_{secrets.token_hex(12)}"
        watch: asyncio.Task[None] | None = None
        out = _Out(send, request_id)
        try:
            async with asyncio.timeout(self.gateway.site.request_s) as limit:
                raw = await read_body(receive, self.gateway.site.max_body_bytes)
                current = asyncio.current_task()
                assert current is not None
                watch = asyncio.create_task(_cancel_when_gone(receive, current))
                incoming = Incoming(id=request_id, path=self.path, headers=headers, raw=raw, is_late=limit.expired)
                answer = await self.gateway.answer(incoming)
                await (out.whole(answer) if isinstance(answer, Whole) else out.stream(answer))
        except Gone:
            return
        except asyncio.CancelledError:
            if watch is None or not watch.done():
                raise
        except Refusal as refusal:
            await out.refusal(refusal)
        except TimeoutError:
            await out.refusal(Refusal(504, "The request took longer than this server allows.", code="timeout"))
        except Exception as error:
            log.error("request %s failed", request_id, exc_info=error)
            await out.refusal(internal_error())
        finally:
            if watch is not None:
                watch.cancel()


class _Out:
    """What goes to one client. A refusal after the first byte is a stream's last event; there is no status left to tell it with."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self._has_begun = self._is_stream = False

    async def whole(self, answer: Whole) -> None:
        await self._start(answer.status, {"content-type": JSON, "content-length": str(len(answer.body)), **answer.headers})
        await self._send({"type": "http.response.body", "body": answer.body})

    async def stream(self, answer: Stream) -> None:
        async with contextlib.aclosing(answer.events) as events:
            await self._start(200, {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", **answer.headers})
            self._is_stream = True
            async for event in events:
                await self._send({"type": "http.response.body", "body": event, "more_body": True})
            self._is_stream = False
            await self._send({"type": "http.response.body", "body": b""})

    async def refusal(self, refusal: Refusal) -> None:
        if self._is_stream:
            await self._send({"type": "http.response.body", "body": sse_error(refusal) + DONE})
        if self._has_begun:
            return
        body = error_body(refusal)
        headers = {"content-type": JSON, "content-length": str(len(body)), "x-request-id": self._request_id, **error_headers(refusal)}
        await self._start(refusal.status, headers)
        await self._send({"type": "http.response.body", "body": body})

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        self._has_begun = True
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})


async def read_body(receive: Receive, limit_bytes: int) -> bytes:
    """The body of a request. Raises Refusal (408, 413), Gone."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit_bytes:
                    raise Refusal(
                        413, f"The request is larger than the {limit_bytes:,} bytes that this server takes.", code="request_too_large"
                    )
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        raise Refusal(408, f"The request's body did not come within {BODY_S:g} s.", code="timeout") from None


async def _cancel_when_gone(receive: Receive, task: "asyncio.Task[Any]") -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


# The applications


def client_app(gateway: Gateway) -> ASGIApp:
    """What clients see. The paths that models answer on are found without a router: they are asked for most."""
    inferences = {path: Inference(gateway, path) for path in PATHS}
    others = _other_paths(gateway)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found = inferences.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        await (found or others)(scope, receive, send)

    return app


def _other_paths(gateway: Gateway) -> Starlette:

    def key_of(request: Request) -> Key | None:
        return gateway.door.access.check(dict(request.headers), need_key=gateway.site.need_keys)

    async def models(request: Request) -> Response:
        return JSONResponse(gateway.models(key_of(request)))

    async def one_model(request: Request) -> Response:
        name = request.path_params["name"]
        for row in gateway.models(key_of(request))["data"]:
            if row["id"] == name:
                return JSONResponse(row)
        raise Refusal(404, f"The model {name!r} does not exist.", code="model_not_found")

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "draining" if gateway.is_draining else "ok"}, status_code=503 if gateway.is_draining else 200)

    async def openapi(request: Request) -> Response:
        return JSONResponse(openapi_document())

    async def told(request: Request) -> Response:
        key = key_of(request)
        if gateway.feedback is None:
            raise Refusal(404, "This server takes no feedback: its site does not say `watch = true`.", code="not_watched")
        try:
            raw = await read_body(request.receive, MOST_BYTES)
        except Gone:
            return Response(status_code=400)
        return JSONResponse(gateway.feedback.take(request.url.path, key, raw))

    async def only_post(request: Request) -> Response:
        raise Refusal(405, f"{request.url.path} takes POST.", code="method_not_allowed")

    routes = [
        *(Route(path, told, methods=["POST"]) for path in FEEDBACK_PATHS),
        *(Route(path, only_post, methods=["GET", "PUT", "PATCH", "DELETE"]) for path in (*PATHS, *FEEDBACK_PATHS)),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", one_model),
        Route("/health", health),
        Route("/openapi.json", openapi),
    ]
    return Starlette(routes=routes, exception_handlers={Refusal: _refused, HTTPException: _not_found})


def admin_app(gateway: Gateway, reload: Callable[[], Awaitable[None]]) -> Starlette:
    """What whoever runs the gateway sees, on loopback only: metrics, state, and what may be done to traffic."""

    async def metrics(request: Request) -> Response:
        return Response(gateway.meter.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def state(request: Request) -> Response:
        return JSONResponse(gateway.state())

    async def reloaded(request: Request) -> Response:
        await reload()
        return JSONResponse(gateway.state())

    async def shifted(request: Request) -> Response:
        """`{"model": "chat", "action": "rollback" | "promote" | "canary", "percent": 5}`"""
        given = await request.json()
        if not isinstance(given, dict):
            raise Refusal(400, "A JSON object is wanted.")
        await gateway.shift(str(given.get("model", "")), str(given.get("action", "")), given.get("percent"))
        return JSONResponse(gateway.state())

    async def tightened(request: Request) -> Response:
        """`{"model": "chat"}`: its guards block what they flag or redact, until the site's file is read again."""
        given = await request.json()
        await gateway.tighten(str(given.get("model", "")) if isinstance(given, dict) else "")
        return JSONResponse(gateway.state())

    async def scaled(request: Request) -> Response:
        """`{"model": "chat", "more": 1}`: so many replicas more are kept ready, until the site's file is read again."""
        given = await request.json()
        more = given.get("more", 1) if isinstance(given, dict) else 0
        if type(more) is not int or not 1 <= more <= 1000:
            raise Refusal(400, f"`more` must be a whole number from 1 to 1000, not {more!r}.", param="more")
        return JSONResponse({"min_replicas": await gateway.scale(str(given.get("model", "")), more)})

    async def cases(request: Request) -> Response:
        return JSONResponse({"cases": [to_plain(case) for case in gateway.door.abuse.cases()]})

    async def reviewed(request: Request) -> Response:
        """`{"id": "...", "state": "confirmed" | "dismissed"}`"""
        given = await request.json()
        if not isinstance(given, dict):
            raise Refusal(400, "A JSON object is wanted.")
        return JSONResponse(await gateway.door.review(str(given.get("id", "")), given.get("state")))

    routes = [
        Route("/cases", cases),
        Route("/cases", reviewed, methods=["POST"]),
        Route("/metrics", metrics),
        Route("/state", state),
        Route("/reload", reloaded, methods=["POST"]),
        Route("/traffic", shifted, methods=["POST"]),
        Route("/guards", tightened, methods=["POST"]),
        Route("/replicas", scaled, methods=["POST"]),
    ]
    return Starlette(
        routes=routes,
        exception_handlers={Refusal: _refused, TrimtabError: _wrong_input, HTTPException: _not_found, ValueError: _wrong_input},
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return Response(error_body(error), status_code=error.status, media_type=JSON, headers=error_headers(error))


async def _wrong_input(request: Request, error: Exception) -> Response:
    return await _refused(request, Refusal(400, str(error)))


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = Refusal(error.status_code, f"{request.method} {request.url.path}: {error.detail}.", code="not_found")
    return Response(
        error_body(refusal), status_code=refusal.status, media_type=JSON, headers={**error_headers(refusal), **(error.headers or {})}
    )


# Running them


def bound_socket(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 = any. Raises InputError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise InputError(
            f"Cannot listen on {host}:{port} ({error.strerror}); give another port with --port or end what listens there."
        ) from None
    found.listen(2048)
    found.setblocking(False)
    return found


async def run_servers(
    gateway: Gateway, listen: Listen, sockets: Sockets, *, reload: Callable[[], Awaitable[None]], on_ready: Callable[[], None]
) -> None:
    """Serve until SIGTERM or SIGINT; then take no more, finish what runs, and return. SIGHUP reads the configuration again.

    on_ready: called once signals are heard and connections wait to be taken
    """
    tls = {"ssl_certfile": listen.tls_certificate, "ssl_keyfile": listen.tls_key} if listen.tls_certificate else {}
    servers = [(_server(client_app(gateway), **tls), sockets[0])]
    if sockets[1] is not None:
        servers.append((_server(admin_app(gateway, reload)), sockets[1]))
    raise_file_limit()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        gateway.is_draining = True
        for server, _ in servers:
            server.should_exit = True

    async def reload_and_say() -> None:
        try:
            await reload()
            log.info("the configuration was read again")
        except TrimtabError as error:
            log.error("the configuration stays as it was: %s", error)

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: asyncio.ensure_future(reload_and_say()))
    on_ready()
    try:
        await asyncio.gather(*(server.serve(sockets=[found]) for server, found in servers))
    finally:
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(name)


def _server(app: ASGIApp, **tls: Any) -> Any:
    """A uvicorn server without its own signals (one handler ends both servers) that looks after its connections."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Any:
            yield

        async def on_tick(self, counter: int) -> bool:
            if counter % LOOK_EVERY == 0:
                self.look()
            return bool(await super().on_tick(counter))

        async def shutdown(self, sockets: Any = None) -> None:
            looking = asyncio.create_task(self.keep_looking())  # no more ticks come
            try:
                await super().shutdown(sockets)
            finally:
                looking.cancel()

        async def keep_looking(self) -> None:
            while True:
                self.look()
                await asyncio.sleep(CLOSE_S / 4)

        def look(self) -> None:
            now_s = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.look(now_s)

    config = uvicorn.Config(
        app,
        http=Connection,
        access_log=False,
        log_config=None,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        date_header=True,
        timeout_keep_alive=int(IDLE_S),
        timeout_graceful_shutdown=int(DRAIN_S),
        **tls,
    )
    return Server(config)
