"""A pool of replicas on a cluster, without one: what is asked again, what ends with a word, what waits, and who is master of a change."""

import asyncio
import dataclasses
import hashlib
import json
import time
from collections import deque
from pathlib import Path

import msgspec
import pytest
from fake_spec import SNAPSHOT, SPEC

from trimtab.core.deployment import Candidate, EngineBuild, Recipe, Settings
from trimtab.core.errors import EngineRefused, InfeasibleError, InputError
from trimtab.core.model import Adapter, SnapshotFile
from trimtab.core.site import Rollout, ServedModel, Site, Version
from trimtab.serve import ray_pool, ray_replica
from trimtab.serve.base import Call, Frame, Pool, Refusal, Usage
from trimtab.serve.dispatch import Dispatcher, plans_of
from trimtab.serve.ray_memory import BASE_BYTES, FIRST_MARGIN, MARGIN, STEP_BYTES, MemoryNotes
from trimtab.serve.ray_pool import TRIES, RayPool, session_of
from trimtab.serve.ray_site import RaySite, address_of
from trimtab.serve.ray_wire import (
    AppSpec,
    Lost,
    Said,
    call_from,
    call_plain,
    fault_in,
    fault_text,
    frames_from,
    frames_plain,
    refusal_from,
    refusal_plain,
    told,
    told_frames,
    why_no_room,
)
from trimtab.testing.fake_replica import FakeReplica

PLACED = {"replica": "r1", "node": "10.0.0.2", "memory_bytes": 2**28, "load_s": 1.0, "slots": 2}
CALL = Call(id="1", kind="chat", body={"model": "letters", "messages": [{"role": "user", "content": "hello"}]}, stream=True)
WORDS = [Frame(body={"text": "a"}, n_tokens=1), Frame(body={"text": "b"}, n_tokens=1, usage=Usage(prompt=3, completion=2, cached=1))]


def said(*frames: Frame) -> Said:
    return msgspec.json.decode(frames_plain(frames), type=Said)


class FakeLink:
    """A link whose answers are written down beforehand: messages, and what ends them."""

    def __init__(self, *tries, state="up", comes_back=True):
        self.tries, self.state, self.why, self.apps, self.missing = deque(tries), state, "", {}, {}
        self.comes_back, self.since_s = comes_back, -1e9
        self.sessions, self.deployed, self.deleted = [], [], []

    async def answer(self, app, call, session):
        self.sessions.append(session)
        for one in self.tries.popleft():
            if isinstance(one, Exception):
                self.state = "up" if self.comes_back else "down"
                raise one
            if one == "wait":
                await asyncio.sleep(60)
            yield one

    def can_answer(self, app):
        return self.state in ("up", "headless") and app not in self.missing

    async def until_up(self, app, limit_s):
        if limit_s > 0 and self.comes_back:
            self.state, self.missing = "up", {}
        return self.can_answer(app)

    async def deploy(self, spec):
        self.deployed.append(spec)
        return PLACED

    async def delete(self, app):
        self.deleted.append(app)


def pool_on(link, tmp_path, wait_s=5.0):
    return RayPool(link, SPEC, MemoryNotes(tmp_path / "memory.json"), wait_s=wait_s)


def answered(pool, call=CALL):
    async def run():
        return [frame async for frame in pool.answer(call)]

    return asyncio.run(run())


PLACE = Said(placed=PLACED)
OVER = Said(over=True)


def test_frames_come_as_the_replica_wrote_them(tmp_path):
    link = FakeLink([PLACE, said(*WORDS), OVER])
    assert answered(pool_on(link, tmp_path)) == WORDS
    link = FakeLink([PLACE, said(*WORDS), OVER])
    unread = answered(pool_on(link, tmp_path), dataclasses.replace(CALL, parsed=False))
    assert [json.loads(frame.body) for frame in unread] == [frame.body for frame in WORDS]


@pytest.mark.parametrize("before", [[], [PLACE]])
def test_a_request_without_a_token_is_asked_again(tmp_path, before):
    link = FakeLink([*before, Lost("killed")], [PLACE, said(*WORDS), OVER])
    pool = pool_on(link, tmp_path)
    assert answered(pool) == WORDS
    assert pool.n_retried == 1
    assert sum(pool._running.values()) == 0


def test_a_worker_that_crashed_is_a_lost_replica(tmp_path):
    crashed = Said(failed={"kind": "infeasible", "why": "The engine's process was killed."})
    assert answered(pool_on(FakeLink([PLACE, crashed], [PLACE, said(*WORDS), OVER]), tmp_path)) == WORDS


def test_a_question_that_kills_all_it_meets_ends(tmp_path):
    with pytest.raises(Refusal) as caught:
        answered(pool_on(FakeLink(*[[PLACE, Lost("killed")]] * TRIES), tmp_path))
    assert (caught.value.status, caught.value.code) == (503, "replica_failed")
    assert caught.value.retry_after_s is not None


