"""What `check` is made of: the draw, the known answers, the watch list, the checks of the lock."""

import dataclasses
from types import SimpleNamespace

import pytest

from trimtab.cli.main import main
from trimtab.core.deployment import EngineBuild, Recipe, Settings
from trimtab.core.errors import InputError
from trimtab.core.evidence import Item, Outcome
from trimtab.core.files import digest_of
from trimtab.core.model import Snapshot, SnapshotFile
from trimtab.core.policy import GateSpec, Policy
from trimtab.engines.base import ScoreRequest
from trimtab.evaluate.requests import ItemPlace, OptionPlace, PreparedRequest, PreparedSuite
from trimtab.evaluate.suites.registry import Suite
from trimtab.flows.certify import suite_notes
from trimtab.flows.parts.flip_risk import nearest_to_a_flip, requests_for, watch_rows
from trimtab.flows.parts.known import KNOWN_CLUSTERS, known_answers
from trimtab.flows.parts.lock_checks import Beside, build_check, digest_check, read_beside, settings_check, source_check
from trimtab.flows.parts.locked import _locked_reference
from trimtab.flows.parts.resample import fresh_sample, reproduced
from trimtab.record.deploy import DeployLock, LockedReference, deploy_toml

ZEROS, ONES = "0" * 64, "1" * 64
GATE = GateSpec(name="text", kind="non_inferiority", suite="text", margin=0.03, unit="nats/token", reason="test")
POLICY = Policy(name="p", version="1", gates=(GATE,), noise_multiple=3.0)


def prepared(suite="text", n_clusters=40, per_cluster=2):
    requests = []
    for n in range(n_clusters):
        places = tuple(
            ItemPlace(
                item=Item(id=f"{suite}-{n}-{k}", suite=suite, cluster=f"c{n}", scorer="nats_per_token", options=(" a",)),
                options=(OptionPlace(continuation=0, first=0, n_tokens=1),),
            )
            for k in range(per_cluster)
        )
        requests.append(PreparedRequest(request=ScoreRequest(prefix_ids=(1,), continuations=((2,),)), places=places))
    return PreparedSuite(requests=tuple(requests))


def outcomes(n=40, shift=0.0, suite="text", correct=None):
    rows = [(n_ % 7 - 3) / 2 + 0.1 + shift for n_ in range(n)]
    return tuple(
        Outcome(
            item_id=f"{suite}-{i}-0", suite=suite, cluster=f"c{i}", value=value, n_tokens=5, correct=None if correct is None else value > 0
        )
        for i, value in enumerate(rows)
    )


def clusters(sample):
    return {one.cluster for one in sample.requests}


def test_the_draw_takes_whole_clusters_by_seed_alone():
    whole = prepared()
    one, other = fresh_sample(whole, 0.25, 1, {}), fresh_sample(whole, 0.25, 2, {})
    assert len(clusters(one)) == len(clusters(other)) == 10
    assert clusters(one) != clusters(other)
    assert one == fresh_sample(whole, 0.25, 1, {})
    assert len(one.items) == 20
    assert len(clusters(fresh_sample(whole, 0.01, 1, {"text": 15}))) == 15
    assert fresh_sample(whole, 1.0, 3, {}) == whole
    assert clusters(fresh_sample(whole, 0.25, 1, {})) <= clusters(fresh_sample(whole, 0.5, 1, {})), "a larger share adds to a smaller"


def test_the_draw_is_even():
    """Each of 40 clusters is drawn by a quarter of the seeds: 4 standard errors of 400 draws is 0.087."""
    whole = prepared()
    counts = dict.fromkeys(clusters(whole), 0)
    for seed in range(400):
        for name in clusters(fresh_sample(whole, 0.25, seed, {})):
            counts[name] += 1
    assert all(abs(count / 400 - 0.25) < 0.087 for count in counts.values())


@pytest.mark.parametrize(("shift", "ok"), [(0.0, True), (0.009, True), (-0.009, True), (0.011, False), (-0.011, False)])
def test_known_answers_may_move_by_the_floor_that_the_margin_allows(shift, ok):
    """margin 0.03 / 3 = 0.01; the shift is the same for all items, so its standard error is 0."""
    found = reproduced(POLICY, outcomes(), outcomes(shift=shift))
    assert found.ok is ok
    assert found.n_items == 40
    assert found.worst == pytest.approx(abs(shift) / 0.01, abs=1e-6)


