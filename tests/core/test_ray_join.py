"""A cluster is joined again where its head lost the process it made for this side, and only there."""

import pytest

from trimtab.core.ray_join import TRIES, join_ray

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
