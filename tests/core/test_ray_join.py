"""A cluster is joined again where its head lost the process it made for this side, and only there."""

import os
from pathlib import Path

import pytest

from trimtab.core.ray_join import TRIES, join_ray, show_token

LOST = "Initialization failure from server:\nRuntimeError: Starting Ray client server failed. See ray_client_server_23004.err"
ZOMBIE = "Initialization failure from server:\npsutil.ZombieProcess: PID still exists but it's a zombie (pid=13155)"
VERSIONS = "Initialization failure from server:\nRuntimeError: Version mismatch"


class Init:
    """A `ray.init` that fails with these first. asked: what it was called with"""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.asked = list(errors), list[dict[str, object]]()

    def __call__(self, **options: object) -> None:
        self.asked.append(options)
        if self.errors:
            raise self.errors.pop(0)


def test_a_lost_process_is_asked_for_again() -> None:
    init = Init(ConnectionAbortedError(LOST), ConnectionAbortedError(ZOMBIE))
    join_ray(init, "ray://head:10001", namespace="trimtab")
    assert init.asked == [{"address": "ray://head:10001", "namespace": "trimtab"}] * 3


def test_it_is_given_up_after_some_tries() -> None:
    init = Init(*(ConnectionAbortedError(LOST) for _ in range(TRIES + 1)))
    with pytest.raises(ConnectionAbortedError, match="Starting Ray client server failed"):
        join_ray(init, "ray://head:10001")
    assert len(init.asked) == TRIES


@pytest.mark.parametrize("error", [ConnectionAbortedError(VERSIONS), ConnectionError("ray client connection timeout"), RuntimeError(LOST)])
def test_what_would_fail_again_is_said_at_once(error: Exception) -> None:
    init = Init(error)
    with pytest.raises(type(error)):
        join_ray(init, "ray://head:10001")
    assert len(init.asked) == 1


@pytest.mark.parametrize(
    ("given", "in_home", "mode"),
    [
        ({}, False, None),
        ({}, True, "token"),
        ({"RAY_AUTH_TOKEN": "abc"}, False, "token"),
        ({"RAY_AUTH_TOKEN_PATH": "token"}, False, "token"),
        ({"RAY_AUTH_TOKEN_PATH": "nowhere"}, False, None),
        ({"RAY_AUTH_TOKEN": "abc", "RAY_AUTH_MODE": "disabled"}, True, "disabled"),
    ],
)
def test_a_token_is_shown_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, str], in_home: bool, mode: str | None
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is taken back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("abc")
    (tmp_path / ".ray").mkdir()
    if in_home:
        (tmp_path / ".ray" / "auth_token").write_text("abc")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    show_token()
    assert os.environ.get("RAY_AUTH_MODE") == mode
