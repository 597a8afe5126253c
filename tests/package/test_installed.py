"""Installed packages as wheels and as files of an image: complete, and the same bytes each time."""

import base64
import csv
import hashlib
import io
import marshal
import os
import subprocess
import sys
import types
import zipfile
from importlib.metadata import PackageNotFoundError

import pytest

from trimtab.core.errors import MissingError
from trimtab.package import installed
from trimtab.package.compiled import compiled_members
from trimtab.package.installed import packages_for, wheel_name, write_wheel


@pytest.fixture(scope="module")
def packages():
    return {package.stem.partition("-")[0]: package for package in packages_for(["serve"])}


def test_what_serving_needs_is_found_and_nothing_else(packages):
    assert {"trimtab", "click", "uvicorn", "cryptography", "cffi", "numpy"} <= set(packages)
    assert not {"pytest", "openvino", "llama_cpp_python", "ruff", "pip"} & set(packages)


def test_a_package_is_left_out_with_what_only_it_needs(packages):
    fewer = {package.stem.partition("-")[0] for package in packages_for(["serve"], without={"cryptography"})}
    assert set(packages) - fewer == {"cryptography", "cffi", "pycparser"}


def test_one_that_is_worked_on_where_it_lies_is_packed_from_there(packages):
    own = packages["trimtab"]
    assert {"trimtab/__init__.py", "trimtab/catalog/shelf.toml", "trimtab/py.typed", f"{own.stem}.dist-info/METADATA"} <= set(own.files)
    assert not [name for name in own.files if "__pycache__" in name or name.startswith("__editable__") or "direct_url" in name]
    assert wheel_name(own) == f"{own.stem}-py3-none-any.whl"


def test_a_package_that_is_not_here_is_named_with_how_to_get_it(monkeypatch):
    def gone(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installed, "distribution", gone)
    with pytest.raises(MissingError, match=r"pip install 'trimtab'"):
        packages_for(["serve"])


def test_a_wheel_is_whole_and_the_same_twice(packages, tmp_path):
    (tmp_path / "again").mkdir()
    path = write_wheel(packages["httptools"], tmp_path)
    assert path.name.startswith(f"{packages['httptools'].stem}-cp3")
    assert path.read_bytes() == write_wheel(packages["httptools"], tmp_path / "again").read_bytes()
    with zipfile.ZipFile(path) as wheel:
        (record,) = [name for name in wheel.namelist() if name.endswith(".dist-info/RECORD")]
        rows = {name: digest for name, digest, _ in csv.reader(io.StringIO(wheel.read(record).decode()))}
        assert set(rows) == set(wheel.namelist())
        for name in set(rows) - {record}:
            digest = base64.urlsafe_b64encode(hashlib.sha256(wheel.read(name)).digest()).rstrip(b"=").decode()
            assert rows[name] == f"sha256={digest}"


@pytest.mark.slow
def test_pip_installs_such_a_wheel(packages, tmp_path):
    wheel = write_wheel(packages["click"], tmp_path)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--target",
        str(tmp_path / "t"),
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-c", "import click; print(click.__file__)"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "t")}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.startswith(str(tmp_path / "t"))


DIGESTS = """
import hashlib, sys
from pathlib import Path
from trimtab.package.compiled import compiled_members
whole = hashlib.sha256()
for path in sorted(Path(sys.argv[1]).rglob("*.py")):
    for member in compiled_members("opt/" + path.name, path.read_bytes()):
        whole.update(member.content)
print(whole.hexdigest())
"""


def test_compiled_files_are_the_same_in_another_process_and_run(packages, tmp_path):
    folder = packages["click"].files["click/__init__.py"].parent
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGESTS, str(folder)], env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    (member,) = compiled_members("opt/click/core.py", (folder / "core.py").read_bytes())
    assert member.name == f"opt/click/__pycache__/core.{sys.implementation.cache_tag}.pyc"
    assert isinstance(marshal.loads(member.content[16:]), types.CodeType)


def test_a_compiled_file_is_used_as_it_is(tmp_path):
    source = tmp_path / "told.py"
    source.write_text("WORD = 'compiled'\n")
    (member,) = compiled_members("told.py", source.read_bytes())
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / member.name).write_bytes(member.content)
    source.write_text("WORD = 'source'\n")
    done = subprocess.run(
        [sys.executable, "-B", "-c", "import told; print(told.WORD)"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "compiled"


@pytest.mark.parametrize("source", [b"def", b"a = '\x00'", b"\xff = 1"])
def test_what_does_not_compile_has_no_compiled_form(source):
    assert list(compiled_members("a.py", source)) == []
