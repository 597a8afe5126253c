"""A gateway before a Ray cluster of several local nodes, with an engine that takes its time: what the test and the benchmark both look at.

The engine is the fake one, slowed down, as an installed package would bring it; its weights are a file of a tiny model, which is hashed
and checked on every node as real ones are.
"""

import asyncio
import json
import os
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp

from trimtab.core.deployment import EngineBuild, Settings
from trimtab.core.files import digest_of
from trimtab.flows.parts.opening import open_model, recipe_named
from trimtab.record.deploy import DeployLock, write_deploy_toml
from trimtab.testing.tiny_models import write_tiny_gguf

STEP_S = 0.02
TOKENS = 100
"""Of a long answer: two seconds of the slow engine."""
NOT_JUDGED = digest_of("nobody judged this deployment")
ENGINES = f"""
import time

from trimtab.core.deployment import EngineBuild
from trimtab.testing.fake_engine import FakeEngine


class SlowEngine(FakeEngine):
    name = "slow"

    @classmethod
    def build(cls):
        return EngineBuild(engine="slow", version="1")

    def step(self):
        if self.running:
            time.sleep({STEP_S})
        return super().step()
"""


def install_engines(folder: Path) -> None:
    """Put the engines `fake` and `slow` on the path of this process and of all that it starts, as two installed packages."""
    info = folder / "slow_engine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-engine\nVersion: 1.0\n")
    lines = ["[trimtab.engines]", "fake = trimtab.testing.fake_engine:FakeEngine", "slow = slow_engine:SlowEngine"]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (folder / "slow_engine.py").write_text(ENGINES)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))


def write_lock(path: Path, *, engine: str, settings: Settings, cache: Path) -> Path:
    """A deploy.toml for a tiny model beside it in one of those engines. No decision stands behind it."""
    weights = path.parent / "tiny.gguf"
    if not weights.exists():
        write_tiny_gguf(weights)
    opened = open_model(str(weights), cache_dir=cache, offline=True)
    lock = DeployLock(
        id=engine, verdict="inconclusive", decision_sha256=NOT_JUDGED, source=str(weights), revision="", format="gguf",
        source_files=opened.snapshot.files, source_sha256=opened.snapshot.digest, weights_sha256=opened.snapshot.digest,
        recipe=recipe_named("", engine), template_sha256=opened.template_sha256, build=EngineBuild(engine=engine, version="1"),
        settings=settings, policy="none", policy_sha256=NOT_JUDGED, suite="none", suite_sha256=NOT_JUDGED, workload="none",
        workload_sha256=NOT_JUDGED, reference_sha256=NOT_JUDGED, machine="any", machine_sha256=NOT_JUDGED,
        made=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), trimtab=version("trimtab"),
    )  # fmt: skip
    write_deploy_toml(path, lock)
    return path


def site_text(models: Mapping[str, tuple[Path, str]], *, cluster: str = "") -> str:
    """A site of locks. models: by name, the lock and further lines of its table"""
    head = f'audit = "off"\n{f"cluster = {json.dumps(cluster)}" if cluster else ""}\n'
    return head + "".join(
        f'[[models]]\nname = "{name}"\nlock = {json.dumps(str(lock))}\nallow_uncertified = true\n{more}\n'
        for name, (lock, more) in models.items()
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a request ended. kind: finished, ended (a clear error event), refused (a status with Retry-After), lost (none of these)

    first_s, seconds: to the first token and to the end; n_tokens: pieces of text that came
    n_prompt, n_cached: tokens of the prompt and those of them that were cached, where the body asks for usage
    """

    kind: str
    seconds: float
    first_s: float | None = None
    n_tokens: int = 0
    n_prompt: int = 0
    n_cached: int = 0
    status: int = 0
    code: str = ""
    text: str = ""


async def ask(url: str, body: Mapping[str, Any], limit_s: float = 120.0) -> Outcome:
    """Stream one chat and say how it ended."""
    began_s, first_s, n_tokens, text, finish, code = time.monotonic(), None, 0, [], "", ""
    usage: Mapping[str, Any] = {}
    timeout = aiohttp.ClientTimeout(total=limit_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(f"{url}/chat/completions", json={"stream": True, **body}) as response,
        ):
            if response.status != 200:
                error = (await response.json())["error"]
                kind = "refused" if response.headers.get("Retry-After") else "lost"
                return Outcome(kind=kind, seconds=time.monotonic() - began_s, status=response.status, code=error["code"])
            async for raw in response.content:
                data = raw.decode().removeprefix("data: ").strip()
                if not data.startswith("{"):
                    continue
                said = json.loads(data)
                if "error" in said:
                    code = said["error"]["code"]
                    continue
                usage = said.get("usage") or usage
                if not said["choices"]:
                    continue
                choice = said["choices"][0]
                if choice["delta"].get("content") or choice["finish_reason"]:
                    first_s = first_s or time.monotonic() - began_s
                    n_tokens += 1
                text.append(choice["delta"].get("content") or "")
                finish = choice["finish_reason"] or finish
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        code = code or type(error).__name__
        return Outcome(kind="lost", seconds=time.monotonic() - began_s, first_s=first_s, n_tokens=n_tokens, code=code)
    kind = "finished" if finish else "ended" if code else "lost"
    return Outcome(
        kind=kind,
        seconds=time.monotonic() - began_s,
        first_s=first_s,
        n_tokens=n_tokens,
        n_prompt=usage.get("prompt_tokens", 0),
        n_cached=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        status=200,
        code=code,
        text="".join(text),
    )


def body(model: str, text: str = "hello", tokens: int = TOKENS, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "ignore_eos": True, "seed": 3, **more}


def state(admin_url: str) -> dict[str, Any]:
    """What the gateway says of its versions, by model."""
    with urllib.request.urlopen(f"{admin_url}/state", timeout=30) as response:
        return {row["model"]: row for row in json.load(response)["versions"] if not row["leaving"]}


def ready_rows(admin_url: str, model: str) -> list[dict[str, Any]]:
    return [row for row in state(admin_url)[model]["replicas"] if row["status"] == "ready"]


async def until(what: str, holds: Any, limit_s: float = 120.0) -> float:
    """Seconds until something holds. Raises AssertionError if it does not in time."""
    began_s = time.monotonic()
    while not await asyncio.to_thread(holds):
        if time.monotonic() - began_s > limit_s:
            raise AssertionError(f"not within {limit_s:g} s: {what}")
        await asyncio.sleep(0.1)
    return time.monotonic() - began_s


def kill_replica(admin_url: str, model: str) -> None:
    """End the process of the replica that works on most requests, as an out-of-memory killer would."""
    rows = sorted(ready_rows(admin_url, model), key=lambda row: -row["running"])
    os.kill(rows[0]["pid"], signal.SIGKILL)


def counted(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many requests ended how."""
    found = Counter(one.kind for one in outcomes)
    return {kind: found[kind] for kind in ("finished", "ended", "refused", "lost")}
