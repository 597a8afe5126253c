"""The gateway over engines' own servers: processes that come on demand, die in the middle, and are never left behind."""

import json
import os
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from running_gateway import Running

from trimtab.serve.server_process import free_port

SERVER = Path(__file__).with_name("server_child.py")
ASK: list[Any] = [{"role": "user", "content": "What day comes after Monday?"}]
Start = Callable[..., Running]


def site(*arguments: str, names: tuple[str, ...] = ("chat",), head: str = "") -> str:
    """Models whose server is a process with these arguments, 100 MiB each."""
    command = json.dumps([sys.executable, str(SERVER), "{port}", *arguments])
    limits = 'upstream_model = "m"\nslots = 4\nmemory = "100 MiB"'
    models = [f'[[models]]\nname = "{name}"\ncommand = {command}\n{limits}\n' for name in names]
    return "\n".join(['audit = "off"', head, "[listen]", f"admin_port = {free_port()}", *models])


def client(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=running.url, api_key="none", max_retries=0, timeout=60)


def state(running: Running) -> Any:
    with urllib.request.urlopen(f"{running.admin_url}/state", timeout=10) as response:
        return json.load(response)


def servers(running: Running) -> list[psutil.Process]:
    """The processes of engines' servers below the gateway."""
    found = psutil.Process(running.process.pid).children(recursive=True)
    return [one for one in found if str(SERVER) in one.cmdline()[1:2]]


def gone(pids: list[int]) -> bool:
    ends_s = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < ends_s:
        time.sleep(0.05)
    return not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.slow
def test_requests_without_a_token_are_answered_though_their_server_is_killed(gateway: Start) -> None:
    running = gateway(site("--delay", "1.5"))
    answered: list[str] = []

    def ask() -> None:
        with client(running) as ours:
            answered.append(ours.chat.completions.create(model="chat", messages=ASK, max_tokens=3).choices[0].message.content or "")

    with client(running) as ours:
        assert ours.chat.completions.create(model="chat", messages=ASK, max_tokens=3)
    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    (server,) = servers(running)
    server.kill()
    for thread in threads:
        thread.join()
    assert len(answered) == 6
    assert all(answered)
    assert state(running)["deaths"] == {"chat": 1}
    assert running.end()[0] == 0


@pytest.mark.slow
def test_a_stream_that_has_begun_ends_with_a_reason_and_the_next_request_is_answered(gateway: Start) -> None:
    running = gateway(site("--gap", "0.2"))
    with client(running) as ours:
        stream = ours.chat.completions.create(model="chat", messages=ASK, stream=True)
        assert next(iter(stream))
        (server,) = servers(running)
        server.kill()
        with pytest.raises(openai.APIError, match="was killed"):
            list(stream)
        assert ours.chat.completions.create(model="chat", messages=ASK, max_tokens=2).choices[0].message.content
    running.end()


@pytest.mark.slow
def test_a_killed_gateway_leaves_no_server_behind(gateway: Start, tmp_path: Path) -> None:
    running = gateway(site("--deaf", "--pids", str(tmp_path / "pids")))
    with client(running) as ours:
        assert ours.chat.completions.create(model="chat", messages=ASK, max_tokens=2)
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    os.kill(running.process.pid, signal.SIGKILL)
    assert gone(pids)


@pytest.mark.slow
def test_two_models_in_memory_for_one_answer_everybody(gateway: Start) -> None:
    running = gateway(site(names=("a", "b"), head='memory = "150 MiB"\npatience_s = 0.5'))
    answered: list[str] = []

    def ask(name: str) -> None:
        with client(running) as ours:
            for _ in range(5):
                answered.append(ours.chat.completions.create(model=name, messages=ASK, max_tokens=2).model)

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answered) == ["a"] * 10 + ["b"] * 10
    found = state(running)
    assert found["memory_used_bytes"] <= 150 * 2**20
    assert sum(found["loads"].values()) < 20
    assert len(servers(running)) == 1
    running.end()
