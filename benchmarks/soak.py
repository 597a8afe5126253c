"""Mixed load on `trimtab serve` for a long time: does its memory stay flat, is every request answered, does its log hold.

Two models: the demo model by a lock, in a worker of ours, and a server without a model as a child process, behind guards. Clients ask
chats, completions and responses, whole and streamed, ask for what must be refused, and leave in the middle of a stream. Keys, metering
and the audit log are on; once a minute the configuration is read again.

    python benchmarks/soak.py [--quick] [--minutes 20] [--clients 8] [--recipe llamacpp-as-shipped | --lock deploy.toml]   or: make soak

--quick: half a minute, without the demo model

mib_per_hour: slope of the resident memory after the first fifth of the time, of the gateway and of what runs below it, with a 95 % interval
(Theil-Sen on medians of 30 stretches). Flat: what the interval allows for the whole run is at most 8 MiB or 5 % of the memory.
The last line of stdout is one JSON object: name, figures, targets, ok.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
from scipy.stats import theilslopes

sys.path.insert(0, str(Path(__file__).resolve().parent))

from parts.demo_lock import RECIPE, write_demo_lock
from parts.gateway_process import Running, gateway

SERVER = Path(__file__).resolve().parent / "parts" / "soak_server.py"
TARGETS = {"failed": 0, "grows": [], "log": "pass"}
LOOK_S = 1.0
RELOAD_S = 60.0
STRETCHES = 30
KINDS = {"chat": 30, "chat stream": 30, "response": 8, "response stream": 8, "completion": 8, "refused": 8, "left": 8}
GUARDS = """
[[models.guards]]
name = "personal"
side = "both"
on_hit = "redact"

