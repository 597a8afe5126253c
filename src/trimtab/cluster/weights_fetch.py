"""Getting weights from several peers at once, and giving away what has come meanwhile.

One thread a peer asks it for any chunk that is missing and not under way, holds what comes against its digest, writes it, and asks again.
Peers tell of each other. One that sends wrong bytes is left for good and named; one that does not answer is tried again, ever more seldom.
A chunk that a peer takes long for is asked of others too, once nothing else is missing.
"""

import contextlib
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from trimtab.cluster.weights_folder import Copy
from trimtab.cluster.weights_manifest import MOST_BYTES, Manifest, read_manifest
from trimtab.cluster.weights_server import CHUNK, PORT
from trimtab.core.errors import InputError, MissingError, TrimtabError

ANSWER_S = 15.0
POLL_S = 0.5
NOTHING_S = 0.1
READ_BYTES = 256 * 2**10
SLOW_S = 5.0
MOST_FAILURES = 5
GIVE_UP_S = 60.0
"""So long without a new chunk, and a fetch ends; the same command goes on."""

log = logging.getLogger("trimtab.cluster")

OnProgress = Callable[[int, int, int], None]
"""Told bytes that are there, bytes in all, and peers that answer."""


class _WrongBytes(Exception):
    """A peer sent something else than what it said."""


@dataclass(kw_only=True)
class Fetched:
    """What a fetch did. from_bytes: by peer; dropped: peers that were left, and why, each a phrase"""

    from_bytes: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)


