"""Which replica a session goes to, and that others stay where they are when one comes or goes."""

import asyncio
from collections import Counter
from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="ray is not installed")
pytestmark = pytest.mark.slow
SESSIONS = [f"user:{number}" for number in range(400)]


def replica(name, most=2):
    return SimpleNamespace(replica_id=SimpleNamespace(unique_id=name), max_ongoing_requests=most)


def ranks(replicas, session, queues=()):
    """Names by rank, with the queues that the router knows of."""
    from trimtab.serve.ray_router import SessionRouter

    router = object.__new__(SessionRouter)
    known = dict(queues)
    router._replica_queue_len_cache = SimpleNamespace(get=lambda one: known.get(one.unique_id))
    pending = SimpleNamespace(metadata=SimpleNamespace(session_id=session), routing_context=SimpleNamespace(should_backoff=False))
    found = asyncio.run(router.choose_replicas(replicas, pending))
    assert pending.routing_context.should_backoff, "without it a full deployment would be asked without a pause"
    return [sorted(one.replica_id.unique_id for one in rank) for rank in found]


def first(replicas, session):
    return ranks(replicas, session)[0][0]


def test_a_session_has_a_replica_and_the_others_are_next():
    three = [replica(name) for name in "abc"]
    own, rest = ranks(three, "user:ann")
    assert len(own) == 1
    assert sorted((*own, *rest)) == ["a", "b", "c"]
    assert ranks(three, "user:ann") == ranks(three[::-1], "user:ann")
    assert ranks(three, "") == [["a", "b", "c"]], "nobody's request goes to the least busy"


def test_a_full_replica_comes_last():
    three = [replica(name) for name in "abc"]
    own = first(three, "user:ann")
    assert ranks(three, "user:ann", {own: 1})[0] == [own]
    assert ranks(three, "user:ann", {own: 2})[-1] == [own]
    assert ranks([replica("a")], "user:ann", {"a": 2})[0] == ["a"]


def test_sessions_are_spread_and_only_their_own_move():
    three, four = [replica(name) for name in "abc"], [replica(name) for name in "abcd"]
    before, after = ({session: first(replicas, session) for session in SESSIONS} for replicas in (three, four))
    assert min(Counter(before.values()).values()) > len(SESSIONS) / 3 * 0.7
    moved = [session for session in SESSIONS if before[session] != after[session]]
    assert {after[session] for session in moved} == {"d"}
    assert len(SESSIONS) / 4 * 0.6 < len(moved) < len(SESSIONS) / 4 * 1.4
