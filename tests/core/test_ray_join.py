"""A cluster is joined again where its head lost the process it made for this side, and only there."""

import sys
from types import SimpleNamespace

import pytest

from trimtab.core.ray_join import TRIES, join_ray

LOST = "Initialization failure from server:\nRuntimeError: Starting Ray client server failed. See ray_client_server_23004.err"
ZOMBIE = "Initialization failure from server:\npsutil.ZombieProcess: PID still exists but it's a zombie (pid=13155)"
VERSIONS = "Initialization failure from server:\nRuntimeError: Version mismatch"


def joined_after(monkeypatch: pytest.MonkeyPatch, errors: list[Exception]) -> list[tuple[str, dict[str, object]]]:
    """What a `ray` was asked that fails with these first."""
    asked: list[tuple[str, dict[str, object]]] = []

    def init(address: str, **options: object) -> None:
        asked.append((address, options))
        if errors:
            raise errors.pop(0)

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    return asked


def test_a_lost_process_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = joined_after(monkeypatch, [ConnectionAbortedError(LOST), ConnectionAbortedError(ZOMBIE)])
    join_ray("ray://head:10001", namespace="trimtab")
    assert asked == [("ray://head:10001", {"namespace": "trimtab"})] * 3


def test_it_is_given_up_after_some_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = joined_after(monkeypatch, [ConnectionAbortedError(LOST) for _ in range(TRIES + 1)])
    with pytest.raises(ConnectionAbortedError, match="Starting Ray client server failed"):
        join_ray("ray://head:10001")
    assert len(asked) == TRIES


@pytest.mark.parametrize("error", [ConnectionAbortedError(VERSIONS), ConnectionError("ray client connection timeout"), RuntimeError(LOST)])
def test_what_would_fail_again_is_said_at_once(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    asked = joined_after(monkeypatch, [error])
    with pytest.raises(type(error)):
        join_ray("ray://head:10001")
    assert len(asked) == 1
