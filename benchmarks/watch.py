"""What watching costs: served requests with and without it, memory, and how fast a log is read again.

usage: python benchmarks/watch.py [--quick] [--kept FILE] [--model RUN/deploy.toml] [--rounds N] [--lines N]

answers  the worst case: a server that answers at once behind two gateways that take turns, one watched (`serve --watch`: spool and
         watch process); concurrency 16. Client, server, gateways and watch share the box's cores.
model    the same with the demo model in trimtab's own workers, concurrency 4, answers of 32 tokens: what the target is about
replay   a log of 1,000,000 requests with their texts: by `trimtab watch --logs`, and by the reader alone, with and without texts

times: watched requests/s over those without, median over rounds, with the middle half of them; cpu_ms: of the gateway, a request
memory: PSS of the watch's processes after the load, and what the watched gateway takes more than the other

With --kept, parts that were measured are read from the file and not measured again. The last line of stdout is one JSON object: name,
figures, targets, ok.
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from gateway import server
from parts.demo_lock import write_demo_lock
from parts.http_load import load

from trimtab.record.spool import read_spool, spool_folder
from trimtab.serve.server_process import free_port

PARTS = Path(__file__).parent / "parts"
TARGETS = {"model_times_at_least": 0.97, "watch_memory_mb_at_most": 200.0}
MB = 2**20
RUN = [sys.executable, "-m", "trimtab"]
READER = """
import resource, sys, time
from pathlib import Path
from trimtab.watch.logs import read_log
began = time.perf_counter()
n = sum(1 for _ in read_log(Path(sys.argv[1]), text_pct=float(sys.argv[2])))
print(n, time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """A gateway that runs. home, site: its folder and file."""

    port: int
    process: psutil.Process
    home: Path
    site: Path

    def watch_processes(self) -> list[psutil.Process]:
        """The watch beside it, and what it started."""
        found = self.process.children(recursive=True)
        heads = [one for one in found if "watch" in one.cmdline()[1:6] and "trimtab" in one.cmdline()]
        return [*heads, *(child for one in heads for child in one.children(recursive=True))]


@contextlib.contextmanager
def gateway(folder: Path, model: str, *, watched: bool) -> Iterator[Gateway]:
    """`trimtab serve` of one model; model: its keys in the site's file."""
    folder.mkdir()
    site, port = folder / "site.toml", free_port()
    site.write_text(f'audit_sync_ms = 10\nwatch = {str(watched).lower()}\n[listen]\nport = {port}\n[[models]]\nname = "mock"\n{model}')
    command = [*RUN, "serve", str(site), "-q", *(["--watch"] if watched else [])]
    home = {"TRIMTAB_HOME": str(folder), "TRIMTAB_CACHE": os.environ.get("TRIMTAB_CACHE", "")}
    with server(command, port, **{name: value for name, value in home.items() if value}):
        mine = next(one for one in psutil.Process().children(recursive=True) if _listens(one, port))
        yield Gateway(port=port, process=mine, home=folder, site=site)


def _listens(process: psutil.Process, port: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(one.laddr.port == port and one.status == psutil.CONN_LISTEN for one in process.net_connections("tcp"))
    return False


async def turns(plain: Gateway, watched: Gateway, body: bytes, *, rounds: int, n_requests: int, concurrency: int) -> dict[str, Any]:
    """Figures of two gateways that took turns."""
    rates: dict[str, list[float]] = {"plain": [], "watched": []}
    cpu_ms: dict[str, list[float]] = {"plain": [], "watched": []}
    for index in range(rounds + 1):
        pairs = [("plain", plain), ("watched", watched)]
        for name, one in pairs if index % 2 else reversed(pairs):
            before = one.process.cpu_times()
            found = await load(one.port, body, key="", concurrency=concurrency, n_requests=n_requests)
            after = one.process.cpu_times()
            if index:  # the first round warms up
                rates[name].append(n_requests / found.wall_s)
                cpu_ms[name].append(1e3 * (after.user + after.system - before.user - before.system) / n_requests)
    times = [one / other for one, other in zip(rates["watched"], rates["plain"], strict=True)]
    low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return {
        "times": round(middle, 4),
        "times_middle_half": [round(low, 4), round(high, 4)],
        "requests_per_s": {name: round(statistics.median(rows), 1) for name, rows in rates.items()},
        "gateway_cpu_ms": {name: round(statistics.median(rows), 3) for name, rows in cpu_ms.items()},
        "rounds": rounds,
        "requests_per_round": n_requests,
    }


def served(folder: Path, model: str, body: dict[str, Any], *, rounds: int, n_requests: int, concurrency: int) -> dict[str, Any]:
    """What watching costs one model's gateway. Checks that the watch saw every request."""
    with gateway(folder / "plain", model, watched=False) as plain, gateway(folder / "watched", model, watched=True) as watched:
        raw = json.dumps(body).encode()
        figures = asyncio.run(turns(plain, watched, raw, rounds=rounds, n_requests=n_requests, concurrency=concurrency))
        time.sleep(5.0)  # the spool is written, and the watch has read it
        watch = watched.watch_processes()
        figures["watch_memory_mb"] = round(sum(one.memory_full_info().pss for one in watch) / MB, 1) if watch else None
        figures["gateway_more_mb"] = round((watched.process.memory_full_info().pss - plain.process.memory_full_info().pss) / MB, 1)
        items, cursor = read_spool(spool_folder(watched.home, watched.site), most=10**9)
    observed = [one for one in items if hasattr(one, "labels")]
    expected = (rounds + 1) * n_requests
    if cursor.missed == 0 and len(observed) + cursor.lost != expected:
        raise RuntimeError(f"{expected} requests were answered and {len(observed)} are in the spool, {cursor.lost} stated as lost")
    figures["texts_looked_at"] = round(sum("language" in one.labels for one in observed) / max(1, len(observed)), 4)
    return figures


def mock(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, server([sys.executable, str(PARTS / "mock_upstream.py"), str(port := free_port())], port):
        body = {"model": "mock", "messages": [{"role": "user", "content": "What is the answer to everything? " * 8}]}
        model = f'url = "http://127.0.0.1:{port}/v1"\nslots = 256\n'
        n_requests = 300 if options.quick else 10_000
        return served(Path(name), model, body, rounds=options.rounds, n_requests=n_requests, concurrency=16)


def demo_model(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        lock = options.model
        if lock is None:
            lock = Path(name) / "deploy.toml"
            write_demo_lock(lock)
        body = {
            "model": "mock",
            "max_tokens": 32,
            "messages": [{"role": "user", "content": "Tell me of the sea and of those who live by it."}],
        }
        n_requests = 4 if options.quick else 64
        model = f'lock = "{lock.absolute()}"\nallow_uncertified = true\nmin_replicas = 1\n'
        return served(Path(name), model, body, rounds=options.rounds, n_requests=n_requests, concurrency=4)


def write_log(path: Path, n_lines: int) -> None:
    """Requests of a day with their texts. One in a hundred lines is broken, out of order or there twice, as logs are."""
    prompts = (PARTS / "benign_prompts.txt").read_text(encoding="utf-8").splitlines()
    with path.open("w", encoding="utf-8") as file:
        for index in range(n_lines):
            prompt = prompts[index * 7 % len(prompts)]
            row = {
                "id": f"req-{index if index % 300 else index // 2}",
                "timestamp": 1.76e9 + 86_400.0 * index / n_lines - (30.0 if index % 200 == 1 else 0.0),
                "request": {
                    "model": "m",
                    "messages": [{"role": "user", "content": prompt}],
                    "metadata": {"group:age": "60+" if index % 5 else "18-29"},
                },
                "response": {"choices": [{"message": {"content": f"{prompt} Here is what I know of it. " * 3}, "finish_reason": "stop"}]},
                "latency_ms": 400 + index % 97,
            }
            line = json.dumps(row)
            file.write((line[:50] if index % 500 == 2 else line) + "\n")


def replay(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "log.jsonl"
        write_log(path, options.lines)
        figures: dict[str, Any] = {"lines": options.lines, "megabytes": round(path.stat().st_size / MB, 1)}
        cpu_s = _children_cpu_s()
        for title, pct in (("reader", 100.0), ("reader_without_texts", 0.0)):
            done = subprocess.run([sys.executable, "-c", READER, str(path), str(pct)], check=True, capture_output=True, text=True)
            _, seconds, peak_mb = map(float, done.stdout.split())
            cpu_s, before_s = _children_cpu_s(), cpu_s
            figures[title] = {
                "lines_per_s": round(options.lines / seconds),
                "lines_per_cpu_s": round(options.lines / (cpu_s - before_s)),
                "peak_mb": round(peak_mb, 1),
            }
        began = time.perf_counter()
        environment = {**os.environ, "TRIMTAB_HOME": name}
        done = subprocess.run([*RUN, "watch", "--logs", str(path), "--json"], env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        if done.returncode not in (0, 1):
            raise RuntimeError(f"trimtab watch --logs ended with {done.returncode}: {done.stderr[-500:]}")
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        figures["watch"] = {
            "lines_per_s": round(options.lines / seconds),
            "lines_per_cpu_s": round(options.lines / (_children_cpu_s() - cpu_s)),
            "peak_mb_at_most": round(peak_mb, 1),
        }
        return figures


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


MEASURES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {"answers": mock, "model": demo_model, "replay": replay}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short rounds, a log of 5,000 lines; no figure of it means much")
    parser.add_argument("--kept", type=Path, default=None, help="a JSON file of what was measured")
    parser.add_argument("--model", type=Path, default=None, help="a deploy.toml in place of the demo model's")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--lines", type=int, default=None)
    parser.add_argument("--only", choices=MEASURES, default=None)
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 20)
    options.lines = options.lines or (5_000 if options.quick else 1_000_000)
    kept: dict[str, Any] = json.loads(options.kept.read_text()) if options.kept is not None and options.kept.exists() else {}
    for name, measure in MEASURES.items():
        if name in kept or options.only not in (None, name):
            continue
        kept[name] = measure(options)
        print(f"{name}: {json.dumps(kept[name])}", file=sys.stderr)
        if options.kept is not None:
            options.kept.write_text(json.dumps(kept, indent=1))
    print("| what is served | requests/s without | watched | times | gateway CPU ms without | watched |\n|---|---|---|---|---|---|")
    for name in ("answers", "model"):
        if row := kept.get(name):
            rates, cpu = row["requests_per_s"], row["gateway_cpu_ms"]
            print(f"| {name} | {rates['plain']:,} | {rates['watched']:,} | {row['times']} | {cpu['plain']} | {cpu['watched']} |")
    memory = [row["watch_memory_mb"] for row in (kept.get("answers"), kept.get("model")) if row is not None]
    ok = (
        all(name in kept for name in MEASURES)
        and kept["model"]["times"] >= TARGETS["model_times_at_least"]
        and all(one is not None and one <= TARGETS["watch_memory_mb_at_most"] for one in memory)
    )
    print(json.dumps({"name": "watch", "figures": kept, "targets": TARGETS, "ok": ok}))


if __name__ == "__main__":
    main()
