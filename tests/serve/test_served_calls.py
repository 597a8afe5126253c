"""Calls and reasoning under guards, through the whole gateway: a replica that calls, the official client, both of OpenAI's APIs."""

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from running_gateway import Running

pytest.importorskip("regex", reason="guards need the extra `guard`")

SITE = """
[[models]]
name = "chat"
url = "http://127.0.0.1:9/v1"
slots = 4

[[models.guards]]
name = "output"
side = "out"
on_hit = "redact"
options = { phrases = ["blue whale"] }

[[models.guards]]
name = "topics"
side = "out"
on_hit = "block"
options = { deny = { taboo = ["forbidden"] } }
"""
CALL = '{"animal": "a blue\\u0020whale", "n": 2}'
BEFORE = """
from trimtab.serve import replica_http
from trimtab.testing.fake_replica import FakeReplica

class Calling(FakeReplica):
    # Thinks, then calls a function with what it was asked as arguments.
    def answer(self, call):
        text = call.body["messages"][-1]["content"]
        head = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}}
        calls = [head, *({"index": 0, "function": {"arguments": text[at : at + 3]}} for at in range(0, len(text), 3))]
        self.deltas = [{"reasoning_content": "A blue wh"}, {"reasoning_content": "ale."}, *({"tool_calls": [one]} for one in calls)]
        return super().answer(call)

replica_http.HttpReplica = lambda model, version: Calling(words=("",))
"""
Start = Callable[..., Running]


def chat_texts(pieces: list[Any]) -> tuple[str, str, str | None]:
    """Reasoning, arguments, and how it ended, of a stream."""
    deltas = [piece.choices[0].delta for piece in pieces if piece.choices]
    thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    arguments = "".join(one.function.arguments or "" for delta in deltas for one in delta.tool_calls or ())
    return thought, arguments, [piece.choices[0].finish_reason for piece in pieces if piece.choices][-1]


@pytest.mark.slow
def test_calls_and_reasoning_pass_the_guards(gateway: Start) -> None:
    running = gateway(SITE, before=BEFORE)
    expected = {"animal": "a [REMOVED]", "n": 2}
    with openai.OpenAI(base_url=running.url, api_key="none", max_retries=0, timeout=30) as ours:

        def ask(text: str, **options: Any) -> Any:
            return ours.chat.completions.create(model="chat", messages=[{"role": "user", "content": text}], **options)

        message = ask(CALL).choices[0].message
        assert message.reasoning_content == "A [REMOVED]."
        assert json.loads(message.tool_calls[0].function.arguments) == expected
        thought, arguments, _ = chat_texts(list(ask(CALL, stream=True)))
        assert (thought, json.loads(arguments)) == ("A [REMOVED].", expected)

        bad = '{"animal": "none", "why": "it is forbidden", "n": 2}'
        assert (ask(bad).choices[0].message.tool_calls, ask(bad).choices[0].finish_reason) == (None, "content_filter")
        _, arguments, finish = chat_texts(list(ask(bad, stream=True)))
        assert finish == "content_filter"
        assert '{"animal": "none", "why": "it is '.startswith(arguments)

        thought_item, call_item = ours.responses.create(model="chat", input=CALL).output
        assert thought_item.content[0].text == "A [REMOVED]."
        assert json.loads(call_item.arguments) == expected
        events = list(ours.responses.create(model="chat", input=CALL, stream=True))
        assert [item.type for item in events[-1].response.output] == ["reasoning", "function_call"]
        assert json.loads(events[-1].response.output[1].arguments) == expected
        deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
        assert json.loads("".join(deltas)) == expected
        last = list(ours.responses.create(model="chat", input=bad, stream=True))[-1]
        assert (last.type, last.response.incomplete_details.reason) == ("response.incomplete", "content_filter")
        assert "forbidden" not in last.to_json()
    code, said = running.end()
    assert code == 0, said
