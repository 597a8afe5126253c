"""What the official client reads: answers, streams, errors, retries. One replica without a model behind a server without gateway."""

import asyncio
import time

import openai
import pytest
from small_app import SmallApp

from trimtab.core.errors import EngineCrashed
from trimtab.serve.base import Refusal
from trimtab.testing.fake_replica import FakeReplica

MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "How was the sea?"}]
TEXT = "The sea was calm."


@pytest.fixture(scope="module")
def app():
    with SmallApp(FakeReplica()) as served:
        yield served


@pytest.fixture(scope="module")
def client(app):
    return openai.OpenAI(base_url=app.url, api_key="none", max_retries=0, timeout=20)


def client_of(app, **options):
    return openai.OpenAI(base_url=app.url, api_key="none", **options)


# Chats


def test_a_chat(client):
    answer = client.chat.completions.create(model="m", messages=MESSAGES)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (6, 5, 11)
    assert answer._request_id.startswith("req_")


def test_a_chat_that_streams_with_usage(client):
    chunks = list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 11


def test_a_chat_streams_without_usage_unless_asked(client):
    chunks = list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_the_helper_that_gathers_a_stream(client):
    with client.chat.completions.stream(model="m", messages=MESSAGES) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == TEXT


def test_many_at_once_from_an_async_client(app):
    async def run():
        async with openai.AsyncOpenAI(base_url=app.url, api_key="none") as client:

            async def one():
                parts = []
                async for chunk in await client.chat.completions.create(model="m", messages=MESSAGES, stream=True):
                    parts.append(chunk.choices[0].delta.content or "")
                return "".join(parts)

            return await asyncio.gather(*(one() for _ in range(8)))

    assert asyncio.run(run()) == [TEXT] * 8


def test_completions_and_embeddings(client):
    assert client.completions.create(model="m", prompt="The sea").choices[0].text == TEXT
    parts = [chunk.choices[0].text for chunk in client.completions.create(model="m", prompt=["The sea"], max_tokens=2, stream=True)]
    assert parts == ["The", " sea"]
    vectors = client.embeddings.create(model="m", input=["a", "bcd"], encoding_format="float")
    assert [row.embedding[0] for row in vectors.data] == [1.0, 3.0]


# Responses


def test_a_response(client):
    answer = client.responses.create(model="m", instructions="Be short.", input="How was the sea?", metadata={"a": "b"})
    assert answer.output_text == TEXT
    assert answer.status == "completed"
    assert answer.usage.output_tokens == 5
    assert answer.metadata == {"a": "b"}


def test_a_response_that_is_cut_says_so(client):
    answer = client.responses.create(model="m", input=[{"role": "user", "content": "How?"}], max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[0].status == "incomplete"


def test_a_response_that_streams(client):
    with client.responses.stream(model="m", input="How was the sea?") as stream:
        names = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == TEXT
    assert final.usage.total_tokens == 9
    assert names[:4] == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    assert names[-4:] == ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed"]
    events = list(client.responses.create(model="m", input="How was the sea?", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))


# Errors


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"extra_body": {"colour": "blue"}}, "colour", "unknown_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"n": 99}, "n", "invalid_value"),
        ({"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}, "audio", "unsupported_parameter"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_parameter"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role", "invalid_value"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ],
)
def test_a_wrong_field_is_named_and_never_tried_again(app, fields, param, code):
    before = app.n_requests
    with pytest.raises(openai.BadRequestError) as caught:
        client_of(app, max_retries=3).chat.completions.create(**{"model": "m", "messages": MESSAGES, **fields})
    assert (caught.value.param, caught.value.code, caught.value.type) == (param, code, "invalid_request_error")
    assert caught.value.request_id.startswith("req_")
    assert app.n_requests == before + 1


class Busy(FakeReplica):
    """Refuses so many requests before it answers."""

    def __init__(self, refusal: Refusal, n_refused: int) -> None:
        super().__init__()
        self.refusal, self.n_refused = refusal, n_refused

    async def answer(self, call):
        if self.n_refused:
            self.n_refused -= 1
            raise self.refusal
        async for frame in super().answer(call):
            yield frame


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_when_it_says(status):
    with SmallApp(Busy(Refusal(status, "Too many wait.", code="queue_full", retry_after_s=0.3), 2)) as app:
        began_s = time.monotonic()
        answer = client_of(app, max_retries=2).chat.completions.create(model="m", messages=MESSAGES)
        assert answer.choices[0].message.content == TEXT
        assert app.n_requests == 3
        assert 0.5 < time.monotonic() - began_s < 20
        app.replica.n_refused = 5
        with pytest.raises(openai.APIStatusError) as caught:
            client_of(app, max_retries=0).chat.completions.create(model="m", messages=MESSAGES)
        assert (caught.value.status_code, caught.value.code) == (status, "queue_full")
        assert caught.value.response.headers["retry-after"] == "1"


def test_a_refusal_that_time_does_not_mend_is_not_asked_again():
    with SmallApp(Busy(Refusal(503, "Never.", code="audit_unavailable"), 9)) as app:
        with pytest.raises(openai.InternalServerError):
            client_of(app, max_retries=3).chat.completions.create(model="m", messages=MESSAGES)
        assert app.n_requests == 1


def test_an_error_in_the_middle_of_a_stream_reaches_the_client():
    with SmallApp(FakeReplica(fault="crash-midway")) as app:
        parts = []
        stream = client_of(app).chat.completions.create(model="m", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="dead") as caught:
            parts.extend(chunk.choices[0].delta.content for chunk in stream)
        assert parts == ["The", " sea"]
        assert caught.value.code == "replica_failed"
        app.replica.fault = "crash-midway"
        with pytest.raises(openai.APIError, match="dead"):
            list(client_of(app).responses.create(model="m", input="How?", stream=True))


def test_who_closes_a_stream_early_cancels_the_request():
    with SmallApp(FakeReplica(gap_s=0.02, words=("word ",) * 500)) as app:
        stream = client_of(app).chat.completions.create(model="m", messages=MESSAGES, stream=True)
        next(iter(stream))
        stream.close()
        deadline_s = time.monotonic() + 30
        while not app.replica.cancelled:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)


def test_a_timeout_of_the_client():
    with SmallApp(FakeReplica(gap_s=1.5, words=("word",))) as app, pytest.raises(openai.APITimeoutError):
        client_of(app, timeout=0.3, max_retries=0).chat.completions.create(model="m", messages=MESSAGES)


def test_the_fake_replica_meets_the_protocol():
    async def run():
        replica = FakeReplica()
        with pytest.raises(EngineCrashed):
            await replica.probe()
        ready = await replica.start()
        await replica.probe()
        assert (ready.slots, replica.memory_bytes()) == (4, ready.memory_bytes)
        await replica.stop()
        await replica.stop()
        assert replica.memory_bytes() is None

    asyncio.run(run())
