"""What `release push` hands to a registry: a release with its evidence and cards, or the folder of a run."""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cyclonedx")
pytest.importorskip("sqlalchemy")

from trimtab.cli.main import main
from trimtab.core.errors import InputError, MissingError
from trimtab.flows import push as flow
from trimtab.flows.people import add_person
from trimtab.flows.push import Registry, push, registries
from trimtab.flows.release import approve, create, promote, revoke
from trimtab.flows.verify import verify_release

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "parts"))
from sample_run import write_sample_run

USE = """
owner = "Support team"
intended = ["Answers questions about our products"]
prohibited = ["advice on health or law"]
affected = ["customers"]
[answers]
benefit = "Answers at night."
harm = "A wrong answer costs a customer time."
errors = "A person corrects it."
oversight = "The support team reads a sample each week."
redress = "Customers write to us."
"""


class Shelf:
    """A registry that keeps what it was given. files: name -> bytes; verdict: of `trimtab verify` on what came"""

    def __init__(self, **has: bool) -> None:
        self.registry = Registry(push=self.take, takes_weights=has.get("weights", False), takes_aliases=has.get("aliases", True))
        self.given: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.name = "shelf"

    def load(self) -> Registry:
        return self.registry

    def take(self, folder: Path, *, to: str, name: str, version: str, aliases: Sequence[str]) -> dict[str, str]:
        self.given = {"to": to, "name": name, "version": version, "aliases": list(aliases)}
        self.files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        if (folder / "release.json").exists():
            self.given["verdict"] = verify_release(str(folder))["verdict"]
        return {"url": f"{to}/{name}"}


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    made = Shelf()
    monkeypatch.setattr(flow, "entry_points", lambda **wanted: [made] if wanted.get("name", "shelf") == "shelf" else [])
    return made


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with support-chat@1, approved and live."""
    root = tmp_path_factory.mktemp("pushed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(root / "home"))
        write_sample_run(root / "run", root / "weights" / "tiny.gguf")
        (root / "use.toml").write_text(USE)
        add_person("alice")
        add_person("bob", roles=["approver"], by="alice")
        create(root / "run", name="support-chat", use=root / "use.toml", by="alice")
        approve("support-chat@1", note="read", by="bob")
        promote("support-chat@1", by="alice")
        yield root


def test_a_release_goes_out_with_all_that_proves_it_and_the_aliases_it_has(released: Path, shelf: Shelf) -> None:
    found = push("shelf", "support-chat@1", to="there")
    assert shelf.given == {"to": "there", "name": "support-chat", "version": "1", "aliases": ["production"], "verdict": "pass"}
    cards = {"README.md", "bom.cdx.json", "card.html", "technical-file.md"}
    assert {"decision.json", "deploy.toml", "run.json", "release.json", "statement.dsse.json", *cards} <= set(shelf.files)
    assert any(name.startswith("items/") for name in shelf.files)
    assert (found["aliases"], found["with_weights"], found["url"]) == (["production"], False, "there/support-chat")
    push("shelf", "support-chat@production", to="there", aliases=["champion"])
    assert shelf.given["aliases"] == ["champion"]


def test_the_folder_of_a_run_goes_out_without_what_is_nobodys_business(released: Path, shelf: Shelf) -> None:
    (released / "run" / "notes-of-mine.txt").write_text("not for others")
    push("shelf", str(released / "run"), to="there")
    assert (shelf.given["version"], shelf.given["aliases"]) == ("", [])
    assert {"decision.json", "deploy.toml", "README.md"} <= set(shelf.files)
    assert "notes-of-mine.txt" not in shelf.files


def test_weights_go_where_they_are_taken(released: Path, shelf: Shelf) -> None:
    weights = (released / "weights" / "tiny.gguf").read_bytes()
    push("shelf", "support-chat@1", to="there", weights=True)
    assert shelf.files["tiny.gguf"] == weights
    shelf.registry = Registry(push=shelf.take, takes_weights=True, takes_aliases=False)
    assert push("shelf", "support-chat@1", to="there")["with_weights"]
    assert (shelf.files["tiny.gguf"] == weights, shelf.given["aliases"]) == (True, [])
    push("shelf", "support-chat@1", to="there", weights=False)
    assert "tiny.gguf" not in shelf.files


def test_what_cannot_be_pushed_is_one_sentence(released: Path, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no registry 'elsewhere' to push to; there are shelf"):
        push("elsewhere", "support-chat@1", to="there")
    with pytest.raises(InputError, match="support-chat@9"):
        push("shelf", "support-chat@9", to="there")
    with pytest.raises(MissingError, match="--offline"):
        push("shelf", "support-chat@1", to="there", offline=True)
    shelf.registry = Registry(push=shelf.take, takes_weights=True, takes_aliases=False)
    with pytest.raises(InputError, match="has no aliases"):
        push("shelf", "support-chat@1", to="there", aliases=["production"])
    monkeypatch.setenv("TRIMTAB_HOME", str(shutil.copytree(released / "home", tmp_path / "copy")))
    revoke("support-chat@1", reason="wrong on doses", by="bob")
    shelf.registry = Registry(push=shelf.take, takes_weights=False, takes_aliases=True)
    with pytest.raises(InputError, match="was revoked"):
        push("shelf", "support-chat@1", to="there")
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "empty"))
    with pytest.raises(InputError, match="no releases yet"):
        push("shelf", "support-chat@1", to="there")
    assert shelf.files == {}


def test_the_command_says_what_lies_where(released: Path, shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["release", "push", "shelf", "support-chat@1", "--to", "there", "--quiet"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said == "support-chat@1: evidence and cards are at there (url there/support-chat); production there."
    assert main(["release", "push", "shelf", "support-chat@1", "--to", "there", "--alias", "a", "--alias", "b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["aliases"] == ["a", "b"]


def test_both_bridges_are_there() -> None:
    assert {"hub", "mlflow"} <= set(registries())
