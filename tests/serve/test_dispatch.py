"""The scheduler's hands, with replicas that are told what to do: leases, deaths, probes, growth, reloads and drains."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from trimtab.core.errors import EngineCrashed, InfeasibleError, InputError
from trimtab.core.site import Rollout, ServedModel, Site, Version
from trimtab.serve.base import Call, Frame, Ready, Refusal, Replica
from trimtab.serve.dispatch import SETTLING_LOOKS, Dispatcher, Rhythm, read_ahead

MIB = 2**20
QUICK = Rhythm(look_s=0.01, probe_s=0.03, busy_probe_s=10.0, probe_limit_s=0.2, load_limit_s=0.5, stop_limit_s=1.0)


class Puppet:
    """A replica that is told what to do."""

    def __init__(self, version: Version) -> None:
        self.version = version
        self.load_s, self.slots, self.memory = 0.0, 2, 100 * MIB
        self.fails: Exception | None = None
        self.probe_fails: Exception | None = None
        self.dies_with: Exception | None = None
        self.n_starts = self.n_stops = self.n_probes = self.n_looks = 0

    async def start(self) -> Ready:
        self.n_starts += 1
        await asyncio.sleep(self.load_s)
        if self.fails is not None:
            raise self.fails
        return Ready(load_s=self.load_s, memory_bytes=self.memory, slots=self.slots)

    async def answer(self, call: Call) -> AsyncIterator[Frame]:
        yield Frame(body=b"1")
        if self.dies_with is not None:
            raise self.dies_with

    async def probe(self) -> None:
        self.n_probes += 1
        if self.probe_fails is not None:
            raise self.probe_fails

    def memory_bytes(self) -> int | None:
        self.n_looks += 1
        return self.memory

    async def stop(self) -> None:
        self.n_stops += 1


def site(*names: str, memory: int | None = None, **model: object) -> Site:
    models = tuple(
        ServedModel(
            name=name,
            versions=(Version(id=name, command=("serve", "{port}"), memory_bytes=100 * MIB),),
            rollout=Rollout(stable=name),
            **model,  # type: ignore[arg-type]
        )
        for name in names
    )
    return Site(models=models, memory_bytes=memory, patience_s=0.05)


class Stage:
    """A dispatcher and the puppets it made, oldest first. prepare: called with each new one."""

    def __init__(self, served: Site, rhythm: Rhythm = QUICK, prepare: Callable[[Puppet], None] = lambda puppet: None) -> None:
        self.puppets: list[Puppet] = []
        self.prepare = prepare
        self.dispatcher = Dispatcher(served, self._make, rhythm=rhythm)

    def _make(self, model: ServedModel, version: Version) -> Replica:
        puppet = Puppet(version)
        self.prepare(puppet)
        self.puppets.append(puppet)
        return puppet


def on_stage(stage: Stage, play: Callable[[Stage], Awaitable[None]]) -> None:
    """Run a play; whatever happens in it, draining ends and every replica that came up was stopped."""

    async def whole() -> None:
        await asyncio.wait_for(play(stage), 20)
        await asyncio.wait_for(stage.dispatcher.drain(2.0), 10)
        assert all(puppet.n_stops for puppet in stage.puppets)
        assert stage.dispatcher.snapshot()["memory_used_bytes"] == 0

    asyncio.run(whole())


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_so():
            await asyncio.sleep(0.005)


def test_a_hundred_who_ask_at_once_share_one_load() -> None:
    async def play(stage: Stage) -> None:
        most = running = 0

        async def ask() -> None:
            nonlocal most, running
            async with stage.dispatcher.lease("a", wait_s=5.0):
                running += 1
                most = max(most, running)
                await asyncio.sleep(0.001)
                running -= 1

        await asyncio.gather(*(ask() for _ in range(100)))
        assert len(stage.puppets) == 1
        assert most == 2
        assert stage.dispatcher.states() == {"a": "ready"}

    on_stage(Stage(site("a"), prepare=lambda puppet: setattr(puppet, "load_s", 0.05)), play)


def test_a_cancelled_wait_frees_its_place() -> None:
    async def play(stage: Stage) -> None:
        async def hold() -> None:
            async with stage.dispatcher.lease("a", wait_s=5.0):
                await asyncio.sleep(60)

        tasks = [asyncio.create_task(hold()) for _ in range(5)]
        await until(lambda: stage.dispatcher.snapshot()["versions"][0]["waiting"] == 3)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        (lane,) = stage.dispatcher.snapshot()["versions"]
        assert (lane["waiting"], lane["replicas"][0]["running"]) == (0, 0)

    on_stage(Stage(site("a")), play)


def test_cancelled_in_the_moment_of_the_grant_nothing_is_lost() -> None:
    async def play(stage: Stage) -> None:
        async with stage.dispatcher.lease("a", wait_s=5.0), stage.dispatcher.lease("a", wait_s=5.0):
            late = asyncio.create_task(stage.dispatcher.lease("a", wait_s=5.0).__aenter__())
            await until(lambda: stage.dispatcher.snapshot()["versions"][0]["waiting"] == 1)
        late.cancel()  # granted by the end of the block, and not yet awake
        with contextlib.suppress(asyncio.CancelledError):
            await late
        assert stage.dispatcher.snapshot()["versions"][0]["replicas"][0]["running"] == 0

    on_stage(Stage(site("a")), play)


def test_a_dead_replica_is_stopped_once_and_the_next_attempt_gets_another() -> None:
    async def play(stage: Stage) -> None:
        async def ask(again: bool = False) -> None:
            async with stage.dispatcher.lease("a", wait_s=5.0, again=again) as replica:
                async for _ in replica.answer(Call(id="1", kind="chat", body={}, stream=True)):
                    pass

        async with stage.dispatcher.lease("a", wait_s=5.0):
            stage.puppets[0].dies_with = EngineCrashed("killed")
            with pytest.raises(EngineCrashed):
                await ask()
        await ask(again=True)
        await until(lambda: stage.puppets[0].n_stops == 1)
        assert len(stage.puppets) == 2
        assert stage.dispatcher.snapshot()["deaths"] == {"a": 1}

    on_stage(Stage(site("a")), play)


def test_who_waits_for_a_load_that_fails_is_told_why() -> None:
    async def play(stage: Stage) -> None:
        with pytest.raises(Refusal, match="The file is damaged") as caught:
            async with stage.dispatcher.lease("a", wait_s=5.0):
                pass
        assert caught.value.status == 503
        assert caught.value.retry_after_s is not None
        assert stage.dispatcher.states() == {"a": "failed"}
        assert len(stage.puppets) == 1

    on_stage(Stage(site("a"), prepare=lambda puppet: setattr(puppet, "fails", InputError("The file is damaged."))), play)


def test_a_load_that_crashed_once_is_tried_again_unseen() -> None:
    failures: list[Exception | None] = [EngineCrashed("killed"), None]

    async def play(stage: Stage) -> None:
        async with stage.dispatcher.lease("a", wait_s=5.0):
            pass
        assert len(stage.puppets) == 2

    on_stage(Stage(site("a"), prepare=lambda puppet: setattr(puppet, "fails", failures.pop(0))), play)


def test_a_load_without_end_is_given_up() -> None:
    async def play(stage: Stage) -> None:
        with pytest.raises(Refusal, match=r"not ready within 0\.5 s"):
            async with stage.dispatcher.lease("a", wait_s=5.0):
                pass

    on_stage(Stage(site("a"), prepare=lambda puppet: setattr(puppet, "load_s", 60.0)), play)


def test_a_surprise_while_loading_is_a_refusal_too() -> None:
    async def play(stage: Stage) -> None:
        with pytest.raises(Refusal, match="KeyError"):
            async with stage.dispatcher.lease("a", wait_s=5.0):
                pass

    on_stage(Stage(site("a"), prepare=lambda puppet: setattr(puppet, "fails", KeyError("x"))), play)


def test_a_wrong_answer_to_the_known_question_replaces_a_replica() -> None:
    async def play(stage: Stage) -> None:
        stage.dispatcher.start()
        await until(lambda: bool(stage.puppets) and stage.puppets[0].n_probes > 0)
        stage.puppets[0].probe_fails = InfeasibleError("It answers otherwise.")
        await until(lambda: stage.dispatcher.states() == {"a": "ready"} and len(stage.puppets) == 2)
        await until(lambda: stage.puppets[0].n_stops == 1)  # which may be a moment after the other one is up

    on_stage(Stage(site("a", min_replicas=1)), play)


def test_a_replica_that_grows_is_replaced_when_its_requests_have_ended() -> None:
    async def play(stage: Stage) -> None:
        async with stage.dispatcher.lease("a", wait_s=5.0):
            stage.puppets[0].memory = 500 * MIB
            await until(lambda: stage.dispatcher.snapshot()["versions"][0]["replicas"][0]["status"] == "retired")
            assert stage.puppets[0].n_stops == 0
        await until(lambda: stage.puppets[0].n_stops == 1)
        async with stage.dispatcher.lease("a", wait_s=5.0):
            assert len(stage.puppets) == 2

    on_stage(Stage(site("a")), play)


def test_what_a_replica_takes_is_learned_while_it_works_where_nobody_says_it() -> None:
    """Weights that are mapped come in, and caches fill, with the first requests: that is no leak."""
    (model,) = site("a").models
    unknown = dataclasses.replace(model, versions=(dataclasses.replace(model.versions[0], memory_bytes=None),))

    async def play(stage: Stage) -> None:
        def status() -> str:
            return str(stage.dispatcher.snapshot()["versions"][0]["replicas"][0]["status"])

        async with stage.dispatcher.lease("a", wait_s=5.0):
            stage.puppets[0].memory = 500 * MIB
            await until(lambda: stage.puppets[0].n_looks > SETTLING_LOOKS + 4)
            assert status() == "ready"
            stage.puppets[0].memory = 900 * MIB
            await until(lambda: status() == "retired")

    on_stage(Stage(Site(models=(unknown,))), play)


def test_two_models_in_memory_for_one_take_turns() -> None:
    async def play(stage: Stage) -> None:
        async def ask(name: str) -> None:
            async with stage.dispatcher.lease(name, wait_s=10.0) as replica:
                assert isinstance(replica, Puppet)
                assert replica.version.id == name
                await asyncio.sleep(0.002)

        await asyncio.gather(*(ask("ab"[number % 2]) for number in range(100)))
        assert len(stage.puppets) <= 8
        assert sum(puppet.n_starts - puppet.n_stops for puppet in stage.puppets) == 1

    on_stage(Stage(site("a", "b", memory=150 * MIB)), play)


def test_idle_replicas_leave_by_themselves() -> None:
    async def play(stage: Stage) -> None:
        async with stage.dispatcher.lease("a", wait_s=5.0):
            pass
        await until(lambda: stage.dispatcher.states() == {"a": "sleeping"} and stage.puppets[0].n_stops == 1)

    on_stage(Stage(site("a", idle_s=0.05)), play)


def test_a_reload_drops_nobody() -> None:
    async def play(stage: Stage) -> None:
        done = asyncio.Event()

        async def hold() -> Version:
            async with stage.dispatcher.lease("a", wait_s=5.0) as replica:
                await done.wait()
                assert isinstance(replica, Puppet)
                return replica.version

        tasks = [asyncio.create_task(hold()) for _ in range(4)]
        await until(lambda: stage.dispatcher.snapshot()["versions"][0]["waiting"] == 2)
        before = site("a")
        changed = dataclasses.replace(before.models[0].versions[0], command=("serve", "--new", "{port}"))
        model = dataclasses.replace(before.models[0], versions=(changed,))
        await stage.dispatcher.reconfigure(dataclasses.replace(before, models=(model,)))
        async with stage.dispatcher.lease("a", wait_s=5.0) as replica:
            assert isinstance(replica, Puppet)
            assert "--new" in replica.version.command
        done.set()
        assert {version.command for version in await asyncio.gather(*tasks)} == {("serve", "{port}")}
        await until(lambda: stage.puppets[0].n_stops == 1)

    on_stage(Stage(site("a")), play)


def test_drain_waits_for_who_is_there_and_cuts_off_after_its_limit() -> None:
    async def play(stage: Stage) -> None:
        async def hold(seconds: float) -> None:
            async with stage.dispatcher.lease("a", wait_s=5.0):
                await asyncio.sleep(seconds)

        short = asyncio.create_task(hold(0.1))
        await until(lambda: bool(stage.puppets) and stage.dispatcher.states()["a"] == "ready")
        assert await stage.dispatcher.drain(5.0)
        assert short.done()
        with pytest.raises(Refusal, match="shutting down"):
            await hold(0.0)

    on_stage(Stage(site("a")), play)

    async def stubborn(stage: Stage) -> None:
        async def hold() -> None:
            async with stage.dispatcher.lease("a", wait_s=5.0):
                await asyncio.sleep(60)

        held = asyncio.create_task(hold())
        await until(lambda: bool(stage.puppets) and stage.dispatcher.states()["a"] == "ready")
        assert not await stage.dispatcher.drain(0.05)
        assert stage.puppets[0].n_stops == 1
        held.cancel()
        await asyncio.wait({held})

    on_stage(Stage(site("a")), stubborn)


def test_draining_while_loading_stops_the_load() -> None:
    async def play(stage: Stage) -> None:
        stage.dispatcher.start()
        await until(lambda: bool(stage.puppets) and stage.puppets[0].n_starts == 1)
        assert await stage.dispatcher.drain(5.0)
        assert stage.puppets[0].n_stops == 1

    on_stage(Stage(site("a", min_replicas=1), prepare=lambda puppet: setattr(puppet, "load_s", 0.4)), play)


def test_files_of_a_version_that_waits_for_memory_are_read_ahead(tmp_path: Path) -> None:
    asked: list[str] = []

    def files_of(version: Version) -> list[Path]:
        asked.append(version.id)
        return []

    async def play() -> None:
        stage = Stage(site("a", "b", memory=150 * MIB))
        stage.dispatcher = Dispatcher(site("a", "b", memory=150 * MIB), stage._make, files_of=files_of, rhythm=QUICK)
        async with stage.dispatcher.lease("a", wait_s=5.0):
            waiting = asyncio.create_task(stage.dispatcher.lease("b", wait_s=5.0).__aenter__())
            await until(lambda: bool(asked))
        await waiting
        assert asked == ["b"]

    asyncio.run(play())
    (tmp_path / "weights").write_bytes(b"x" * 10_000)
    read_ahead([tmp_path / "weights"])
    with pytest.raises(FileNotFoundError):
        read_ahead([tmp_path / "gone"])
