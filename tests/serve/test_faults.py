"""What clients, disks, processes and signals can do to a gateway, and that it goes on."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from running_gateway import Running, trimtab

from trimtab.serve.server_process import free_port
from trimtab.testing.fake_server import FakeServer

ASK: list[Any] = [{"role": "user", "content": "What day comes after Monday?"}]
SERVER = Path(__file__).with_name("server_child.py")
GUARDS = ("personal", "secrets", "injection", "hazards", "output", "unicode", "loops", "topics")
OPTIONS = {"topics": '[models.guards.options]\ndeny = { boats = ["keel"] }\n'}
Start = Callable[..., Running]


def site(server: FakeServer, *, head: str = "", model: str = "") -> str:
    return f'{head}\n[[models]]\nname = "chat"\nurl = "{server.url}"\nupstream_model = "m"\nslots = 16\n{model}\n'


def site_of_process(*arguments: str, head: str = "") -> str:
    """A site whose server is a child process."""
    command = json.dumps([sys.executable, str(SERVER), "{port}", *arguments])
    return f'{head}\n[[models]]\nname = "chat"\ncommand = {command}\nupstream_model = "m"\nslots = 8\n'


def client(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=running.url, api_key="none", max_retries=0, timeout=30)


def asked(running: Running, content: str = "What day comes after Monday?", **more: Any) -> str:
    """The answer's text."""
    with client(running) as ours:
        found = ours.chat.completions.create(model="chat", messages=[{"role": "user", "content": content}], max_tokens=8, **more)
    return found.choices[0].message.content or ""


def port_of(url: str) -> int:
    return int(url.split(":")[2].split("/")[0])


def connected(running: Running, receive_bytes: int = 0) -> socket.socket:
    found = socket.socket()
    if receive_bytes:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    found.settimeout(10)
    found.connect(("127.0.0.1", port_of(running.url)))
    return found


def request_bytes(body: bytes, *heads: str, path: str = "/v1/chat/completions") -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: here", "Content-Type: application/json", *(heads or (f"Content-Length: {len(body)}",)))
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def read_all(found: socket.socket, limit: int = 2**26) -> bytes:
    """Everything up to the end of the connection; what came before a reset too."""
    came = bytearray()
    with contextlib.suppress(ConnectionError):
        while len(came) < limit and (piece := found.recv(65536)):
            came += piece
    return bytes(came)


def status_of(running: Running, raw: bytes) -> int:
    """The status that these bytes get; 0 if the connection ends without one."""
    with connected(running) as found:
        with contextlib.suppress(ConnectionError):
            found.sendall(raw)
        words = b""
        with contextlib.suppress(ConnectionError):
            words = found.recv(65536)
    return int(words.split(b" ", 2)[1]) if words.startswith(b"HTTP/1.1 ") else 0


def wait_until(is_true: Callable[[], bool], limit_s: float = 20.0) -> None:
    ends_s = time.monotonic() + limit_s
    while not is_true():
        assert time.monotonic() < ends_s, "it did not happen in time"
        time.sleep(0.05)


def records(home: Path) -> list[dict[str, Any]]:
    lines = [line for path in sorted((home / "audit").rglob("*.jsonl")) for line in path.read_text().splitlines()]
    return [json.loads(line)["body"] for line in lines]


def n_sockets(running: Running) -> int:
    return len([one for one in psutil.Process(running.process.pid).net_connections("tcp") if one.status != psutil.CONN_LISTEN])


