"""Child process that runs one engine: `python -m trimtab.engines.worker`. Speaks engines/protocol.py.

One thread reads standard input, the main thread drives the engine: while requests run it steps them and looks at new messages
between steps; otherwise it sleeps until a message comes, so that an idle worker costs no processor time.
"""

import os
import queue
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from trimtab.core.deployment import Settings
from trimtab.core.errors import EngineRefused, InfeasibleError, InputError, MissingError, TextTooLong, TrimtabError
from trimtab.core.late import put_off
from trimtab.core.model import Snapshot
from trimtab.engines.affinity import pin
from trimtab.engines.base import ABILITIES, Engine, GenerateRequest, TokenEvent, lacking_ability
from trimtab.engines.pieces import Pieces, TextStream
from trimtab.engines.protocol import PROTOCOL_VERSION, decode, encode, event_line, generate_request_from, score_request_from
from trimtab.engines.registry import engine_here

TAIL_CHARS = 64
"""So much of a rendered prompt's end is told: a template may begin the answer itself."""


class Worker:
    """Serves one engine over a pair of byte streams until the input ends."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self.inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.waiting: list[dict[str, Any]] = []  # calls that need an idle engine
        self.engine: Engine | None = None
        self.running: dict[int, int] = {}  # request id -> call id
        self.texts: dict[int, TextStream] = {}  # of the running requests that want text
        self._pieces: Pieces | None = None

    def send(self, message: Mapping[str, Any]) -> None:
        self.outgoing.write(encode(message))
        self.outgoing.flush()

    def read_forever(self) -> None:
        """Feed the inbox; when the parent is gone there is nobody to work for, whatever the main thread computes."""
        for line in self.incoming:
            self.inbox.put(decode(line))
        os._exit(0)

    def serve(self) -> None:
        """Run until `close`."""
        threading.Thread(target=self.read_forever, daemon=True).start()
        while True:
            busy = bool(self.running)
            if not busy and self.waiting:
                message = self.waiting.pop(0)
            else:
                try:
                    message = self.inbox.get(block=not busy)
                except queue.Empty:
                    self.step()
                    continue
            if self.running and message["op"] in ("score", "load"):
                self.waiting.append(message)
                continue
            self.answer(message)
            if message["op"] == "close":
                return

    def answer(self, message: dict[str, Any]) -> None:
        """Carry out one call; every failure becomes one error message."""
        call_id = message.get("id")
        try:
            result = self.call(message)
            if message["op"] != "generate":
                self.send({"id": call_id, "ok": result})
        except Exception as error:
            self.send({"id": call_id, **describe_error(error)})

    def call(self, message: dict[str, Any]) -> Any:
        op = message["op"]
        if op == "open":
            return self.open(message)
        if self.engine is None:
            raise InputError("The worker has no open engine; send `open` first.")
        engine = self.engine
        match op:
            case "load":
                return engine.load(message["purpose"])
            case "info":
                return engine.info()
            case "tokenize":
                check_fits(engine, message["texts"], message.get("most_tokens"))
                return engine.tokenize_all(message["texts"], parse_special=message["parse_special"])
            case "detokenize":
                return engine.detokenize(message["ids"])
            case "pieces":
                return [self.pieces(engine).alone(token) for token in message["ids"]]
            case "render":
                return engine.render(message["messages"], message["tools"])
            case "prompt":
                text = engine.render(message["messages"], message["tools"])
                check_fits(engine, [text], message.get("most_tokens"))
                return {"ids": engine.tokenize(text, parse_special=True), "tail": text[-TAIL_CHARS:]}
            case "score":
                return engine.score([score_request_from(plain) for plain in message["requests"]])
            case "generate":
                return self.generate(engine, generate_request_from(message["request"]), message)
            case "cancel":
                return engine.cancel(message["request_id"])
            case "close":
                return engine.close()
        raise InputError(f"Unknown operation {op!r} in worker protocol version {PROTOCOL_VERSION}.")

    def generate(self, engine: Engine, request: GenerateRequest, message: Mapping[str, Any]) -> None:
        if name := lacking_ability(engine.abilities, request):
            why = engine.info().cannot.get(name, ABILITIES[name])
            raise EngineRefused(f"The engine {engine.name} cannot do this ({name}: {why}).")
        text = None
        if message.get("text"):
            text = TextStream(self.pieces(engine), {int(token): mark for token, mark in message["marks"]})
        engine.submit(request)
        self.running[request.request_id] = message["id"]
        if text is not None:
            self.texts[request.request_id] = text

    def pieces(self, engine: Engine) -> Pieces:
        if self._pieces is None:
            # As chats are tokenized: some engines make a second tokenizer, which takes time, for texts whose markers are no tokens.
            self._pieces = Pieces(engine.detokenize, lambda text: engine.tokenize(text, parse_special=True))
        return self._pieces

    def open(self, message: dict[str, Any]) -> int:
        if message["protocol"] != PROTOCOL_VERSION:
            raise InputError(
                f"The client speaks worker protocol {message['protocol']}, this worker {PROTOCOL_VERSION}; use one version of trimtab."
            )
        settings = Settings.parse(message["settings"])
        pin(settings)
        kind = engine_here(message["engine"])
        self.engine = kind(Snapshot.parse(message["snapshot"]), settings)
        return PROTOCOL_VERSION

    def step(self) -> None:
        """One step of all running requests. A failing step ends them all with its sentence."""
        assert self.engine is not None
        try:
            events = self.engine.step()
        except Exception as error:
            failure = describe_error(error)
            for caller in self.running.values():
                self.send({"id": caller, **failure})
            self.running.clear()
            self.texts.clear()
            return
        out = bytearray()
        for event in events:
            call_id = self.running.get(event.request_id)
            if call_id is None:
                continue
            out += event_line(call_id, event, self.text(event))
            if event.done:
                out += encode({"id": call_id, "ok": None})
                del self.running[event.request_id]
                self.texts.pop(event.request_id, None)
        self.outgoing.write(out)
        self.outgoing.flush()

    def text(self, event: TokenEvent) -> str:
        """What the request's text grows by. The token that ended it is not part of the text."""
        stream = self.texts.get(event.request_id)
        if stream is None:
            return ""
        text = "" if event.token_id is None or event.done == "stop" else stream.push(event.token_id)
        return text + stream.finish() if event.done else text


