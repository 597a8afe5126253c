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
from trimtab.engines.endpoint_http import ExchangeFailed, Http, Unreachable

TRIES = 6
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 20.0
REQUEST_LIMIT_S = 180.0
SERVER_GONE = 8
"""So many requests in a row that failed to the last try, and no more are sent."""
MOST_CUT_CHARACTERS = 8
"""So many letters in a row may be cut into tokens that spell none of them."""
T = TypeVar("T")


class EndpointClient:
    """One model on one server. Blocking methods may be called from several threads; `ask` and `score` are for event loops.

    model: the id that requests name; limit_name, without: how this server wants to be asked, found by the probe
    seen: (model, system_fingerprint) pairs that answers carried, in the order they first appeared, with their counts
    """

    def __init__(self, endpoint: Endpoint, key: str, *, request_limit_s: float = REQUEST_LIMIT_S) -> None:
        self.endpoint = endpoint
        self.model = endpoint.model
        self.http = Http(endpoint.url, key)
        self.request_limit_s = request_limit_s
        self.limit_name = "max_tokens"
        self.without: frozenset[str] = frozenset()
        self.seen: dict[tuple[str, str], int] = {}
        self._pool = ThreadPoolExecutor(endpoint.concurrency, thread_name_prefix="endpoint")
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._failed_in_a_row = 0
        self._jitter = random.Random(endpoint.url)

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

    async def score(self, head: str, text: str) -> TextScore:
        """Log-probability of `text` after `head`, as plain text. Never raises for what the server does."""
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

    def score_now(self, head: str, text: str) -> TextScore:
        """`score`, blocking."""
        n_bytes = len(text.encode())
        try:
            scored, _ = self.persist(lambda left_s: self.echoed(head, text, limit_s=left_s))
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
        return _gathered(((time.monotonic_ns(), reply),), submit_ns, self.http.url)

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
            part = choice.get("delta") or choice.get("message") or {}
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


def echoed_tokens(reply: Any, url: str) -> tuple[list[str], list[float | None]]:
    """Tokens of the echoed prompt and their log-probabilities, None for the first; at the end there may be one more.

    Raises ExchangeFailed if they are not there.
    """
    try:
        found = reply["choices"][0]["logprobs"]
        n_prompt = (reply.get("usage") or {}).get("prompt_tokens")
        tokens, logprobs = list(found["tokens"])[:n_prompt], list(found["token_logprobs"])[:n_prompt]
    except (LookupError, TypeError):
        raise ExchangeFailed(f"{url}/completions gives no log-probabilities of the prompt.", status=400) from None
    fitting = all(isinstance(token, str) for token in tokens) and all(
        value is None or (isinstance(value, int | float) and value <= 1e-3) for value in logprobs
    )
    if len(tokens) != len(logprobs) or not fitting:
        raise ExchangeFailed(f"{url}/completions gives log-probabilities that make no sense.", status=400)
    return tokens, logprobs


def sum_after(tokens: list[str], logprobs: list[float | None], head: str, text: str, url: str) -> float:
    """Nats of the tokens that lie in `text`, where `tokens` spell a marker or none, head + text, and what was generated after it.

    The text is followed token by token, because what servers say of offsets differs. A letter that is cut into several tokens has no
    spelling in any of them: they count where the last spelled token ended. Raises ExchangeFailed if the tokens spell another text.
    """
    wanted = head + text
    total, place = 0.0, 0
    for index, (token, value) in enumerate(zip(tokens, logprobs, strict=True)):
        begins = _found(wanted, token, place)
        if begins is None and index == 0:
            continue  # a marker such as BOS
        if place >= len(wanted):
            break
        ends = place if begins is None else begins + len(token)
        if ends > len(head) or (ends == place and place >= len(head)):
            if value is None:
                raise ExchangeFailed(f"{url}/completions leaves out the log-probability of a token.", status=400)
            total += value
        place = ends
    if len(wanted) - place > MOST_CUT_CHARACTERS:
        raise ExchangeFailed(f"{url}/completions echoes a text that is not the one that was sent.", status=400)
    return total


def _found(wanted: str, token: str, place: int) -> int | None:
    """Where a token is spelled: at `place`, or after letters beyond ASCII, which may have been cut; None = nowhere there."""
    if not token:
        return None
    for skipped in range(MOST_CUT_CHARACTERS + 1):
        if wanted.startswith(token, place + skipped):
            return place + skipped
        if wanted[place + skipped : place + skipped + 1].isascii():
            return None
    return None
