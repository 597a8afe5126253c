"""`trimtab watch` on a site: from lines of the spool to what is done at the gateway, once each, whatever is killed when."""

import contextlib
import hashlib
import hmac
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datasketches")

from trimtab.core.errors import InputError
from trimtab.core.watching import Observed
from trimtab.flows.parts import watch_desk
from trimtab.flows.watch import watch, watch_log
from trimtab.record.lock import FolderLock
from trimtab.record.spool import SpoolWriter, spool_folder, watch_folder
from trimtab.watch.rules import load_watch_rules

START_S = time.time() - 7200.0
WORDS = ["people", "ask", "how", "to", "write", "good", "letters", "about", "work", "and", "family", "at", "home"]


class Listener:
    """A server that keeps what it is sent; `answers` decides on (path, body)."""

    def __init__(self, answers: Any) -> None:
        self.posts: list[tuple[str, dict[str, Any], dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.say(*answers(self.path, None))

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                outer.posts.append((self.path, json.loads(raw), dict(self.headers), raw))
                self.say(*answers(self.path, json.loads(raw)))

            def say(self, status: int, body: Any) -> None:
                raw = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @contextlib.contextmanager
    def running(self) -> "Iterator[Listener]":
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            thread.join()
            self.server.server_close()


@pytest.fixture
def gateway() -> Iterator[Listener]:
    """The admin surface of a gateway whose model `chat` has a canary."""
    rollout = {"stable": "chat@1", "canary": "chat@2", "canary_pct": 20.0, "shadow": "", "shadow_pct": 0.0, "sticky": "user"}

    def answers(path: str, body: Any) -> tuple[int, Any]:
        if path == "/traffic" and body["action"] == "canary":
            rollout["canary_pct"] = float(body["percent"])
        elif path == "/traffic" and body["action"] == "rollback":
            rollout.update(stable="chat@0", canary="", canary_pct=0.0)
        elif path == "/guards":
            return 409, {"error": {"message": "'chat' has no guards."}}
        return 200, {"traffic": {"chat": dict(rollout)}}

    with Listener(answers).running() as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    for name in ("TRIMTAB_LEDGER", "TRIMTAB_WATCH_WEBHOOK", "TRIMTAB_WATCH_WEBHOOK_SECRET"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "site.toml"
    versions = "\n".join(f'[[models.versions]]\nid = "chat@{number}"\nurl = "http://127.0.0.1:1/v1"' for number in range(3))
    path.write_text(f'[[models]]\nname = "chat"\n[models.rollout]\nstable = "chat@1"\ncanary = "chat@2"\ncanary_pct = 20\n{versions}\n')
    return path


def requests(n: int, *, change: int, version: str = "chat@2", seed: int = 1, first: int = 0) -> list[Observed]:
    """From `change` on six times as many refuse."""
    draw = random.Random(seed)
    rows = [
        Observed(
            request=f"{version}-{i}",
            at_s=START_S + i * 0.5,
            model="chat",
            version=version,
            numbers={"total_ms": draw.gauss(800, 80)},
            flags={"refused": draw.random() < (0.3 if i >= change else 0.05)},
        )
        for i in range(n)
    ]
    return rows[first:]


def spool(site: Path, items: list[Observed]) -> None:
    writer: SpoolWriter[Any] = SpoolWriter(spool_folder(site.parent / "home", site))
    for item in items:
        writer.append(item)
    writer.close()


def kept(site: Path, name: str) -> list[dict[str, Any]]:
    path = watch_folder(site.parent / "home", site) / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_canary_that_refuses_more_loses_its_traffic_and_somebody_is_called(site, gateway, monkeypatch):
    with Listener(lambda path, body: (200, {})).running() as hook:
        monkeypatch.setenv("TRIMTAB_WATCH_WEBHOOK", f"{hook.url}/page?token=secret")
        monkeypatch.setenv("TRIMTAB_WATCH_WEBHOOK_SECRET", "shared")
        spool(site, requests(1500, change=800))
        told: list[Any] = []
        live = watch(site, once=True, admin_url=gateway.url, on_action=told.append)
        (_, body, headers, raw), *more = hook.posts
    assert [row["kind"] for row in live["actions"]][::-1] == ["alarm", "stop-canary", "page"] == [row["kind"] for row in told]
    assert all(row["done"] for row in live["actions"])
    assert [(path, body) for path, body, _, _ in gateway.posts] == [("/traffic", {"model": "chat", "action": "canary", "percent": 0})]
    assert not more
    assert body["alarm"]["version"] == "chat@2"
    assert "the answer refuses went from" in body["text"]
    signed = hmac.new(b"shared", headers["X-Trimtab-Timestamp"].encode() + b"." + raw, hashlib.sha256).hexdigest()
    assert headers["X-Trimtab-Signature"] == f"sha256={signed}"
    assert "secret" not in json.dumps(live)
    assert "secret" not in json.dumps(kept(site, "actions.jsonl"))
    assert json.loads((watch_folder(site.parent / "home", site) / "live.json").read_text()) == live


def test_the_same_again_does_nothing_twice(site, gateway):
    spool(site, requests(1500, change=800))
    first = watch(site, once=True, admin_url=gateway.url)
    posts = len(gateway.posts)
    again = watch(site, once=True, admin_url=gateway.url)
    (watch_folder(site.parent / "home", site) / "state.json").unlink()  # as if killed before the first state was written
    from_the_start = watch(site, once=True, admin_url=gateway.url)
    assert len(gateway.posts) == posts == 1
    assert first["n_requests"] == again["n_requests"] == from_the_start["n_requests"] == 1500
    assert (
        [row["id"] for row in first["alarms"]] == [row["id"] for row in again["alarms"]] == [row["id"] for row in from_the_start["alarms"]]
    )
    assert first["actions"] == from_the_start["actions"]


def test_what_was_wished_for_and_not_done_is_done_at_the_next_start(site, gateway, monkeypatch):
    spool(site, requests(1500, change=800))

    def dies(means: Any, alarm: Any, wanted: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(watch_desk, "carry_out", dies)
        with pytest.raises(KeyboardInterrupt):
            watch(site, once=True, admin_url=gateway.url)
    assert [row["phase"] for row in kept(site, "actions.jsonl")] == ["wanted"]
    live = watch(site, once=True, admin_url=gateway.url)
    assert {row["kind"]: row["done"] for row in live["actions"]} == {"alarm": True, "stop-canary": True, "page": False}
    assert len(gateway.posts) == 1


def test_a_page_that_may_have_gone_out_is_not_sent_again(site, gateway, monkeypatch):
    monkeypatch.setenv("TRIMTAB_WATCH_WEBHOOK", f"{gateway.url}/page")
    spool(site, requests(1500, change=800))
    real = watch_desk.carry_out

    def dies(means: Any, alarm: Any, wanted: Any, **named: Any) -> Any:
        if wanted.kind == "page":
            raise KeyboardInterrupt
        return real(means, alarm, wanted, **named)

    with monkeypatch.context() as patched:
        patched.setattr(watch_desk, "carry_out", dies)
        with pytest.raises(KeyboardInterrupt):
            watch(site, once=True, admin_url=gateway.url)
    live = watch(site, once=True, admin_url=gateway.url)
    (page,) = (row for row in live["actions"] if row["kind"] == "page")
    assert (page["done"], page["result"][:9]) == (False, "not known")
    assert "/page" not in [path for path, *_ in gateway.posts]


def test_a_dry_run_notes_everything_and_does_nothing(site, gateway):
    spool(site, requests(1500, change=800))
    live = watch(site, once=True, dry_run=True, admin_url=gateway.url)
    assert [row["result"] for row in live["actions"]] == ["dry run: nothing was done"] * 3
    assert live["dry_run"] is True
    assert gateway.posts == []


def test_without_an_admin_port_it_says_so_and_goes_on(site):
    spool(site, requests(1500, change=800))
    live = watch(site, once=True)
    (stop,) = (row for row in live["actions"] if row["kind"] == "stop-canary")
    assert not stop["done"]
    assert "set admin_port under [listen]" in stop["result"]
    assert live["n_requests"] == 1500


def rules_file(site: Path, do: list[str]) -> str:
    path = site.parent / "mine.toml"
    path.write_text(f'name = "mine"\nversion = "1"\n[[rules]]\nname = "all"\ndo = {json.dumps(do)}\n')
    return str(path)


def test_a_stable_version_goes_back_though_a_canary_has_traffic(site, gateway):
    spool(site, requests(1500, change=800, version="chat@1"))
    live = watch(site, once=True, admin_url=gateway.url, rules=rules_file(site, ["rollback", "guard", "sample", "certify"]))
    found = {row["kind"]: row for row in live["actions"]}
    assert [body["action"] for path, body, *_ in gateway.posts if path == "/traffic"] == ["canary", "rollback"]
    assert found["rollback"]["done"]
    assert found["rollback"]["result"].startswith("chat@0 answers for chat instead of chat@1")
    assert found["guard"]["result"] == "not done: the gateway refused ('chat' has no guards)"
    assert "has no shadow" in found["sample"]["result"]
    assert "was not certified: it has no lock" in found["certify"]["result"]


def test_a_webhook_that_fails_is_asked_again_and_one_that_refuses_is_not(site, gateway, monkeypatch):
    from trimtab.flows.parts.watch_pages import page

    waits: list[float] = []
    answers = iter([503, 503, 200, 403])
    with Listener(lambda path, body: (next(answers), {})).running() as hook:
        monkeypatch.setenv("TRIMTAB_WATCH_WEBHOOK", f"{hook.url}/hooks/token")
        pages = load_watch_rules().page
        assert page(pages, id="a-page", text="t", body={}, sleep=waits.append) == (True, "webhook 127.0.0.1 took it (200)")
        assert page(pages, id="a-page", text="t", body={}, sleep=waits.append) == (False, "webhook 127.0.0.1 answered 403")
        assert len(waits) == 2
        assert {headers["X-Trimtab-Id"] for _, _, headers, _ in hook.posts} == {"a-page"}
    monkeypatch.setenv("TRIMTAB_WATCH_WEBHOOK", "file:///etc/passwd")
    assert page(pages, id="a-page", text="t", body={}) == (False, "the webhook is no http or https URL")


def test_two_watches_of_one_site_refuse(site):
    lock = FolderLock(watch_folder(site.parent / "home", site))
    try:
        with pytest.raises(InputError, match=r"watched already.*in use by process"):
            watch(site, once=True)
    finally:
        lock.release()
    assert watch(site, once=True)["n_requests"] == 0


def test_a_state_that_is_damaged_is_one_sentence(site):
    watch(site, once=True)
    path = watch_folder(site.parent / "home", site) / "state.json"
    path.write_text("{")
    with pytest.raises(InputError, match=r"state\.json is damaged"):
        watch(site, once=True)
    path.unlink()
    path.with_name("alarms.jsonl").write_text("{\n{}\n")
    with pytest.raises(InputError, match=r"alarms\.jsonl is damaged at line 1; put it back"):
        watch(site, once=True)


@pytest.mark.slow
def test_killed_and_ended_it_counts_every_request_once(site):
    """Real processes: one is killed with -9 while it reads, the next ends by SIGTERM with code 0."""
    items = requests(1200, change=10**9)
    spool(site, items[:800])
    live = watch_folder(site.parent / "home", site) / "live.json"
    command = [sys.executable, "-m", "trimtab", "watch", str(site), "--dry-run"]

    def started() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.PIPE)

    def reaches(process: "subprocess.Popen[bytes]", n: int) -> None:
        ends = time.monotonic() + 60
        while not (live.exists() and json.loads(live.read_text())["n_requests"] >= n):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < ends
            time.sleep(0.05)

    killed = started()
    reaches(killed, 1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    spool(site, items[800:])
    ended = started()
    reaches(ended, 1200)
    ended.terminate()
    assert ended.communicate(timeout=60)[1] == b""
    assert ended.returncode == 0
    assert json.loads(live.read_text())["n_requests"] == 1200


def line(i: int, *, change: int, draw: random.Random) -> str:
    words = " ".join(draw.choices(WORDS, k=15))
    answer = "I'm sorry, but I cannot help with that." if draw.random() < (0.4 if i >= change else 0.05) else f"Of course: {words}."
    return json.dumps(
        {
            "id": f"req-{i}",
            "created": int(START_S) + i,
            "request": {"model": "chat", "messages": [{"role": "user", "content": words}]},
            "response": {
                "id": f"req-{i}",
                "model": "chat",
                "created": int(START_S) + i,
                "choices": [{"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}],
            },
        }
    )


def test_a_log_tells_what_changed_and_its_baseline_does_not(site, tmp_path):
    draw = random.Random(5)
    lines = [line(i, change=350, draw=draw) for i in range(650)]
    log = tmp_path / "traffic.jsonl"
    log.write_text("\n".join([*lines, "{broken", lines[5]]) + "\n")
    live = watch_log(log)
    assert {row["signal"] for row in live["alarms"]} == {"refused"}
    assert live["n_requests"] == 650
    assert sorted(reason.partition(":")[0] for reason in live["faults"]) == ["broken", "duplicate", "ungrouped"]
    assert watch_log(log, baseline=650)["alarms"] == []
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    before.write_text("\n".join(lines[:350]) + "\n")
    after.write_text("\n".join(lines[350:]) + "\n")
    assert watch_log(after)["alarms"] == []
    assert {row["signal"] for row in watch_log(after, baseline=str(before))["alarms"]} == {"refused"}


def test_an_e_mail_goes_out_over_tls_with_the_password_of_the_environment(monkeypatch):
    from trimtab.flows.parts import watch_pages
    from trimtab.watch.rules import Pages

    said: list[Any] = []

    class Server:
        def __init__(self, host: str, port: int, timeout: float) -> None:
            said.append((host, port))

        def __enter__(self) -> "Server":
            return self

        def __exit__(self, *args: Any) -> None:
            said.append("quit")

        def starttls(self, context: Any) -> None:
            said.append("tls")

        def login(self, user: str, password: str) -> None:
            said.append((user, password))

        def send_message(self, message: Any) -> None:
            said.append((message["Subject"], message["To"], message["Message-ID"]))

    monkeypatch.setattr(watch_pages.smtplib, "SMTP", Server)
    monkeypatch.setenv("DESK_USER", "desk")
    monkeypatch.setenv("DESK_PASSWORD", "secret")
    to = {"mail_to": ("a@example.com", "b@example.com"), "mail_from": "watch@example.com", "smtp": "mail.example.com:587"}
    pages = Pages(webhook="", smtp_user="DESK_USER", smtp_password="DESK_PASSWORD", **to)
    done, text = watch_pages.page(pages, id="an-id", text="a line\nand another", body={"alarm": 1})
    assert (done, text) == (True, "e-mail to a@example.com, b@example.com")
    line, to_all = "a line and another", "a@example.com, b@example.com"
    assert said == [("mail.example.com", 587), "tls", ("desk", "secret"), (line, to_all, "<an-id@trimtab.invalid>"), "quit"]


def test_nobody_to_page_is_said():
    from trimtab.flows.parts.watch_pages import page
    from trimtab.watch.rules import Pages

    assert page(Pages(webhook=""), id="x", text="t", body={})[1].startswith("nobody to page: name a `webhook`")
