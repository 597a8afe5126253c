"""A client that is not OpenAI's own: LangChain's, where it is installed (it is no dependency of ours)."""

import asyncio
from collections.abc import Callable

import pytest
from running_gateway import Running

from trimtab.testing.fake_server import FakeServer

langchain_openai = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")


@pytest.mark.slow
def test_langchain_asks_streams_batches_and_counts(gateway: Callable[..., Running]) -> None:
    with FakeServer(answer=lambda messages: "the sea was calm") as server:
        running = gateway(f'[[models]]\nname = "chat"\nurl = "{server.url}"\nupstream_model = "m"\nslots = 4\n')
        model = langchain_openai.ChatOpenAI(base_url=running.url, api_key="none", model="chat", max_retries=0)
        answer = model.invoke([("system", "Be short."), ("user", "How was the sea?")])
        assert answer.content == "the sea was calm"
        assert answer.usage_metadata["output_tokens"] == 4
        pieces = list(model.stream("How was the sea?", stream_usage=True))
        assert "".join(piece.content for piece in pieces) == "the sea was calm"
        assert len([piece for piece in pieces if piece.content]) > 1
        assert sum((piece.usage_metadata or {}).get("output_tokens", 0) for piece in pieces) == 4
        both = asyncio.run(model.abatch(["one", "two"]))
        assert [one.content for one in both] == ["the sea was calm"] * 2
        with pytest.raises(Exception, match="does not exist"):
            langchain_openai.ChatOpenAI(base_url=running.url, api_key="none", model="nobody", max_retries=0).invoke("x")
        running.end()
