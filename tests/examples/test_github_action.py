"""The workflow to copy: its command is one that `check` takes, and the files it names are those that the command writes."""

import re
import shlex
from pathlib import Path

import click
import pytest

from trimtab.cli.main import cli

yaml = pytest.importorskip("yaml")
FOLDER = Path(__file__).parents[2] / "examples" / "github-action"


def test_the_workflow_asks_what_check_takes():
    workflow = yaml.safe_load((FOLDER / "trimtab-check.yml").read_text())
    steps = workflow["jobs"]["check"]["steps"]
    script = next(step["run"] for step in steps if "trimtab check" in step.get("run", ""))
    words = shlex.split(re.search(r"trimtab (check .*?) \|\|", script)[1])
    asked = cli.get_command(click.Context(cli), "check").make_context("check", words[1:]).params
    assert asked["lock"] == Path("deploy.toml")
    assert next(step["with"]["path"] for step in steps if "upload-artifact" in step.get("uses", "")) == str(asked["junit"])
    assert "$GITHUB_STEP_SUMMARY" in words


def test_what_is_installed_is_what_the_readme_says_to_write():
    """setup-python's cache of pip wants that file, and the engines' versions are pinned nowhere else."""
    workflow = (FOLDER / "trimtab-check.yml").read_text()
    assert "pip install -r requirements.txt" in workflow
    assert "`requirements.txt` with `trimtab[llamacpp,openvino]`" in (FOLDER / "README.md").read_text()