class Load:
    """Clients that ask one request after another until the block ends. answered: texts; failed: errors, as they came"""

    def __init__(self, running: Running, n_clients: int = 6, **more: Any) -> None:
        self.running, self.more = running, more
        self.answered: list[str] = []
        self.failed: list[Exception] = []
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(n_clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._ends.is_set():
            try:
                self.answered.append(asked(self.running, **self.more))
            except openai.OpenAIError as error:
                self.failed.append(error)
                if isinstance(error, openai.APIConnectionError):
                    return


# Clients


@pytest.mark.slow
@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_reads_nothing_holds_nobody_up_and_is_cut(gateway: Start, is_stream: bool) -> None:
    """8 MB of an answer, a small receive buffer, and nobody who reads."""
    text = "bakas " * 100 if is_stream else "bakas " * 1_400_000
    pieces = " ".join([text.replace(" ", "_")] * 14_000) if is_stream else text
    with FakeServer(answer=lambda messages: pieces if "much" in json.dumps(messages) else "little") as server:
        limits = "from trimtab.serve import connections, app; connections.SEND_S = 1.0; app.LOOK_EVERY = 2"
        running = gateway(site(server), before=limits)
        assert asked(running) == "little"
        wait_until(lambda: n_sockets(running) <= 2)
        body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "much"}], "stream": is_stream}).encode()
        with connected(running, receive_bytes=4096) as slow:
            slow.sendall(request_bytes(body))
            wait_until(lambda: len(server.requests) == 2)
            for _ in range(5):
                assert asked(running) == "little"
            wait_until(lambda: len([one for one in records(running.home) if one["event"] == "ended"]) == 7)
            slow_port = slow.getsockname()[1]

            def is_cut() -> bool:
                found = psutil.Process(running.process.pid).net_connections("tcp")
                return not any(one.raddr and one.raddr.port == slow_port for one in found)

            wait_until(is_cut)
        assert asked(running) == "little"
        assert running.end()[0] == 0
    ended = [one["status"] for one in records(running.home) if one["event"] == "ended"]
    assert sorted(ended) == ([200] * 7 + [499] if is_stream else [200] * 8)


@pytest.mark.slow
def test_ten_thousand_idle_connections_and_one_that_asks(gateway: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    n = min(10_000, hard - 500)
    with FakeServer() as server, contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        limits = "from trimtab.serve import connections, app; connections.IDLE_S = 60.0; app.LOOK_EVERY = 10"
        running = gateway(site(server), before=limits)
        before_bytes = psutil.Process(running.process.pid).memory_info().rss
        idle = [stack.enter_context(connected(running)) for _ in range(n)]
        wait_until(lambda: n_sockets(running) >= n)
        began_s = time.monotonic()
        assert asked(running)
        assert time.monotonic() - began_s < 10
        per_connection = (psutil.Process(running.process.pid).memory_info().rss - before_bytes) / n
        assert per_connection < 20_000, "bytes that one idle connection takes"
        idle[0].sendall(request_bytes(json.dumps({"model": "chat", "messages": ASK}).encode()))
        assert b" 200 " in idle[0].recv(65536)
        assert running.end()[0] == 0


@pytest.mark.slow
def test_connections_that_ask_nothing_are_closed(gateway: Start) -> None:
    """One that says nothing, one whose head never ends, one that trickles behind an answer; not one whose answer is long in coming."""
    with FakeServer(delay_s=3.0) as server:
        running = gateway(site(server), before="from trimtab.serve import connections, app; connections.IDLE_S = 1.0; app.LOOK_EVERY = 2")
        with connected(running) as silent, connected(running) as headless, connected(running) as patient:
            headless.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nX-Slow: ")
            patient.sendall(request_bytes(json.dumps({"model": "chat", "messages": ASK}).encode()))
            assert silent.recv(10) == b""
            assert headless.recv(10) == b""
            answer = patient.recv(65536)
            assert b" 200 " in answer
            assert json.loads(answer.partition(b"\r\n\r\n")[2]), "the head comes with its body"
        running.end()


@pytest.mark.slow
def test_more_connections_than_files_do_not_end_it(gateway: Start) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (120, 120))"
    with FakeServer() as server:
        running = gateway(site(server), before=limit)
        with contextlib.ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(connected(running))
            time.sleep(0.5)
            assert running.process.poll() is None
        wait_until(lambda: n_sockets(running) < 20)
        assert asked(running)
        running.end()


@pytest.mark.slow
def test_a_prompt_of_a_megabyte(gateway: Start) -> None:
    guards = '[[models.guards]]\nname = "unicode"\nside = "in"\non_hit = "flag"\n'
    with FakeServer() as server:
        running = gateway(site(server, model=guards))
        assert asked(running, "word " * 200_000)
        ((_, body),) = server.requests
        assert len(body["messages"][0]["content"]) == 1_000_000
        running.end()


