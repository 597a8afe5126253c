"""What tests of several guards need: a server that answers like a guard model, and fakes of the packages behind adapters."""

import json
import sys
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest


class _GuardModelServer(BaseHTTPRequestHandler):
    """Says `unsafe` and S9 to texts with `bomb` in their last turn. Keeps what it was asked in `server.asked`."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))
        answer = self.server.answer or ("unsafe\nS9" if "bomb" in body["messages"][-1]["content"] else "safe")
        raw = json.dumps({"choices": [{"message": {"role": "assistant", "content": answer}}]}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def guard_model():
    """A running server: `.url`, `.asked`, and `.answer` and `.status`, which a test may set and must set back."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _GuardModelServer)
    server.asked, server.answer, server.status = [], "", 200
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def fake_llm_guard(monkeypatch):
    """`llm_guard` with one scanner of each side, at the contract of its 0.3: scan(prompt), scan(prompt, output) -> text, valid, risk."""

    class BanWord:
        def __init__(self, word="forbidden"):
            self.word = word

        def _scan(self, text):
            found = self.word in text
            return text.replace(self.word, "***"), not found, 0.9 if found else -1.0

    class InputBan(BanWord):
        def scan(self, prompt):
            return self._scan(prompt)

    class OutputBan(BanWord):
        def scan(self, prompt, output):
            return self._scan(output)

    package = types.ModuleType("llm_guard")
    package.input_scanners = types.ModuleType("llm_guard.input_scanners")
    package.output_scanners = types.ModuleType("llm_guard.output_scanners")
    package.input_scanners.BanSubstrings = InputBan
    package.output_scanners.BanSubstrings = OutputBan
    for module in (package, package.input_scanners, package.output_scanners):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def fake_nemo(monkeypatch):
    """`nemoguardrails` at the contract of `LLMRails.check`: a result with status, content and rail."""

    class RailsConfig:
        @staticmethod
        def from_path(path):
            if path == "nowhere":
                raise ValueError(path)
            return path

    class LLMRails:
        def __init__(self, config):
            self.config = config

        def check(self, messages):
            text = messages[-1]["content"]
            if "forbidden" in text:
                return types.SimpleNamespace(status=types.SimpleNamespace(value="blocked"), content="no", rail="self check input")
            if "secret" in text:
                return types.SimpleNamespace(status="modified", content=text.replace("secret", "***"), rail="mask")
            return types.SimpleNamespace(status="passed", content=text, rail=None)

    package = types.ModuleType("nemoguardrails")
    package.RailsConfig, package.LLMRails = RailsConfig, LLMRails
    monkeypatch.setitem(sys.modules, "nemoguardrails", package)