[[models.guards]]
name = "injection"
side = "in"
on_hit = "flag"
"""


def site_text(lock: Path | None) -> str:
    command = json.dumps([sys.executable, str(SERVER), "{port}"])
    server = f'[[models]]\nname = "server"\ncommand = {command}\nupstream_model = "m"\nslots = 8\nmin_replicas = 1\n{GUARDS}'
    model = "" if lock is None else f'[[models]]\nname = "model"\nlock = "{lock.absolute()}"\nallow_uncertified = true\nmin_replicas = 1\n'
    return f"need_keys = true\n{server}\n{model}"


class Clients:
    """Clients that ask until the time is over. outcomes: how many of each kind ended as they should; failed: the first words of others"""

    def __init__(self, running: Running, secret: str, models: Sequence[str], ends_s: float) -> None:
        self.running, self.models, self.ends_s = running, models, ends_s
        self.headers = {"Authorization": f"Bearer {secret}"}
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.failed: list[str] = []

    async def run(self, n: int) -> None:
        async with aiohttp.ClientSession(headers=self.headers, timeout=aiohttp.ClientTimeout(total=120)) as session:
            await asyncio.gather(*(self._client(session, random.Random(number)) for number in range(n)))

    async def _client(self, session: aiohttp.ClientSession, draw: random.Random) -> None:
        while time.monotonic() < self.ends_s:
            kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
            model = draw.choice(self.models)
            if kind == "completion" and model == "server":
                continue
            try:
                why = await self._ask(session, kind, model, draw)
            except (aiohttp.ClientError, TimeoutError) as error:
                why = f"{type(error).__name__}: {error}"
            if why:
                self.failed.append(f"{kind} of {model}: {why}"[:300])
            else:
                self.outcomes[kind] += 1

    async def _ask(self, session: aiohttp.ClientSession, kind: str, model: str, draw: random.Random) -> str:
        """Why it did not end as it should; empty if it did."""
        text = f"I am ann{draw.randrange(1000)}@example.com. " + " ".join(
            f"word{draw.randrange(9999)}" for _ in range(draw.choice((5, 30, 100)))
        )
        body: dict[str, Any] = {"model": model, "max_tokens": draw.choice((4, 16, 48)), "stream": "stream" in kind or kind == "left"}
        path = "chat/completions"
        if kind.startswith("response"):
            path = "responses"
            body = {"model": model, "input": text, "max_output_tokens": body["max_tokens"], "stream": body["stream"]}
        elif kind == "completion":
            path, body["prompt"] = "completions", text
        else:
            body["messages"] = [{"role": "user", "content": text}]
        if kind == "refused":
            body["temperature"] = "hot"
        async with session.post(f"{self.running.url}/{path}", json=body) as response:
            if kind == "left":
                await response.content.readany()
                response.close()
                return "" if response.status == 200 else f"status {response.status}"
            raw = await response.read()
        if response.status != (400 if kind == "refused" else 200):
            return f"status {response.status}: {raw[:200].decode(errors='replace')}"
        ends = b'"type":"response.completed"' if path == "responses" else b"data: [DONE]"
        if body["stream"] and ((ends not in raw and b"response.incomplete" not in raw) or b'"error":{' in raw):
            return f"the stream did not end well: {raw[-300:].decode(errors='replace')}"
        return ""


def memory_of(pid: int) -> dict[str, int]:
    """Resident bytes of the gateway and of the processes below it."""
    own = psutil.Process(pid)
    found = {"gateway": int(own.memory_info().rss), "workers": 0}
    for child in own.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found["workers"] += int(child.memory_info().rss)
    return found


async def watched(running: Running, ends_s: float) -> list[tuple[float, dict[str, int]]]:
    """Memory every LOOK_S, seconds from now. The configuration is read again now and then."""
    began_s = time.monotonic()
    samples, reloads_s = [], began_s + RELOAD_S
    while (now_s := time.monotonic()) < ends_s:
        samples.append((now_s - began_s, memory_of(running.pid)))
        if now_s > reloads_s:
            os.kill(running.pid, signal.SIGHUP)
            reloads_s = now_s + RELOAD_S
        await asyncio.sleep(LOOK_S)
    return samples


def growth_of(samples: Sequence[tuple[float, dict[str, int]]], what: str) -> dict[str, Any]:
    """Slope and whether it counts as flat."""
    warm = samples[len(samples) // 5 :]
    stretches = [part for part in np.array_split(np.arange(len(warm)), STRETCHES) if len(part)]
    at_s = [float(np.median([warm[index][0] for index in part])) for part in stretches]
    mib = [float(np.median([warm[index][1][what] for index in part])) / 2**20 for part in stretches]
    slope, _, low, high = theilslopes(mib, at_s, alpha=0.95)
    allowed_mib = max(8.0, 0.05 * float(np.median(mib)))
    return {
        "mib": round(float(np.median(mib)), 1),
        "mib_per_hour": [round(3600 * float(value), 2) for value in (slope, low, high)],
        "is_flat": float(high) * samples[-1][0] <= allowed_mib,
    }


def trimtab(home: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "trimtab", *words, "--json"], env={**os.environ, "TRIMTAB_HOME": str(home)}, check=True, capture_output=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def soak(running: Running, secret: str, models: Sequence[str], seconds: float, n_clients: int) -> tuple[Clients, list[Any]]:
    ends_s = time.monotonic() + seconds
    clients = Clients(running, secret, models, ends_s)
    _, samples = await asyncio.gather(clients.run(n_clients), watched(running, ends_s))
    return clients, samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="half a minute, without the demo model")
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--lock", type=Path, default=None)
    parser.add_argument("--recipe", default=RECIPE)
    options = parser.parse_args()
    seconds = 60 * (options.minutes or (0.5 if options.quick else 20))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lock = options.lock
        if lock is None and not options.quick:
            lock = folder / "deploy.toml"
            write_demo_lock(lock, recipe=options.recipe)
        home = folder / "home"
        secret = trimtab(home, "keys", "add", "soak")["secret"]
        site = folder / "site.toml"
        site.write_text(site_text(lock))
        models = ["server"] if lock is None else ["server", "model"]
        with gateway(site, home=home) as running:
            clients, samples = asyncio.run(soak(running, secret, models, seconds, options.clients))
        verified = trimtab(home, "verify", "log")
    growth = {what: growth_of(samples, what) for what in ("gateway", "workers")}
    values = {
        "failed": len(clients.failed),
        "grows": [what for what, one in growth.items() if not one["is_flat"]],
        "log": verified["verdict"],
    }
    n_asked = sum(clients.outcomes.values()) + len(clients.failed)
    print(f"{n_asked} requests in {seconds:.0f} s: {dict(clients.outcomes)}; {len(clients.failed)} failed {clients.failed[:3]}")
    for what, one in growth.items():
        slope, low, high = one["mib_per_hour"]
        print(f"{what}: {one['mib']} MiB, {slope} [{low}, {high}] MiB an hour")
    figures = {"seconds": seconds, "requests": n_asked, "outcomes": dict(clients.outcomes), "memory": growth, **values}
    figures["failures"] = clients.failed[:10]
    print(json.dumps({"name": "soak", "figures": figures, "targets": TARGETS, "ok": values == TARGETS}))


if __name__ == "__main__":
    main()
