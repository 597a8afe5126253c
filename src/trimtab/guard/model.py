"""A guard model behind an OpenAI-compatible server: Llama Guard and its kin, asked in chat form, answering `safe` or `unsafe`.

The server's chat template makes the guard's prompt from the conversation: the last turn is judged, a user's for requests, the
assistant's for answers. What the user asked is not known where an answer is judged.
"""

import http.client
import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from trimtab.core.errors import InputError, MissingError
from trimtab.core.guarding import Finding, Side
from trimtab.guard.base import Guard, GuardFailed, check_options, text_option, texts_option

# MLCommons' taxonomy as Llama Guard 3 and 4 number it.
CATEGORIES = {
    "S1": "violent crimes",
    "S2": "non-violent crimes",
    "S3": "sex-related crimes",
    "S4": "child sexual exploitation",
    "S5": "defamation",
    "S6": "specialized advice",
    "S7": "privacy",
    "S8": "intellectual property",
    "S9": "indiscriminate weapons",
    "S10": "hate",
    "S11": "suicide and self-harm",
    "S12": "sexual content",
    "S13": "elections",
    "S14": "code interpreter abuse",
}
MAX_ANSWER_BYTES = 65_536


class GuardModel(Guard):
    """Options: `url` with /v1 at the end, `model`, `key_variable` (the environment variable with the key), `ignore` (categories that may
    pass), `max_chars` (24,000): of a longer text the end is judged."""

    name = "model"
    waits = True
    stride_chars = 1200

    def __init__(self, options: Mapping[str, Any], *, side: Side, time_limit_s: float) -> None:
        check_options(self.name, options, ("url", "model", "key_variable", "ignore", "max_chars"))
        super().__init__(options, side=side, time_limit_s=time_limit_s)
        url = urlsplit(text_option(self.name, options, "url"))
        if url.scheme not in ("http", "https") or not url.hostname:
            raise InputError(f"Option 'url' of guard {self.name!r} must be an http address such as http://127.0.0.1:8000/v1.")
        self._secure, self._host, self._port = url.scheme == "https", url.hostname, url.port
        self._path = url.path.rstrip("/") + "/chat/completions"
        self._model = text_option(self.name, options, "model")
        self._ignored = frozenset(texts_option(self.name, options, "ignore"))
        self._max_chars = int(options.get("max_chars", 24_000))
        self._headers = {"Content-Type": "application/json"}
        variable = options.get("key_variable", "")
        if variable:
            if not os.environ.get(variable):
                raise MissingError(f"Guard {self.name!r} takes its key from {variable}, which is not set.", f"export {variable}=...")
            self._headers["Authorization"] = f"Bearer {os.environ[variable]}"

    def check(self, text: str, start: int = 0) -> tuple[Finding, ...]:
        if start or not text.strip():
            return ()
        categories = verdict_of(self._ask(text[-self._max_chars :]))
        if categories is None:
            return ()
        wanted = [one for one in categories if one not in self._ignored]
        if categories and not wanted:
            return ()
        return tuple(
            Finding(
                rule=f"model.{one.lower()}",
                start=0,
                end=len(text),
                reason=f"the guard model says unsafe: {CATEGORIES.get(one, one)}",
                score=0.9,
                replacement="[REMOVED]",
            )
            for one in wanted or ["unsafe"]
        )

    def _ask(self, text: str) -> str:
        turns = [{"role": "user", "content": text}]
        if self.side == "out":
            turns = [{"role": "user", "content": "(not shown)"}, {"role": "assistant", "content": text}]
        body = json.dumps({"model": self._model, "messages": turns, "max_tokens": 24, "temperature": 0})
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self.time_limit_s)
        try:
            connection.request("POST", self._path, body.encode(), self._headers)
            answer = connection.getresponse()
            raw = answer.read(MAX_ANSWER_BYTES)
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise GuardFailed(f"the guard model's server cannot be asked ({type(error).__name__})") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise GuardFailed(f"the guard model's server answered with status {answer.status}")
        try:
            return str(json.loads(raw)["choices"][0]["message"]["content"])
        except (ValueError, LookupError, TypeError) as error:
            raise GuardFailed("the guard model's server answered with something else than a chat completion") from error


def verdict_of(answer: str) -> tuple[str, ...] | None:
    """Categories of an `unsafe` answer, () where it names none; None for `safe`. Raises GuardFailed for anything else."""
    lines = [line.strip() for line in answer.strip().splitlines() if line.strip()]
    word = lines[0].lower().rstrip(".,:") if lines else ""
    if word == "safe":
        return None
    if word.split(" ")[0] != "unsafe":
        raise GuardFailed("the guard model answered neither safe nor unsafe")
    return tuple(re.findall(r"\b[A-Z]{1,2}\d{1,2}\b", " ".join([lines[0], *lines[1:2]])))