def peer_of(address: str) -> str:
    """`host:port` of what a user gave, with or without http:// before it. Raises InputError."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        found = (parts.hostname, parts.port)
    except ValueError:
        found = (None, None)
    if not found[0] or not found[1] or parts.scheme not in ("", "http") or parts.path not in ("", "/"):
        raise InputError(f"{address!r} is no peer; give HOST:PORT, as `trimtab weights serve` says it.")
    return f"[{found[0]}]:{found[1]}" if ":" in found[0] else f"{found[0]}:{found[1]}"


def manifest_from(peers: Sequence[str], token: str, *, digest: str = "") -> Manifest:
    """The manifest of the first peer that has it. digest: that it must have, empty = any. Raises InputError, MissingError."""
    why: list[str] = []
    for peer in peers:
        try:
            status, body = _asked(peer, "/manifest", token)
        except (OSError, http.client.HTTPException) as error:
            why.append(f"{peer} does not answer ({_words(error)})")
            continue
        if status == 401:
            raise InputError(f"{peer} does not take this token; set TRIMTAB_WEIGHTS_TOKEN as it is where the weights are served.")
        if status != 200:
            why.append(f"{peer} answers with {status} where weights are served")
            continue
        return read_manifest(body.decode(errors="replace"), peer, digest=digest)
    raise MissingError(f"No peer has the weights: {'; '.join(why)}.", "see that `trimtab weights serve` runs and can be reached.")


class Fetch:
    """One fetch into a copy. own_port: where this node gives away what it has, 0 = it does not"""

    def __init__(self, copy: Copy, peers: Sequence[str], token: str, *, own_port: int, on_progress: OnProgress) -> None:
        self._copy = copy
        self._given = tuple(peers)
        self._token = token
        self._own_port = own_port
        self._on_progress = on_progress
        self._turn = threading.Lock()
        self._under_way: dict[int, float] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._connections: set[http.client.HTTPConnection] = set()
        self._answering: set[str] = set()
        self._broken: TrimtabError | None = None
        self._is_over = threading.Event()
        self._last_s = time.monotonic()
        self.fetched = Fetched()

    def run(self) -> Fetched:
        """Fetch until nothing is missing.

        Raises MissingError (nobody has the rest, disk full), InputError: what came stays, and it goes on from there the next time.
        """
        try:
            self._know(self._given)
            while self._copy.n_missing and self._broken is None:
                whole = self._copy.manifest.size_bytes
                self._on_progress(whole - self._copy.missing_bytes, whole, len(self._answering))
                self._is_over.wait(POLL_S)
                self._ask_around()
                self._check_hope()
        finally:
            self._is_over.set()
            self._hang_up()
            self._copy.save()
        if self._broken is not None:
            raise self._broken
        return self.fetched

    def _hang_up(self) -> None:
        """End what is under way: nobody writes to the copy after this."""
        with self._turn:
            sockets = [one.sock for one in self._connections]
        for found in sockets:
            with contextlib.suppress(OSError, AttributeError):
                found.shutdown(socket.SHUT_RDWR)
        for thread in self._threads.values():
            thread.join()

    def _know(self, peers: Sequence[str]) -> None:
        for peer in peers:
            if peer not in self._threads:
                thread = self._threads[peer] = threading.Thread(target=self._take_from, args=(peer,), daemon=True, name=f"weights-{peer}")
                thread.start()

    def _ask_around(self) -> None:
        """Who else is there? Those who answer are asked in turns, one a time."""
        with self._turn:
            answering = sorted(self._answering)
        if not answering:
            return
        peer = answering[int(time.monotonic() / POLL_S) % len(answering)]
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError, TypeError, InputError):
            status, body = _asked(peer, "/peers", self._token, self._own_port)
            if status == 200:
                self._know([peer_of(str(one)) for one in json.loads(body)["peers"][:1000]])

    def _check_hope(self) -> None:
        if time.monotonic() - self._last_s < GIVE_UP_S and (self._answering or any(one.is_alive() for one in self._threads.values())):
            return
        left = "; ".join(f"{peer} {why}" for peer, why in self.fetched.dropped.items())
        self._broken = self._broken or MissingError(
            f"No peer gives the rest of the weights: {self._copy.n_missing} of {len(self._copy.manifest.chunks)} chunks are missing"
            f"{f' ({left})' if left else ''}.",
            "see that a peer that has all runs and can be reached; the same command then goes on.",
        )

    # One peer

    def _take_from(self, peer: str) -> None:
        failures = 0
        while not self._is_over.is_set() and self._copy.n_missing:
            connection = _connected(peer)
            with self._turn:
                self._connections.add(connection)
            try:
                while not self._is_over.is_set() and self._copy.n_missing:
                    if not self._take_one(peer, connection, self._share(peer)):
                        self._take_one(peer, connection, (0, 1))
                    failures = 0
            except _WrongBytes as error:
                self._drop(peer, str(error))
                return
            except TrimtabError as error:
                self._broken = error
                self._is_over.set()
                return
            except (OSError, http.client.HTTPException) as error:
                failures += 1
                with self._turn:
                    self._answering.discard(peer)
                if failures >= MOST_FAILURES:
                    self._drop(peer, f"does not answer ({_words(error)})")
                    return
                self._is_over.wait(0.1 * 2**failures)
            finally:
                with self._turn:
                    self._connections.discard(connection)
                connection.close()

    def _share(self, peer: str) -> tuple[int, int]:
        """Which chunks are asked of which peer first, so that no two are asked for one: those of this number, of so many."""
        with self._turn:
            sharing = sorted({*self._answering, peer})
        return sharing.index(peer), len(sharing)

    def _take_one(self, peer: str, connection: http.client.HTTPConnection, share: tuple[int, int]) -> bool:
        """Ask for a chunk of a share, and take it. Returns whether the peer had one.

        Raises _WrongBytes, OSError, HTTPException, TrimtabError.
        """
        wanted = self._wanted(share)
        if wanted is None:
            if share == (0, 1):
                self._is_over.wait(NOTHING_S)
            return False
        connection.request("POST", "/chunk", body=_bits(wanted), headers=_headers(self._token, self._own_port))
        response = connection.getresponse()
        if response.status != 200:
            response.read()
            if response.status not in (204, 503):
                raise _WrongBytes("does not take this token" if response.status == 401 else f"answers with {response.status}")
            with self._turn:
                self._answering.add(peer)
            if share == (0, 1) or response.status == 503:
                self._is_over.wait(NOTHING_S)
            return False
        number = response.getheader(CHUNK, "")
        if not number.isdecimal() or int(number) >= len(wanted) or not wanted[int(number)]:
            raise _WrongBytes("sent a chunk that nobody asked it for")
        self._take_chunk(peer, int(number), response)
        return True

    def _take_chunk(self, peer: str, number: int, response: http.client.HTTPResponse) -> None:
        with self._turn:
            self._under_way[number] = time.monotonic()
            self._answering.add(peer)
        try:
            size = self._copy.manifest.chunks[number].size_bytes
            data = self._read(response, size)
            if not self._copy.has(number) and not self._copy.put(number, data):
                file = self._copy.manifest.files[self._copy.manifest.chunks[number].file]
                raise _WrongBytes(f"sent wrong bytes for chunk {number} ({file.name})")
            with self._turn:
                self._last_s = time.monotonic()
                self.fetched.from_bytes[peer] = self.fetched.from_bytes.get(peer, 0) + size
        finally:
            with self._turn:
                self._under_way.pop(number, None)

    def _read(self, response: http.client.HTTPResponse, size: int) -> bytearray:
        data = bytearray()
        while len(data) < size:
            piece = response.read(min(READ_BYTES, size - len(data)))
            if not piece:
                raise http.client.IncompleteRead(bytes(data), size - len(data))
            data += piece
            self._last_s = time.monotonic()
        return data

    def _wanted(self, share: tuple[int, int]) -> bytearray | None:
        """What to ask for: missing and not under way; if that is nothing, what has been under way for long."""
        missing = self._copy.missing()
        with self._turn:
            under_way = dict(self._under_way)
        fresh = bytearray(missing)
        for number in under_way:
            fresh[number] = 0
        own, n_shares = share
        if n_shares > 1:
            fresh = bytearray(one if number % n_shares == own else 0 for number, one in enumerate(fresh))
            return fresh if any(fresh) else None
        if any(fresh):
            return fresh
        now_s = time.monotonic()
        slow = bytearray(len(missing))
        for number, at_s in under_way.items():
            slow[number] = missing[number] and now_s - at_s > SLOW_S
        return slow if any(slow) else None

    def _drop(self, peer: str, why: str) -> None:
        log.warning("the peer %s is left: it %s", peer, why)
        with self._turn:
            self._answering.discard(peer)
            self.fetched.dropped[peer] = why


def _connected(peer: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(peer, timeout=ANSWER_S)


def _asked(peer: str, path: str, token: str, own_port: int = 0) -> tuple[int, bytes]:
    connection = _connected(peer)
    try:
        connection.request("GET", path, headers=_headers(token, own_port))
        response = connection.getresponse()
        body = response.read(MOST_BYTES + 1)
        if len(body) > MOST_BYTES:
            raise InputError(f"{peer} sent more than {MOST_BYTES:,} bytes, which is no manifest of weights.")
        return response.status, body
    finally:
        connection.close()


def _headers(token: str, own_port: int) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **({PORT: str(own_port)} if own_port else {})}


def _bits(flags: bytearray) -> bytes:
    """One bit a chunk, the lowest first."""
    packed = bytearray(-(-len(flags) // 8))
    for number, flag in enumerate(flags):
        if flag:
            packed[number >> 3] |= 1 << (number & 7)
    return bytes(packed)


def _words(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())[:120]
