"""What a watched gateway tells its watch, and what clients tell it of answers: whose, how often, and nobody's text."""

import asyncio
import http.server
import json
import os
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from running_gateway import Running, trimtab

from trimtab.core.watching import Late, Observed
from trimtab.flows.parts.observer import Budget, refuses
from trimtab.record.identities import Key
from trimtab.record.spool import read_spool, spool_folder
from trimtab.serve import watch_process
from trimtab.serve.base import Refusal
from trimtab.serve.feedback import A_MINUTE, MOST_NAMES, OPEN_DAYS, FeedbackDesk
from trimtab.serve.openapi import openapi_document

QUESTION = "Could you please explain to me how the water gets into the clouds?"
ANSWER = "Water evaporates from the sea, rises with the warm air and condenses there."
ANYBODY: Key | None = None


class Told(list[Late]):
    def __call__(self, late: Late) -> bool:
        self.append(late)
        return True


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def desk(told: Told) -> FeedbackDesk:
    found = FeedbackDesk(told, refuses, most=3)
    found.remember("r1", "", 100.0)
    return found


def take(
    desk: FeedbackDesk,
    request: str = "r1",
    name: str = "thumbs",
    value: Any = True,
    path: str = "/v1/feedback",
    now_s: float = 200.0,
    **more: Any,
) -> Any:
    raw = json.dumps({"request_id": request, "name": name, "value": value, **more}).encode()
    return desk.take(path, ANYBODY, raw, now_s)


def test_feedback_counts_once(desk: FeedbackDesk, told: Told) -> None:
    assert take(desk, group={"age": "60+"}) == {"object": "feedback", "request_id": "r1", "name": "thumbs", "counted": True}
    assert not take(desk, value=False)["counted"]
    assert take(desk, name="repaid", value=0.5, path="/v1/outcomes")["object"] == "outcome"
    assert told == [
        Late(request="r1", at_s=200.0, kind="feedback", name="thumbs", value=1.0, groups={"age": "60+"}),
        Late(request="r1", at_s=200.0, kind="outcome", name="repaid", value=0.5),
    ]


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ({"request": "r2"}, 404, "request_not_found"),
        ({"now_s": 101.0 + OPEN_DAYS * 86400}, 409, "request_too_old"),
        ({"name": "total_ms"}, 400, "invalid_value"),
        ({"name": "retried"}, 400, "invalid_value"),
        ({"value": 0.5}, 400, "invalid_value"),
        ({"name": "mine", "value": 7}, 400, "invalid_value"),
        ({"name": "Not a name"}, 400, "invalid_value"),
        ({"value": "up"}, 400, "invalid_value"),
        ({"more": 1}, 400, "invalid_value"),
        ({"group": {"age": ""}}, 400, None),
        ({"group": {"age": "x"}, "path": "/v1/outcomes"}, 400, "invalid_value"),
    ],
)
def test_what_cannot_be_told(given: dict[str, Any], status: int, code: str | None, desk: FeedbackDesk, told: Told) -> None:
    with pytest.raises(Refusal) as caught:
        take(desk, **given)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert told == []


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b"[" * 20_000])
def test_what_is_no_body(raw: bytes, desk: FeedbackDesk) -> None:
    with pytest.raises(Refusal) as caught:
        desk.take("/v1/feedback", ANYBODY, raw, 200.0)
    assert caught.value.status == 400


def test_old_requests_are_forgotten_and_names_are_few(desk: FeedbackDesk) -> None:
    for index in range(MOST_NAMES):
        take(desk, name=f"mine{index}")
    with pytest.raises(Refusal, match="one more"):
        take(desk, name="another")
    assert not take(desk, name="mine0")["counted"]
    for index in range(2, 5):
        desk.remember(f"r{index}", "", 100.0)
    with pytest.raises(Refusal, match="No request 'r1'"):
        take(desk, name="mine0")


def test_feedback_is_limited_by_key(desk: FeedbackDesk) -> None:
    for _ in range(A_MINUTE):
        take(desk)
    with pytest.raises(Refusal) as caught:
        take(desk)
    assert caught.value.status == 429
    take(desk, now_s=201.0)


def test_what_was_told_before_a_restart_counts_no_second_time(told: Told) -> None:
    again = FeedbackDesk(told, refuses)
    again.load([Observed(request="r1", at_s=100.0), Late(request="r1", at_s=101.0, kind="feedback", name="thumbs", value=1.0)])
    assert not take(again)["counted"]
    assert take(again, name="edited")["counted"]


def test_feedback_that_cannot_be_kept_may_come_again(desk: FeedbackDesk) -> None:
    full = FeedbackDesk(lambda late: False, refuses)
    full.remember("r1", "", 100.0)
    for _ in range(2):
        with pytest.raises(Refusal) as caught:
            take(full)
        assert caught.value.status == 503


def test_texts_are_looked_at_as_far_as_there_is_time() -> None:
    budget = Budget(share=0.1, gained_s=1.0, last_s=0.0)
    assert budget.gain(0.0)
    budget.spend(2.0)
    assert not budget.gain(5.0)
    assert budget.gain(16.0)
    budget.gain(1e6)
    assert budget.gained_s - budget.spent_s == pytest.approx(0.5)  # a long quiet while is no licence for a long burst


