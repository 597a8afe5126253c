"""What the documents say is so: commands parse, make targets, files and links exist, the version has its entry in the changelog."""

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from trimtab.cli.main import VERBS, cli
from trimtab.core import errors

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(text: str) -> list[str]:
    """Command lines in plain code blocks (with or without a prompt) and in inline code, comments cut off."""
    found: list[str] = []
    fence = None
    for line in text.splitlines():
        if line.startswith("```"):
            fence = None if fence is not None else line[3:].strip()
        elif fence in ("", "sh", "bash", "console"):
            found.append(line.strip().removeprefix("$ "))
        elif fence is None:
            found.extend(re.findall(r"`([^`]+)`", line))
    return [re.sub(r"\s+#.*", "", line) for line in found]


def page_commands(word: str) -> list[tuple[str, str]]:
    return [(page.name, line) for page in PAGES for line in commands(page.read_text(encoding="utf-8")) if line.split(" ")[0] == word]


@pytest.mark.parametrize(("page", "line"), page_commands("trimtab"))
def test_every_trimtab_command_parses(page: str, line: str) -> None:
    words = shlex.split(line.partition(" | ")[0].partition(" > ")[0])[1:]
    if not words or words[0] == "VERB" or words == ["--help"]:
        return
    assert words[0] in VERBS, f"{page}: {line}"
    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None
    if len(words) > 1 and words[1] not in ("...", "--help"):
        ctx = command.make_context(words[0], words[1:])
        part = command.get_command(ctx, words[1]) if isinstance(command, click.Group) else None
        if part is not None and len(words) > 2:
            part.make_context(words[1], words[2:])


@pytest.mark.parametrize(("page", "line"), page_commands("make"))
def test_every_make_target_exists(page: str, line: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    asked = [word for word in shlex.split(line)[1:] if "=" not in word]
    assert set(asked) <= targets, f"{page}: {line}"


def test_there_is_something_to_check() -> None:
    assert len(page_commands("trimtab")) > 10
    assert len(page_commands("make")) > 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target


def test_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    source = ROOT / "src" / "trimtab"
    rooms = {path.parent.name for path in source.glob("*/__init__.py")}
    named = set(re.findall(r"^\| `([a-z]+)/?` ", text, re.M))
    assert rooms <= named
    assert {room for room in named if not (source / room).exists()} == set()


def test_readme_tells_every_exit_code() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.M)}
    assert told == {value for name, value in vars(errors).items() if name.startswith("EXIT_")}


def test_changelog_has_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)


def test_constraints_pin_everything_that_is_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines if "==" in line}
    wanted = {re.sub(r"[-_.]+", "-", re.split(r"[<>=!~;\[ ]", name)[0]).lower() for name in asked}
    assert wanted - pinned == set()


def test_everything_that_is_not_python_ships() -> None:
    """Data files of the package are in its package-data, or they would be missing after an ordinary install."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    source = ROOT / "src" / "trimtab"
    shipped = {path for pattern in settings["package-data"]["trimtab"] for path in source.glob(pattern)}
    data = {path for path in source.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"} and "__pycache__" not in path.parts}
    assert data - shipped == set()
