"""A small server around one replica, without gateway: requests are parsed, answered and written as the gateway does it, and no more."""

import contextlib
import threading
import time
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from trimtab.core.errors import InfeasibleError
from trimtab.serve.base import Call, Refusal
from trimtab.serve.errors import error_body, error_headers
from trimtab.serve.responses import ResponseEvents, response_object
from trimtab.serve.schema import PATHS, parse
from trimtab.serve.sse import DONE, KEEP_ALIVE, encode, sse, sse_error


class SmallApp:
    """`with SmallApp(replica) as app:` serves at `app.url`. n_requests: how many came, retries included"""

    def __init__(self, replica: Any) -> None:
        self.replica = replica
        self.n_requests = 0
        routes = [Route(path, self.answer, methods=["POST"]) for path in PATHS]
        starlette = Starlette(routes=routes, lifespan=self._lifespan)
        self._server = uvicorn.Server(uvicorn.Config(starlette, port=0, log_level="warning", lifespan="on"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    @property
    def url(self) -> str:
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the server ended before it served"
            time.sleep(0.01)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.should_exit = True
        self._thread.join()

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> Any:
        await self.replica.start()
        yield
        await self.replica.stop()

    async def answer(self, request: Request) -> Response:
        self.n_requests += 1
        request_id = f"req_{self.n_requests}"
        try:
            parsed = parse(request.url.path, await request.body())
            kind = "chat" if parsed.kind == "response" else parsed.kind
            frames = self.replica.answer(Call(id=request_id, kind=kind, body=parsed.body, stream=parsed.stream))
            first = await anext(frames)
        except Refusal as refusal:
            return Response(error_body(refusal), refusal.status, headers=error_headers(refusal, request_id))
        except InfeasibleError as error:
            refusal = Refusal(502, str(error), code="replica_failed", retry_after_s=0.01)
            return Response(error_body(refusal), refusal.status, headers=error_headers(refusal, request_id))
        if not parsed.stream:
            body = response_object(parsed, first.body) if parsed.kind == "response" else first.body
            return Response(encode(body), media_type="application/json", headers={"x-request-id": request_id})
        return StreamingResponse(self._events(parsed, first, frames), media_type="text/event-stream", headers={"x-request-id": request_id})

    async def _events(self, parsed: Any, first: Any, frames: Any) -> Any:
        events = ResponseEvents(parsed) if parsed.kind == "response" else None
        yield KEEP_ALIVE
        async with contextlib.aclosing(frames):
            try:
                for event in events.push(first.body) if events else [sse(first.body)]:
                    yield event
                async for frame in frames:
                    for event in events.push(frame.body) if events else [sse(frame.body)]:
                        yield event
            except (InfeasibleError, Refusal) as error:
                yield sse_error(error if isinstance(error, Refusal) else Refusal(502, str(error), code="replica_failed"))
                yield DONE
                return
            for event in events.end() if events else [DONE]:
                yield event
