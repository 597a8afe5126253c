"""Outcomes, cache, homes and the lockfile: what is written is read back equal, and damage is a sentence or a miss."""

import math
import os
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.deployment import EngineBuild, Recipe, Settings
from trimtab.core.errors import InputError, TrimtabError
from trimtab.core.evidence import Outcome
from trimtab.core.files import digest_of
from trimtab.core.model import SnapshotFile
from trimtab.core.toml import to_toml
from trimtab.record import home
from trimtab.record.cache import Cache, TimingPair, evaluation_key, timing_key
from trimtab.record.deploy import DeployLock, LockedReference, deploy_toml, read_deploy_toml, write_deploy_toml
from trimtab.record.outcomes import outcomes_from_bytes, outcomes_to_bytes, read_outcomes, write_outcomes

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
name = st.text(string.ascii_letters + string.digits + ' ._-/"\\\n#=[]', min_size=1, max_size=12)
sha = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
outcome = st.builds(
    Outcome,
    item_id=text,
    suite=text,
    cluster=text,
    value=st.none() | st.floats(allow_nan=False),
    n_tokens=st.integers(0, 2**40),
    group=text,
    picked=st.none() | st.integers(0, 10),
    correct=st.none() | st.booleans(),
    error=text,
    p_options=st.lists(st.floats(0.0, 1.0), max_size=4).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(outcome, max_size=20), st.dictionaries(st.sampled_from(["suite", "deployment"]), text))
def test_outcomes_round_trip(rows: list[Outcome], metadata: dict[str, str]) -> None:
    data = outcomes_to_bytes(rows, metadata)
    assert outcomes_from_bytes(data) == (tuple(rows), metadata)
    assert outcomes_to_bytes(rows, metadata) == data


def test_files_from_before_probabilities_were_kept_are_read() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [Outcome(item_id="i", suite="s", cluster="c", value=0.5, n_tokens=3, correct=True)]
    older = pq.read_table(pa.BufferReader(outcomes_to_bytes(rows))).drop_columns(["p_options"])
    sink = pa.BufferOutputStream()
    pq.write_table(older, sink)
    assert outcomes_from_bytes(bytes(sink.getvalue()))[0] == tuple(rows)


def test_a_missing_value_stays_missing_and_not_a_number_is_kept() -> None:
    rows = [Outcome(item_id=str(i), suite="s", cluster="c", value=v, n_tokens=1) for i, v in enumerate([None, 0.0, math.nan, -math.inf])]
    values = [row.value for row in outcomes_from_bytes(outcomes_to_bytes(rows))[0]]
    assert values[:2] == [None, 0.0]
    assert math.isnan(values[2] or 0.0)
    assert values[3] == -math.inf


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_outcomes_are_an_input_error_or_equal(data: st.DataObject) -> None:
    rows = [Outcome(item_id=f"i{i}", suite="s", cluster="c", value=i / 7, n_tokens=i) for i in range(30)]
    raw = bytearray(outcomes_to_bytes(rows))
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(InputError):
        outcomes_from_bytes(bytes(raw[:cut]))


def test_outcomes_file_of_another_schema_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"not a trimtab\.outcomes document"):
        read_outcomes(tmp_path / "other.parquet")
    write_outcomes(tmp_path / "mine.parquet", [])
    assert read_outcomes(tmp_path / "mine.parquet") == ((), {})


def _evaluation_key(**changes: object) -> str:
    parts = {
        "weights_sha256": "a" * 64,
        "template_sha256": "b" * 64,
        "build_sha256": "c" * 64,
        "numeric_settings": {"kv_type": "f16"},
        "reference_sha256": "d" * 64,
        "suite_sha256": "e" * 64,
        "scorer_sha256": "f" * 64,
    }
    return evaluation_key(**{**parts, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"weights_sha256": "0" * 64},
        {"template_sha256": "0" * 64},
        {"build_sha256": "0" * 64},
        {"numeric_settings": {"kv_type": "q8_0"}},
        {"reference_sha256": "0" * 64},
        {"suite_sha256": "0" * 64},
        {"scorer_sha256": "0" * 64},
    ],
)
def test_evaluation_key_sees_every_part(changes: dict[str, object]) -> None:
    assert _evaluation_key(**changes) != _evaluation_key()
    assert _evaluation_key() == _evaluation_key()


