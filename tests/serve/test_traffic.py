import dataclasses
from pathlib import Path

import pytest

from trimtab.core.errors import InputError
from trimtab.core.site import Rollout, ServedModel, Site, Version
from trimtab.serve.base import Refusal
from trimtab.serve.traffic import keep, kept, shifted, with_rollout

MODEL = ServedModel(
    name="chat",
    versions=tuple(Version(id=f"chat@{number}", url="http://127.0.0.1:1/v1") for number in (1, 2, 3)),
    rollout=Rollout(stable="chat@2"),
)
SITE = Site(models=(MODEL, dataclasses.replace(MODEL, name="other")))


def after(*actions: tuple[str, object]) -> Rollout:
    model = MODEL
    for action, percent in actions:
        model = dataclasses.replace(model, rollout=shifted(model, action, percent))
    return model.rollout


def test_a_canary_rises_is_promoted_and_rolled_back() -> None:
    assert after(("canary", 5)) == Rollout(stable="chat@2", canary="chat@3", canary_pct=5.0)
    assert after(("canary", 5), ("rollback", None)) == Rollout(stable="chat@2", canary="chat@3", canary_pct=0.0)
    assert after(("canary", 50), ("promote", None)) == Rollout(stable="chat@3")
    assert after(("canary", 50), ("promote", None), ("rollback", None)) == Rollout(stable="chat@2")
    assert after(("rollback", None)) == Rollout(stable="chat@1")


def test_a_shadow_stays_through_all_of_it() -> None:
    model = dataclasses.replace(MODEL, rollout=Rollout(stable="chat@2", shadow="chat@1", shadow_pct=1.0))
    for action, percent in (("canary", 5), ("rollback", None)):
        assert shifted(model, action, percent).shadow == "chat@1"


def test_a_shadow_may_get_more_of_the_requests() -> None:
    model = dataclasses.replace(MODEL, rollout=Rollout(stable="chat@2", shadow="chat@1", shadow_pct=1.0))
    assert shifted(model, "shadow", 20) == dataclasses.replace(model.rollout, shadow_pct=20.0)
    with pytest.raises(Refusal, match="no shadow"):
        shifted(MODEL, "shadow", 20)


@pytest.mark.parametrize(
    ("actions", "status", "says"),
    [
        ([("promote", None)], 409, "no canary"),
        ([("rollback", None), ("rollback", None)], 409, "before chat@1"),
        ([("canary", 5), ("promote", None), ("canary", 5)], 409, "after chat@3"),
        ([("canary", 101)], 400, "0 to 100"),
        ([("canary", None)], 400, "0 to 100"),
        ([("canary", True)], 400, "0 to 100"),
        ([("canary", float("nan"))], 400, "0 to 100"),
        ([("explode", None)], 400, "rollback, promote, canary"),
    ],
)
def test_what_makes_no_sense_is_refused(actions: list[tuple[str, object]], status: int, says: str) -> None:
    with pytest.raises(Refusal, match=says) as refused:
        after(*actions)
    assert refused.value.status == status


def test_what_was_done_outlives_a_restart_until_the_file_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "traffic.json"
    assert kept(path, SITE) == SITE
    now = with_rollout(SITE, "chat", Rollout(stable="chat@1"))
    keep(path, SITE, now)
    assert kept(path, SITE) == now
    edited = with_rollout(SITE, "chat", Rollout(stable="chat@3"))
    assert kept(path, edited) == edited
    gone = dataclasses.replace(SITE, models=SITE.models[1:])
    assert kept(path, gone) == gone
    without_it = dataclasses.replace(SITE, models=(dataclasses.replace(MODEL, versions=MODEL.versions[1:]), *SITE.models[1:]))
    assert kept(path, without_it) == without_it, "the version that was to answer went from the file"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "trimtab.traffic/9", "models": {}}', '{"schema": "trimtab.traffic/1"}'])
def test_a_broken_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "traffic.json"
    path.write_text(text)
    with pytest.raises(InputError, match="remove it"):
        kept(path, SITE)