MALFORMED = {
    "utf-8": request_bytes(b'{"model": "chat", "messages": [{"role": "user", "content": "\xff\xfe"}]}'),
    "half a surrogate": request_bytes(b'{"model": "chat", "messages": [{"role": "user", "content": "\\ud800"}]}'),
    "no JSON": request_bytes(b'{"model": "chat", "messages": ['),
    "deep JSON": request_bytes(b'{"model": "chat", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "huge number": request_bytes(b'{"model": "chat", "messages": [], "seed": ' + b"9" * 5000 + b"}"),
    "no number": request_bytes(b'{"model": "chat", "messages": [], "temperature": NaN}'),
    "empty": request_bytes(b""),
    "compressed": request_bytes(b"\x1f\x8b\x08\x00", "Content-Encoding: gzip", "Content-Length: 4"),
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "header without colon": b"POST /v1/chat/completions HTTP/1.1\r\nHost here\r\n\r\n",
    "header with a zero": b"POST /v1/chat/completions HTTP/1.1\r\nHost: he\x00re\r\nContent-Length: 0\r\n\r\n",
    "two lengths": request_bytes(b"{}", "Content-Length: 2", "Content-Length: 3"),
    "negative length": request_bytes(b"{}", "Content-Length: -2"),
    "length and chunks": request_bytes(b"2\r\n{}\r\n0\r\n\r\n", "Content-Length: 2", "Transfer-Encoding: chunked"),
    "chunk of no size": request_bytes(b"zz\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    "chunk too large to count": request_bytes(b"f" * 40 + b"\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    "path of other letters": b"GET /v1/m\xc3\xb6dels HTTP/1.1\r\nHost: here\r\n\r\n",
    "broken escape": b"GET /v1/models/%ff%zz HTTP/1.1\r\nHost: here\r\n\r\n",
    "method of nobody": b"BREW /v1/models HTTP/1.1\r\nHost: here\r\n\r\n",
    "connect": b"CONNECT here:443 HTTP/1.1\r\nHost: here\r\n\r\n",
    "key of other letters": request_bytes(b"{}", "Content-Length: 2", "Authorization: Bearer \u00ff\u2603"),
    "head without end": b"POST /v1/chat/completions HTTP/1.1\r\nX-Long: " + b"a" * 10**6,
    "many headers": b"POST /v1/chat/completions HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(60_000)),
}


def test_malformed_requests_are_refused_one_by_one(gateway: Start) -> None:
    with FakeServer() as server:
        running = gateway(site(server, head="need_keys = false"))
        found = {name: status_of(running, raw) for name, raw in MALFORMED.items()}
        assert asked(running)
        assert running.end()[0] == 0
    assert {name: status for name, status in found.items() if status and not 400 <= status < 500} == {}
    silent = {name for name, status in found.items() if not status}
    assert silent <= {"head without end", "many headers"}, "a reset may outrun the answer to a client that still sends"


@pytest.mark.slow
def test_a_server_behind_that_counts_without_a_sum_still_gives_responses(gateway: Start) -> None:
    with FakeServer(answer=lambda messages: "the sea was calm", counts=True) as server:
        running = gateway(site(server))
        with client(running) as ours:
            whole = ours.responses.create(model="chat", input="How was the sea?")
            *_, last = ours.responses.create(model="chat", input="How was the sea?", stream=True)
        running.end()
    assert whole.output_text == "the sea was calm"
    assert whole.usage is not None
    assert whole.usage.total_tokens == 12
    assert last.type == "response.completed"
    assert last.response.usage is not None
    assert last.response.usage.total_tokens == 12


@pytest.mark.slow
def test_chunked_bodies_are_read(gateway: Start) -> None:
    body = json.dumps({"model": "chat", "messages": ASK}).encode()
    chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(body[at : at + 7]), body[at : at + 7]) for at in range(0, len(body), 7))
    with FakeServer() as server:
        running = gateway(site(server))
        assert status_of(running, request_bytes(chunks + b"0\r\n\r\n", "Transfer-Encoding: chunked")) == 200
        running.end()


@pytest.mark.slow
def test_a_body_that_never_ends_gets_408_and_its_connection_goes(gateway: Start) -> None:
    with FakeServer() as server:
        limits = "from trimtab.serve import connections, app; app.BODY_S = 0.5; connections.IDLE_S = 1.0; app.LOOK_EVERY = 2"
        running = gateway(site(server), before=limits)
        with connected(running) as found:
            found.sendall(request_bytes(b'{"model": "chat"', "Content-Length: 1000"))
            words = read_all(found)
        assert words.startswith(b"HTTP/1.1 408 ")
        assert json.loads(words.partition(b"\r\n\r\n")[2])["error"]["code"] == "timeout"
        large = request_bytes(b" " * 1000, "Transfer-Encoding: chunked")
        assert status_of(running, large) == 400
        running.end()


@pytest.mark.slow
def test_a_request_that_lasts_too_long_ends_with_that_reason(gateway: Start) -> None:
    with FakeServer(gap_s=0.3) as server:
        running = gateway(site(server, head="request_s = 1"))
        with client(running) as ours:
            stream = ours.chat.completions.create(model="chat", messages=ASK, stream=True)
            with pytest.raises(openai.APIError, match="took longer than this server allows"):
                list(stream)
            server.delay_s = 1.5
            with pytest.raises(openai.InternalServerError) as whole:
                ours.chat.completions.create(model="chat", messages=ASK)
        assert (whole.value.status_code, whole.value.code) == (504, "timeout")
        assert running.end()[0] == 0
    assert [(one["status"], one["error"]) for one in records(running.home) if one["event"] == "ended"] == [(504, "timeout")] * 2


@pytest.mark.slow
def test_a_body_without_end_is_refused_at_its_limit(gateway: Start) -> None:
    with FakeServer() as server:
        running = gateway(site(server, head='max_body = "1 MiB"'))
        with connected(running) as found:
            found.sendall(request_bytes(b"", "Transfer-Encoding: chunked"))
            with contextlib.suppress(ConnectionError):
                for _ in range(40):
                    found.sendall(b"10000\r\n" + b"a" * 65536 + b"\r\n")
            assert found.recv(65536).startswith(b"HTTP/1.1 413 ")
        assert asked(running)
        running.end()


@pytest.mark.slow
def test_24_guards_on_one_route(gateway: Start) -> None:
    tables = [f'[[models.guards]]\nname = "{name}"\nside = "both"\non_hit = "flag"\n{OPTIONS.get(name, "")}' for name in GUARDS * 3]
    assert len(tables) == 24
    words = "The sea was calm, write to ann@example.com."
    with FakeServer(answer=lambda messages: words) as server:
        running = gateway(site(server, model="\n".join(tables)))
        assert asked(running, words * 20) == words
        with client(running) as ours:
            pieces = list(ours.chat.completions.create(model="chat", messages=ASK, stream=True))
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == words
        with Load(running, 4) as load:
            wait_until(lambda: len(load.answered) >= 12, 60)
        assert load.failed == []
        running.end()
    first = next(one for one in records(running.home) if one["event"] == "ended")
    told = {verdict["guard"] for verdict in first["verdicts"]}
    assert "personal" in told


# Disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 KiB (tmpfs), where one can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], check=False).returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path) -> Path:
    path = disk / "filling"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)
    return path


