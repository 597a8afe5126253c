"""What the link's process hands over to Ray Serve. No cluster: Serve's own configurations, up to the call that would send them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("ray.serve")

from fake_spec import SPEC
from ray import serve

from trimtab.core.files import to_plain
from trimtab.serve.ray_desk import Desk


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
