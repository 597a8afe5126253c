"""A node that gives chunks away over HTTP: read-only, and only to who has the token.

GET  /manifest  the manifest (weights_manifest.py)
GET  /peers     {"peers": ["10.0.0.3:8700", ...]}: who else was here lately and gives chunks away
POST /chunk     body: one bit a chunk, those that are wanted. 200: one of them, its number in X-Trimtab-Chunk; 204: none of them is here;
                503: enough are being sent, try again soon

Of what is wanted the node sends what it has sent least. So the first node sends each chunk to another receiver, and those have something
to give to each other from the first minute on. X-Trimtab-Port says where the one who asks gives chunks away itself.
"""

import hmac
import json
import logging
import random
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from trimtab.cluster.weights_folder import Holding
from trimtab.cluster.weights_rate import ByteRate
from trimtab.core.errors import InputError

CHUNK, PORT = "X-Trimtab-Chunk", "X-Trimtab-Port"
MOST_AT_ONCE = 16
PEER_S = 60.0
IDLE_S = 60.0
_TRIES = 64

log = logging.getLogger("trimtab.cluster")


class WeightsServer:
    """Serves from `start` to `close`. port: where it listens; n_sent_bytes: of chunks, since its start"""

    def __init__(self, holding: Holding, token: str, *, host: str, port: int, rate: ByteRate) -> None:
        self.holding = holding
        self.token = token
        self.rate = rate
        self.n_sent_bytes = 0
        self.busy = threading.Semaphore(MOST_AT_ONCE)
        self._turn = threading.Lock()
        self._n_sent: Counter[int] = Counter()
        self._peers: dict[str, float] = {}
        try:
            self._http = _Http((host, port), _Handler, self)
        except OSError as error:
            raise InputError(f"Cannot listen on {host}:{port} ({error.strerror}); give another --port or --host.") from None
        self.port = int(self._http.server_address[1])
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Take no more; what is being sent may break off."""
        self._http.shutdown()
        self._http.server_close()

    def pick(self, wanted: bytes) -> int | None:
        """Of the wanted chunks that are here, the one that was sent least; it counts as sent from now on."""
        n = len(self.holding.manifest.chunks)
        numbers = [at for at in range(n) if wanted[at >> 3] >> (at & 7) & 1 and self.holding.has(at)]
        if not numbers:
            return None
        with self._turn:
            tried = numbers if len(numbers) <= _TRIES else random.sample(numbers, _TRIES)
            least = min(self._n_sent[at] for at in tried)
            if least:  # one that was never sent may be among the others
                tried, least = numbers, min(self._n_sent[at] for at in numbers)
            chosen = random.choice([at for at in tried if self._n_sent[at] == least])
            self._n_sent[chosen] += 1
        return chosen

    def sent(self, n_bytes: int) -> None:
        with self._turn:
            self.n_sent_bytes += n_bytes

    def heard_of(self, host: str, port: str) -> None:
        """Whoever asks may say on which port it gives away; the host is the one that it asks from."""
        if port.isdecimal() and 0 < int(port) < 65536:
            with self._turn:
                self._peers[f"[{host}]:{port}" if ":" in host else f"{host}:{port}"] = time.monotonic()

    def peers(self) -> list[str]:
        now_s = time.monotonic()
        with self._turn:
            return sorted(peer for peer, at_s in self._peers.items() if now_s - at_s < PEER_S)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], node: WeightsServer) -> None:
        self.node = node
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever hangs up in the middle is no error of ours."""
        log.debug("a connection from %s broke", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    server_version, sys_version = "trimtab", ""
    disable_nagle_algorithm = True
    server: _Http

    def do_GET(self) -> None:
        if not self._may():
            return
        if self.path == "/manifest":
            self._whole(200, self.server.node.holding.manifest.text.encode())
        elif self.path == "/peers":
            self._whole(200, json.dumps({"peers": self.server.node.peers()}).encode())
        else:
            self._whole(404, b"")

    def do_POST(self) -> None:
        n_bytes = self.headers.get("Content-Length", "")
        expected = -(-len(self.server.node.holding.manifest.chunks) // 8)
        if not n_bytes.isdecimal() or int(n_bytes) != expected or self.path != "/chunk":
            self.close_connection = True  # what follows is not read
            self._whole(400, b"")
            return
        wanted = self.rfile.read(expected)
        if len(wanted) == expected and self._may():
            self._chunk(wanted)

    def _chunk(self, wanted: bytes) -> None:
        node = self.server.node
        if not node.busy.acquire(blocking=False):
            self._whole(503, b"")
            return
        try:
            number = node.pick(wanted)
            if number is None:
                self._whole(204, b"")
                return
            size = node.holding.manifest.chunks[number].size_bytes
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.send_header(CHUNK, str(number))
            self.end_headers()
            for piece in node.holding.pieces(number):
                node.rate.take(len(piece))
                self.wfile.write(piece)
                node.sent(len(piece))
                size -= len(piece)
            if size:
                self.close_connection = True  # somebody has cut the file
        finally:
            node.busy.release()

    def _may(self) -> bool:
        given = self.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode("latin-1", "replace"), f"Bearer {self.server.node.token}".encode()):
            self._whole(401, b"")
            return False
        self.server.node.heard_of(str(self.client_address[0]), self.headers.get(PORT, ""))
        return True

    def _whole(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: nothing that was sent, the token least of all, gets into a log."""
