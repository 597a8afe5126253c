"""A worker of ours as a replica: what the client gets of it, what is refused, and what becomes of a request nobody waits for."""

import asyncio
import contextlib
import time
from pathlib import Path

import openai
import pytest
from small_app import SmallApp

from trimtab.core.deployment import Settings
from trimtab.core.errors import EngineCrashed, InfeasibleError, InputError
from trimtab.core.model import Snapshot, SnapshotFile
from trimtab.serve import replica_worker
from trimtab.serve.base import Call, Refusal
from trimtab.serve.replica_worker import WorkerReplica, check_length, same_answer
from trimtab.testing.fake_engine import CONTEXT_TOKENS, CRASH_ID

SNAPSHOT = Snapshot(
    source="fake", format="gguf", root=Path("/nowhere"), files=(SnapshotFile(name="m.gguf", size_bytes=1, sha256="0" * 64),)
)
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def probe_at_once(monkeypatch):
    monkeypatch.setattr(replica_worker, "PROBE_AFTER_S", 0.05)


@pytest.fixture(scope="module", autouse=True)
def fake_engine_installed(tmp_path_factory):
    """What an installed third-party package looks like to the worker: a dist-info with an entry point on the path."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "fake_engine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-engine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[trimtab.engines]\nfake = trimtab.testing.fake_engine:FakeEngine\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        yield


def replica(**settings):
    return WorkerReplica(engine="fake", snapshot=SNAPSHOT, settings=Settings.parse(settings), model="letters")


@pytest.fixture(scope="module")
def client():
    with SmallApp(replica()) as app:
        yield openai.OpenAI(base_url=app.url, api_key="none", max_retries=0, timeout=30)


def chat(client, **options):
    return client.chat.completions.create(**{"model": "m", "messages": MESSAGES, "max_tokens": 40, "seed": 3, **options})


def test_a_stream_says_what_the_whole_answer_says(client):
    whole = chat(client)
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert whole.usage.prompt_tokens == 5
    assert 0 < whole.usage.completion_tokens <= 40
    assert (whole.model, whole.system_fingerprint[:3]) == ("letters", "fp_")


def test_a_seed_repeats_and_choices_differ(client):
    texts = [choice.message.content for choice in chat(client, n=3).choices]
    assert texts == [choice.message.content for choice in chat(client, n=3).choices]
    assert len(set(texts)) == 3
    assert chat(client).choices[0].message.content == texts[0]
    assert chat(client, seed=4).choices[0].message.content != texts[0]
    chunks = list(chat(client, n=3, stream=True))
    joined = dict.fromkeys(range(3), "")
    for chunk in chunks:
        joined[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(joined.values()) == texts
    greedy = [choice.message.content for choice in chat(client, n=2, temperature=0).choices]
    assert greedy[0] == greedy[1]


def test_log_probabilities_are_those_of_the_tokens(client):
    content = chat(client, logprobs=True, top_logprobs=3, temperature=0, max_tokens=8).choices[0].logprobs.content
    assert content
    for entry in content:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token
        assert entry.logprob == pytest.approx(entry.top_logprobs[0].logprob)
    plain = client.completions.create(model="m", prompt="hello", logprobs=2, temperature=0, max_tokens=8).choices[0].logprobs
    assert plain.token_logprobs == pytest.approx([entry.logprob for entry in content])


def test_a_stop_string_ends_the_answer_and_the_work(client):
    text = chat(client, max_tokens=200).choices[0].message.content
    stop = text[3:6]
    answer = chat(client, max_tokens=200, stop=[stop])
    assert answer.choices[0].message.content == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens < 60


def test_completions_of_texts_and_of_tokens(client):
    many = client.completions.create(model="m", prompt=["hello", "sea"], n=2, max_tokens=5, seed=1)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert many.usage.prompt_tokens == 8
    ids = [1 + ord(letter) - ord("a") for letter in "hello"]
    one = client.completions.create(model="m", prompt=ids, max_tokens=5, seed=1, n=2)
    assert [choice.text for choice in one.choices] == [choice.text for choice in many.choices[:2]]


def test_an_answer_may_fill_the_rest_of_the_context(client):
    answer = client.chat.completions.create(model="m", messages=MESSAGES, seed=1, extra_body={"ignore_eos": True})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == CONTEXT_TOKENS


@pytest.mark.parametrize("options", [{"messages": [{"role": "user", "content": "a" * 600}]}, {"max_tokens": 509}])
def test_what_does_not_fit_is_refused_with_the_numbers(client, options):
    with pytest.raises(openai.BadRequestError, match="maximum context length is 512 tokens") as caught:
        chat(client, **options)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert ("600 tokens" in str(caught.value)) == ("messages" in options)
    chat(client, max_tokens=507)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"frequency_penalty": 1}, "frequency_penalty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]}, "messages[0].content[0]"),
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_name(client, options, param):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            chat(client, stream=stream, **options)
        assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


def test_tokens_that_the_vocabulary_lacks(client):
    with pytest.raises(openai.BadRequestError, match="tokens are 0 to 63"):
        client.completions.create(model="m", prompt=[999], max_tokens=2)
    assert client.completions.create(model="m", prompt=[5], max_tokens=2).choices


def test_no_embeddings(client):
    with pytest.raises(openai.BadRequestError, match="no embeddings"):
        client.embeddings.create(model="m", input="a")


def test_responses_go_through(client):
    answer = client.responses.create(model="m", input="hello", max_output_tokens=30, temperature=0)
    assert answer.output_text == chat(client, max_tokens=30, temperature=0).choices[0].message.content


# The replica by itself


def running(scenario, **settings):
    async def run():
        one = replica(**settings)
        ready = await one.start()
        try:
            return await scenario(one, ready)
        finally:
            await one.stop()
            await one.stop()
            assert one.memory_bytes() is None

    return asyncio.run(run())


def call(number=1, stream=True, kind="chat", **fields):
    given = {"prompt": "hello"} if kind == "completion" else {"messages": MESSAGES}
    return Call(id=str(number), kind=kind, body={"model": "m", "seed": 1, **given, **fields}, stream=stream)


def test_what_it_says_of_itself_and_its_probe():
    async def scenario(one, ready):
        await one.probe()
        frames = [frame async for frame in one.answer(call(max_tokens=5))]
        return ready, sum(frame.n_tokens for frame in frames), [frame.usage for frame in frames]

    ready, n_tokens, usages = running(scenario, slots=3)
    assert ready.slots == 3
    assert ready.load_s > 0
    assert ready.memory_bytes > 2**20
    assert usages[-1].completion == n_tokens == 5
    assert usages[:-1] == [None] * (len(usages) - 1)


def test_a_request_that_nobody_waits_for_leaves_its_slot():
    async def scenario(one, ready):
        for _ in range(3):
            frames = one.answer(call(ignore_eos=True))
            await anext(frames)
            await frames.aclose()

        async def forever():
            async for _ in one.answer(call(ignore_eos=True)):
                await asyncio.sleep(0.01)

        task = asyncio.create_task(forever())
        await asyncio.sleep(0.1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        began_s = time.monotonic()
        frames = [frame async for frame in one.answer(call(max_tokens=3))]
        return frames[-1].usage.completion, time.monotonic() - began_s

    n_tokens, seconds = running(scenario, slots=1)
    assert n_tokens == 3
    assert seconds < 30


def test_a_dead_engine_is_told_every_time():
    async def scenario(one, ready):
        for _ in range(2):
            with pytest.raises(EngineCrashed):
                [frame async for frame in one.answer(call(kind="completion", prompt=[CRASH_ID]))]
        with pytest.raises(EngineCrashed):
            await one.probe()
        await one.stop()
        with pytest.raises(EngineCrashed):
            await one.probe()

    running(scenario)


def test_what_cannot_start_leaves_nothing_running():
    with pytest.raises(InfeasibleError):
        asyncio.run(replica(kv_type="no-such-type").start())
    with pytest.raises(InputError):
        asyncio.run(WorkerReplica(engine="no-such-engine", snapshot=SNAPSHOT, settings=Settings(), model="m").start())


def test_the_probe_finds_another_answer(monkeypatch):
    async def scenario(one, ready):
        await one.probe()
        first = one._probed

        async def other(client, ids):
            return tuple((token, logprob - 0.5) for token, logprob in await first(client, ids))

        monkeypatch.setattr(one, "_probed", other)
        with pytest.raises(InfeasibleError, match="no longer gives the answer"):
            await one.probe()

    running(scenario)


def test_lengths_and_their_words():
    check_length(10, 5, 15, "messages")
    check_length(14, None, 15, "messages")
    for n_prompt, max_tokens, words in ((11, 5, "and 5 for the answer"), (15, None, "leaves none"), (20, 5, "leaves none")):
        with pytest.raises(Refusal, match=words):
            check_length(n_prompt, max_tokens, 15, "messages")


def test_what_surely_does_not_fit_is_refused_without_being_tokenized(client):
    long = "a" * 5 * CONTEXT_TOKENS
    for ask, param in (
        (lambda: chat(client, messages=[{"role": "user", "content": long}]), "messages"),
        (lambda: client.completions.create(model="m", prompt=["b", long], max_tokens=9), "prompt"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            ask()
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)
        assert f"you sent at least {len(long)} tokens in the {param}" in caught.value.message


def test_a_known_answer_may_change_by_rounding_only():
    known = ((5, -0.7), (6, -0.1), (7, -2.0))
    assert same_answer(known, known)
    assert same_answer(known, ((5, -0.69), (6, -0.11), (7, -2.03)))
    assert same_answer(known, ((5, -0.7), (9, -0.1), (3, -9.0))), "two tokens as likely changed places; what follows is another text"
    assert not same_answer(known, ((5, -0.7), (9, -0.5), (3, -9.0)))
    assert not same_answer(known, ((5, -0.7), (6, -0.3), (7, -2.0)))
    assert not same_answer(known, known[:2])
    assert not same_answer(known, ((5, float("nan")), (6, -0.1), (7, -2.0)))
