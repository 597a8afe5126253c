"""Known questions: asked of versions that are idle, right where answered as the stable version first did, in no count of requests."""

import asyncio

import pytest

from trimtab.core.site import Rollout, ServedModel, Site, Version
from trimtab.serve.dispatch import Dispatcher
from trimtab.serve.probing import QUESTIONS, Prober
from trimtab.testing.fake_replica import FakeReplica

VERSIONS = (Version(id="chat@1", content_sha256="a", lock="a"), Version(id="chat@2", content_sha256="b", lock="b"))


def site(canary_pct=10.0, **changes):
    rollout = Rollout(stable="chat@1", canary="chat@2", canary_pct=canary_pct)
    return Site(models=(ServedModel(name="chat", versions=VERSIONS, rollout=rollout, **changes),))


class Place:
    """A dispatcher over fake replicas, and a prober before it; `told` holds what it said."""

    def __init__(self, tmp_path, *, here=None):
        self.site = here or site(min_replicas=1)
        self.replicas = {"chat@1": FakeReplica(), "chat@2": FakeReplica(words=("Other",))}
        self.dispatcher = Dispatcher(self.site, lambda model, version: self.replicas[version.id])
        self.told = []
        self.prober = Prober(tmp_path / "probes.json", self.dispatcher, lambda: self.site, self.told.append, every_s=60.0)

    async def up(self):
        self.dispatcher.start()
        while not all(replica.is_running for replica in self.replicas.values()):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)


def values(place, version):
    return [(one.name, one.value, one.model) for one in place.told if one.version == version]


def test_the_stable_versions_first_answers_are_known_for_ever_and_other_words_are_wrong(tmp_path):
    async def run():
        place = Place(tmp_path)
        await place.up()
        for _ in range(2):
            await place.prober.ask_all()
        assert values(place, "chat@1") == [("probe_right", 1.0, "chat")] * 2
        assert values(place, "chat@2") == [("probe_right", 0.0, "chat")] * 2
        assert {one.kind for one in place.told} == {"probe"}
        assert len({one.request for one in place.told}) == 4
        asked = place.replicas["chat@1"].calls[0].body
        assert asked["messages"][0]["content"] == QUESTIONS[0]
        assert asked["temperature"] == 0
        await place.dispatcher.drain(1.0)

        after = Place(tmp_path)
        after.replicas["chat@1"].words = ("Something", " else")
        await after.up()
        await after.prober.ask_all()
        assert values(after, "chat@1") == [("probe_right", 0.0, "chat")], "what was known before the restart holds"
        await after.dispatcher.drain(1.0)

    asyncio.run(run())


def test_nobody_is_woken_or_held_up(tmp_path):
    async def run():
        asleep = Place(tmp_path, here=site())
        await asleep.prober.ask_all()
        assert asleep.told == []
        assert [replica.starts for replica in asleep.replicas.values()] == [0, 0]

        busy = Place(tmp_path)
        await busy.up()
        async with busy.dispatcher.lease("chat@1", wait_s=1.0):
            await busy.prober.ask_all()
        assert busy.replicas["chat@1"].calls == []
        await busy.dispatcher.drain(1.0)

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["refuse", "crash"])
def test_a_question_that_is_not_answered_says_nothing(tmp_path, fault):
    async def run():
        place = Place(tmp_path)
        await place.up()
        place.replicas["chat@1"].fault = fault
        await place.prober.ask_all()
        assert values(place, "chat@1") == []
        await place.dispatcher.drain(1.0)

    asyncio.run(run())


def test_a_version_without_traffic_is_not_asked_and_a_damaged_file_is_begun_anew(tmp_path):
    (tmp_path / "probes.json").write_text("{")

    async def run():
        place = Place(tmp_path)
        await place.up()
        place.site = site(canary_pct=0.0)
        await place.prober.ask_all()
        assert [one.version for one in place.told] == ["chat@1"]
        await place.dispatcher.drain(1.0)

    asyncio.run(run())
