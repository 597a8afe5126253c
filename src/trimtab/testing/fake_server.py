"""A small server with the OpenAI API and no model behind it, for tests of whatever talks to one. Standard library, one thread a request.

Its language: words that each have a few words that may follow. An answer is a walk through them, fixed by the prompt; `damage` is the share
of steps to a word that may not follow, so that answers of a damaged server are unlikely under a sound one. `drift` is the share of steps
that take another of the allowed words: other answers, as likely as before. Failures are named in `faults`, one for each coming request.
"""

import contextlib
import hashlib
import itertools
import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

WORDS = tuple(f"{a}{b}{c}" for a in ("ba", "do", "fe", "gi", "lu") for b in ("ka", "mo", "ne", "ri") for c in ("s", "l", "n", "t"))
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FOLLOWERS = 4
LIKELY, UNLIKELY = math.log(0.8 / FOLLOWERS), math.log(0.2 / (len(WORDS) - FOLLOWERS))
FAULTS = ("429", "500", "503", "html", "not-json", "cut-stream", "cut-body", "slow", "closed", "no-finish", "error-event", "400")


def followers(word: str) -> tuple[str, ...]:
    """The words that may follow one. It also knows the days of the week: whoever probes it asks for something sensible."""
    day = word.strip(",.")
    if day in DAYS:
        return tuple(DAYS[(DAYS.index(day) + 1) % len(DAYS)] + end for end in (",", "."))
    return tuple(random.Random(f"after {word}").sample(WORDS, FOLLOWERS))


def walk(prompt: str, n_words: int, *, damage: float = 0.0, drift: float = 0.0, seed: int = 0) -> list[str]:
    """An answer of n_words words to a prompt."""
    sound, other = random.Random(f"walk {prompt}"), random.Random(f"other {prompt} {seed}")
    word = sound.choice(WORDS)
    words = [word]
    for _ in range(n_words - 1):
        step = sound.randrange(FOLLOWERS)
        if other.random() < damage:
            word = other.choice(WORDS)
        else:
            word = followers(word)[other.randrange(FOLLOWERS) if other.random() < drift else step]
        words.append(word)
    return words


def logprobs_of(text: str) -> tuple[list[str], list[float | None]]:
    """Tokens of a text (words with the space before them) and their log-probabilities; None for the first."""
    tokens = [part for part in _split(text) if part]
    values: list[float | None] = [None]
    for before, token in itertools.pairwise(tokens):
        values.append(LIKELY if token.strip() in followers(before.strip()) else UNLIKELY)
    return tokens, values


def prompt_logprobs_of(tokens: Sequence[str], values: Sequence[float | None], n_others: int) -> list[dict[str, Any] | None]:
    """The same in the form of vLLM's prompt_logprobs: the prompt's own token in each place, and n_others of the likeliest."""
    found: list[dict[str, Any] | None] = []
    for before, token, value in zip(("", *tokens), tokens, values, strict=False):
        if value is None:
            found.append(None)
            continue
        likely = list(followers(before.strip()))
        rank = likely.index(token.strip()) + 1 if token.strip() in likely else FOLLOWERS + 1
        row = {token_id(token): {"logprob": value, "rank": rank, "decoded_token": token.strip()}}
        for place, other in enumerate(likely[:n_others], 1):
            row.setdefault(token_id(f" {other}"), {"logprob": LIKELY, "rank": place, "decoded_token": other})
        found.append(row)
    return found


def token_id(token: str) -> str:
    """A number for a token, as JSON has it for a key."""
    return str(int(hashlib.sha256(token.encode()).hexdigest()[:6], 16))


def _split(text: str) -> Iterator[str]:
    token = ""
    for letter in text:
        if letter.isspace() and token.strip():
            yield token
            token = ""
        token += letter
    yield token


