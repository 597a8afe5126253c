"""A real model behind the official client, in both engines: what is served is what the engine says by itself."""

import asyncio
import json

import openai
import pytest
from small_app import SmallApp

from trimtab.core.deployment import Settings
from trimtab.engines.base import GenerateRequest
from trimtab.engines.client import WorkerClient
from trimtab.serve.base import Call
from trimtab.serve.replica_worker import WorkerReplica

pytestmark = [pytest.mark.slow, pytest.mark.model]
SETTINGS = Settings(slots=4, context_tokens=1024)
MESSAGES = [{"role": "user", "content": "Name three colours."}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["llamacpp", "openvino"])
def served(request, demo_snapshot):
    pytest.importorskip({"llamacpp": "llama_cpp", "openvino": "openvino_genai"}[request.param])
    with SmallApp(WorkerReplica(engine=request.param, snapshot=demo_snapshot, settings=SETTINGS, model="smollm2")) as app:
        app.engine = request.param
        yield app


@pytest.fixture(scope="module")
def client(served):
    return openai.OpenAI(base_url=served.url, api_key="none", max_retries=0, timeout=120)


def said_by_the_engine(engine, demo_snapshot, messages, max_tokens):
    """The engine's greedy answer by itself: rendered, tokenized and detokenized as a whole, as it is when a model is evaluated."""

    async def run():
        worker = await WorkerClient.start(engine, demo_snapshot, SETTINGS, purpose="serve")
        try:
            ids = (await worker.tokenize([await worker.render(messages)], parse_special=True))[0]
            request = GenerateRequest(request_id=1, prompt_ids=tuple(ids), max_tokens=max_tokens)
            tokens = [event.token_id async for event in worker.generate(request)]
            return len(ids), tokens, await worker.detokenize(tokens)
        finally:
            await worker.close()

    return asyncio.run(run())


@pytest.mark.parametrize("text", ["Name three colours.", "Write 'naïve café – 漢字 🙂' three times."])
def test_what_is_served_is_what_the_engine_says(served, client, demo_snapshot, text):
    messages = [{"role": "user", "content": text}]
    n_prompt, tokens, expected = said_by_the_engine(served.engine, demo_snapshot, messages, 60)
    whole = client.chat.completions.create(model="m", messages=messages, max_tokens=60, temperature=0)
    assert whole.choices[0].message.content == expected
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (n_prompt, len(tokens))
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(model="m", messages=messages, max_tokens=60, temperature=0, stream=True)
    ]
    assert "".join(pieces) == expected
    assert len(pieces) > 20, "it came in pieces"


def test_characters_of_several_tokens_come_whole(client):
    prompt = "漢字仮名漢字仮名漢字仮名" * 3 + "🙂🙃🙂🙃🙂🙃"
    pieces = [
        chunk.choices[0].text
        for chunk in client.completions.create(model="m", prompt=prompt, max_tokens=48, temperature=0.8, seed=5, stream=True)
    ]
    text = "".join(pieces)
    assert any(ord(letter) > 0x2000 for letter in text), "the test needs such characters"
    assert "�" not in text


def test_many_streams_at_once_are_each_their_own(served, client):
    async def run():
        async with openai.AsyncOpenAI(base_url=served.url, api_key="none", timeout=120) as many:

            async def one(seed):
                stream = await many.chat.completions.create(model="m", messages=MESSAGES, max_tokens=30, seed=seed, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*(one(seed) for seed in range(8)))

    texts = asyncio.run(run())
    assert len(set(texts)) == 8
    assert all(texts)
    client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=5)


def test_an_answer_in_a_schema(served, client):
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    ask = {"model": "m", "messages": [{"role": "user", "content": "Tell me of a person, as JSON."}], "max_tokens": 100}
    for seed in range(3):
        answer = client.chat.completions.create(**ask, response_format=form, seed=seed)
        person = json.loads(answer.choices[0].message.content)
        assert set(person) == {"name", "age"}
        assert 0 <= person["age"] <= 99
    parsed = client.chat.completions.create(**ask, response_format={"type": "json_object"}, temperature=0)
    assert parsed.choices[0].message.content.startswith("{")
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no-such-type"}}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ask, response_format=wrong)
    assert caught.value.param == "response_format"


def test_log_probabilities(served, client):
    ask = {"model": "m", "messages": MESSAGES, "max_tokens": 5, "temperature": 0, "logprobs": True}
    if served.engine == "openvino":
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**ask, top_logprobs=2)
        assert caught.value.param == "top_logprobs"
        content = client.chat.completions.create(**ask).choices[0].logprobs.content
    else:
        content = client.chat.completions.create(**ask, top_logprobs=2).choices[0].logprobs.content
        assert all(entry.top_logprobs[0].token == entry.token for entry in content)
    text = client.chat.completions.create(**ask).choices[0].message.content
    assert "".join(entry.token for entry in content) == text
    assert bytes(byte for entry in content for byte in entry.bytes).decode() == text


def test_the_probe_holds_while_others_are_answered(served, demo_snapshot):
    async def run():
        replica = WorkerReplica(engine=served.engine, snapshot=demo_snapshot, settings=SETTINGS, model="m")
        ready = await replica.start()
        try:

            async def busy(number):
                body = {"model": "m", "messages": MESSAGES, "max_tokens": 60, "ignore_eos": True}
                return [frame async for frame in replica.answer(Call(id=str(number), kind="chat", body=body, stream=True))]

            tasks = [asyncio.create_task(busy(number)) for number in range(3)]
            await asyncio.sleep(0.3)
            for _ in range(3):
                await replica.probe()
            await asyncio.gather(*tasks)
            return ready, replica.memory_bytes()
        finally:
            await replica.stop()

    ready, memory = asyncio.run(run())
    assert ready.slots == 4
    assert memory > 50 * 2**20
