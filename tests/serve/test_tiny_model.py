"""Forced calls and schemas, end to end: a tiny random model in llama.cpp, the official client, a template that shows tools."""

import json
from typing import Annotated, Literal

import openai
import pydantic
import pytest
from small_app import SmallApp

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

from trimtab.core.deployment import Settings
from trimtab.serve.replica_worker import WorkerReplica
from trimtab.testing import tiny_models
from trimtab.testing.snapshots import snapshot_of

pytestmark = pytest.mark.model
TOOLS_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}{% endfor %} <tool_call><|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls %}<tool_call>{{ call.function.arguments.a + 1 }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 999}, "unit": {"enum": ["cm", "inch"]}},
    "required": ["a", "unit"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "measure", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}},
]
MESSAGES = [{"role": "user", "content": "how long"}]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "CHATML", TOOLS_TEMPLATE)
        path = tiny_models.write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    snapshot = snapshot_of(path)
    settings = Settings(context_tokens=1024, slots=2, threads=1)
    with SmallApp(WorkerReplica(engine="llamacpp", snapshot=snapshot, settings=settings, model="tiny")) as app:
        yield openai.OpenAI(base_url=app.url, api_key="none", max_retries=0, timeout=60)


def test_a_prompt_that_comes_back_is_told_as_cached(tmp_path):
    path = tiny_models.write_tiny_gguf(tmp_path / "tiny.gguf")
    snapshot = snapshot_of(path)
    settings = Settings(context_tokens=512, slots=2, threads=1, prefix_cache=True)
    with SmallApp(WorkerReplica(engine="llamacpp", snapshot=snapshot, settings=settings, model="tiny")) as app:
        client = openai.OpenAI(base_url=app.url, api_key="none", max_retries=0, timeout=60)
        usages = [
            client.completions.create(
                model="m", prompt="the sea was calm and " * 8 + end, max_tokens=4, seed=1, extra_body={"ignore_eos": True}
            ).usage
            for end in ("a", "b")
        ]
    first, second = ((one.prompt_tokens, one.prompt_tokens_details.cached_tokens) for one in usages)
    assert first[1] < 4, "nothing but the probe came before"
    assert second[0] - 4 <= second[1] < second[0]


def ask(client, **options):
    return client.chat.completions.create(**{"model": "m", "messages": MESSAGES, "tools": TOOLS, "max_tokens": 300, "seed": 1, **options})


def test_a_named_function_is_called(client):
    named = {"type": "function", "function": {"name": "measure"}}
    for seed in range(3):
        choice = ask(client, tool_choice=named, seed=seed).choices[0]
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls
        assert call.function.name == "measure"
        assert json.loads(call.function.arguments)["unit"] in ("cm", "inch")


def test_some_function_is_called_where_one_must_be(client):
    called = {ask(client, tool_choice="required", seed=seed).choices[0].message.tool_calls[0].function.name for seed in range(12)}
    assert called == {"measure", "stop"}


def test_a_call_streams_and_its_result_goes_back(client):
    with client.chat.completions.stream(model="m", messages=MESSAGES, tools=TOOLS, tool_choice="required", seed=2) as stream:
        message = stream.get_final_completion().choices[0].message
    (call,) = message.tool_calls
    again = [*MESSAGES, {**message.model_dump(exclude_none=True), "content": None}]
    again[-1]["tool_calls"][0]["function"]["arguments"] = '{"a": 3}'  # the template counts with it, so it must come as an object
    again[-1]["tool_calls"][0]["function"].pop("parsed_arguments", None)
    again.append({"role": "tool", "tool_call_id": call.id, "content": "12"})
    assert ask(client, messages=again, max_tokens=5).usage.completion_tokens <= 5
    plain = ask(client, messages=again, max_tokens=5, tool_choice="none").usage.prompt_tokens
    assert ask(client, messages=again, max_tokens=5).usage.prompt_tokens > plain, "tools that may not be called are not shown"


def test_responses_call_functions_too(client):
    tools = [{"type": "function", **TOOLS[0]["function"], "strict": True}]
    answer = client.responses.create(model="m", input="how long", tools=tools, tool_choice="required")
    (item,) = answer.output
    assert (item.type, item.name) == ("function_call", "measure")
    assert json.loads(item.arguments)["unit"] in ("cm", "inch")
    with client.responses.stream(model="m", input="how long", tools=tools, tool_choice="required", temperature=0) as stream:
        names = [event.type for event in stream]
        (item,) = stream.get_final_response().output
    assert json.loads(item.arguments)["a"] >= 0
    assert "response.function_call_arguments.delta" in names
    assert names[-1] == "response.completed"


def test_schemas_hold_beside_free_answers(client):
    form = {"type": "json_schema", "json_schema": {"name": "length", "schema": PARAMETERS}}
    for stream in (False, True):
        given = client.chat.completions.create(
            model="m", messages=MESSAGES, n=4, max_tokens=300, response_format=form, stream=stream, seed=3
        )
        texts = [""] * 4
        if stream:
            for chunk in given:
                texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        else:
            texts = [choice.message.content for choice in given.choices]
        assert all(json.loads(text)["unit"] in ("cm", "inch") for text in texts)


class Length(pydantic.BaseModel):
    size: Annotated[int, pydantic.Field(ge=0, le=99)]
    unit: Literal["cm", "inch"]
    exact: bool | None


def test_the_clients_own_types_come_back(client):
    chat = client.chat.completions.parse(model="m", messages=MESSAGES, max_tokens=200, response_format=Length, seed=1)
    assert chat.choices[0].message.parsed.unit in ("cm", "inch")
    answer = client.responses.parse(model="m", input="how long", max_output_tokens=200, text_format=Length, temperature=0)
    assert 0 <= answer.output_parsed.size <= 99
    called = client.chat.completions.parse(
        model="m", messages=MESSAGES, max_tokens=200, tools=[openai.pydantic_function_tool(Length)], tool_choice="required", seed=1
    )
    assert isinstance(called.choices[0].message.tool_calls[0].function.parsed_arguments, Length)


@pytest.mark.parametrize(
    "schema", [{"type": "no-such-type"}, {"$ref": "http://localhost/schema"}, {"type": "string", "pattern": "(?<=a)b"}]
)
def test_schemas_that_are_not_known_are_refused_and_nothing_else_is(client, schema):
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=MESSAGES, response_format=form)
    assert (caught.value.param, caught.value.code) == ("response_format", "unsupported_parameter")
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, tools=tools, tool_choice="required")
    assert caught.value.param == "tool_choice"
    assert ask(client, max_tokens=3).choices[0].finish_reason in ("length", "stop", "tool_calls")