def test_timing_key_is_of_an_ordered_pair() -> None:
    parts = {"machine_sha256": "a" * 64, "workload_sha256": "b" * 64}
    one = timing_key(**parts, candidate_sha256="c" * 64, baseline_sha256="d" * 64)
    assert one != timing_key(**parts, candidate_sha256="d" * 64, baseline_sha256="c" * 64)


ROWS = tuple(Outcome(item_id=f"i{i}", suite="s", cluster=f"c{i % 3}", value=i / 3, n_tokens=i) for i in range(20))


def test_cache_hit_miss_and_every_flipped_byte_is_a_miss(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    key = _evaluation_key()
    assert cache.get_outcomes(key) is None
    assert cache.put_outcomes(key, ROWS) == ""
    assert cache.get_outcomes(key) == ROWS
    [path] = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    good = path.read_bytes()
    for position in range(0, len(good), 17):
        bad = bytearray(good)
        bad[position] ^= 0x40
        path.write_bytes(bytes(bad))
        assert cache.get_outcomes(key) is None
        assert not path.exists()
    path.write_bytes(good[:-1])
    assert cache.get_outcomes(key) is None


def test_an_entry_under_another_key_is_not_taken(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    one, two = "1" * 64, "2" * 64
    cache.put_json("screen", one, {"kl_nats": 0.1})
    (tmp_path / "screen" / "22").mkdir()
    os.link(tmp_path / "screen" / "11" / one, tmp_path / "screen" / "22" / two)
    assert cache.get_json("screen", two) is None
    assert cache.get_json("screen", one) == {"kl_nats": 0.1}


def test_timings_are_kept_as_pairs(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    pair = TimingPair(session="s", candidate={"points": []}, baseline={"points": []}, ratios={"1": {"e2e_ms_p50": {"ratio": 2.0}}})
    assert cache.put_timing("3" * 64, pair) == ""
    assert cache.get_timing("3" * 64) == pair
    cache.put_json("timing", "4" * 64, {"candidate": {}})
    assert cache.get_timing("4" * 64) is None


def test_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIMTAB_CACHE", raising=False)
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    assert home.state_dir() == tmp_path / "home"
    assert home.cache_dir() == tmp_path / "home" / "cache"
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "else"))
    assert home.cache_dir() == tmp_path / "else"
    assert (tmp_path / "else").is_dir()
    monkeypatch.delenv("TRIMTAB_CACHE")
    monkeypatch.delenv("TRIMTAB_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xcache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home.state_dir() != home.cache_dir()
    assert tmp_path in home.state_dir().parents


@pytest.mark.parametrize("value", ["relative/path", "~no-such-user-here/x", "{file}/below"])
def test_a_bad_home_is_one_sentence(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRIMTAB_HOME", value.replace("{file}", str(tmp_path / "file")))
    with pytest.raises(InputError) as caught:
        home.state_dir()
    assert "\n" not in str(caught.value)


plain = st.recursive(
    text | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(text, plain, max_size=5))
def test_toml_round_trip(document: dict[str, object]) -> None:
    import tomllib

    assert tomllib.loads(to_toml(document)) == document


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**63, object(), "\ud800", [None]])
def test_toml_refuses_what_it_cannot_hold(value: object) -> None:
    with pytest.raises(InputError):
        to_toml({"a": value})


recipes = st.builds(
    Recipe,
    name=name,
    family=name,
    engine=name,
    title=text,
    parameters=st.dictionaries(text, st.integers(0, 9) | text | st.lists(text, max_size=2), max_size=3),
    bits_per_weight=st.floats(0.1, 32),
)
locks = st.builds(
    DeployLock,
    id=text,
    verdict=st.sampled_from(["pass", "fail", "inconclusive"]),
    decision_sha256=sha,
    source=text,
    revision=text,
    format=st.sampled_from(["gguf", "safetensors", "openvino"]),
    source_files=st.lists(st.builds(SnapshotFile, name=name, size_bytes=st.integers(0, 2**50), sha256=sha), max_size=3).map(tuple),
    source_sha256=sha,
    weights_sha256=sha,
    recipe=recipes,
    template_sha256=sha | st.just(""),
    build=st.builds(EngineBuild, engine=name, version=text, details=text),
    settings=st.builds(
        Settings,
        threads=st.none() | st.integers(1, 64),
        kv_type=st.none() | st.sampled_from(["f16", "q8_0"]),
        flash_attention=st.none() | st.booleans(),
        tensor_split=st.none() | st.lists(st.floats(0, 1), min_size=1, max_size=3).map(tuple),
    ),
    policy=text,
    policy_sha256=sha,
    suite=text,
    suite_sha256=sha,
    workload=text,
    workload_sha256=sha,
    reference_sha256=sha,
    machine=text,
    machine_sha256=sha,
    made=text,
    trimtab=text,
    reference=st.none()
    | st.builds(
        LockedReference,
        source=text,
        engine=name,
        recipe=name,
        settings=st.builds(Settings, slots=st.integers(1, 9)),
        weights_sha256=sha,
        own_recipe=st.none() | recipes,
    ),
    known_answers=st.dictionaries(name, st.dictionaries(name, st.floats(-99, 99), min_size=1, max_size=3), max_size=2),
)


@settings(max_examples=80, deadline=None)
@given(lock=locks)
def test_lockfile_round_trip(lock: DeployLock, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "deploy.toml"
    write_deploy_toml(path, lock)
    assert read_deploy_toml(path) == lock
    assert path.read_text(encoding="utf-8") == deploy_toml(lock)


def example_lock() -> DeployLock:
    zeros = "0" * 64
    return DeployLock(
        id="openvino/int8",
        verdict="pass",
        decision_sha256=zeros,
        source="pypi:demo==1",
        revision="1",
        format="gguf",
        source_files=(SnapshotFile(name="m.gguf", size_bytes=1, sha256=zeros),),
        source_sha256=zeros,
        weights_sha256=zeros,
        recipe=Recipe(name="int8", family="openvino", engine="openvino", parameters={"mode": "int8_asym"}),
        template_sha256=zeros,
        build=EngineBuild(engine="openvino", version="2026.4"),
        settings=Settings(threads=2, tensor_split=(0.5, 0.5)),
        policy="standard",
        policy_sha256=zeros,
        suite="core",
        suite_sha256=zeros,
        workload="chat",
        workload_sha256=zeros,
        reference_sha256=zeros,
        machine="a cpu",
        machine_sha256=digest_of("m"),
        made="2026-11-25T00:00:00Z",
        trimtab="0.1.0",
    )


def test_every_edit_of_the_lockfile_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "deploy.toml"
    whole = deploy_toml(example_lock())
    lines = whole.splitlines()
    for index, line in enumerate(lines):
        if "=" not in line or line.startswith("#"):
            continue
        for changed in ([*lines[:index], *lines[index + 1 :]], [*lines[:index], line.split("=")[0] + "= 1999-01-01", *lines[index + 1 :]]):
            path.write_text("\n".join(changed))
            with pytest.raises(InputError) as caught:
                read_deploy_toml(path)
            assert str(path) in str(caught.value) or "setting" in str(caught.value)


@pytest.mark.parametrize("content", ["", "a = ", 'schema = "trimtab.deploy/9"', 'schema = "trimtab.deploy/1"', "\x00"])
def test_a_bad_lockfile_is_an_input_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "deploy.toml"
    path.write_text(content)
    with pytest.raises(TrimtabError) as caught:
        read_deploy_toml(path)
    assert caught.value.exit_code == 2


def test_no_lockfile_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trimtab optimize"):
        read_deploy_toml(tmp_path / "deploy.toml")