@pytest.mark.slow
def test_a_full_disk_refuses_requests_until_there_is_room(gateway: Start, small_disk: Path) -> None:
    with FakeServer() as server:
        running = gateway(site(server), home=small_disk)
        assert asked(running)
        filling = fill(small_disk)
        codes = set()
        for _ in range(10):
            with contextlib.suppress(openai.InternalServerError):
                asked(running)
                continue
            codes.add("refused")
        with pytest.raises(openai.InternalServerError) as refused:
            asked(running)
        assert refused.value.status_code == 503
        assert refused.value.code == "audit_unavailable"
        assert refused.value.response.headers["retry-after"]
        with pytest.raises(openai.InternalServerError), client(running) as ours:
            list(ours.chat.completions.create(model="chat", messages=ASK, stream=True))
        filling.unlink()
        assert asked(running)
        assert running.end()[0] == 0
        assert trimtab(small_disk, "verify", "log")["verdict"] == "pass"


@pytest.mark.slow
def test_a_full_disk_is_an_alarm_where_the_site_says_so(gateway: Start, small_disk: Path) -> None:
    with FakeServer() as server:
        running = gateway(site(server, head='audit = "alarm"'), "--admin-port", str(free_port()), home=small_disk)
        assert asked(running)
        filling = fill(small_disk)
        for _ in range(20):
            assert asked(running)
        with urllib.request.urlopen(f"{running.admin_url}/metrics", timeout=10) as response:
            metrics = response.read().decode()
        (line,) = (line for line in metrics.splitlines() if line.startswith("trimtab_audit_failures_total"))
        assert float(line.split()[-1]) > 0
        filling.unlink()
        assert asked(running)
        code, said = running.end()
        assert code == 0
        assert "without a record" in said
        assert trimtab(small_disk, "verify", "log")["verdict"] == "pass"


# Processes and signals


