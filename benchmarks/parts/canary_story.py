"""A site with a canary under watch, as real processes: clients that ask, and what became of the canary."""

import json
import random
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from parts.demo_lock import MODEL, write_demo_lock
from parts.gateway_process import gateway
from parts.sample_run import USE

from trimtab.core.deployment import Settings
from trimtab.decide.policies import load_policy, policy_sha256
from trimtab.flows import release
from trimtab.flows.incident import list_incidents
from trimtab.flows.people import add_person
from trimtab.record.deploy import deploy_toml
from trimtab.record.ledger import Ledger
from trimtab.record.spool import watch_folder
from trimtab.serve.server_process import free_port

SITE = """watch = true
watch_sample_pct = {sample_pct}
[listen]
admin_port = {admin_port}
[[models]]
name = "chat"
min_replicas = 1
[models.rollout]
stable = "chat@stable"
canary = "chat@next"
canary_pct = {canary_pct}
[[models.versions]]
id = "chat@stable"
lock = "stable.toml"
allow_uncertified = true
[[models.versions]]
id = "chat@next"
lock = "next.toml"
allow_uncertified = true
"""
WORDS = (
    "cats",
    "rain",
    "bread",
    "music",
    "trains",
    "winter",
    "maps",
    "paper",
    "gardens",
    "bees",
    "coffee",
    "wool",
    "rivers",
    "clocks",
    "salt",
    "bridges",
    "stars",
    "honey",
    "ships",
    "lamps",
)
ASKED = (
    "Tell me about {} and {}.",
    "Why do people like {} more than {}?",
    "Write two sentences on {} and {}.",
    "How are {} and {} alike?",
    "Give one fact about {} and one about {}.",
    "What would a child ask about {} and {}?",
)


@dataclass(kw_only=True)
class Story:
    """What came of a canary. answered: requests by the version that answered; caught_s: from the first request on, None = it never was

    caught_after: requests until then; n_scored, gate: what the judgement rests on
    """

    answered: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    caught_s: float | None = None
    caught_after: int | None = None
    trial: dict[str, Any] = field(default_factory=dict)
    actions: list[dict[str, Any]] = field(default_factory=list)
    incidents: list[dict[str, Any]] = field(default_factory=list)
    ledger: list[str] = field(default_factory=list)


def write_locks(root: Path, stable: str, canary: str, *, threads: int, context_tokens: int = 1024, models: Sequence[str] = ()) -> None:
    """Locks of the demo model under two recipes, to be judged by the policy `standard`. models: two others in its place"""
    policy = load_policy("standard")
    for name, recipe, model in zip(("stable", "next"), (stable, canary), models or (MODEL, MODEL), strict=True):
        settings = Settings(threads=threads if recipe.startswith("llamacpp") else None, slots=4, context_tokens=context_tokens)
        lock = write_demo_lock(root / f"{name}.toml", model=model, recipe=recipe, settings=settings)
        lock = replace(lock, policy=policy.name, policy_sha256=policy_sha256(policy))
        (root / f"{name}.toml").write_text(deploy_toml(lock), encoding="utf-8")


def write_releases(root: Path, stable_run: Path, canary_run: Path) -> None:
    """Two finished runs as releases chat@1, on `production` and `canary`, and chat@2, which takes its place on `canary`.

    Their locks become stable.toml and next.toml.
    """
    add_person("bob", roles=["approver"], by="alice")
    (root / "use.toml").write_text(USE, encoding="utf-8")
    for run, name, aliases in ((stable_run, "stable", ("production", "canary")), (canary_run, "next", ("canary",))):
        made = release.create(run, name="chat", use=root / "use.toml", by="alice")
        release.approve(made["release"], by="bob")
        for alias in aliases:
            found = release.promote(made["release"], to=alias, by="alice")
            if not found["promoted"]:
                raise RuntimeError(f"{made['id']} was not promoted to {alias}: {found['reasons']}")
        shutil.copy(run / "deploy.toml", root / f"{name}.toml")


def add_people() -> None:
    """A ledger that knows alice and, in the name of the watch, `watch`."""
    add_person("alice")
    add_person("watch", roles=["operator"], by="alice")


def run_story(root: Path, *, canary_pct: float, clients: int, max_tokens: int, limit_s: float, n_scored: int | None = None) -> Story:
    """Serve, ask, and look until the canary has no traffic, until `n_scored` answers were judged, or for so long.

    root: holds stable.toml and next.toml; TRIMTAB_HOME must be root / "home", with its people
    """
    admin_port, home, site, story = free_port(), root / "home", root / "site.toml", Story()
    site.write_text(SITE.format(admin_port=admin_port, canary_pct=canary_pct, sample_pct=100), encoding="utf-8")
    folder = watch_folder(home, site)
    with gateway(site, home=home, options=("--watch",)) as running:
        _until_ready(running.url)
        stop, began_s = threading.Event(), time.monotonic()
        given = [(running.url, story, stop, number, max_tokens) for number in range(clients)]
        askers = [threading.Thread(target=_ask, args=one, daemon=True) for one in given]
        for asker in askers:
            asker.start()
        while time.monotonic() - began_s < limit_s:
            time.sleep(0.5)
            story.trial = _trial(folder)
            state = _get(f"http://127.0.0.1:{admin_port}/state")
            if state["traffic"]["chat"]["canary_pct"] == 0:
                story.caught_s, story.caught_after = time.monotonic() - began_s, sum(story.answered.values())
                break
            if n_scored is not None and story.trial.get("n", 0) >= n_scored:
                break
        time.sleep(3.0)  # what follows an action is noted behind it
        stop.set()
        for asker in askers:
            asker.join(60.0)
    story.trial = _trial(folder)
    story.actions = _lines(folder / "actions.jsonl")
    story.incidents = [dict(one) for one in list_incidents()]
    with Ledger.open("", home=home) as ledger:
        story.ledger = [f"{entry.seq} {entry.kind} by {entry.by} about {entry.about}" for entry in ledger.entries()]
    return story


def _ask(url: str, story: Story, stop: threading.Event, number: int, max_tokens: int) -> None:
    draw = random.Random(number)
    while not stop.is_set():
        first, second = draw.sample(WORDS, 2)
        text = f"{draw.choice(ASKED).format(first, second)} ({draw.randrange(10**6)})"
        body = {"model": "chat", "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens, "temperature": 1.0}
        body["user"] = f"user-{draw.randrange(10**6)}"
        request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                json.load(answer)
                story.answered[answer.headers["x-trimtab-version"]] += 1
        except (OSError, ValueError):
            story.failed += 1
            time.sleep(0.5)


def _until_ready(url: str) -> None:
    for _ in range(600):
        if all(row["state"] == "ready" for row in _get(f"{url}/models")["data"]):
            return
        time.sleep(0.2)


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def _trial(folder: Path) -> dict[str, Any]:
    """The judgement so far, without its answers."""
    try:
        trials = json.loads((folder / "quality.json").read_text(encoding="utf-8"))["trials"]
    except (OSError, ValueError, KeyError):
        return {}
    found: dict[str, Any] = list(trials.values())[-1] if trials else {}
    scored = found.get("scored", [])
    changes = [row["candidate"] - row["reference"] for row in scored if row["candidate"] is not None and row["reference"] is not None]
    return {
        "n": len(scored),
        "n_missing": len(scored) - len(changes),
        "change": sum(changes) / len(changes) if changes else None,
        "alarm": found.get("alarm"),
        "verdict": found.get("summary", {}).get("verdict", ""),
        "reasons": found.get("summary", {}).get("reasons", []),
    }


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError:
        return []
