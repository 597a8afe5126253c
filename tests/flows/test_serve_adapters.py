"""Adapters of a lock's model, served by name from the same replica; or refused before anything listens."""

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("uvloop")

from trimtab.core.deployment import Settings
from trimtab.core.errors import InputError
from trimtab.core.files import sha256_file
from trimtab.engines.openvino import OpenVinoEngine
from trimtab.flows import serve as flow
from trimtab.flows.events import ignore
from trimtab.flows.parts.opening import build_candidate, open_model, recipe_named
from trimtab.flows.serve import prepare, read
from trimtab.record.deploy import DeployLock, read_deploy_toml, write_deploy_toml
from trimtab.serve.server_process import free_port
from trimtab.testing.tiny_models import write_tiny_gguf, write_tiny_lora

pytestmark = pytest.mark.model
ZEROS = "0" * 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A lock of a tiny model, as a run would leave it, and adapters for it and for another."""
    root = tmp_path_factory.mktemp("adapted")
    write_tiny_lora(root / "fr.gguf", seed=1)
    write_tiny_lora(root / "other.gguf", architecture="qwen2")
    opened = open_model(str(write_tiny_gguf(root / "m.gguf")), cache_dir=root / "cache", offline=True)
    recipe, settings = recipe_named("", "llamacpp"), Settings(slots=2, context_tokens=256, threads=1)
    made = asyncio.run(build_candidate(opened, "llamacpp", recipe, settings, products_dir=root / "products"))
    lock = DeployLock(
        id="llamacpp", verdict="pass", decision_sha256=ZEROS, source="m.gguf", revision="", format="gguf",
        source_sha256=opened.snapshot.digest, source_files=opened.snapshot.files, weights_sha256=made.snapshot.digest,
        template_sha256=opened.template_sha256, recipe=recipe, build=made.build, settings=settings, policy="standard", policy_sha256=ZEROS,
        suite="core", suite_sha256=ZEROS, workload="chat", workload_sha256=ZEROS, reference_sha256=ZEROS, machine="cpu",
        machine_sha256=ZEROS, made="2026-11-26T00:00:00Z", trimtab="0.1.0",
    )  # fmt: skip
    write_deploy_toml(root / "deploy.toml", lock)
    return root


def site(folder: Path, adapters: str, head: str = "") -> Path:
    path = folder / "site.toml"
    path.write_text(f'{head}\n[[models]]\nname = "chat"\nlock = "deploy.toml"\nadapters = {{ {adapters} }}\n')
    return path


def asked(url, body=None, heads=None):
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        if heads is not None:
            heads.append(dict(response.headers))
        return json.load(response)


@pytest.mark.slow
def test_an_adapter_answers_by_its_name_from_the_same_replica(folder, tmp_path):
    path = site(folder, 'support-fr = "fr.gguf"', f"[listen]\nadmin_port = {free_port()}")
    command = [sys.executable, "-m", "trimtab", "serve", str(path), "--port", "0", "--json", "-q"]
    environment = {**os.environ, "TRIMTAB_HOME": str(tmp_path / "home")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            serving = json.loads(process.stdout.readline())
            url, digest = serving["url"], sha256_file(folder / "fr.gguf")
            rows = {row["id"]: row for row in asked(f"{url}/models")["data"]}
            assert list(rows) == ["chat", "support-fr"]
            assert (rows["chat"]["parent"], rows["support-fr"]["parent"]) == (None, "chat")
            assert (rows["support-fr"]["adapter_sha256"], rows["support-fr"]["certified"]) == (digest, False)
            body = {"prompt": "the small boat", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
            heads = []
            plain, under = (asked(f"{url}/completions", {**body, "model": name}, heads) for name in ("chat", "support-fr"))
            assert [head["x-trimtab-model"] for head in heads] == ["chat", "support-fr"]
            assert [head.get("x-trimtab-decision") for head in heads] == [ZEROS, None], "nothing was decided about an adapter"
            assert (plain["model"], under["model"]) == ("chat", "support-fr")
            assert plain["choices"][0]["text"] != under["choices"][0]["text"]
            assert plain["system_fingerprint"] != under["system_fingerprint"]
            assert asked(f"{url}/completions", {**body, "model": "chat"})["choices"] == plain["choices"]
            with pytest.raises(urllib.error.HTTPError) as missing:
                asked(f"{url}/completions", {**body, "model": "support-de"})
            assert missing.value.code == 404
            state = asked(f"{serving['admin_url']}/state")
            assert state["adapters"] == {"support-fr": {"parent": "chat", "adapter_sha256": digest, "certified": False}}
            assert state["loads"] == {"chat": 1}
            (worker,) = (one for one in psutil.Process(process.pid).children(recursive=True) if "trimtab.engines.worker" in one.cmdline())
            worker.kill()
            assert asked(f"{url}/completions", {**body, "model": "chat"})["choices"] == plain["choices"], "another worker answers"
            state = asked(f"{serving['admin_url']}/state")
            assert (state["loads"], state["deaths"]) == ({"chat": 2}, {"chat": 1})
        finally:
            process.terminate()
            said = process.communicate(timeout=60)[1]
    assert said.count("chat: nothing was certified with an adapter") == 1
    lines = [line for file in (tmp_path / "home" / "audit").rglob("*.jsonl") for line in file.read_text().splitlines()]
    noted = [body for body in (json.loads(line)["body"] for line in lines) if body.get("adapter")]
    assert [(one["event"], one["adapter"], one["adapter_sha256"], one["version"]) for one in noted] == [
        ("began", "support-fr", digest, "chat"),
        ("ended", "support-fr", digest, "chat"),
    ]


def test_what_did_not_pass_is_said_at_every_start(folder, monkeypatch, caplog):
    monkeypatch.setenv("TRIMTAB_HOME", str(folder / "home"))
    write_deploy_toml(folder / "unsure.toml", dataclasses.replace(read_deploy_toml(folder / "deploy.toml"), verdict="inconclusive"))
    (folder / "site.toml").write_text('[[models]]\nname = "chat"\nlock = "unsure.toml"\nallow_uncertified = true\n')
    prepare(read(folder / "site.toml", lambda same: same), folder, offline=True, on_event=ignore)
    assert [record.message for record in caplog.records] == ["chat: the decision on chat is inconclusive, not pass; the site allows it"]


def test_what_cannot_be_served_is_refused_before_anything_listens(folder, monkeypatch):
    monkeypatch.setenv("TRIMTAB_HOME", str(folder / "home"))
    path = site(folder, 'support-fr = "fr.gguf", other = "other.gguf"')
    with pytest.raises(InputError, match=r"the adapter other \(.*other\.gguf\) is not for chat: it is for the architecture qwen2"):
        prepare(read(path, lambda same: same), folder, offline=True, on_event=ignore)
    path = site(folder, 'support-fr = "fr.gguf"')
    monkeypatch.setattr(flow, "engine_class", lambda name: OpenVinoEngine)
    with pytest.raises(InputError, match=r"cannot be served with adapters by the engine .*: it takes no adapters, OpenVINO GenAI sets"):
        prepare(read(path, lambda same: same), folder, offline=True, on_event=ignore)
