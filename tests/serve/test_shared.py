"""Several gateways on one database: what they may never exceed together, what survives kill -9, and how soon one sees what another did."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "benchmarks" / "parts")]

from postgres_server import Server, find_binaries, server  # noqa: E402
from running_gateway import trimtab  # noqa: E402

from trimtab.core.errors import InputError, MissingError  # noqa: E402
from trimtab.record.identities import add_key, list_keys, revoke_key, rotate_key  # noqa: E402
from trimtab.record.shared_state import SharedState  # noqa: E402
from trimtab.serve import shared  # noqa: E402
from trimtab.serve.base import Refusal  # noqa: E402
from trimtab.serve.quota import ANSWER_TOKENS, Hold, most_tokens  # noqa: E402
from trimtab.serve.schema import parse  # noqa: E402
from trimtab.serve.shared import SharedQuota  # noqa: E402
from trimtab.testing.fake_server import FakeServer  # noqa: E402


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("needs the PostgreSQL server (on Debian: apt-get install postgresql)")
    with server(binaries, is_durable=False) as running:
        yield running


@pytest.fixture
def state_url(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    url = postgres.url(postgres.new_database())
    monkeypatch.setenv("TRIMTAB_STATE", url)
    monkeypatch.delenv("TRIMTAB_KEYS_FILE", raising=False)
    return url


def day() -> int:
    return int(time.time() // 86400)


def noted(path: Path) -> Counter[str]:
    """Sums by kind: tokens used, refusals by code."""
    found: Counter[str] = Counter()
    for line in path.read_text().splitlines() if path.exists() else ():
        kind, _, rest = line.partition(" ")
        found[f"refused {rest}" if kind == "refused" else kind] += int(rest) if kind == "used" else 1
    return found


async def hammer(quota: SharedQuota, secret: str, ends_s: float, most: int, notes: int) -> None:
    """One client of a gateway: asks as fast as it may, and notes what it used once it has used it, until the day's tokens are used up."""
    while time.monotonic() < ends_s:
        try:
            key = quota.find(secret)
            hold = await quota.admit(key, most)
        except Refusal as refusal:
            os.write(notes, f"refused {refusal.code}\n".encode())
            if refusal.code == "insufficient_quota":
                return
            await asyncio.sleep(0.02)
            continue
        tokens = random.randrange(most // 4, most + 1)
        await asyncio.sleep(0.002)
        os.write(notes, f"used {tokens}\n".encode())
        quota.ended(key, hold, tokens)


async def gateway_part(path: Path, secret: str, *, seconds: float, most: int) -> None:
    notes = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with SharedState.open() as state:
        quota = SharedQuota(state=state)
        async with quota.running():
            os.write(notes, b"ready\n")
            ends_s = time.monotonic() + seconds
            await asyncio.gather(*(hammer(quota, secret, ends_s, most, notes) for _ in range(4)))


def start(folder: Path, secret: str, number: int, *, seconds: float, most: int, lease_s: float) -> int:
    """A gateway's part, without HTTP, as a process of its own; returns its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            shared.LEASE_S, shared.MARGIN_S = lease_s, 0.2 * lease_s
            random.seed(number)
            asyncio.run(gateway_part(folder / f"notes-{number}", secret, seconds=seconds, most=most))
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_ready(folder: Path, numbers: range) -> None:
    ends_s = time.monotonic() + 60
    while not all(noted(folder / f"notes-{number}")["ready"] for number in numbers):
        assert time.monotonic() < ends_s
        time.sleep(0.02)


@pytest.mark.slow
def test_four_gateways_use_one_budget_once(state_url: str, tmp_path: Path) -> None:
    limit, most = 8_000, 200
    key, secret = add_key("web", tokens_per_day=limit)
    children = [start(tmp_path, secret, number, seconds=60, most=most, lease_s=10.0) for number in range(4)]
    assert [ended(child) for child in children] == [0, 0, 0, 0]
    notes = [noted(tmp_path / f"notes-{number}") for number in range(4)]
    used = sum(one["used"] for one in notes)
    assert limit <= used < limit + most  # all of it, and one request that crosses
    with SharedState.open() as state:
        assert state.spent_of_day(day())[key.id][1] == used  # nothing that was settled is lost, nothing counted twice
    assert all(one["refused insufficient_quota"] for one in notes)


@pytest.mark.slow
def test_gateways_that_are_killed_give_their_leases_back_and_overspend_no_more_than_they_held(
    state_url: str, postgres: Server, tmp_path: Path
) -> None:
    limit, most, n_killed = 60_000, 200, 0
    key, secret = add_key("web", tokens_per_day=limit)
    children = [start(tmp_path, secret, number, seconds=60, most=most, lease_s=3.0) for number in range(4)]
    wait_ready(tmp_path, range(4))
    for number in (0, 1):
        ends_s = time.monotonic() + 60
        while not noted(tmp_path / f"notes-{number}")["used"]:
            assert time.monotonic() < ends_s
            time.sleep(0.01)
        os.kill(children[number], signal.SIGKILL)
        n_killed += 1
        ended(children[number])
        children.append(start(tmp_path, secret, len(children), seconds=60, most=most, lease_s=3.0))
    assert [ended(child) for child in children[2:]] == [0] * 4
    used = sum(noted(tmp_path / f"notes-{number}")["used"] for number in range(len(children)))
    lease = 4 * most + limit // 200
    assert limit - n_killed * lease <= used < limit + most + n_killed * lease
    with SharedState.open() as state:
        settled = state.spent_of_day(day())[key.id][1]
    assert used - n_killed * lease <= settled <= limit + most
    assert postgres.run("SELECT count(*) FROM trimtab_state_leases WHERE expires > now()", state_url.rpartition("/")[2]) == [[0]]


@pytest.mark.slow
def test_requests_a_minute_are_of_all_gateways_together(state_url: str, tmp_path: Path) -> None:
    rpm, seconds = 60, 2.0
    _, secret = add_key("web", rpm=rpm)
    began = time.monotonic()
    children = [start(tmp_path, secret, number, seconds=seconds, most=10, lease_s=10.0) for number in range(3)]
    assert [ended(child) for child in children] == [0, 0, 0]
    took_s = time.monotonic() - began
    n_used = sum(line.startswith("used") for number in range(3) for line in (tmp_path / f"notes-{number}").read_text().splitlines())
    assert rpm <= n_used <= rpm + rpm * (took_s + shared.AHEAD_S) / 60


def test_keys_are_changed_by_one_and_seen_by_all(state_url: str) -> None:
    async def run() -> None:
        with SharedState.open() as state, SharedState.open() as other:
            a, b = SharedQuota(state=state), SharedQuota(state=other)
            async with a.running(), b.running():
                key, secret = await asyncio.to_thread(add_key, "web", rpm=5)
                await asyncio.sleep(0.7)
                assert a.find(secret) == b.find(secret) == key
                _, newer = await asyncio.to_thread(rotate_key, "web", overlap_s=0.5)
                await asyncio.sleep(0.7)
                assert a.find(secret) is None
                assert b.find(newer) is not None
                await asyncio.to_thread(revoke_key, "web")
                await asyncio.sleep(0.7)
                assert a.find(newer) is b.find(newer) is None

    asyncio.run(run())
    with pytest.raises(InputError, match="was revoked"):
        rotate_key(list_keys()[0].id, overlap_s=1)
    with pytest.raises(InputError, match="There is no key 'nobody'"):
        revoke_key("nobody")


def test_a_database_that_goes_away_stops_keys_in_time_and_loses_nothing(postgres: Server, state_url: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(shared, "LEASE_S", 2.0)
    monkeypatch.setattr(shared, "MARGIN_S", 0.5)
    monkeypatch.setattr(shared, "WAIT_S", 0.5)
    key, secret = add_key("web", tokens_per_day=1000)

    async def run() -> None:
        with SharedState.open() as state:
            quota = SharedQuota(state=state)
            async with quota.running():
                hold = await quota.admit(quota.find(secret), 400)
                assert hold == Hold(day(), 400)
                postgres.kill()
                began = time.monotonic()
                with pytest.raises(Refusal, match="does not answer") as refused:
                    await quota.admit(key, 400)
                assert (refused.value.status, refused.value.code) == (503, "state_unavailable")
                quota.ended(key, hold, 321)
                while True:
                    try:
                        quota.find(secret)
                    except Refusal:
                        break
                    await asyncio.sleep(0.05)
                assert time.monotonic() - began < 2.0
                assert "does not answer" in quota.problem
                postgres.start()
                while quota.problem:
                    await asyncio.sleep(0.05)
                assert quota.find(secret) is not None
                await quota.admit(key, 400)

    asyncio.run(run())
    with SharedState.open() as state:
        assert state.spent_of_day(day())[key.id] == (2, 321)


def test_an_answer_that_was_lost_is_not_done_twice(state_url: str) -> None:
    with SharedState.open() as state:
        row = {"key": "k", "day": 1, "requests": 1, "tokens": 70, "limit": 100, "asking": [50, 50], "keep": 0, "spare": 0}
        asked = {"gateway": "g", "number": 1, "host": "h", "lease_s": 10, "rows": [row], "rates": [], "log": None}
        first, again = (state.exchange(asked, seen_revision=0)[0] for _ in range(2))
        assert first == again == {"rows": [{"granted": 1, "spare": 0, "spent": 70, "others": 0}], "rates": []}
        assert state.spent_of_day(1) == {"k": (1, 70)}
        other = {**asked, "gateway": "h", "rows": [{**row, "tokens": 0, "asking": [1]}]}
        assert state.exchange(other, seen_revision=0)[0]["rows"][0] == {"granted": 0, "spare": 0, "spent": 70, "others": 50}


def test_the_most_that_a_request_can_take_is_what_it_says() -> None:
    def most(path: str, body: dict[str, Any]) -> int:
        raw = json.dumps({"model": "m", **body}).encode()
        return most_tokens(parse(f"/v1/{path}", raw), len(raw)) - len(raw)

    chat = {"messages": [{"role": "user", "content": "Hello"}]}
    assert most("chat/completions", chat) == ANSWER_TOKENS
    assert most("chat/completions", {**chat, "max_completion_tokens": 7, "n": 3}) == 21
    assert most("completions", {"prompt": ["a", "b"], "max_tokens": 5, "n": 2}) == 20
    assert most("completions", {"prompt": [1, 2, 3], "max_tokens": 5}) == 5
    assert most("embeddings", {"input": "Hello"}) == 0


def test_wrong_addresses_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("sqlite:///x.db", "nonsense", "mysql://u@h/d"):
        with pytest.raises(InputError, match="The address of the shared state is not a PostgreSQL database's"):
            SharedState.open(url)
    with pytest.raises(MissingError, match=r"The shared state postgresql://127\.0\.0\.1:1/d does not answer") as caught:
        SharedState.open("postgresql://u:secret@127.0.0.1:1/d")
    assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_two_gateways_are_one_to_their_clients(state_url: str, gateway: Any, tmp_path: Path) -> None:
    homes = [tmp_path / name for name in ("a", "b")]
    with FakeServer() as upstream:
        site = f'need_keys = true\n[[models]]\nname = "m"\nurl = "{upstream.url}"\n'
        both = [gateway(site, home=home) for home in homes]
        secret = trimtab(homes[0], "keys", "add", "web", "--rpm", "5", "--tokens-per-day", "100000")["secret"]
        time.sleep(0.7)
        began = time.monotonic()
        answers = Counter(asked(both[number % 2].url, secret) for number in range(8))
        n = answers[200, ""]
        assert 5 <= n <= 5 + 5 * (time.monotonic() - began + shared.AHEAD_S) / 60
        assert answers[429, "rate_limit_exceeded"] == 8 - n
        time.sleep(0.7)
        shown = trimtab(homes[1], "keys", "list")[0]
        assert (shown["requests_today"], shown["tokens_today"] > 0) == (n, True)
        trimtab(homes[1], "keys", "revoke", "web")
        time.sleep(0.7)
        assert {asked(one.url, secret) for one in both} == {(401, "invalid_api_key")}
        time.sleep(0.4)
        both[1].end(signal.SIGKILL)
        assert both[0].end()[0] == 0
    folders = [str(home / "audit") for home in homes]
    found = trimtab(homes[0], "verify", "logs", *folders)
    assert (found["verdict"], len(found["logs"])) == ("pass", 2)
    segment = homes[1] / "audit" / "000000000001.jsonl"
    segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[:3]))
    with pytest.raises(subprocess.CalledProcessError) as caught:
        trimtab(homes[0], "verify", "logs", *folders)
    assert caught.value.returncode == 1
    assert "The end was cut off" in caught.value.stdout


def asked(url: str, secret: str) -> tuple[int, str]:
    """Status, and the error's code, of one request."""
    body = json.dumps({"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}).encode()
    request = urllib.request.Request(
        f"{url}/chat/completions", body, {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]["code"]