def test_an_answer_that_has_begun_is_not_asked_again(tmp_path):
    link = FakeLink([PLACE, said(WORDS[0]), Lost("killed")], [PLACE, said(*WORDS), OVER])
    with pytest.raises(InfeasibleError, match="is gone") as caught:
        answered(pool_on(link, tmp_path))
    assert type(caught.value) is InfeasibleError, "the scheduler would take a crash for the end of the whole pool"
    assert len(link.tries) == 1


def test_a_refusal_is_the_requests_own(tmp_path):
    refusal = Refusal(400, "Too long.", code="context_length_exceeded", param="messages")
    with pytest.raises(Refusal) as caught:
        answered(pool_on(FakeLink([PLACE, Said(refusal=refusal_plain(refusal))]), tmp_path))
    assert vars(caught.value) == vars(refusal)
    assert str(refusal_from(refusal_plain(refusal))) == "Too long."


@pytest.mark.parametrize("state", ["down", "joining", "up"])
def test_a_lost_cluster_is_said_at_once(tmp_path, state):
    link = FakeLink(state=state)
    if state == "up":
        link.missing[SPEC.app] = "no node has room"
    pool = pool_on(link, tmp_path)
    with pytest.raises(Refusal) as caught:
        answered(pool)
    assert (caught.value.status, caught.value.code) == (503, "cluster_unreachable")
    assert caught.value.retry_after_s
    assert pool.state == "failed"


def test_a_cluster_that_was_lost_just_now_is_waited_for(tmp_path):
    link = FakeLink([PLACE, said(*WORDS), OVER], state="down")
    link.since_s = time.monotonic()
    assert answered(pool_on(link, tmp_path)) == WORDS


def test_without_a_head_nobody_waits_for_a_replica_that_cannot_come(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_pool, "HEADLESS_WAIT_S", 0.05)
    with pytest.raises(Refusal) as caught:
        answered(pool_on(FakeLink(["wait"], state="headless"), tmp_path))
    assert caught.value.code == "cluster_unreachable"


def test_the_cluster_that_does_not_come_back_in_time_ends_the_wait(tmp_path):
    link = FakeLink([Lost("the link ended")], comes_back=False)
    with pytest.raises(Refusal) as caught:
        answered(pool_on(link, tmp_path))
    assert caught.value.code == "cluster_unreachable"


def test_no_place_in_time_is_said_as_elsewhere(tmp_path):
    with pytest.raises(Refusal) as caught:
        answered(pool_on(FakeLink(["wait"]), tmp_path, wait_s=0.05))
    assert (caught.value.status, caught.value.code) == (503, "overloaded")


def test_replicas_are_told_with_node_and_state(tmp_path):
    link = FakeLink()
    pool = pool_on(link, tmp_path)
    ready = asyncio.run(pool.start())
    assert (ready.slots, ready.memory_bytes) == (6, None)
    assert isinstance(pool, Pool)
    assert pool.state == "sleeping"
    rows = [
        {"replica": "r1", "state": "RUNNING", "node": "10.0.0.2", "node_id": "a", "pid": 7},
        {"replica": "r2", "state": "STARTING", "node": "", "node_id": "", "pid": None},
    ]
    link.apps = {SPEC.app: {"status": "RUNNING", "replicas": rows, "target": 2, "message": ""}}
    assert [(row["node"], row["status"], row["memory_bytes"]) for row in pool.replicas()] == [
        ("10.0.0.2", "ready", 2**28),
        ("", "loading", 0),
    ]
    assert pool.state == "ready"
    asyncio.run(pool.stop())
    asyncio.run(pool.stop())
    assert link.deleted == [SPEC.app]


def test_a_pool_is_scaled_where_it_is(tmp_path):
    link = FakeLink()
    pool = pool_on(link, tmp_path)
    asyncio.run(pool.start())
    model = ServedModel(name="letters", versions=(), rollout=Rollout(stable=""), min_replicas=2, max_replicas=4, idle_s=9.0)
    assert asyncio.run(pool.rescale(model)) == 8
    assert asyncio.run(pool.rescale(model)) == 8
    first, second = link.deployed  # the second time nothing changed
    assert second == first.scaled(model)
    assert (second.app, second.min_replicas, second.initial_replicas, second.max_replicas, second.idle_s) == (SPEC.app, 2, 2, 4, 9.0)
    assert second.memory_bytes == first.memory_bytes, "another reservation would be other replicas"


def session(**body):
    return session_of(dataclasses.replace(CALL, body={"model": "letters", **body}))


