"""One exchange with a server over HTTP: JSON there, JSON or a stream of JSON back, and every failure as one sentence.

Standard library only. Connections are kept open and belong to a thread. Redirects are not followed and proxies are not used.
"""

import contextlib
import http.client
import json
import math
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from trimtab.core.errors import EXIT_MISSING, MissingError, TrimtabError

CONNECT_LIMIT_S = 10.0
DRAIN_LIMIT_S = 0.2
RETRYABLE = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
LONGEST_LINE_BYTES = 8 * 2**20
LONGEST_BODY_BYTES = 64 * 2**20


class Unreachable(MissingError):
    """No server answers there, or not in HTTP."""


class ExchangeFailed(TrimtabError):
    """The server answered, but not with what was asked for.

    status: of HTTP, 0 where the answer broke off or was no JSON; retry_after_s: what the server asks for, None = nothing
    detail: what the server said
    """

    exit_code = EXIT_MISSING

    def __init__(self, message: str, *, status: int = 0, retry_after_s: float | None = None, detail: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.detail = detail

    @property
    def is_retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status == 0 or self.status in RETRYABLE


class Http:
    """Exchanges with one server; safe from several threads. `close` ends those that are under way. The key is in no text it makes."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self.url = url
        self.place = f"{parts.scheme}://{parts.netloc}"
        self._host, self._port, self._is_tls = parts.hostname or "", parts.port, parts.scheme == "https"
        self._path, self._query = parts.path.rstrip("/"), f"?{parts.query}" if parts.query else ""
        self.key = key
        self._own = threading.local()
        self._open: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()

    def json(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, limit_s: float) -> Any:
        """The JSON that a request gets. Raises Unreachable, ExchangeFailed."""
        ends = time.monotonic() + limit_s
        with self._answer(method, path, body, limit_s) as response:
            raw = self._body(response, ends)
        return self._parsed(raw, path)

    def events(self, path: str, body: Mapping[str, Any], *, limit_s: float) -> Iterator[tuple[int, dict[str, Any]]]:
        """(time.monotonic_ns(), JSON) of each server-sent event, until `[DONE]` or the end. Raises Unreachable, ExchangeFailed."""
        ends = time.monotonic() + limit_s
        with self._answer("POST", path, body, limit_s) as response:
            if "event-stream" not in response.headers.get("Content-Type", ""):
                # A server that does not stream answers the whole at once.
                raw = self._body(response, ends)
                yield time.monotonic_ns(), self._object(self._parsed(raw, path))
                return
            while line := self._line(response, ends):
                now = time.monotonic_ns()
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                yield now, self._object(self._parsed(data, path))

    def _line(self, response: http.client.HTTPResponse, ends: float) -> bytes:
        self._wait_until(ends)
        return response.readline(LONGEST_LINE_BYTES)

    def _body(self, response: http.client.HTTPResponse, ends: float) -> bytes:
        parts: list[bytes] = []
        while True:
            self._wait_until(ends)
            part = response.read1(65536)
            if not part:
                return b"".join(parts)
            parts.append(part)
            if sum(map(len, parts)) > LONGEST_BODY_BYTES:
                raise ExchangeFailed(f"{self.url} sends an answer without end.")

    def _wait_until(self, ends: float) -> None:
        """The next read gives up at `ends` (time.monotonic()): however slowly bytes drip, the whole exchange has one limit."""
        left_s = ends - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection = self._own.connection
        if connection.sock is not None:
            connection.sock.settimeout(left_s)

    def _is_drained(self, response: http.client.HTTPResponse) -> bool:
        """Whether nothing of the answer is left on the connection, so that it can be used again; a short wait, then no."""
        if not response.isclosed():
            self._wait_until(time.monotonic() + DRAIN_LIMIT_S)
            try:
                return len(response.read(4096)) < 4096
            except OSError:
                return False
        return True

    @contextlib.contextmanager
    def _answer(self, method: str, path: str, body: Mapping[str, Any] | None, limit_s: float) -> Iterator[http.client.HTTPResponse]:
        """A response of status 200 to read from; the connection is dropped unless it was read to its end."""
        whole = False
        try:
            response = self._send(method, path, body, limit_s)
            if response.status != 200:
                raise self._refusal(response, path)
            yield response
            whole = self._is_drained(response)
        except (OSError, http.client.HTTPException) as error:
            raise self._in_words(error, limit_s) from None
        finally:
            if not whole:
                self._drop()

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, limit_s: float) -> http.client.HTTPResponse:
        headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json", "User-Agent": "trimtab"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        for is_last in (False, True):
            connection, is_fresh = self._connection(limit_s)
            try:
                connection.request(method, self._path + path + self._query, data, headers)
                return connection.getresponse()
            except (ConnectionError, http.client.RemoteDisconnected):
                self._drop()
                if is_fresh or is_last:  # a kept connection may have been closed by the server in the meantime
                    raise
        raise AssertionError("not reached")

    def _connection(self, limit_s: float) -> tuple[http.client.HTTPConnection, bool]:
        """This thread's connection, and whether it is new."""
        known: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if known is not None and known.sock is not None:
            known.sock.settimeout(limit_s)
            return known, False
        connect_s = min(CONNECT_LIMIT_S, limit_s)
        made: http.client.HTTPConnection
        if self._is_tls:
            made = http.client.HTTPSConnection(self._host, self._port, timeout=connect_s, context=ssl.create_default_context())
        else:
            made = http.client.HTTPConnection(self._host, self._port, timeout=connect_s)
        self._own.connection = made
        with self._lock:
            self._open.add(made)
        made.connect()
        assert made.sock is not None
        made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.sock.settimeout(limit_s)
        return made, True

    def _drop(self) -> None:
        connection = getattr(self._own, "connection", None)
        if connection is not None:
            connection.close()
            with self._lock:
                self._open.discard(connection)
            self._own.connection = None

    def close(self) -> None:
        """End all exchanges; threads that wait for an answer get an error at once."""
        with self._lock:
            for connection in self._open:
                if connection.sock is not None:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def _parsed(self, raw: bytes, path: str) -> Any:
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            start = raw[:200].lstrip().lower()
            if start.startswith((b"<!doctype", b"<html", b"<?xml")):
                raise ExchangeFailed(
                    f"{self.url} answers {path} with a web page, not with JSON; the address of an API as a rule ends in /v1.", status=404
                ) from None
            raise ExchangeFailed(f"{self.url} answers {path} with what is not JSON: {self._shown(raw)!r}.") from None

    def _object(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ExchangeFailed(f"{self.url} sent {value!r:.60} where an object was due.")
        return value

    def _refusal(self, response: http.client.HTTPResponse, path: str) -> ExchangeFailed:
        status, said = response.status, self._said(response.read(LONGEST_LINE_BYTES))
        if 300 <= status < 400:
            message = f"{self.url}{path} redirects to {response.headers.get('Location', 'nowhere')}; give the address it leads to."
        elif status in (401, 403):
            message = (
                f"{self.place} refuses the key ({status}{': ' + said if said else ''}); it is read from the variable that key_env names."
            )
        elif status == 429:
            message = f"{self.place} limits the rate of requests (429{': ' + said if said else ''})."
        else:
            message = f"{self.url}{path} answers {status}{': ' + said if said else ''}."
        return ExchangeFailed(message, status=status, retry_after_s=_retry_after_s(response.headers.get("Retry-After")), detail=said)

    def _said(self, raw: bytes) -> str:
        """The server's own words, without the key and without a page of HTML."""
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            return "" if raw.lstrip()[:1] == b"<" else self._shown(raw)
        for key in ("error", "message", "detail"):
            if isinstance(value, dict) and value.get(key):
                value = value[key]
        return self._shown(value.encode() if isinstance(value, str) else json.dumps(value).encode())

    def _shown(self, raw: bytes) -> str:
        text = " ".join(raw[:2000].decode(errors="replace").split())
        if self.key:
            text = text.replace(self.key, "***")
        return text[:200].rstrip(".")

    def _in_words(self, error: Exception, limit_s: float) -> TrimtabError:
        """A failure below HTTP as a sentence: nothing there, no TLS, or an answer that broke off."""
        if isinstance(error, ConnectionRefusedError):
            return Unreachable(f"{self.place} refuses connections; is the server running, and is the port right?")
        if isinstance(error, socket.gaierror):
            return Unreachable(f"There is no host {self._host!r} ({error.strerror}); check the address.")
        if isinstance(error, ssl.SSLCertVerificationError):
            why = error.verify_message
            return Unreachable(f"The certificate of {self.place} is not trusted ({why}); name its authority's file in SSL_CERT_FILE.")
        if isinstance(error, ssl.SSLError):
            return Unreachable(f"{self.place} does not speak TLS there ({error.reason or error}); does the address begin with http:// ?")
        if isinstance(error, TimeoutError):
            return ExchangeFailed(f"{self.place} did not answer within {limit_s:.0f} s.")
        if isinstance(error, http.client.BadStatusLine | http.client.IncompleteRead | ConnectionError):
            return ExchangeFailed(f"{self.place} closed the connection before it had answered.")
        return Unreachable(f"{self.place} cannot be reached: {error}.")


def _retry_after_s(text: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date."""
    if not text:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(text)
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None