def check_fits(engine: Engine, texts: Sequence[str], most_tokens: int | None) -> None:
    """Raises TextTooLong for a text that surely has more tokens: while a long one is tokenized, all other requests stand still."""
    for text in texts:
        if most_tokens is not None and len(text) > 4 * most_tokens and (least := engine.least_tokens(text)) > most_tokens:
            raise TextTooLong(least)


def describe_error(error: Exception) -> dict[str, Any]:
    """An error as the protocol's `error` and `kind`; a bug carries its traceback."""
    match error:
        case TextTooLong():
            return {"error": str(error), "kind": "too_long", "least_tokens": error.least_tokens}
        case MissingError():
            kind = "missing"
        case InputError():
            kind = "input"
        case InfeasibleError():
            kind = "refused"
        case MemoryError():
            return {"error": "The engine ran out of memory.", "kind": "refused"}
        case TrimtabError():
            kind = "bug"
        case _:
            return {"error": "".join(traceback.format_exception(error)), "kind": "bug"}
    return {"error": str(error), "kind": kind}


def main() -> None:
    # The protocol owns the real standard output; whatever libraries print goes to standard error.
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    put_off("llama_cpp")  # its classes, which are not used here, take as long to import as a small model to open
    Worker(sys.stdin.buffer, outgoing).serve()
    outgoing.close()
    os._exit(0)  # native threads of the engines may hang an ordinary interpreter shutdown


if __name__ == "__main__":
    main()
