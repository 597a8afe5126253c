"""Renders chat templates in a process of its own: the limits of the operating system hold a hostile template, not good intentions.

Run as a script by `describe/template.py`; imports jinja2 only. One request and one answer a line of JSON on stdin and stdout:
{"template", "messages", "tools", "bos", "eos", "add_generation_prompt", "now"} -> {"text"} or {"error"}.
"""

import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 512 << 20
MAX_OUTPUT_CHARS = 1 << 20
LAST_RESORT_S = 60.0


class GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}`, which marks assistant text for training: rendered as its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    # As transformers has it: plain JSON, without Jinja's HTML escapes.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def environment(now: str) -> ImmutableSandboxedEnvironment:
    """The sandbox with what templates of Hugging Face models expect. now: ISO time, empty = the clock."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = lambda form: (datetime.fromisoformat(now) if now else datetime.now()).strftime(form)
    return made


def render(request: dict[str, Any]) -> dict[str, str]:
    """One answer: the text, or why there is none."""
    try:
        template = environment(request.get("now", "")).from_string(request["template"])
        pieces, length = [], 0
        for piece in template.generate(
            messages=request["messages"],
            tools=request["tools"] or None,
            documents=None,
            bos_token=request["bos"],
            eos_token=request["eos"],
            add_generation_prompt=request["add_generation_prompt"],
        ):
            length += len(piece)
            if length > MAX_OUTPUT_CHARS:
                return {"error": f"it writes more than {MAX_OUTPUT_CHARS} characters"}
            pieces.append(piece)
        return {"text": "".join(pieces)}
    except MemoryError:
        return {"error": f"it needs more than {MEMORY_BYTES >> 20} MiB of memory"}
    except RecursionError:
        return {"error": "it nests or recurses too deep"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error)[:300]}"}


def _limit() -> None:
    try:
        import resource
    except ImportError:  # no such limits on this platform; the parent's time limit still holds
        return
    for kind, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # not settable everywhere
            resource.setrlimit(kind, (most, most))


@contextlib.contextmanager
def _last_resort() -> Iterator[None]:
    """End this process if the parent, which holds the shorter limit, has died and cannot."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, LAST_RESORT_S)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> None:
    _limit()
    for line in sys.stdin.buffer:
        with _last_resort():
            answer = json.dumps(render(json.loads(line)), ensure_ascii=True)
        sys.stdout.buffer.write(answer.encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
