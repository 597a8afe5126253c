"""What the gateway costs a request: beside no gateway, a bare pass-through, and LiteLLM's proxy, before one server that answers at once.

usage: python benchmarks/gateway.py [--quick] [--rounds N] [--requests N]

One box, so client, gateway and server share its cores: latencies are honest, throughputs are of all three together. Everything takes
turns, round by round. trimtab runs as a user runs it, with keys, metering and the audit log on; once as it is, so that an answer waits
until the disk has its record, and once with `audit_sync_ms = 10`, so that it waits until the record is written; and that once more with
keys, limits and logs shared in PostgreSQL (TRIMTAB_STATE), its key limited in requests and tokens, where PostgreSQL is installed. LiteLLM
runs with one worker and a master key in a throw-away environment that is made at the first use (with --quick: only where it exists).

added_p50_ms, added_p99_ms: over the same quantile without a gateway, median over rounds; requests_per_s: median over rounds

The last line of stdout is one JSON object: name, figures, targets, ok.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from parts.http_load import load
from parts.kept_process import kept
from parts.peer_env import peer_python
from parts.postgres_server import find_binaries
from parts.postgres_server import server as postgres

from trimtab.serve.server_process import free_port

PARTS = Path(__file__).parent / "parts"
CONCURRENCY = (1, 16, 64)
TARGETS = {"added_p50_ms_at_1_at_most": 0.6, "times_litellm_requests_per_s_at_least": 20.0}
BODY = json.dumps({"model": "mock", "messages": [{"role": "user", "content": "What is the answer to everything? " * 8}]}).encode()
LIMITED = ("--rpm", "10000000", "--tokens-per-day", "1000000000")
LITELLM_PACKAGES = ("litellm[proxy]",)
LITELLM_SHARE = 0.02
"""Of the requests that the others get, so that a round lasts as long for it."""
START_S = 90.0


@contextlib.contextmanager
def server(command: list[str], port: int, **environment: str) -> Iterator[int]:
    """A server process that answers on its port, until the block ends."""
    with (
        tempfile.TemporaryFile() as words,  # a pipe that nobody reads holds a server up once it is full
        kept(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=words) as process,
    ):
        ends_s = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > ends_s:
                assert process.stdin is not None
                process.stdin.close()
                process.wait()
                words.seek(0)
                raise RuntimeError(f"{command[:4]} did not start: {words.read()[-1000:].decode(errors='replace')}")
            time.sleep(0.1)
        yield port


def trimtab_command(folder: Path, upstream: int, port: int, audit_sync_ms: int, **environment: str) -> tuple[list[str], str]:
    """How to run the gateway before the mock, and a key for it. environment: what it needs beside TRIMTAB_HOME"""
    folder.mkdir()
    site = folder / "site.toml"
    site.write_text(
        f"need_keys = true\naudit_sync_ms = {audit_sync_ms}\n[listen]\nport = {port}\n"
        f'[[models]]\nname = "mock"\nurl = "http://127.0.0.1:{upstream}/v1"\nslots = 256\n'
    )
    run = [sys.executable, "-m", "trimtab"]
    made = subprocess.run(
        [*run, "keys", "add", "bench", "--json", *(LIMITED if environment else ())],
        env={**os.environ, "TRIMTAB_HOME": str(folder), **environment},
        check=True,
        capture_output=True,
    )
    return [*run, "serve", str(site), "-q"], str(json.loads(made.stdout)["secret"])


def litellm_command(python: Path, folder: Path, upstream: int, port: int) -> tuple[list[str], str]:
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n  - model_name: mock\n    litellm_params:\n      model: openai/mock\n"
        f"      api_base: http://127.0.0.1:{upstream}/v1\n      api_key: none\ngeneral_settings:\n  master_key: sk-bench\n"
    )
    return [str(python.with_name("litellm")), "--config", str(config), "--port", str(port), "--num_workers", "1"], "sk-bench"


async def measure(ports: dict[str, tuple[int, str]], rounds: int, n_requests: int) -> dict[str, Any]:
    """Figures by server and concurrency."""
    seen: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for index in range(rounds + 1):
        for concurrency in CONCURRENCY:
            for name, (port, key) in ports.items() if index % 2 else reversed(ports.items()):
                count = max(20, round(n_requests * (LITELLM_SHARE if name == "litellm" else 1.0)))
                found = await load(port, BODY, key=key, concurrency=concurrency, n_requests=count)
                if index:  # the first round warms up
                    p50, p99 = np.quantile(found.seconds, (0.5, 0.99))
                    seen.setdefault((name, concurrency), []).append((1e3 * float(p50), 1e3 * float(p99), count / found.wall_s))
    figures: dict[str, Any] = {}
    for name in ports:
        for concurrency in CONCURRENCY:
            rows, direct = seen[name, concurrency], seen["none", concurrency]
            figures.setdefault(name, {})[str(concurrency)] = {
                "added_p50_ms": round(statistics.median(row[0] - base[0] for row, base in zip(rows, direct, strict=True)), 3),
                "added_p99_ms": round(statistics.median(row[1] - base[1] for row, base in zip(rows, direct, strict=True)), 3),
                "requests_per_s": round(statistics.median(row[2] for row in rows), 1),
            }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds of 200 requests")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--requests", type=int, default=None, help="of each server at each concurrency, in each round")
    options = parser.parse_args()
    rounds, n_requests = options.rounds or (2 if options.quick else 5), options.requests or (200 if options.quick else 4000)
    peer = peer_python("litellm", LITELLM_PACKAGES, make=not options.quick)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        mock = [sys.executable, str(PARTS / "mock_upstream.py")]
        upstream = stack.enter_context(server([*mock, str(port := free_port())], port))
        ports = {"none": (upstream, "")}
        ports["pass-through"] = stack.enter_context(server([*mock, str(port := free_port()), str(upstream)], port)), ""
        for title, audit_sync_ms in (("trimtab", 0), ("trimtab, disk within 10 ms", 10)):
            home = folder / str(audit_sync_ms)
            command, key = trimtab_command(home, upstream, port := free_port(), audit_sync_ms)
            ports[title] = stack.enter_context(server(command, port, TRIMTAB_HOME=str(home))), key
        if (binaries := find_binaries()) is not None:
            shared = {"TRIMTAB_STATE": stack.enter_context(postgres(binaries)).url("postgres")}
            command, key = trimtab_command(folder / "shared", upstream, port := free_port(), 10, **shared)
            home = str(folder / "shared")
            ports["trimtab, shared state"] = stack.enter_context(server(command, port, TRIMTAB_HOME=home, **shared)), key
        if peer is not None:
            command, key = litellm_command(peer, folder, upstream, port := free_port())
            ports["litellm"] = stack.enter_context(server(command, port)), key
            _until_ready(port, key)
        figures = asyncio.run(measure(ports, rounds, n_requests))
    print("| server | concurrency | added p50 (ms) | added p99 (ms) | requests/s |\n|---|---|---|---|---|")
    for server_name, rows in figures.items():
        for concurrency, row in rows.items():
            print(
                f"| {server_name} | {concurrency} | {row['added_p50_ms']:.2f} | {row['added_p99_ms']:.2f} | {row['requests_per_s']:,.0f} |"
            )
    ok = figures["trimtab"]["1"]["added_p50_ms"] <= TARGETS["added_p50_ms_at_1_at_most"]
    if peer is not None:
        beside = figures["litellm"]
        times = {
            name: {level: round(row["requests_per_s"] / beside[level]["requests_per_s"], 1) for level, row in figures[name].items()}
            for name in ports
            if name.startswith("trimtab")
        }
        figures["times_litellm_requests_per_s"] = times
        ok = ok and times["trimtab"]["16"] >= TARGETS["times_litellm_requests_per_s_at_least"]
    print(json.dumps({"name": "gateway", "figures": figures, "targets": TARGETS, "ok": ok}))


def _until_ready(port: int, key: str) -> None:
    """LiteLLM listens before it can answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", BODY, {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    )
    ends_s = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30):
                return
        except OSError:
            if time.monotonic() > ends_s:
                raise
            time.sleep(1.0)


if __name__ == "__main__":
    main()