def test_a_conversation_keeps_its_session():
    system, first, second = (
        {"role": role, "content": text} for role, text in (("system", "Be brief."), ("user", "hello"), ("user", "more"))
    )
    answer = {"role": "assistant", "content": "yes"}
    assert session(messages=[system, first]) == session(messages=[system, first, answer, second])
    assert session(messages=[system, first]) != session(messages=[system, second])
    assert session(messages=[first], user="ann") == session(messages=[second], user="ann") != session(messages=[first], user="bob")
    assert session(messages=[first], user="ann", prompt_cache_key="k") == "prompt_cache_key:k"
    assert session(prompt="x" * 2000 + "a") == session(prompt="x" * 2000 + "b") != session(prompt="y")
    assert session() == ""


def test_memory_is_predicted_then_as_it_was_seen(tmp_path):
    notes = MemoryNotes(tmp_path / "memory.json")
    assert notes.reserve("c", SNAPSHOT, None) == pytest.approx(FIRST_MARGIN * SNAPSHOT.size_bytes + BASE_BYTES, abs=STEP_BYTES)
    assert notes.reserve("c", SNAPSHOT, 2**30) > 2**30
    notes.saw("c", 2**28)
    notes.saw("c", 2**27)
    again = MemoryNotes(tmp_path / "memory.json")
    assert again.reserve("c", SNAPSHOT, 2**30) == pytest.approx(MARGIN * 2**28, abs=STEP_BYTES)
    (tmp_path / "memory.json").write_text("[")
    assert MemoryNotes(tmp_path / "memory.json").reserve("c", SNAPSHOT, None) > BASE_BYTES


def test_what_is_said_comes_through_lines():
    adapted = dataclasses.replace(SPEC, adapters=(Adapter(name="a", path=Path("/a"), sha256="1" * 64),))
    from trimtab.core.files import to_plain

    for spec in (SPEC, adapted):
        assert AppSpec.parse(json.loads(json.dumps(to_plain(spec)))) == spec
    assert SPEC.content != adapted.content
    assert call_from(json.loads(json.dumps(call_plain(CALL)))) == CALL
    line = told.decode(told_frames(7, frames_plain(WORDS)))
    assert line.id == 7
    assert line.said is not None
    assert frames_from(line.said.frames, parsed=True) == WORDS
    text = f"RayTaskError: Traceback ...\nRuntimeError: {fault_text(EngineRefused('no {such} type'))}\nretrying"
    found = fault_in(text)
    assert isinstance(found, EngineRefused)
    assert str(found) == "no {such} type"
    assert fault_in("nothing of ours") is None


def test_a_cluster_without_room_is_named_with_what_it_has():
    nodes = [{"node": "10.0.0.2", "cpus": 2.0, "memory_bytes": 2**29}, {"node": "10.0.0.3", "cpus": 0.0, "memory_bytes": 2**31}]
    why = why_no_room(SPEC, nodes)
    assert "1 CPUs and 1,024 MiB" in why
    assert "10.0.0.2 (2 CPUs, 512 MiB)" in why
    assert why_no_room(SPEC, [{"node": "b", "cpus": 1.0, "memory_bytes": 2**30}]) == ""


def test_addresses():
    assert (address_of("ray"), address_of("auto"), address_of("head:6379"), address_of("ray://head:10001")) == (
        "auto",
        "auto",
        "head:6379",
        "ray://head:10001",
    )
    for wrong in ("head", "head:x", ":6379", "ray://head"):
        with pytest.raises(InputError, match="is no address"):
            address_of(wrong)


def test_a_lock_becomes_an_application(tmp_path):
    class Link(FakeLink):
        place = "trimtab-here"

    cluster = RaySite(Link(), MemoryNotes(tmp_path / "m.json"), 600.0)
    build, recipe = EngineBuild(engine="fake", version="1"), Recipe(name="as-shipped", family="none", engine="fake")
    settings = Settings(slots=4, threads=3)
    candidate = Candidate(
        id="fake",
        engine="fake",
        recipe=recipe,
        snapshot=SNAPSHOT,
        settings=settings,
        build=build,
        source_sha256="",
        template_sha256="",
        numeric=frozenset(),
    )
    model = one_model(max_replicas=5, idle_s=9.0)
    spec = cluster.spec(model, model.versions[0], candidate)
    assert (spec.slots, spec.target, spec.n_cpus, spec.initial_replicas, spec.max_replicas, spec.idle_s) == (4, 4.0, 3, 1, 5, 9.0)
    assert spec.app.startswith("trimtab-here-")
    assert cluster.spec(one_model(max_replicas=6), model.versions[0], candidate).app == spec.app, "it is scaled where it is"
    assert cluster.spec(model, dataclasses.replace(model.versions[0], slots=2), candidate).app != spec.app


# The scheduler sees a pool as one replica, and a cluster's new version is up before the old one gets no more


