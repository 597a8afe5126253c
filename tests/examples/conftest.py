"""Example packages as if they were installed: their modules on the path, with the entry points that their own pyproject.toml names."""

import os
import shutil
import tomllib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def install(package: Path, site: Path) -> None:
    """Copy a package's modules to `site` and write the dist-info that pip would write."""
    project = tomllib.loads((package / "pyproject.toml").read_text())
    name, version = project["project"]["name"], project["project"]["version"]
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = project["project"]["entry-points"].items()
    (info / "entry_points.txt").write_text(
        "\n".join(f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in points.items()) for group, points in groups)
    )
    for module in project["tool"]["setuptools"]["py-modules"]:
        shutil.copy(package / f"{module}.py", site)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the example packages, on the path of this process and of those that it starts."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("own_engine", "own_suite", "own_guard"):
        install(EXAMPLES / name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
        patch.setenv("TRIMTAB_HOME", str(tmp_path_factory.mktemp("home")))
        yield folder


@pytest.fixture(scope="session")
def examples():
    return EXAMPLES
