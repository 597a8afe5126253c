"""What is exported for a container serves: its site, its lock and its keys, started by its own command."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from trimtab.flows.export import export
from trimtab.package.manifests.pod import LOCK_PATH, SITE_DIR
from trimtab.record.identities import add_key


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def status(url: str, *, key: str = "", body: dict[str, object] | None = None) -> int:
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
    asked = urllib.request.Request(url, headers=headers, data=None if body is None else json.dumps(body).encode())
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.slow
def test_a_container_of_the_deployment_answers_who_has_a_key_and_nobody_else(run: Path, tmp_path: Path) -> None:
    port = free_port()
    export(str(run), form="kubernetes", out=tmp_path / "out", port=port)
    found = {one["kind"]: one for one in yaml.safe_load_all((tmp_path / "out" / "kubernetes.yaml").read_bytes())}
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    # The container's files, put where they are on this machine; all else is as the manifest has it.
    etc = tmp_path / "etc"
    etc.mkdir()
    for name, text in found["ConfigMap"]["data"].items():
        (etc / name).write_text(text.replace(LOCK_PATH, str(etc / "deploy.toml")), encoding="utf-8")
    _, key = add_key("web", home=tmp_path / "made")
    shutil.copy(tmp_path / "made" / "access" / "keys.json", etc / "keys.json")
    places = {SITE_DIR: str(etc), "/etc/trimtab-keys": str(etc), "/var/lib/trimtab": str(tmp_path / "state")}
    (tmp_path / "state").mkdir()

    def here(text: str) -> str:
        folder, _, name = text.rpartition("/")
        return f"{places[folder]}/{name}" if folder in places else places.get(text, text)

    environment = {one["name"]: here(one["value"]) for one in container["env"]}
    command = [sys.executable, "-m", *(here(word) for word in container["command"])]
    server = subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline_s = time.monotonic() + 120
        while status(url + container["startupProbe"]["httpGet"]["path"]) != 200:
            assert server.poll() is None, server.stderr.read() if server.stderr else ""
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        body = {"model": found["Service"]["metadata"]["name"], "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        assert status(f"{url}/v1/chat/completions", body=body) == 401
        assert status(f"{url}/v1/chat/completions", body=body, key=key) == 200
        assert sorted(path.name for path in (tmp_path / "state").iterdir())
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=found["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]) == 0
    finally:
        server.kill()
        server.communicate()
