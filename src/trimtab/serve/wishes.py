"""What a request asks of an engine in a worker of ours, and which of its fields such an engine cannot honour."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.serve.base import Kind, Refusal
from trimtab.serve.families import HARMONY, PLAIN, Family, family_of, takes_tools
from trimtab.serve.forms.base import Schemas

_MASK = 2**63 - 1
_LEAST_TOP_P = 1e-6
_LEAST_TEMPERATURE = 1e-4
"""Below it sampling is greedy in all but rounding, and logits divided by it overflow."""
_SAMPLING = "the engine samples by temperature and top_p only"
_FORM = "the form of an answer is given with response_format"
_TEMPLATE = "the chat template is used as it was evaluated"
_NEUTRAL: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "frequency_penalty": ((0,), _SAMPLING),
    "presence_penalty": ((0,), _SAMPLING),
    "logit_bias": (({},), _SAMPLING),
    "top_k": ((0, -1), _SAMPLING),
    "min_p": ((0,), _SAMPLING),
    "typical_p": ((1,), _SAMPLING),
    "repetition_penalty": ((1,), _SAMPLING),
    "length_penalty": ((0, 1), _SAMPLING),
    "min_tokens": ((0,), _SAMPLING),
    "include_stop_str_in_output": ((False,), "answers end before a stop string"),
    "skip_special_tokens": ((True,), "special tokens are left out of answers"),
    "spaces_between_special_tokens": ((True, False), ""),
    "add_special_tokens": ((True,), "the model gets its first token as its vocabulary asks for"),
    "return_token_ids": ((False,), "answers are texts"),
    "prompt_logprobs": ((), "log-probabilities are given for answers only"),
    "truncate_prompt_tokens": ((), "prompts are never cut"),
    "cache_prompt": ((True, False), ""),
    "cache_salt": ((), "the cache of prompts is shared"),
    "priority": ((0,), "requests are served in turn"),
    "structured_outputs": ((), _FORM),
    "guided_json": ((), _FORM),
    "guided_regex": ((), _FORM),
    "guided_choice": ((), _FORM),
    "guided_grammar": ((), _FORM),
    "grammar": ((), _FORM),
    "reasoning_effort": ((), "the model has no such switch that is known here"),
    "verbosity": ((), "the model has no such switch; ask for it in words"),
    "chat_template_kwargs": (({},), _TEMPLATE),
    "chat_template": ((), _TEMPLATE),
    "add_generation_prompt": ((True,), _TEMPLATE),
    "continue_final_message": ((False,), _TEMPLATE),
    "documents": ((), _TEMPLATE),
    "include_reasoning": ((True,), "reasoning is given where the model marks it"),
    "suffix": (("",), "the model only continues texts"),
    "echo": ((False,), "answers do not repeat their prompt"),
    "service_tier": (("auto", "default"), "there is one service only"),
}
"""Fields that are refused unless they ask for what is done anyway: those values (None always is one), and why."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How tokens are to be chosen and read.

    max_tokens: None = the rest of the context; seed: of the first choice
    logprobs: None = not wanted, else how many other tokens are wanted with each
    tools: the functions that may be called, with the schemas of their arguments; one_call: the answer ends after the first call
    is_forced: the answer is one call, held to it by its schema
    json_schema: as GenerateRequest has it
    """

    n: int
    stops: tuple[str, ...]
    temperature: float
    top_p: float
    seed: int
    max_tokens: int | None
    ignore_end: bool
    stop_ids: tuple[int, ...]
    logprobs: int | None
    tools: Schemas
    one_call: bool
    is_forced: bool
    json_schema: str
    include_usage: bool

    def seed_of(self, choice: int) -> int:
        """Choices of one request differ, and are the same for the same seed."""
        return (self.seed + choice) & _MASK


def wish_of(kind: Kind, body: Mapping[str, Any]) -> Wish:
    """What a body asks for. Raises Refusal for a field that cannot be honoured, with its name."""
    if kind == "embedding":
        raise Refusal(400, f"The model {body['model']!r} gives no embeddings.", code="unsupported_model", param="model")
    for name, (neutral, why) in _NEUTRAL.items():
        value = body.get(name)
        if value is not None and value not in neutral:
            raise _unsupported(name, why)
    _check_parts(body)
    stop, seed = body.get("stop"), body.get("seed")
    temperature = 1.0 if body.get("temperature") is None else float(body["temperature"])
    choice: Any = body.get("tool_choice")
    functions = [] if choice == "none" else [tool["function"] for tool in body.get("tools") or ()]
    tools = {function["name"]: function.get("parameters") or {} for function in functions}
    is_forced = choice not in (None, "none", "auto")
    schema = _schema(body.get("response_format") or {})
    if schema and tools:
        raise _unsupported("response_format", "an answer that is held to a schema can call no function; send tool_choice none")
    if is_forced:
        schema = _call_schema(body["tools"], "" if choice == "required" else choice["function"]["name"])
    if schema and body.get("ignore_eos"):
        raise _unsupported("ignore_eos", "an answer that is held to a schema ends where the schema does")
    return Wish(
        n=body.get("n") or 1,
        stops=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        temperature=temperature if temperature >= _LEAST_TEMPERATURE else 0.0,
        top_p=1.0 if body.get("top_p") is None else max(_LEAST_TOP_P, float(body["top_p"])),
        seed=secrets.randbits(62) if seed is None else seed & _MASK,
        max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        ignore_end=bool(body.get("ignore_eos")),
        stop_ids=tuple(body.get("stop_token_ids") or ()),
        logprobs=_logprobs(kind, body),
        tools=tools,
        one_call=body.get("parallel_tool_calls") is False,
        is_forced=is_forced,
        json_schema=schema,
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
    )


def check_schema(wish: Wish, family: Family, *, in_thought: bool) -> None:
    """Raises Refusal if the schema would have to hold the model's reasoning, or what says that none comes."""
    name = "tool_choice" if wish.is_forced else "response_format"
    if wish.json_schema and in_thought:
        raise _unsupported(name, "this model's template begins its reasoning, which no schema can hold")
    if wish.json_schema and family is HARMONY:
        raise _unsupported(name, "this model's answers begin with the name of a channel, which no schema can hold")