def test_a_known_answer_without_a_value_and_none_at_all_are_not_found_again():
    gone = (dataclasses.replace(outcomes()[0], value=None, error="it crashed"), *outcomes()[1:])
    found = reproduced(POLICY, outcomes(), gone)
    assert not found.ok
    assert "1 of 40 known items could not be scored (it crashed)" in found.sentence
    assert not reproduced(POLICY, outcomes(), outcomes(suite="other")).ok


def test_the_watch_list_is_what_lies_nearest_to_a_flip():
    stored = outcomes(correct=True)
    watched = nearest_to_a_flip(stored, 5)
    assert [abs(one.value) for one in watched] == sorted(abs(one.value) for one in stored)[:5]
    assert nearest_to_a_flip(outcomes(), 5) == (), "an item without a right answer cannot flip"
    now = tuple(dataclasses.replace(one, value=-one.value, correct=not one.correct) for one in watched[:2]) + watched[2:4]
    rows = watch_rows(watched, now)
    assert [row["flip"] for row in rows] == ["lost" if watched[0].correct else "gained"] * 2 + ["", ""]
    assert {item.id for item in requests_for(prepared(), ["text-3-0"]).items} == {"text-3-0", "text-3-1"}


def test_a_lock_carries_few_answers_of_clusters_of_their_own():
    known = known_answers(
        (*outcomes(), *outcomes(n=3, suite="small"), Outcome(item_id="x", suite="y", cluster="c", value=None, n_tokens=1))
    )
    assert {suite: len(values) for suite, values in known.items()} == {"small": 3, "text": KNOWN_CLUSTERS}
    values = {one.item_id: one.value for one in outcomes()}
    assert all(values[item_id] == value for item_id, value in known["text"].items())


def a_lock(**changes):
    files = (SnapshotFile(name="m.gguf", size_bytes=10, sha256=ZEROS), SnapshotFile(name="n.gguf", size_bytes=10, sha256=ZEROS))
    values = {
        "id": "llamacpp q8_0", "verdict": "pass", "decision_sha256": ZEROS, "source": "m.gguf", "revision": "", "format": "gguf",
        "source_files": files, "source_sha256": Snapshot(source="", format="gguf", root=None, files=files).digest, "weights_sha256": ZEROS,
        "recipe": Recipe(name="llamacpp-q8_0", family="gguf", engine="llamacpp"), "template_sha256": ZEROS,
        "build": EngineBuild(engine="llamacpp", version="1"), "settings": Settings(slots=4), "policy": "standard", "policy_sha256": ZEROS,
        "suite": "core", "suite_sha256": ZEROS, "workload": "chat", "workload_sha256": ZEROS, "reference_sha256": ZEROS, "machine": "cpu",
        "machine_sha256": ZEROS, "made": "2026-11-25T00:00:00Z", "trimtab": "0.1.0",
    }  # fmt: skip
    return DeployLock(**(values | changes))


def test_a_suite_of_the_lock_with_other_items_is_one_sentence():
    item = Item(id="a", suite="mine", cluster="a", scorer="nats_per_token", options=("some text",))
    suite = Suite(name="mine", version="1", items=(item,))
    same = digest_of([suite.digest])
    assert suite_notes(a_lock(suite="mine", suite_sha256=same), [suite]) == ()
    assert suite_notes(a_lock(suite="core"), [suite]) == (), "other suites were asked for"
    (note,) = suite_notes(a_lock(suite="mine"), [suite])
    assert f"suite mine has other items than those the lock was certified on (sha256 000000000000 then, {same[:12]} now)" in note
    found = digest_check("suite", ZEROS, same, what="Suite mine", why="Judged on its present items.", numeric=False)
    assert (found.state, found.fails) == ("changed", False)
    assert found.sentence == "Suite mine: changed since it was certified. Judged on its present items."


def snapshot(*files):
    return Snapshot(
        source="m.gguf", format="gguf", root=None, files=tuple(SnapshotFile(name=n, size_bytes=s, sha256=d) for n, s, d in files)
    )


