"""A server that others wrote behind `command`: llama-cpp-python's own, through the official client."""

import importlib.util
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from running_gateway import Running

from trimtab.testing.tiny_models import write_tiny_gguf

pytestmark = [pytest.mark.slow, pytest.mark.model]

NEEDS = ("llama_cpp", "fastapi", "sse_starlette", "starlette_context", "pydantic_settings")
MISSING = [name for name in NEEDS if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(bool(MISSING), reason=f"llama-cpp-python[server] is not installed ({', '.join(MISSING)})")
def test_llama_cpp_pythons_server_behind_a_command(gateway: Callable[..., Running], tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf", architecture="qwen2")
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--host", "127.0.0.1", "--port", "{port}", "--n_ctx", "512"]
    running = gateway(f'[[models]]\nname = "chat"\ncommand = {json.dumps(command)}\nslots = 1\n')
    with openai.OpenAI(base_url=running.url, api_key="none", max_retries=0, timeout=60) as client:
        ask = {"model": "chat", "messages": [{"role": "user", "content": "the small boat"}], "max_tokens": 6, "temperature": 0}
        whole = client.chat.completions.create(**ask)
        assert (whole.model, whole.usage.completion_tokens) == ("chat", 6)

        def streamed() -> str:
            chunks = client.chat.completions.create(**ask, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

        with ThreadPoolExecutor(3) as pool:  # it breaks a stream off for the next request, so they must not meet there
            answers = [pool.submit(streamed) for _ in range(3)]
        assert {answer.result() for answer in answers} == {whole.choices[0].message.content}
        text = client.completions.create(model="chat", prompt="the small boat", max_tokens=4)
        assert text.choices[0].text
        with pytest.raises(openai.BadRequestError, match="context"):
            client.chat.completions.create(**{**ask, "messages": [{"role": "user", "content": "the small boat " * 600}]})
    code, said = running.end()
    assert code == 0, said
