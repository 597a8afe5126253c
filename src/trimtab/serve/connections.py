"""What one client may take of the server's sockets: heads of a bounded size, sent in a bounded time, and answers that are read.

uvicorn bounds none of the three. Connections are looked at every few seconds instead of having timers of their own, so a request pays
nothing for it.
"""

import asyncio
import contextlib
import logging
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from trimtab.serve.base import Refusal
from trimtab.serve.errors import error_body, error_headers

SEND_S = 60.0
"""A client that takes nothing of its answer for so long is cut."""
IDLE_S = 75.0
"""A connection on which no request has come whole up to its body for so long is closed."""
CLOSE_S = 2.0
"""A connection that was closed and has nothing left to send is cut after so long: TLS waits half a minute for the client to close too."""
HEAD_BYTES = 64 * 2**10
LOOK_EVERY = 50
"""Ticks of uvicorn, which are 0.1 s."""
REASONS = {400: "Bad Request", 431: "Request Header Fields Too Large"}

log = logging.getLogger("trimtab.serve")


class _HeadWithBody:
    """Stands before a connection until the head of an answer is out. The head waits for what else is written in the same turn of the event
    loop and goes out with it: each write is a packet, and wakes the client.
    """

    def __init__(self, cycle: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._cycle, self._transport, self._loop = cycle, cycle.transport, loop
        self._head = b""

    def write(self, data: bytes) -> None:
        if not self._cycle.response_started:  # `100 Continue`
            self._transport.write(data)
        elif self._head:
            self._send(data)
        else:
            self._head = data
            self._loop.call_soon(self._send)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def is_closing(self) -> bool:
        return bool(self._transport.is_closing())

    def _send(self, more: bytes = b"") -> None:
        if self._cycle.transport is self:
            self._cycle.transport = self._transport
            self._transport.write(self._head + more)


class Connection(HttpToolsProtocol):
    """One client's connection."""

    _in_head = False
    _n_head_bytes = 0
    _n_unsent_bytes = 0
    _seen_cycle: Any = None
    _moved_s = 0.0
    _idle_since_s = 0.0
    _closing_since_s: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._moved_s = self._idle_since_s = self.loop.time()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._n_head_bytes += len(data)
            if self._n_head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self._refuse(Refusal(431, f"The head of a request may have {HEAD_BYTES:,} bytes.", code="head_too_large"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._n_head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self.cycle.transport = _HeadWithBody(self.cycle, self.loop)  # type: ignore[assignment]

    def send_400_response(self, msg: str) -> None:
        self._refuse(Refusal(400, "This is no valid HTTP request.", code="invalid_http"))

    def _refuse(self, refusal: Refusal) -> None:
        body = error_body(refusal)
        fields = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close", **error_headers(refusal)}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.transport.write(f"HTTP/1.1 {refusal.status} {REASONS[refusal.status]}\r\n{head}\r\n".encode("latin-1") + body)
        self.transport.close()

    def look(self, now_s: float) -> None:
        """Cut it if nothing came of it for too long."""
        n_bytes = self.transport.get_write_buffer_size()
        if n_bytes == 0 or n_bytes != self._n_unsent_bytes:
            self._n_unsent_bytes, self._moved_s = n_bytes, now_s
        elif now_s - self._moved_s > SEND_S:
            log.info("a client took nothing for %g s and is cut; %d bytes were left", SEND_S, n_bytes)
            self.transport.abort()
            return
        if self.transport.is_closing():
            self._end_closed(now_s)
            return
        cycle = self.cycle
        is_answering = cycle is not None and not cycle.response_complete
        if is_answering or cycle is not self._seen_cycle:
            self._seen_cycle, self._idle_since_s = cycle, now_s
        elif now_s - self._idle_since_s > IDLE_S:
            self.transport.close()

    def _end_closed(self, now_s: float) -> None:
        """Cut what was closed long enough ago, if all that was to be sent is out."""
        if self._closing_since_s is None:
            self._closing_since_s = now_s
        elif now_s - self._closing_since_s > CLOSE_S and self._n_unsent_bytes == 0:
            self.transport.abort()


def raise_file_limit() -> None:
    """Allow this process as many open connections as the system lets it have; many systems start programs with 1024."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
