"""Client of a server that speaks the OpenAI API: answers as text, and log-probabilities of given text where it has them.

It is no `Engine`: a server takes and gives text, not token ids, and its weights are not at hand. What is tried again, and how long:

- no connection after the first success, an answer that breaks off, no JSON, 408, 409, 425, 429, 500, 502, 503, 504, 529: again, at most
  TRIES times and within one time limit for the whole request;
- between tries as long as Retry-After says, else 0.5 s doubled each time with jitter; a rate limit holds back all requests to that server;
- anything else is final. A request without an answer comes back as an `Answer` with an `error`.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from trimtab.core.endpoint import Answer, Endpoint, Messages, TextScore
from trimtab.core.errors import TrimtabError
from trimtab.core.files import canonical_json
from trimtab.engines.endpoint_http import ExchangeFailed, Http, Unreachable
from trimtab.engines.endpoint_scores import Scored, Way, beyond, echoed_tokens, prompt_tokens, sum_after, total

TRIES = 6
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 20.0
REQUEST_LIMIT_S = 180.0
PROMPTS_OWN = {"prompt_logprobs": 0}
"""vLLM's field: so many of the likeliest tokens beside the prompt's own."""
SERVER_GONE = 8
"""So many requests in a row that failed to the last try, and no more are sent."""
T = TypeVar("T")


class EndpointClient:
    """One model on one server. Blocking methods may be called from several threads; `ask` and `score` are for event loops.

    model: the id that requests name; limit_name, without: how this server wants to be asked, found by the probe
    scores_by, scores_chats: how it scores a given text, and whether in its chat template; found by the probe too
    seen: (model, system_fingerprint) pairs that answers carried, in the order they first appeared, with their counts
    """

    def __init__(self, endpoint: Endpoint, key: str, *, request_limit_s: float = REQUEST_LIMIT_S) -> None:
        self.endpoint = endpoint
        self.model = endpoint.model
        self.http = Http(endpoint.url, key)
        self.request_limit_s = request_limit_s
        self.limit_name = "max_tokens"
        self.without: frozenset[str] = frozenset()
        self.scores_by: Way = "echo"
        self.scores_chats = False
        self.seen: dict[tuple[str, str], int] = {}
        self._pool = ThreadPoolExecutor(endpoint.concurrency, thread_name_prefix="endpoint")
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._failed_in_a_row = 0
        self._jitter = random.Random(endpoint.url)
        self._heads: dict[str, list[Scored | None]] = {}

    def close(self) -> None:
        """End what is under way. Idempotent."""
        self._closed.set()
        self.http.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def ask(self, messages: Messages, max_tokens: int, *, temperature: float = 0.0, seed: int = 0) -> Answer:
        """The answer to a conversation, streamed where the server streams. Never raises for what the server does."""
        work = asyncio.get_running_loop().run_in_executor(
            self._pool, lambda: self.ask_now(messages, max_tokens, temperature=temperature, seed=seed)
        )
        return await work

    async def score(self, head: str | Messages, text: str) -> TextScore:
        """Log-probability of `text` after a plain text, or with `scores_chats` a conversation. Never raises for what the server does."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: self.score_now(head, text))

    def ask_now(self, messages: Messages, max_tokens: int, *, temperature: float = 0.0, seed: int = 0) -> Answer:
        """`ask`, blocking."""
        body = self.chat_body(messages, max_tokens, temperature=temperature, seed=seed)
        try:
            answer, n_tries = self.persist(lambda left_s: self.chat(body, limit_s=left_s))
        except TrimtabError as error:
            return Answer(error=str(error))
        answer = _with_tries(answer, n_tries)
        self._note(answer)
        return answer

    def score_now(self, head: str | Messages, text: str) -> TextScore:
        """`score`, blocking."""
        n_bytes = len(text.encode())
        try:
            scored = self.nats_of(head, text)
        except TrimtabError as error:
            return TextScore(nats=None, n_bytes=n_bytes, error=str(error))
        return TextScore(nats=scored, n_bytes=n_bytes)

    def chat_body(self, messages: Messages, max_tokens: int, *, temperature: float, seed: int, stream: bool = True) -> dict[str, Any]:
        """The request as this server wants it."""
        body: dict[str, Any] = {"model": self.model, "messages": [dict(message) for message in messages], self.limit_name: max_tokens}
        body |= {"temperature": temperature, "seed": seed}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return {key: value for key, value in body.items() if key not in self.without}

    def chat(self, body: Mapping[str, Any], *, limit_s: float) -> Answer:
        """One try of one request, streamed if the body says so. Raises Unreachable, ExchangeFailed."""
        submit_ns = time.monotonic_ns()
        if body.get("stream"):
            return _gathered(self.http.events("/chat/completions", body, limit_s=limit_s), submit_ns, self.http.url)
        reply = self.http.json("POST", "/chat/completions", body, limit_s=limit_s)
        if not isinstance(reply, Mapping):
            raise ExchangeFailed(f"{self.http.url} sent {reply!r:.60} where an answer was due.")
        return _gathered(((time.monotonic_ns(), reply),), submit_ns, self.http.url)

    def nats_of(self, head: str | Messages, text: str) -> float:
        """Nats of `text` after `head`, by `scores_by`. Raises Unreachable, ExchangeFailed."""
        if isinstance(head, str) and self.scores_by == "echo":
            return self.persist(lambda left_s: self.echoed(head, text, limit_s=left_s))[0]
        return total(self.tokens_of(head, text), self.http.url)

    def tokens_of(self, head: str | Messages, text: str) -> list[Scored | None]:
        """The tokens of `text` after `head`, by `prompt_logprobs`. Raises Unreachable, ExchangeFailed."""
        key = canonical_json(head)
        if key not in self._heads:  # many texts have the same
            self._heads[key] = self.persist(lambda left_s: self.prompted(head, limit_s=left_s))[0]
        whole, _ = self.persist(lambda left_s: self.prompted(head, text, limit_s=left_s))
        return beyond(self._heads[key], whole)

    def prompted(self, head: str | Messages, text: str = "", *, limit_s: float) -> list[Scored | None]:
        """Tokens of a plain text, or of a conversation with its answer or up to where one begins. Raises Unreachable, ExchangeFailed."""
        if isinstance(head, str):
            path, body = "/completions", {"model": self.model, "prompt": head + text, "max_tokens": 1, "temperature": 0.0}
        else:
            answer = [{"role": "assistant", "content": text}] if text else []
            path, body = "/chat/completions", self.chat_body([*head, *answer], 1, temperature=0.0, seed=0, stream=False)
            body |= {"add_generation_prompt": not text, "continue_final_message": bool(text)}
        reply = self.http.json("POST", path, body | PROMPTS_OWN, limit_s=limit_s)
        return prompt_tokens(reply, self.http.url + path, is_chat=not isinstance(head, str))

    def echoed(self, head: str, text: str, *, limit_s: float) -> float:
        """Nats of `text` after `head`, from a completion that echoes its prompt. One token is generated and left out.

        A token across the seam counts as the text's. Raises Unreachable, ExchangeFailed.
        """
        body = {"model": self.model, "prompt": head + text, "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1}
        reply = self.http.json("POST", "/completions", body, limit_s=limit_s)
        tokens, logprobs = echoed_tokens(reply, self.http.url)
        return sum_after(tokens, logprobs, head, text, self.http.url)

    def persist(self, attempt: Callable[[float], T]) -> tuple[T, int]:
        """The result of `attempt(seconds left)` and the number of tries. Raises what the last try raised."""
        if self._failed_in_a_row >= SERVER_GONE:
            raise Unreachable(f"{self.http.place} was not asked: {SERVER_GONE} requests in a row had no answer.")
        ends = time.monotonic() + self.request_limit_s
        for n_tries in range(1, TRIES + 1):
            self._wait_for_turn(ends)
            if self._closed.is_set():
                raise Unreachable("The run was ended.")
            try:
                result = attempt(max(0.1, ends - time.monotonic()))
            except (ExchangeFailed, Unreachable) as error:
                wait_s = self._wait_after(error, n_tries)
                if wait_s is None or n_tries == TRIES or time.monotonic() + wait_s > ends:
                    # A request that is refused for what it says tells nothing of the next one.
                    self._failed_in_a_row += isinstance(error, Unreachable) or error.is_retryable
                    raise
                self._closed.wait(wait_s)
            else:
                self._failed_in_a_row = 0
                return result, n_tries
        raise AssertionError("not reached")

    def _wait_for_turn(self, ends: float) -> None:
        """Until the server's rate limit allows a request."""
        wait_s = min(self._not_before, ends) - time.monotonic()
        if wait_s > 0:
            self._closed.wait(wait_s)

    def _wait_after(self, error: ExchangeFailed | Unreachable, n_tries: int) -> float | None:
        """Seconds until the next try; None = there is none."""
        if isinstance(error, Unreachable):
            return FIRST_WAIT_S * 2 ** (n_tries - 1) * self._spread() if self.seen else None
        if not error.is_retryable:
            return None
        wait_s = error.retry_after_s
        if wait_s is None:
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (n_tries - 1)) * self._spread()
        if error.status in (429, 503):
            with self._lock:
                self._not_before = max(self._not_before, time.monotonic() + wait_s)
        return wait_s

    def _spread(self) -> float:
        with self._lock:
            return 0.75 + 0.5 * self._jitter.random()

    def _note(self, answer: Answer) -> None:
        with self._lock:
            key = (answer.model, answer.fingerprint)
            self.seen[key] = self.seen.get(key, 0) + 1