def one_model(content="1", **options):
    version = Version(id="v", lock="/x/deploy.toml", content_sha256=content)
    return ServedModel(name="letters", versions=(version,), rollout=Rollout(stable="v"), **options)


def site_of(content="1", cluster="ray", **options):
    return Site(models=(one_model(content, **options),), cluster=cluster)


class FakePool(FakeReplica):
    state = "sleeping"

    def replicas(self):
        return [{"number": 1, "status": "ready", "running": 0, "slots": 4, "memory_bytes": 5, "node": "10.0.0.9"}]

    def facts(self):
        return {"cluster": "up"}

    async def rescale(self, model):
        return self.slots * model.max_replicas


def test_a_pool_is_one_replica_that_stays():
    (plan,) = plans_of(site_of(max_replicas=7, min_replicas=3, idle_s=1.0))
    assert (plan.min_replicas, plan.max_replicas, plan.memory_bytes, plan.idle_s) == (1, 1, 0, float("inf"))
    (plan,) = plans_of(site_of(cluster="", max_replicas=7, min_replicas=3, idle_s=1.0))
    assert (plan.min_replicas, plan.max_replicas, plan.idle_s) == (3, 7, 1.0)


def test_a_new_version_is_up_before_the_old_one_gets_no_more():
    made = []

    def make(model, version):
        made.append((version.content_sha256, FakePool(load_s=0.2)))
        return made[-1][1]

    async def run():
        dispatcher = Dispatcher(site_of("1"), make)
        async with dispatcher.lease("v", wait_s=5) as old:
            pass
        preparing = asyncio.create_task(dispatcher.prepare(site_of("2")))
        await asyncio.sleep(0.1)
        async with dispatcher.lease("v", wait_s=5) as still:
            assert still is old
        await preparing
        assert made[1][1].is_running
        assert old.is_running
        await dispatcher.reconfigure(site_of("2"))
        async with dispatcher.lease("v", wait_s=5) as new:
            assert new is made[1][1]
        await asyncio.sleep(0.05)
        assert not old.is_running
        assert dispatcher.states() == {"letters": "sleeping"}
        (row,) = [row for row in dispatcher.snapshot()["versions"] if not row["leaving"]]
        assert (row["replicas"][0]["node"], row["pool"]["cluster"]) == ("10.0.0.9", "up")
        assert await dispatcher.drain(5)
        assert not new.is_running

    asyncio.run(run())
    assert [content for content, _ in made] == ["1", "2"]


def test_more_replicas_are_more_places_in_the_pool_that_is_there():
    made = []

    def make(model, version):
        made.append(FakePool(slots=1))
        return made[-1]

    async def run():
        dispatcher = Dispatcher(site_of(max_replicas=1), make)
        async with dispatcher.lease("v", wait_s=5):
            with pytest.raises(Refusal):
                async with dispatcher.lease("v", wait_s=0.05):
                    pass
            more = site_of(max_replicas=2)
            await dispatcher.prepare(more)
            await dispatcher.reconfigure(more)
            async with dispatcher.lease("v", wait_s=0.05):
                pass
        assert await dispatcher.drain(5)

    asyncio.run(run())
    assert len(made) == 1


def test_a_new_version_that_does_not_come_up_changes_nothing():
    async def run():
        made = []

        def make(model, version):
            made.append(FakePool(fault="" if version.content_sha256 == "1" else "never"))
            return made[-1]

        dispatcher = Dispatcher(site_of("1"), make)
        async with dispatcher.lease("v", wait_s=5):
            pass
        with pytest.raises(InfeasibleError):
            await dispatcher.prepare(site_of("2"))
        async with dispatcher.lease("v", wait_s=5) as still:
            assert still is made[0]
        assert await dispatcher.drain(5)

    asyncio.run(run())


# The replica itself, without Ray around it


def test_a_node_must_hold_what_was_certified(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    file = tmp_path / "m.gguf"
    snapshot = dataclasses.replace(
        SNAPSHOT, root=tmp_path, files=(SnapshotFile(name="m.gguf", size_bytes=1, sha256=hashlib.sha256(b"x").hexdigest()),)
    )
    spec = dataclasses.replace(SPEC, snapshot=snapshot)
    with pytest.raises(InputError, match="has no"):
        ray_replica.check_files(spec)
    file.write_bytes(b"y")
    with pytest.raises(InputError, match="not the file that was certified"):
        ray_replica.check_files(spec)
    file.write_bytes(b"x")
    ray_replica.check_files(spec)


def test_frames_that_have_come_go_out_together():
    async def run():
        async def frames():
            yield WORDS[0]
            yield WORDS[1]
            await asyncio.sleep(0.05)
            yield WORDS[0]

        return [group async for group in ray_replica._gathered(frames())]

    assert asyncio.run(run()) == [WORDS, [WORDS[0]]]