def test_source_files_are_named_by_what_is_wrong_with_them():
    assert source_check(a_lock(), snapshot(("n.gguf", 10, ZEROS), ("m.gguf", 10, ZEROS))).state == "same"
    found = source_check(a_lock(), snapshot(("m.gguf", 12, ONES), ("o.gguf", 10, ZEROS)))
    assert (found.state, found.fails) == ("changed", True)
    for words in ("m.gguf has other contents", "10 bytes then and 12 now", "n.gguf is missing", "o.gguf was not there"):
        assert words in found.sentence


def test_a_reference_by_a_recipe_file_that_the_lock_does_not_hold_is_asked_for():
    then = LockedReference(source="m.gguf", engine="llamacpp", recipe="mine", settings=Settings(), weights_sha256=ZEROS)
    with pytest.raises(InputError, match=r'give it with --reference "llamacpp:m\.gguf\?recipe=FILE\.toml"'):
        _locked_reference(a_lock(reference=then))
    kept = dataclasses.replace(then, own_recipe=Recipe(name="mine", family="gguf", engine="llamacpp"))
    assert _locked_reference(a_lock(reference=kept)).recipe == "mine"


def test_another_build_is_a_reason_to_measure_and_no_failure():
    found = build_check(EngineBuild(engine="llamacpp", version="1"), EngineBuild(engine="llamacpp", version="2"))
    assert (found.state, found.fails, found.numeric) == ("changed", False, True)
    assert "version 1, now 2" in found.sentence


@pytest.mark.parametrize(("given", "numeric"), [({"slots": 4, "threads": 2}, False), ({"slots": 4, "kv_type": "q4_0"}, True)])
def test_settings_tell_whether_outputs_may_change(given, numeric):
    beside = Beside(folder=None, settings={"slots": 4}, policy={}, versions={}, candidate=())
    found = settings_check(a_lock(settings=Settings.parse(given)), beside, frozenset({"kv_type"}))
    assert (found.state, found.numeric, found.fails) == ("changed", numeric, False)


def test_a_folder_that_is_no_run_or_another_is_said_and_not_used(tmp_path):
    assert read_beside(tmp_path, a_lock())[0] is None
    (tmp_path / "decision.json").write_text('{"schema": "trimtab.decision/1"}')
    found, why = read_beside(tmp_path, a_lock())
    assert found is None
    assert "not the one" in why
    (tmp_path / "decision.json").write_text("{")
    assert "cannot be read" in read_beside(tmp_path, a_lock())[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "There is no"),
        ("not toml [", "not valid TOML"),
        ('schema = "trimtab.deploy/9"\n', "newer trimtab"),
        ('schema = "trimtab.decision/1"\n', "not a lockfile of trimtab"),
        (deploy_toml(a_lock()).replace('slots = 4', 'slots = 5'), "was edited"),
        (deploy_toml(a_lock(build=EngineBuild(engine="vlm", version="1"))), "names the engine 'vlm'"),
    ],
)  # fmt: skip
def test_a_bad_lock_is_one_sentence_and_exit_2(tmp_path, capsys, text, words):
    path = tmp_path / "deploy.toml"
    if text is not None:
        path.write_text(text)
    assert main(["check", str(path), "-q"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert words in said[0]


def test_a_lock_whose_model_is_gone_asks_where_it_lies(tmp_path, capsys):
    pytest.importorskip("llama_cpp")
    (tmp_path / "deploy.toml").write_text(deploy_toml(a_lock(source="gone.gguf")))
    assert main(["check", str(tmp_path / "deploy.toml"), "-q"]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert "gone.gguf, which" in said
    assert "is not here; give where it lies now with --source." in said


def test_a_missing_engine_is_exit_3_with_its_fix(tmp_path, capsys, monkeypatch):
    from trimtab.core.errors import MissingError

    def build():
        raise MissingError("llama-cpp-python is not installed.", "pip install 'trimtab[llamacpp]'")

    monkeypatch.setattr("trimtab.flows.parts.locked.engine_class", lambda name: SimpleNamespace(build=build))
    (tmp_path / "deploy.toml").write_text(deploy_toml(a_lock()))
    assert main(["check", str(tmp_path / "deploy.toml"), "-q"]) == 3
    assert "pip install" in capsys.readouterr().err
