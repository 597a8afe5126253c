"""A third-party server over HTTP, with no code for it: llama.cpp's own, from xllamacpp's wheel in a throw-away environment."""

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from trimtab.flows.compare import compare
from trimtab.flows.evaluate import evaluate
from trimtab.record.home import cache_dir
from trimtab.testing.tiny_models import write_tiny_gguf

pytestmark = [pytest.mark.model, pytest.mark.slow]

SERVER = Path(__file__).resolve().parents[2] / "benchmarks" / "parts" / "llamacpp_server.py"
PEER = Path(os.environ.get("TRIMTAB_TEST_XLLAMACPP") or cache_dir() / "peers" / "xllamacpp" / "bin" / "python")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Base address of a server of a tiny random model."""
    if not PEER.is_file():
        pytest.skip("xllamacpp is not in its throw-away environment; `python benchmarks/endpoints.py` puts it there")
    model = tmp_path_factory.mktemp("served") / "m.gguf"
    write_tiny_gguf(model, architecture="qwen2", seed=1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([PEER, SERVER, model, str(port), "tiny"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(150):
            assert process.poll() is None, "the server did not start"
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/models", timeout=5).close()
                break
            time.sleep(0.2)
        yield url
    finally:
        process.kill()
        process.wait()


def test_it_is_compared_with_itself(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "state"))
    prompts = tmp_path / "mine.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Tell me of number {n}.", "output_tokens": 8}) + "\n" for n in range(24)))
    decision = compare(f"openai:{server}#tiny", f"openai:{server}", prompts=str(prompts), out=tmp_path / "run")
    can = {one["name"]: one["can"] for one in decision["reference"]["capabilities"]}
    assert can["list of models"]
    assert can["chat"]
    assert can["streaming"]
    gates = {gate["name"]: gate for gate in decision["gates"]}
    assert gates["agreement"]["n"] == 24
    assert gates["agreement"]["level_candidate"] > 0.9
    assert set(decision["speedup"]["over_baseline"]) == {"1", "4"}
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


def test_it_is_evaluated_by_what_it_answers(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "state"))
    rows = [{"prompt": f"Which is number {n}?", "options": ["one", "two"], "answer": 0} for n in range(6)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = evaluate(f"openai:{server}#tiny", suites=[str(tmp_path / "mine.jsonl")], out=tmp_path / "run")
    (row,) = found["levels"]
    assert found["asked"][0]["way"] == "answered", "this server gives no log-probabilities of the prompt"
    assert (row["unit"], row["level"]["n"], row["n_missing"], found["changed"]) == ("share", 6, 0, [])
