"""What the link's process hands over to Ray Serve. No cluster: Serve's own configurations, up to the call that would send them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("ray.serve")

from ray import serve

from trimtab.core.deployment import Settings
from trimtab.core.files import to_plain
from trimtab.core.model import Snapshot, SnapshotFile
from trimtab.serve.ray_desk import Desk
from trimtab.serve.ray_wire import AppSpec

FILE = SnapshotFile(name="m.gguf", size_bytes=10, sha256="0" * 64)
SPEC = AppSpec(
    app="here-0",
    model="letters",
    engine="fake",
    snapshot=Snapshot(source="fake", format="gguf", root=Path("/nowhere"), files=(FILE,)),
    settings=Settings(slots=2),
    adapters=(),
    slots=2,
    n_cpus=1,
    memory_bytes=2**30,
    drain_s=60.0,
    release="1",
)


def test_versions_that_are_wanted_at_once_do_not_spoil_each_others_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without turns Serve fails now and then: `request_router is not registered for pickle by value`."""
    sent: list[Any] = []
    monkeypatch.setattr(serve, "run_many", lambda targets, **_: sent.append(targets[0]) or [SimpleNamespace()])
    desk = Desk(lambda raw: None, "here")
    monkeypatch.setattr(desk, "facts", lambda: {"nodes": [{"node": "a", "cpus": 4.0, "memory_bytes": 2**32}]})
    apps = [f"here-{number}" for number in range(64)]
    desk._handles = dict.fromkeys(apps)  # they are there: what is handed over is told, and nothing is waited for
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(desk.deploy, [to_plain(replace(SPEC, app=app)) for app in apps]))
    assert answers == [{}] * 64
    assert sorted(target.name for target in sent) == sorted(apps)
