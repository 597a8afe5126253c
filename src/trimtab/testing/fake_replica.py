"""A replica of the gateway without a model, for tests of whatever stands before replicas. It meets `trimtab.serve.base.Replica`.

It answers a chat or a completion with `words`, one a frame, ended by max_tokens or a stop, or a chat with `deltas`; embeddings are made
from lengths. Faults are named when it is made. Everything it was asked is in `calls`.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Literal

from trimtab.core.errors import EngineCrashed, InfeasibleError
from trimtab.serve.base import Call, Frame, Ready, Refusal, Usage
from trimtab.serve.choices import merged

WORDS = ("The", " sea", " was", " calm", ".")


class FakeReplica:
    """words: of each answer; load_s, gap_s: what loading and each word take; slots, memory: what it says it has

    deltas: what a chat's answer says beside words, such as reasoning and calls, one a frame before them
    fault: `crash` before the first frame, `crash-midway` after the second, `refuse` (a Refusal), `never` (it starts not), `hang`
    """

    def __init__(
        self,
        *,
        words: Sequence[str] = WORDS,
        deltas: Sequence[Mapping[str, Any]] = (),
        load_s: float = 0.0,
        gap_s: float = 0.0,
        slots: int = 4,
        memory: int | None = 2**20,
        fault: Literal["", "crash", "crash-midway", "refuse", "never", "hang"] = "",
    ) -> None:
        self.words, self.load_s, self.gap_s, self.slots, self.memory, self.fault = tuple(words), load_s, gap_s, slots, memory, fault
        self.deltas = tuple(deltas)
        self.calls: list[Call] = []
        self.cancelled: list[str] = []
        self.starts = 0
        self.is_running = False

    async def start(self) -> Ready:
        self.starts += 1
        await asyncio.sleep(self.load_s)
        if self.fault == "never":
            raise InfeasibleError("The fake replica does not start.")
        self.is_running = True
        return Ready(load_s=self.load_s, memory_bytes=self.memory, slots=self.slots)

    async def answer(self, call: Call) -> AsyncGenerator[Frame, None]:
        self._check()
        self.calls.append(call)
        if self.fault == "refuse":
            raise Refusal(400, "The fake replica refuses this.", code="context_length_exceeded", param="messages")
        if self.fault == "hang":
            await asyncio.sleep(3600)
        if call.kind == "embedding":
            yield _embeddings(call.body)
            return
        words = self.words[: call.body.get("max_completion_tokens") or call.body.get("max_tokens")]
        usage = Usage(prompt=prompt_tokens(call.body), completion=len(words))
        finish = "length" if len(words) < len(self.words) else "stop"
        done = False
        try:
            if not call.stream:
                for _ in words:
                    await self._step()
                done = True
                choice = _whole(call, words, finish)
                if self.deltas:
                    choice["message"] = _message([*self.deltas, {"content": "".join(words)}])
                yield Frame(body={**_head(call, whole=True), "choices": [choice], "usage": _usage(usage)}, usage=usage)
                return
            for delta in self.deltas:
                yield Frame(body={**_head(call, whole=False), "choices": [{"index": 0, "delta": dict(delta), "finish_reason": None}]})
            for place, word in enumerate(words):
                await self._step()
                if self.fault == "crash-midway" and place == 2:
                    self.fault = "crash"
                    self._check()
                last = finish if place == len(words) - 1 else None
                body = {**_head(call, whole=False), "choices": [_piece(call, word, last, is_first=place == 0)]}
                yield Frame(body=body, n_tokens=1, usage=usage if last else None)
            if (call.body.get("stream_options") or {}).get("include_usage"):
                yield Frame(body={**_head(call, whole=False), "choices": [], "usage": _usage(usage)}, usage=usage)
            done = True
        finally:
            if not done:
                self.cancelled.append(call.id)

    async def probe(self) -> None:
        self._check()

    def memory_bytes(self) -> int | None:
        return self.memory if self.is_running else None

    async def stop(self) -> None:
        self.is_running = False

    async def _step(self) -> None:
        if self.gap_s:
            await asyncio.sleep(self.gap_s)

    def _check(self) -> None:
        if self.fault == "crash" or not self.is_running:
            raise EngineCrashed("The fake replica is dead.")


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """Words of the request's texts; token ids count as such."""
    if "messages" in body:
        return sum(len(str(message.get("content") or "").split()) for message in body["messages"])
    prompt = body.get("prompt", body.get("input", ""))
    return len(prompt.split()) if isinstance(prompt, str) else len(prompt)


def _head(call: Call, *, whole: bool) -> dict[str, Any]:
    kind = "text_completion" if call.kind == "completion" else "chat.completion" if whole else "chat.completion.chunk"
    prefix = "chatcmpl" if call.kind == "chat" else "cmpl"
    return {"id": f"{prefix}-{call.id}", "object": kind, "created": 1_700_000_000, "model": call.body["model"]}


def _whole(call: Call, words: Sequence[str], finish: str) -> dict[str, Any]:
    text = "".join(words)
    said: dict[str, Any] = {"text": text} if call.kind == "completion" else {"message": {"role": "assistant", "content": text}}
    return {"index": 0, **said, "logprobs": None, "finish_reason": finish}


def _message(deltas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The message that deltas make together."""
    said = merged([dict(delta) for delta in deltas])
    calls = [{key: value for key, value in one.items() if key != "index"} for one in said.pop("tool_calls", ())]
    return {"role": "assistant", **said, **({"tool_calls": calls} if calls else {})}


def _piece(call: Call, word: str, finish: str | None, *, is_first: bool) -> dict[str, Any]:
    role = {"role": "assistant"} if is_first else {}
    said: dict[str, Any] = {"text": word} if call.kind == "completion" else {"delta": {**role, "content": word}}
    return {"index": 0, **said, "logprobs": None, "finish_reason": finish}


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
    }


def _embeddings(body: Mapping[str, Any]) -> Frame:
    given = body["input"]
    many = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    data = [{"object": "embedding", "index": place, "embedding": [float(len(one)), 1.0]} for place, one in enumerate(many)]
    usage = Usage(prompt=prompt_tokens(body), completion=0)
    told = {"prompt_tokens": usage.prompt, "total_tokens": usage.prompt}
    return Frame(body={"object": "list", "data": data, "model": body["model"], "usage": told}, usage=usage)