class FakeServer:
    """`with FakeServer() as server:` serves at `server.url` until the block ends.

    models: ids it lists (and takes); fingerprint: in every answer, empty = none; key: what it wants as a bearer token, empty = anything
    answer: text of an answer, instead of a walk; damage, drift: see the top; noise: `drift` that differs from request to request
    scores: /completions echoes a prompt with log-probabilities; prompt_scores: it gives vLLM's prompt_logprobs, spelled as a SentencePiece
        model spells single tokens, without the space before; template_adds: a word that the chat template puts before a given answer
    streams: it streams if asked; counts: it tells usage
    refuses_words: request keys that get a 400; faults: see FAULTS, one for each coming chat or completion request, None = none
    changes_after, changed: after so many answers it calls itself `changed` (model, fingerprint)
    base: path of the API; delay_s: before the first piece, gap_s: between pieces; retry_after: header of 429 and 503; port: 0 = a free one
    requests: (path, body) of all that came
    """

    def __init__(
        self,
        *,
        models: Sequence[str] = ("m",),
        fingerprint: str = "",
        key: str = "",
        answer: Callable[[Sequence[Mapping[str, Any]]], str] | None = None,
        damage: float = 0.0,
        drift: float = 0.0,
        noise: float = 0.0,
        n_words: int = 24,
        scores: bool = False,
        prompt_scores: bool = False,
        template_adds: str = "",
        streams: bool = True,
        counts: bool = True,
        refuses_words: Sequence[str] = (),
        faults: Sequence[str | None] = (),
        changes_after: int | None = None,
        changed: tuple[str, str] = ("other", ""),
        base: str = "/v1",
        delay_s: float = 0.0,
        gap_s: float = 0.0,
        retry_after: str | None = "0.05",
        port: int = 0,
    ) -> None:
        self.models, self.fingerprint, self.key, self.answer = tuple(models), fingerprint, key, answer
        self.damage, self.drift, self.noise, self.n_words = damage, drift, noise, n_words
        self.scores, self.prompt_scores, self.template_adds = scores, prompt_scores, template_adds
        self.streams, self.counts, self.refuses_words = streams, counts, tuple(refuses_words)
        self.faults = list(faults)
        self.changes_after, self.changed = changes_after, changed
        self.base, self.delay_s, self.gap_s, self.retry_after = base, delay_s, gap_s, retry_after
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.n_answers = 0
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
        self._server.daemon_threads = True
        self._server.fake = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{self.base}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def text_for(self, body: Mapping[str, Any]) -> str:
        """The answer to a chat request."""
        messages = body["messages"]
        if self.answer is not None:
            return self.answer(messages)
        prompt = json.dumps(messages, sort_keys=True)
        drift, seed = self.drift, 0
        if body.get("temperature", 1.0) > 0.0:
            drift, seed = 1.0, int(body.get("seed", 0))
        elif self.noise:
            drift, seed = self.noise, self.n_answers
        n_words = min(self.n_words, int(body.get("max_tokens") or body.get("max_completion_tokens") or self.n_words))
        return " ".join(walk(prompt, n_words, damage=self.damage, drift=drift, seed=seed))

    def identity(self) -> dict[str, str]:
        """What an answer says of who answered; counts the answer."""
        with self.lock:
            self.n_answers += 1
            changed = self.changes_after is not None and self.n_answers > self.changes_after
        model, fingerprint = self.changed if changed else (self.models[0], self.fingerprint)
        return {"model": model} | ({"system_fingerprint": fingerprint} if fingerprint else {})


