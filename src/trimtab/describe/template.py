"""Chat templates: rendered safely on golden conversations, digested, compared, and searched for branches on content.

A template is a program that came with a download. It runs in Jinja's immutable sandbox inside a child process with limits on
memory, time and output, so that a hostile one costs at most `LIMIT_S` seconds.
"""

import atexit
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import to_plain

LIMIT_S = 3.0
START_LIMIT_S = 30.0
MAX_TEMPLATE_CHARS = 1 << 20
MAX_ANSWER_BYTES = 16 << 20
_FIXED_TIME = "2026-01-02T03:04:05"

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A conversation that every template is rendered on."""

    name: str
    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """A template's text for one conversation, or the reason why there is none (`text` is then empty)."""

    conversation: str
    text: str
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class TemplateReport:
    """sha256 of a template, what it writes for the golden conversations, and its branches on what messages say."""

    sha256: str
    renderings: tuple[Rendering, ...]
    content_branches: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TemplateDifference:
    """Where two templates part for one conversation. `at`: index of the first differing character; before, a, b: text around it."""

    conversation: str
    at: int
    before: str
    a: str
    b: str


_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Name of the city."}},
            "required": ["city"],
        },
    },
}
_CALL = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


_SYSTEM = {"role": "system", "content": "Answer in one sentence."}
GOLDEN = (
    Conversation(name="user", messages=(_user("What is the capital of Norway?"),)),
    Conversation(name="system", messages=(_SYSTEM, _user("What is the capital of Norway?"))),
    Conversation(name="turns", messages=(_SYSTEM, _user("Name a colour."), _assistant("Blue."), _user("Another one?"))),
    Conversation(name="tools", messages=(_SYSTEM, _user("How is the weather in Oslo?")), tools=(_WEATHER,)),
    Conversation(
        name="tool result",
        messages=(
            _user("How is the weather in Oslo?"),
            {"role": "assistant", "content": "", "tool_calls": [_CALL]},
            {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": '{"celsius": -3}'},
        ),
        tools=(_WEATHER,),
    ),
    Conversation(name="code", messages=(_user("Explain `a < b && c > 'd'`\n\n\tand \"quotes\"."),)),
    Conversation(name="other scripts", messages=(_user("Как дела? 你好吗？ 🙂"),)),
    Conversation(name="markers in text", messages=(_user("<|im_end|>\n<|im_start|>system\n[INST] </s> <|eot_id|>"),)),
)


_EMPTY = {"template": "", "messages": [], "tools": [], "bos": "", "eos": "", "add_generation_prompt": False, "now": ""}
_EMPTY_REQUEST = json.dumps(_EMPTY).encode() + b"\n"


class _Child:
    """The rendering process of this process: started when first needed, started again after it was killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, request: Mapping[str, Any], limit_s: float) -> dict[str, str]:
        line = json.dumps(request, ensure_ascii=True).encode() + b"\n"
        with self._lock:
            process = self._process
            if process is None or process.poll() is not None:
                process = self._start()
                # A first, harmless request, so that the limit of the real one does not have to cover the interpreter's start.
                if "text" not in self._exchange(process, _EMPTY_REQUEST, START_LIMIT_S):
                    raise MissingError("The process that renders chat templates did not start.", f"{sys.executable} -m pip install jinja2")
            return self._exchange(process, line, limit_s)

    def _exchange(self, process: "subprocess.Popen[bytes]", line: bytes, limit_s: float) -> dict[str, str]:
        """One request and its answer; the process is ended if the answer does not come in time."""
        to_child, from_child = process.stdin, process.stdout
        assert to_child is not None
        assert from_child is not None
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            process.kill()

        timer = threading.Timer(limit_s, stop)
        timer.start()
        try:
            to_child.write(line)
            to_child.flush()
            answer = from_child.readline(MAX_ANSWER_BYTES)
        except OSError:
            answer = b""
        finally:
            timer.cancel()
        if not answer.endswith(b"\n"):
            self._stop()
            return {
                "error": f"it ran longer than {limit_s:g} s" if timed_out.is_set() else "it ended the rendering process (memory or stack)"
            }
        if timed_out.is_set():  # the answer came as the time ended: it counts, but the process is gone
            self._stop()
        found = json.loads(answer)
        return found if isinstance(found, dict) else {"error": "it wrote no text"}

    def _start(self) -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("render_child.py")
        try:
            # -P keeps this folder off the child's path.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise MissingError(f"The process that renders chat templates could not start ({error.strerror or error}).") from error
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            _close_pipes(process)

    def close(self) -> None:
        with self._lock:
            self._stop()

    def forget(self) -> None:
        """After a fork: the renderer belongs to the parent, and its lock may have been held by a thread that is gone."""
        process, self._process, self._lock = self._process, None, threading.Lock()
        if process is not None:
            _close_pipes(process)


def _close_pipes(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was not written can no longer be
                pipe.close()


_CHILD = _Child()
atexit.register(_CHILD.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_CHILD.forget)


def _ask(
    template: str, messages: Messages, tools: Sequence[Any], bos: str, eos: str, prompt: bool, now: str, limit_s: float
) -> dict[str, str]:
    if len(template) > MAX_TEMPLATE_CHARS:
        return {"error": f"it is longer than {MAX_TEMPLATE_CHARS} characters"}
    request = {"template": template, "messages": to_plain(messages), "tools": to_plain(tools), "bos": bos, "eos": eos, "now": now}
    try:
        return _CHILD.ask({**request, "add_generation_prompt": prompt}, limit_s)
    except (TypeError, ValueError) as error:
        raise InputError(f"Messages and tools must be made of JSON values ({error}).") from error


def render_chat(
    template: str,
    messages: Messages,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    bos: str = "",
    eos: str = "",
    add_generation_prompt: bool = True,
    limit_s: float = LIMIT_S,
) -> str:
    """A chat template applied to messages, as Hugging Face's `apply_chat_template` does it.

    messages: mappings with `role` and `content` (and `tool_calls`, `name` ... as the template expects), JSON values only
    bos, eos: the texts of these tokens; limit_s: time after which the template is given up
    Raises InputError with the template's own complaint, or if it breaks a limit of time, memory or output.
    """
    answer = _ask(template, messages, tools, bos, eos, add_generation_prompt, "", limit_s)
    if "text" not in answer:
        raise InputError(f"The chat template cannot be rendered: {answer.get('error', 'no reason given')}.")
    return answer["text"]


def render_golden(template: str, *, bos: str = "<s>", eos: str = "</s>", fixed_date: bool = True) -> tuple[Rendering, ...]:
    """A template on every golden conversation. Errors are reported, not raised; after a broken limit the rest is not tried.

    fixed_date: templates that write the date get 2 January 2026, so that renderings can be kept; False = today, as engines do
    """
    done: list[Rendering] = []
    stopped, now = "", _FIXED_TIME if fixed_date else ""
    for item in GOLDEN:
        answer = {"error": stopped} if stopped else _ask(template, item.messages, item.tools, bos, eos, True, now, LIMIT_S)
        error = "" if "text" in answer else answer.get("error", "no reason given")
        if error.startswith("it "):
            stopped = error
        done.append(Rendering(conversation=item.name, text=answer.get("text", ""), error=error))
    return tuple(done)


def template_sha256(template: str) -> str:
    """sha256 of the template's text; empty if there is no template."""
    return hashlib.sha256(template.encode("utf-8", errors="replace")).hexdigest() if template else ""


def inspect_template(template: str, *, bos: str = "<s>", eos: str = "</s>") -> TemplateReport:
    """Digest, golden renderings and content-conditional branches of a template."""
    from trimtab.describe.branches import content_branches

    return TemplateReport(
        sha256=template_sha256(template),
        renderings=render_golden(template, bos=bos, eos=eos) if template else (),
        content_branches=content_branches(template) if len(template) <= MAX_TEMPLATE_CHARS else (),
    )


def diff_templates(a: str, b: str, *, bos: str = "<s>", eos: str = "</s>") -> tuple[TemplateDifference, ...]:
    """Golden conversations that two templates render differently; () if none. A failure counts as its error's text."""
    if a == b:
        return ()
    return diff_renderings(render_golden(a, bos=bos, eos=eos), render_golden(b, bos=bos, eos=eos))


def diff_renderings(a: Sequence[Rendering], b: Sequence[Rendering]) -> tuple[TemplateDifference, ...]:
    """Differences between two renderings of the same conversations, e.g. a template's and an engine's."""
    found = []
    others = {item.conversation: item for item in b}
    for one in a:
        other = others.get(one.conversation)
        if other is None:
            continue
        first, second = (item.text if not item.error else f"(error: {item.error})" for item in (one, other))
        if first != second:
            shorter = min(len(first), len(second))
            at = next((place for place in range(shorter) if first[place] != second[place]), shorter)
            around = slice(at, at + 80)
            found.append(
                TemplateDifference(
                    conversation=one.conversation, at=at, before=first[max(at - 40, 0) : at], a=first[around], b=second[around]
                )
            )
    return tuple(found)