@pytest.mark.slow
def test_replicas_killed_under_load_are_replaced_and_every_request_ends_clearly(gateway: Start) -> None:
    """Whole answers have sent no token when their server dies: all are tried again. Streams end with a reason, or are tried again."""
    running = gateway(site_of_process("--gap", "0.02"), "--admin-port", str(free_port()))
    assert asked(running)
    endings: list[str] = []
    stop = threading.Event()

    def stream() -> None:
        with client(running) as ours:
            while not stop.is_set():
                try:
                    pieces = list(ours.chat.completions.create(model="chat", messages=ASK, stream=True))
                    endings.append(pieces[-1].choices[0].finish_reason or "none")
                except openai.APIError as error:
                    endings.append(error.message)

    streams = [threading.Thread(target=stream) for _ in range(3)]
    with Load(running, 3) as load:
        for thread in streams:
            thread.start()
        for _ in range(3):
            n_before = len(load.answered)
            wait_until(lambda before=n_before: len(load.answered) >= before + 9, 60)
            for one in psutil.Process(running.process.pid).children(recursive=True):
                if str(SERVER) in one.cmdline()[1:2]:
                    one.kill()
        n_before = len(load.answered)
        wait_until(lambda: len(load.answered) >= n_before + 9, 60)
        stop.set()
        for thread in streams:
            thread.join()
    assert load.failed == []
    assert set(endings) - {"stop", "length"}, "a kill met a stream"
    assert all(one in ("stop", "length") or "The model stopped while it answered" in one for one in endings), endings
    with urllib.request.urlopen(f"{running.admin_url}/state", timeout=10) as response:
        state = json.load(response)
    assert state["deaths"] == {"chat": 3}
    assert state["loads"] == {"chat": 4}
    assert asked(running)
    assert running.end()[0] == 0


@pytest.mark.slow
def test_sigterm_under_load_loses_no_admitted_request(gateway: Start) -> None:
    with FakeServer(delay_s=0.3) as server:
        running = gateway(site(server))
        with Load(running, 8) as load:
            wait_until(lambda: len(load.answered) >= 16, 60)
            code, said = running.end()
        assert code == 0, said
    cut = [error for error in load.failed if not isinstance(error, (openai.APIConnectionError, openai.InternalServerError))]
    assert cut == []
    noted = records(running.home)
    began = {one["request"] for one in noted if one["event"] == "began"}
    answered = {one["request"] for one in noted if one["event"] == "ended" and one["status"] == 200}
    assert began == answered
    assert len(answered) == len(load.answered), "what was admitted was answered, and came to whom it was for"
    assert trimtab(running.home, "verify", "log")["verdict"] == "pass"


@pytest.mark.slow
def test_reloads_under_load_drop_no_request(gateway: Start, tmp_path: Path) -> None:
    """Each reload changes the version that answers."""
    running = gateway(site_of_process("--gap", "0.005"))
    assert asked(running)
    with Load(running, 6) as load:
        for number in range(3):
            n_before = len(load.answered)
            (tmp_path / "site.toml").write_text(site_of_process("--gap", f"0.00{number + 6}"))
            running.process.send_signal(signal.SIGHUP)
            wait_until(lambda before=n_before: len(load.answered) >= before + 24, 60)
    assert load.failed == []
    assert running.end()[0] == 0
    assert {one["status"] for one in records(running.home) if one["event"] == "ended"} == {200}


@pytest.mark.slow
def test_a_stream_whose_model_loads_long_is_kept_alive(gateway: Start) -> None:
    """Comments come in time, and the official client passes them over."""
    limits = "from trimtab.serve import gateway; gateway.HEAD_WAIT_S = 0.5; gateway.KEEP_ALIVE_S = 0.25"
    running = gateway(site_of_process("--after", "2.5"), before=limits)
    body = json.dumps({"model": "chat", "messages": ASK, "stream": True}).encode()
    found: list[Any] = []

    def stream() -> None:
        with client(running) as ours:
            found.extend(ours.chat.completions.create(model="chat", messages=ASK, stream=True))

    thread = threading.Thread(target=stream)
    thread.start()
    request = urllib.request.Request(f"{running.url}/chat/completions", body, {"content-type": "application/json"})
    began_s = time.monotonic()
    with urllib.request.urlopen(request, timeout=30) as response:
        first = response.readline()
        first_s = time.monotonic() - began_s
        lines = [first, *response]
        whole_s = time.monotonic() - began_s
    thread.join()
    assert first.startswith(b":")
    assert first_s < whole_s - 1.0
    assert sum(line.startswith(b":") for line in lines) >= 3
    assert lines[-2] == b"data: [DONE]\n"
    assert found[-1].choices[0].finish_reason == "stop"
    running.end()