ODD_BODIES = {
    "odd-choice": b'{"choices": ["text"]}',
    "odd-delta": b'{"choices": [{"message": "text", "finish_reason": "stop"}]}',
    "odd-answer": b'["text"]',
}
"""JSON, and no answer of a chat."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def fake(self) -> FakeServer:
        found: FakeServer = self.server.fake  # type: ignore[attr-defined]
        return found

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        if not self._may_enter():
            return
        if self.path == f"{self.fake.base}/models":
            self._json({"object": "list", "data": [{"id": name, "object": "model"} for name in self.fake.models]})
        else:
            self._json({"error": {"message": "Not Found"}}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.fake.lock:
            self.fake.requests.append((self.path, body))
        if not self._may_enter():
            return
        refused = next((word for word in self.fake.refuses_words if word in body), None)
        if refused:
            instead = " Use 'max_completion_tokens' instead." if refused == "max_tokens" else ""
            self._json({"error": {"message": f"Unsupported parameter: {refused!r}.{instead}"}}, 400)
        elif body.get("model") not in self.fake.models:
            self._json({"error": {"message": f"The model {body.get('model')!r} does not exist."}}, 404)
        elif self.path == f"{self.fake.base}/chat/completions":
            self._chat(body, self._fault())
        elif self.path == f"{self.fake.base}/completions" and (self.fake.scores or self.fake.prompt_scores):
            self._complete(body, self._fault())
        else:
            self._json({"error": {"message": "Not Found"}}, 404)

    def _may_enter(self) -> bool:
        if self.fake.key and self.headers.get("Authorization") != f"Bearer {self.fake.key}":
            self._json({"error": {"message": f"Incorrect API key provided: {self.headers.get('Authorization', '')}"}}, 401)
            return False
        return True

    def _fault(self) -> str | None:
        with self.fake.lock:
            return self.fake.faults.pop(0) if self.fake.faults else None

    def _chat(self, body: Mapping[str, Any], fault: str | None) -> None:
        if fault and fault != "slow" and not (body.get("stream") and fault in ("cut-stream", "no-finish", "error-event")):
            self._fail(fault)
            return
        if fault == "slow":
            time.sleep(2.0)
        words = self.fake.text_for(body).split(" ")
        whole = {"id": "1", **self.fake.identity()}
        usage = {"usage": {"prompt_tokens": 8, "completion_tokens": len(words)}} if self.fake.counts else {}
        time.sleep(self.fake.delay_s)
        if body.get("stream") and self.fake.streams:
            self._stream(whole, words, usage if (body.get("stream_options") or {}).get("include_usage") else {}, fault)
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": " ".join(words)}, "finish_reason": "stop"}
            self._json({**whole, "choices": [choice], **usage, **self._of_prompt(body)})

    def _of_prompt(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """prompt_logprobs of a chat, in a template of a word for each role."""
        if not self.fake.prompt_scores or body.get("prompt_logprobs") is None:
            return {}
        *others, last = [(message["role"], message["content"]) for message in body["messages"]]
        if body.get("continue_final_message"):
            turns = [*others, (last[0], f"{self.fake.template_adds} {last[1]}".strip())]
        else:
            turns = [*others, last, *([("assistant", "")] if body.get("add_generation_prompt", True) else [])]
        tokens, values = logprobs_of(" ".join(f"[{role}] {content}".strip() for role, content in turns))
        usage = {"prompt_tokens": len(tokens), "completion_tokens": 1}
        return {"prompt_logprobs": prompt_logprobs_of(tokens, values, int(body["prompt_logprobs"])), "usage": usage}

    def _stream(self, whole: Mapping[str, Any], words: Sequence[str], usage: Mapping[str, Any], fault: str | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for number, word in enumerate(words):
                if fault in ("cut-stream", "error-event") and number == len(words) // 2:
                    break
                time.sleep(self.fake.gap_s if number else 0.0)
                delta = {"content": word if number == 0 else f" {word}"}
                self._event({**whole, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            if fault == "cut-stream":
                self.close_connection = True
                self.connection.close()
                return
            if fault == "error-event":
                self._event({"error": {"message": "out of memory"}})
            elif fault != "no-finish":
                self._event({**whole, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
                if usage:
                    self._event({**whole, "choices": [], **usage})
                self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")

    def _complete(self, body: Mapping[str, Any], fault: str | None) -> None:
        """One word after a prompt. Fields that are not known are ignored, as servers do."""
        if fault:
            self._fail("cut-body" if fault in ("cut-stream", "no-finish", "error-event") else fault)
            return
        tokens, values = logprobs_of(body["prompt"])
        choice: dict[str, Any] = {"index": 0, "text": " bakas", "finish_reason": "length", "logprobs": None}
        if self.fake.scores and body.get("echo"):
            found = {"tokens": [*tokens, " bakas"], "token_logprobs": [*values, LIKELY]}
            choice |= {"text": f"{body['prompt']} bakas", "logprobs": found}
        if self.fake.prompt_scores:
            asked = body.get("prompt_logprobs")
            choice["prompt_logprobs"] = None if asked is None else prompt_logprobs_of(tokens, values, int(asked))
        usage = {"prompt_tokens": len(tokens), "completion_tokens": 1}
        self._json({"id": "1", **self.fake.identity(), "choices": [choice], "usage": usage})

    def _fail(self, fault: str) -> None:
        if fault.isdecimal():
            self._json({"error": {"message": f"planted {fault}"}}, int(fault))
        elif fault == "html":
            self._raw(b"<!doctype html><html><body>Welcome</body></html>", "text/html")
        elif fault == "closed":
            self.close_connection = True
            self.connection.close()
        elif fault in ODD_BODIES:
            self._raw(ODD_BODIES[fault], "application/json")
        elif fault == "cut-body":
            self._raw(b'{"choices": [{"mess', "application/json", claimed=500)
        else:
            self._raw(b"{'choices': oops", "application/json")

    def _event(self, value: Mapping[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _json(self, value: Any, status: int = 200) -> None:
        self._raw(json.dumps(value).encode(), "application/json", status=status)

    def _raw(self, data: bytes, kind: str, *, status: int = 200, claimed: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(claimed or len(data)))
        if status in (429, 503) and self.fake.retry_after is not None:
            self.send_header("Retry-After", self.fake.retry_after)
        self.end_headers()
        self.wfile.write(data)
        if claimed:
            self.close_connection = True


def fake_prompts(n: int) -> list[str]:
    """Prompts that differ."""
    return [f"Tell me of case {hashlib.sha256(str(number).encode()).hexdigest()[:8]}." for number in range(n)]
