"""An engine under another interpreter: found, asked, started there, and one clear sentence where something is missing."""

import asyncio
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from trimtab.core.deployment import Settings
from trimtab.core.errors import InputError, MissingError
from trimtab.core.model import Snapshot, SnapshotFile
from trimtab.engines import interpreters
from trimtab.engines.client import WorkerClient, WorkerEngine
from trimtab.engines.registry import engine_class
from trimtab.flows.doctor import _engine_checks
from trimtab.flows.parts.opening import engines_at_hand

SNAPSHOT = Snapshot(
    source="fake", format="gguf", root=Path("/nowhere"), files=(SnapshotFile(name="m.gguf", size_bytes=1, sha256="0" * 64),)
)
ENGINE = """
from importlib.metadata import PackageNotFoundError, version

from trimtab.core.deployment import EngineBuild
from trimtab.core.errors import MissingError
from trimtab.testing.fake_engine import FakeEngine


class There(FakeEngine):
    name = "there"

    @classmethod
    def build(cls):
        try:
            return EngineBuild(engine="there", version=version("only-there"))
        except PackageNotFoundError as error:
            raise MissingError(f"The engine there is not installed ({error}).", "pip install only-there") from error
"""
SOURCE = Path(interpreters.__file__).parents[2]


def distribution(folder: Path, name: str, version: str, points: str = "") -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine's own package, which both environments have; its library is another matter."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "there_engine.py").write_text(ENGINE)
    distribution(folder, "there-engine", "1.0", "[trimtab.engines]\nthere = there_engine:There\n")
    return folder


def environment(folder: Path, *paths: Path | str) -> Path:
    """An environment without pip that finds what lies in `paths`. Its interpreter; site-packages lies beside."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site_of(folder) / "found.pth").write_text("\n".join(map(str, paths)) + "\n")
    return folder / "bin" / "python"


def site_of(folder: Path) -> Path:
    (site,) = folder.glob("lib/python*/site-packages")
    return site


@pytest.fixture(scope="module")
def other(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with trimtab, its libraries and the engine's."""
    folder = tmp_path_factory.mktemp("other") / "env"
    python = environment(folder, SOURCE, sysconfig.get_path("purelib"), package)
    distribution(site_of(folder), "only-there", "7.1")
    return python


@pytest.fixture(autouse=True)
def here(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv("TRIMTAB_THERE_PYTHON", raising=False)
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    interpreters._asked.cache_clear()


async def started(**options: str) -> str:
    """The command line of a worker that opened the engine."""
    client = await WorkerClient.start("there", SNAPSHOT, Settings(), **options)
    try:
        return Path(f"/proc/{client.pid}/cmdline").read_text()
    finally:
        await client.close()


def test_without_another_interpreter_the_engine_is_looked_for_here() -> None:
    assert interpreters.python_of("there") == sys.executable
    with pytest.raises(MissingError, match="only-there"):
        engine_class("there").build()
    assert "there" in engines_at_hand(["there"])[1]


def test_an_engine_is_asked_and_runs_where_its_variable_says(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_THERE_PYTHON", str(other))
    kind = engine_class("there")
    assert kind.build().version == "7.1"
    assert kind.numeric_settings == frozenset({"kv_type"})
    assert engines_at_hand(["there"])[0]["there"].build() == kind.build()
    assert interpreters._asked.cache_info().misses == 1, "asked once"
    engine = WorkerEngine(SNAPSHOT, Settings(), engine="there")
    try:
        assert engine.info().build == kind.build()
        command = Path(f"/proc/{engine.client.pid}/cmdline").read_text()
    finally:
        engine.close()
    assert command.startswith(str(other))


def test_doctor_tells_which_interpreter_is_taken(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.engines.registry.engine_names", lambda: ["there"])
    monkeypatch.setenv("TRIMTAB_THERE_PYTHON", str(other))
    assert _engine_checks()[0].found == f"7.1, under {other}"


def test_an_environment_of_its_own_is_found_under_the_home(other: Path, tmp_path: Path) -> None:
    folder = interpreters.own_folder("there")
    assert folder == tmp_path / "home" / "engines" / "there"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(other.parents[1])
    assert engine_class("there").build().version == "7.1"
    assert asyncio.run(started()).startswith(str(folder))


def test_the_interpreter_may_be_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_FAKE_PYTHON", sys.executable)
    assert interpreters.is_own(interpreters.python_of("fake"))


def test_a_path_from_the_root_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_THERE_PYTHON", "env/bin/python")
    with pytest.raises(InputError, match="TRIMTAB_THERE_PYTHON=env/bin/python is not a full path"):
        engine_class("there")


def both_say(words: str) -> None:
    """What asks for the build and what starts a worker give the same sentence, with a fix."""
    with pytest.raises(MissingError, match=words) as asked:
        engine_class("there").build()
    with pytest.raises(MissingError, match=words) as run:
        asyncio.run(started())
    assert asked.value.fix == run.value.fix != ""


def test_no_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_THERE_PYTHON", str(tmp_path / "gone"))
    both_say("cannot be started .No such file")
    (tmp_path / "gone").write_text("no program")
    both_say("cannot be started .Permission denied")


def test_no_trimtab_in_it(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_THERE_PYTHON", str(environment(tmp_path / "env", package)))
    both_say("needs trimtab, which is not installed there")


def test_no_library_of_trimtab_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_THERE_PYTHON", str(environment(tmp_path / "env", tmp_path, SOURCE)))
    (tmp_path / "dataclasses.py").write_text("import no_such_library")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    both_say("where trimtab lacks a library .No module named 'no_such_library'")


def test_the_engines_library_is_missing_there_too(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = environment(tmp_path / "env", SOURCE, sysconfig.get_path("purelib"), package)
    monkeypatch.setenv("TRIMTAB_THERE_PYTHON", str(python))
    with pytest.raises(MissingError, match=f"not installed .*Looked for under {python}") as found:
        engine_class("there").build()
    assert found.value.fix == "pip install only-there"


@pytest.mark.parametrize("child", ["print('{\"protocol\": 0}')", None])
def test_another_version_of_trimtab_in_it(child: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = tmp_path / "old" / "trimtab" / "engines"
    engines.mkdir(parents=True)
    for folder in (engines, engines.parent):
        (folder / "__init__.py").touch()
    if child is not None:
        (engines / "build_child.py").write_text(child)
    (engines / "worker.py").write_text("raise SystemExit(1)")
    monkeypatch.setenv("TRIMTAB_THERE_PYTHON", str(environment(tmp_path / "env", engines.parents[1])))
    both_say("of another version")


def test_an_interpreter_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho cannot find my libraries >&2\nexit 1\n")
    os.chmod(program, 0o755)
    monkeypatch.setenv("TRIMTAB_THERE_PYTHON", str(program))
    both_say("cannot find my libraries")