def test_the_watch_is_started_again_and_ends_with_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch_process, "FIRST_WAIT_S", 0.05)
    path = tmp_path / "starts"
    lives = "0 if os.stat(sys.argv[1]).st_size < 16 else 60"
    code = f"import os, sys, time; open(sys.argv[1], 'a').write(f'{{os.getpid()}}\\n'); time.sleep({lives})"

    async def run() -> None:
        task = asyncio.create_task(watch_process.keep_running([sys.executable, "-c", code, str(path)]))
        async with asyncio.timeout(30):
            while not path.exists() or path.stat().st_size < 16:
                await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(run())
    assert "the watch has ended and is started again" in caplog.text
    last = int(path.read_text().split()[-1])
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)


# With real processes


class Upstream(http.server.BaseHTTPRequestHandler):
    bodies: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.bodies.append(body)
        told = {"role": "assistant", "content": ANSWER}
        whole = {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "usage": {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17},
        }
        whole["choices"] = [{"index": 0, "message": told, "finish_reason": "stop"}]
        raw = json.dumps(whole).encode()
        if body.get("stream"):
            chunks = [{**whole, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": told, "finish_reason": None}]}]
            raw = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in chunks) + b"data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if body.get("stream") else "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    handler = type("Handler", (Upstream,), {"bodies": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1", handler.bodies
    server.shutdown()
    server.server_close()


def post(url: str, body: Any, key: str = "") -> tuple[int, Any, str]:
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=20) as answer:
            raw = answer.read()
            return answer.status, json.loads(raw) if raw[:1] == b"{" else None, answer.headers["x-request-id"]
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), ""


@pytest.mark.slow
def test_a_watched_gateway(gateway: Callable[..., Running], upstream: tuple[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    url, bodies = upstream
    home = tmp_path / "home"
    mine, other = (trimtab(home, "keys", "add", name)["secret"] for name in ("mine", "other"))
    site = f'need_keys = true\naudit = "off"\nwatch = true\n[[models]]\nname = "m"\nurl = "{url}"\n'
    running = gateway(site, home=home)
    chat = {"model": "m", "messages": [{"role": "user", "content": QUESTION}], "metadata": {"group:sex": "female", "run": "7"}}
    status, _, request = post(f"{running.url}/chat/completions", chat, mine)
    assert status == 200
    assert bodies[-1]["metadata"] == {"run": "7"}
    assert post(f"{running.url}/chat/completions", {**chat, "stream": True}, mine)[0] == 200
    assert post(f"{running.url}/chat/completions", {"model": "m", "messages": []}, mine)[0] == 400

    feedback = {"request_id": request, "name": "thumbs", "value": True}
    status, answer, _ = post(f"{running.url}/feedback", feedback, mine)
    assert (status, answer["counted"]) == (200, True)
    schemas = openapi_document()["components"]["schemas"]
    jsonschema.validate(answer, schemas["Told"])
    jsonschema.validate(feedback, {"$ref": "#/components/schemas/Feedback", "components": {"schemas": schemas}})
    assert not post(f"{running.url}/feedback", feedback, mine)[1]["counted"]
    assert post(f"{running.url}/feedback", feedback, other)[:2][0] == 404
    assert post(f"{running.url}/feedback", feedback)[0] == 401
    assert post(f"{running.url}/feedback", {**feedback, "request_id": "x" * 20_000}, mine)[0] == 413
    assert running.end()[0] == 0

    folder = spool_folder(home, tmp_path / "site.toml")
    items, cursor = read_spool(folder)
    assert (cursor.broken, cursor.lost) == (0, 0)
    requests = [one for one in items if isinstance(one, Observed)]
    assert [(one.model, one.status) for one in requests] == [("m", 200), ("m", 200)]
    assert requests[0].groups == requests[1].groups == {"sex": "female"}
    for one in requests:
        assert (one.labels["language"], one.numbers["answer_chars"], one.flags["refused"]) == ("en", len(ANSWER), False)
    assert [(one.name, one.request) for one in items if isinstance(one, Late)] == [("retried", request), ("thumbs", request)]
    raw = b"".join(path.read_bytes() for path in folder.glob("*.jsonl"))
    assert not any(word.encode() in raw for text in (QUESTION, ANSWER) for word in text.split() if len(word) > 6)

    again = gateway(site, home=home)
    assert not post(f"{again.url}/feedback", feedback, mine)[1]["counted"]
    assert post(f"{again.url}/feedback", {**feedback, "name": "edited"}, mine)[1]["counted"]
    assert again.end()[0] == 0


@pytest.mark.slow
def test_a_site_that_is_not_watched_takes_no_feedback(
    gateway: Callable[..., Running], upstream: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    running = gateway(f'audit = "off"\n[[models]]\nname = "m"\nurl = "{upstream[0]}"\n')
    status, answer, _ = post(f"{running.url}/feedback", {"request_id": "r", "name": "thumbs", "value": True})
    assert (status, answer["error"]["code"]) == (404, "not_watched")
    chat = {"model": "m", "messages": [{"role": "user", "content": QUESTION}], "metadata": {"group:sex": "female"}}
    assert post(f"{running.url}/chat/completions", chat)[0] == 200
    assert upstream[1][-1]["metadata"] == {"group:sex": "female"}
    running.end()
    assert not (tmp_path / "home" / "watch").exists()
