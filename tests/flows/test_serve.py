"""`serve` of a lock: what it refuses before it listens, and what it answers, on a tiny model."""

import contextlib
import dataclasses
import json
import subprocess
import sys
import urllib.request

import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("uvloop")

from trimtab.core.errors import InputError
from trimtab.core.site import Listen
from trimtab.flows import serve as flow
from trimtab.flows.events import ignore
from trimtab.flows.serve import check_listen, prepare, read
from trimtab.measure.meters import EnergyReading
from trimtab.record.deploy import deploy_toml, read_deploy_toml
from trimtab.testing.tiny_models import write_tiny_gguf


def same(site):
    return site


@pytest.mark.parametrize(
    ("listen", "need_keys", "says"),
    [
        (Listen(host="0.0.0.0"), True, "open_to_network"),
        (Listen(host="0.0.0.0", open_to_network=True), False, "need_keys"),
        (Listen(host="192.168.1.2"), False, "reached from the network"),
        (Listen(tls_certificate="cert.pem"), False, "both"),
    ],
)
def test_no_listening_beyond_this_machine_without_keys_and_a_word(listen, need_keys, says):
    with pytest.raises(InputError, match=says):
        check_listen(listen, need_keys=need_keys)


def test_loopback_and_what_is_meant_are_fine():
    check_listen(Listen(), need_keys=False)
    check_listen(Listen(host="::1"), need_keys=False)
    check_listen(Listen(host="0.0.0.0", open_to_network=True), need_keys=True)


def test_energy_is_told_from_one_question_to_the_next_where_there_is_a_counter(monkeypatch):
    readings = (EnergyReading(counters_uj={"package-0": (micro_j, 0)}) for micro_j in (10**6, 3 * 10**6, 3 * 10**6, 8 * 10**6))
    monkeypatch.setattr(flow, "read_energy", lambda: next(readings))
    read = flow.joules_meter()
    assert [read(), read(), read()] == [2.0, None, 5.0]
    monkeypatch.setattr(flow, "read_energy", lambda: EnergyReading(counters_uj={}, reason="there is none"))
    assert flow.joules_meter() is None


@pytest.mark.model
@pytest.mark.slow
def test_other_weights_than_those_certified_are_not_served(certified, tmp_path):
    lock = certified / "run" / "deploy.toml"
    prepared = prepare(read(lock, same), lock.parent, offline=True, on_event=ignore)
    (one,) = prepared.values()
    assert one.candidate.snapshot.digest == one.lock.weights_sha256
    write_tiny_gguf(tmp_path / "model.gguf", architecture="qwen2", seed=2)
    moved = tmp_path / "deploy.toml"
    moved.write_text(deploy_toml(dataclasses.replace(read_deploy_toml(lock), source=str(tmp_path / "model.gguf"))))
    with pytest.raises(InputError, match=r"not what was certified; `trimtab check"):
        prepare(read(moved, same), moved.parent, offline=True, on_event=ignore)


@pytest.mark.model
@pytest.mark.slow
def test_a_lock_is_served_and_its_model_comes_with_the_first_request(certified):
    command = [sys.executable, "-m", "trimtab", "serve", str(certified / "run" / "deploy.toml"), "--port", "0", "--json", "-q"]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        stack.callback(process.kill)
        serving = json.loads(process.stdout.readline())
        (name,) = serving["models"]
        assert asked(f"{serving['url']}/models")["data"][0]["state"] == "unloaded"
        body = {"model": name, "prompt": "the small boat", "max_tokens": 4, "temperature": 0}
        first = asked(f"{serving['url']}/completions", body)
        assert first["usage"]["completion_tokens"] == 4
        assert asked(f"{serving['url']}/completions", body)["choices"][0]["text"] == first["choices"][0]["text"]
        assert asked(f"{serving['url']}/models")["data"][0]["state"] == "ready"
        process.terminate()
        assert process.wait(60) == 0, process.stderr.read()


def asked(url, body=None):
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)
