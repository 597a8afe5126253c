"""Model families and the forms in which they write reasoning and calls of tools: which one it is shows in the chat template.

Each form has a reader of its own in `forms`. A model that thinks writes `<think>...</think>` before its answer, whatever the form of its
calls; harmony has a channel for it.
"""

import re
from dataclasses import dataclass

from trimtab.serve.forms import deepseek, harmony, hermes, llama3, mistral, qwen_coder
from trimtab.serve.forms.base import Delta, Reader, Schemas
from trimtab.serve.stops import held_back

THINK, THOUGHT = "<think>", "</think>"


@dataclass(frozen=True, kw_only=True)
class Family:
    """reader: of its form; marks: texts that are single tokens of the vocabulary and would be left out of a text otherwise"""

    name: str
    reader: type[Reader]
    marks: tuple[str, ...] = ()


PLAIN = Family(name="plain", reader=Reader)
HERMES = Family(name="hermes", reader=hermes.HermesReader, marks=(hermes.CALL, hermes.CALL_END))
QWEN_CODER = Family(name="qwen-coder", reader=qwen_coder.QwenCoderReader, marks=(qwen_coder.CALL, qwen_coder.CALL_END))
MISTRAL = Family(name="mistral", reader=mistral.MistralReader, marks=(mistral.CALLS, mistral.ARGUMENTS, mistral.CALL_ID))
LLAMA3 = Family(name="llama3", reader=llama3.Llama3Reader, marks=(llama3.PYTHON_TAG,))
DEEPSEEK = Family(
    name="deepseek",
    reader=deepseek.DeepSeekReader,
    marks=(deepseek.CALLS, deepseek.CALL, deepseek.SEPARATOR, deepseek.CALL_END, deepseek.CALLS_END),
)
HARMONY = Family(
    name="harmony",
    reader=harmony.HarmonyReader,
    marks=(harmony.START, harmony.CHANNEL, harmony.CONSTRAIN, harmony.MESSAGE, harmony.END, harmony.CALL, harmony.RETURN),
)
BARE = Family(name="bare", reader=llama3.Llama3Reader)
"""A call and nothing else, as an answer that is held to the schema of a call."""


def family_of(template: str) -> Family:
    """The family whose calls a chat template shows; PLAIN if it shows none that is known."""
    if harmony.CHANNEL in template and harmony.MESSAGE in template:
        return HARMONY
    if deepseek.CALL in template and deepseek.SEPARATOR in template:
        return DEEPSEEK
    if "<tool_call>" in template and "<function=" in template:
        return QWEN_CODER if "<parameter=" in template else PLAIN
    if "<tool_call>" in template and "<arg_key>" not in template:
        return HERMES
    if mistral.CALLS in template:
        return MISTRAL
    if llama3.PYTHON_TAG in template or ('"parameters"' in template and "ipython" in template):
        return LLAMA3
    return PLAIN


def thinks(template: str) -> bool:
    """Whether the model marks its reasoning."""
    return THOUGHT in template or THINK in template


def takes_tools(template: str) -> bool:
    """Whether a chat template shows tools to the model."""
    return re.search(r"\btools\b", template) is not None


class AnswerReader(Reader):
    """The text of one answer: reasoning that may come first, then what the family's form reads.

    tools: schemas of the functions that may be called; none = calls are text
    in_thought: the prompt ends inside reasoning; may_think: reasoning may come first
    """

    def __init__(self, family: Family, *, tools: Schemas | None = None, in_thought: bool = False, may_think: bool = False) -> None:
        super().__init__(tools or {})
        self._form = family.reader(tools or {})
        self._state = self._thought if in_thought else self._start if may_think else self._answer
        self._is_fresh = True  # nothing of the thought has gone out

    @property
    def n_calls(self) -> int:
        return self._form.n_calls

    @property
    def is_in_call(self) -> bool:
        return self._form.is_in_call

    @property
    def is_in_thought(self) -> bool:
        return self._state == self._thought or self._form.is_in_thought

    def finish(self) -> list[Delta]:
        return [*super().finish(), *self._form.finish()]

    def _start(self, is_end: bool) -> list[Delta]:
        bare = self._buffer.lstrip()
        if bare.startswith(THINK):
            self._buffer, self._state = bare[len(THINK) :], self._thought
        elif is_end or (bare and not THINK.startswith(bare)):
            self._state = self._answer
        return []

    def _thought(self, is_end: bool) -> list[Delta]:
        if self._is_fresh:
            self._buffer = self._buffer.lstrip("\n")
        place = self._buffer.find(THOUGHT)
        if place >= 0:
            passed = self._take(place).rstrip("\n")
            self._take(len(THOUGHT))
            self._state = self._gap
        else:
            passed = self._take(len(self._buffer) - (0 if is_end else self._waiting()))
        self._is_fresh = self._is_fresh and not passed
        return [{"reasoning_content": passed}] if passed else []

    def _waiting(self) -> int:
        """Characters at the end that may belong to the mark behind the reasoning, with the space before it."""
        rest = self._buffer[: len(self._buffer) - held_back(self._buffer, (THOUGHT,))]
        return len(self._buffer) - len(rest.rstrip())

    def _gap(self, is_end: bool) -> list[Delta]:
        """Empty lines between reasoning and answer."""
        self._buffer = self._buffer.lstrip("\n")
        if self._buffer or is_end:
            self._state = self._answer
        return []

    def _answer(self, is_end: bool) -> list[Delta]:
        return self._form.push(self._take(len(self._buffer)))