def _with_tries(answer: Answer, n_tries: int) -> Answer:
    return answer if n_tries == 1 else Answer(**{**vars(answer), "n_tries": n_tries})


def _gathered(events: Any, submit_ns: int, url: str) -> Answer:
    """One answer from its events; a whole reply is one event. Raises ExchangeFailed for an error inside, or an end without a finish."""
    text: list[str] = []
    piece_ns: list[int] = []
    finish = model = fingerprint = ""
    n_tokens = 0
    for time_ns, event in events:
        if event.get("error"):
            said = event["error"]
            said = said.get("message", said) if isinstance(said, Mapping) else said
            raise ExchangeFailed(f"{url} broke off with an error: {str(said)[:200]}.")
        model, fingerprint = str(event.get("model") or model), str(event.get("system_fingerprint") or fingerprint)
        usage = event.get("usage")
        if isinstance(usage, Mapping) and isinstance(usage.get("completion_tokens"), int):
            n_tokens = usage["completion_tokens"]
        choices = event.get("choices")
        for choice in choices[:1] if isinstance(choices, list) else ():
            part = (choice.get("delta") or choice.get("message") or {}) if isinstance(choice, Mapping) else None
            if not isinstance(part, Mapping):
                raise ExchangeFailed(f"{url} sent {choice!r:.60} where a choice of an answer was due.")
            piece = part.get("content")
            # Thinking aloud is no part of the answer, but time passes in it.
            if piece or part.get("reasoning_content") or part.get("reasoning"):
                piece_ns.append(time_ns)
            text.append(piece if isinstance(piece, str) else "")
            finish = str(choice.get("finish_reason") or finish)
    if not finish:
        raise ExchangeFailed(f"{url} ended its answer before it was finished.")
    return Answer(
        text="".join(text),
        finish=finish,
        n_tokens=n_tokens or len(piece_ns),
        is_counted=n_tokens > 0,
        submit_ns=submit_ns,
        piece_ns=tuple(piece_ns),
        model=model,
        fingerprint=fingerprint,
    )