def check_tools(wish: Wish, template: str) -> None:
    """Raises Refusal if the model cannot be shown tools, or its calls could not be told from text."""
    if not wish.tools:
        return
    if not takes_tools(template):
        raise _unsupported("tools", "this model's chat template shows no tools to the model")
    if family_of(template) is PLAIN and not wish.is_forced:
        raise _unsupported("tools", "how this model writes calls of functions is not known here")


def _unsupported(param: str, why: str) -> Refusal:
    return Refusal(400, f"Unsupported parameter '{param}': {why}.", code="unsupported_parameter", param=param)


def _check_parts(body: Mapping[str, Any]) -> None:
    for place, message in enumerate(body.get("messages") or ()):
        if isinstance(message.get("content"), list):
            for index, part in enumerate(message["content"]):
                if part["type"] not in ("text", "refusal"):
                    raise _unsupported(f"messages[{place}].content[{index}]", f"this model reads text, not {part['type']}")


def _logprobs(kind: Kind, body: Mapping[str, Any]) -> int | None:
    if kind == "chat":
        return (body.get("top_logprobs") or 0) if body.get("logprobs") else None
    found: int | None = body.get("logprobs")
    return found


def _schema(form: Mapping[str, Any]) -> str:
    match form.get("type"):
        case "json_object":
            return '{"type":"object"}'
        case "json_schema":
            return json.dumps(form["json_schema"]["schema"], ensure_ascii=False, separators=(",", ":"))
    return ""


def _call_schema(tools: Sequence[Mapping[str, Any]], only: str) -> str:
    """The schema of one call: of any of the functions, or of the only one that is wanted."""
    functions = [tool["function"] for tool in tools if only in ("", tool["function"]["name"])]
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": function["name"]}, "arguments": function.get("parameters") or {"type": "object"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in functions
    ]
    return json.dumps(calls[0] if len(calls) == 1 else {"anyOf": calls}, ensure_ascii=False, separators=(",", ":"))


# Messages for a template


def plain_messages(messages: Sequence[Mapping[str, Any]], template: str, *, arguments_as_text: bool = False) -> list[dict[str, Any]]:
    """Messages as chat templates expect them: one text a message, arguments of calls as objects, `system` where they know no `developer`.

    Templates differ in what they take for a message that only calls: those that test for `none` get it, the others an empty text. gpt-oss'
    reads the reasoning that led to a call as `thinking`.
    """
    takes_none = "is none" in template or "is not none" in template
    found: list[dict[str, Any]] = []
    for message in messages:
        plain = {key: value for key, value in message.items() if value is not None}
        content = message.get("content")
        if isinstance(content, list):
            plain["content"] = "\n".join(part.get("text") or part.get("refusal") or "" for part in content)
        elif content is None:
            plain["content"] = None if takes_none else ""
        if plain["role"] == "developer" and "developer" not in template:
            plain["role"] = "system"
        if plain.get("tool_calls") and not plain["content"] and "message.thinking" in template and "reasoning_content" in plain:
            plain["thinking"] = plain.pop("reasoning_content")
        if plain.get("tool_calls") and not arguments_as_text:
            plain["tool_calls"] = [_with_object(call) for call in plain["tool_calls"]]
        found.append(plain)
    return found


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except ValueError:
        return dict(call)
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else dict(call)
