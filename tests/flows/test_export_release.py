"""`trimtab export support-chat@3`: a release of the ledger leaves with its evidence, and what comes back is still that release."""

import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("cyclonedx")
pytest.importorskip("sqlalchemy")

from trimtab.core.errors import InputError
from trimtab.core.release import Serving
from trimtab.flows.export import export
from trimtab.flows.import_ import import_package
from trimtab.flows.people import add_person
from trimtab.flows.release import approve, create, promote, revoke
from trimtab.flows.verify import verify_release
from trimtab.package.oci import read_json_blob, read_manifest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "parts"))
from sample_run import write_sample_run

USE = """
owner = "Support team"
intended = ["Answers questions about our products"]
prohibited = ["advice on health or law", "topics: betting = casino, bet"]
affected = ["customers"]
[answers]
benefit = "Answers at night."
harm = "A wrong answer costs a customer time."
errors = "A person corrects it."
oversight = "The support team reads a sample each week."
redress = "Customers write to us."
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with support-chat@1, approved and live, and @2, revoked."""
    root = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(root / "home"))
        patch.delenv("SOURCE_DATE_EPOCH", raising=False)
        write_sample_run(root / "run", root / "weights" / "tiny.gguf")
        (root / "use.toml").write_text(USE)
        add_person("alice")
        add_person("bob", roles=["approver"], by="alice")
        create(root / "run", name="support-chat", use=root / "use.toml", by="alice")
        approve("support-chat@1", note="read", by="bob")
        promote("support-chat@1", by="alice")
        create(root / "run", name="support-chat", use=root / "use.toml", by="alice")
        revoke("support-chat@2", reason="wrong on doses", by="bob")
        yield root / "home"


def test_a_release_leaves_whole_and_comes_back_as_that_release(home: Path, tmp_path: Path) -> None:
    given = export("support-chat@1", form="modelpack", out=tmp_path / "a")
    assert export("support-chat@production", form="modelpack", out=tmp_path / "b")["digest"] == given["digest"]
    assert given["release"] == "support-chat@1"
    manifest = read_manifest(tmp_path / "a")
    descriptor = read_json_blob(tmp_path / "a", manifest.config)["descriptor"]
    assert (descriptor["name"], descriptor["version"], descriptor["title"]) == ("support-chat", "1", "support-chat@1")
    names = {layer.annotations["org.cncf.model.filepath"] for layer in manifest.layers}
    assert {"tiny.gguf", "evidence/release.json", "evidence/statement.dsse.json", "evidence/decision.json"} <= names
    assert any(name.startswith("evidence/items/") for name in names)
    import_package(tmp_path / "a", out=tmp_path / "back")
    found = verify_release(str(tmp_path / "back"), keys=[str(home / "keys" / "signing.pub.pem")])
    assert (found["verdict"], found["reasons"]) == ("pass", [])
    assert "weights" in [check["name"] for check in found["checks"] if check["state"] == "right"]
    again = export(str(tmp_path / "back"), form="modelpack", out=tmp_path / "c")
    assert (again["digest"], again["release"]) == (given["digest"], "support-chat@1")


@pytest.mark.parametrize("back", [False, True])
def test_the_site_has_the_guards_that_the_release_names(home: Path, tmp_path: Path, back: bool) -> None:
    what = "support-chat@1"
    if back:
        export(what, form="modelpack", out=tmp_path / "a")
        import_package(tmp_path / "a", out=tmp_path / "back")
        what = str(tmp_path / "back")
    export(what, form="compose", out=tmp_path / "out")
    text = (tmp_path / "out" / "site.toml").read_text()
    (model,) = tomllib.loads(text)["models"]
    assert [(one["name"], one["options"]) for one in model["guards"]] == [("topics", {"deny": {"betting": ["casino", "bet"]}})]
    assert "No guard stands behind this prohibited use, people must see to it: advice on health or law" in text


def test_manifests_and_cards_are_about_the_release(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Serving] = []

    def files(name: str, serving: Serving) -> dict[str, bytes]:
        seen.append(serving)
        return {"a.yaml": b"a"}

    monkeypatch.setattr("trimtab.flows.export.manifest_files", files)
    export("support-chat", form="knative", out=tmp_path / "a", allow_uncertified=True)
    export("support-chat@1", form="knative", out=tmp_path / "b")
    assert [(one.name, one.model, one.release_id) for one in seen] == [
        ("support-chat", "support-chat", "support-chat@2"),
        ("support-chat", "support-chat", "support-chat@1"),
    ]
    export("support-chat@1", form="cards", out=tmp_path / "c")
    assert "support-chat" in (tmp_path / "c" / "README.md").read_text(encoding="utf-8")


def test_what_is_no_release_or_no_more_is_one_sentence(home: Path, tmp_path: Path) -> None:
    wrong = {
        "support-chat@2": r"support-chat@2 was revoked by bob \(wrong on doses\)",
        "support-chat@9": "There is no release support-chat@9",
        "support-chat@staging": "staging",
        "chat": "it is no deploy.toml, no folder, and no release",
        "runs/chat": "There is no runs/chat",
    }
    for what, says in wrong.items():
        with pytest.raises(InputError, match=says):
            export(what, form="modelpack", out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_lock_that_is_not_of_the_release_beside_it_is_refused(home: Path, tmp_path: Path) -> None:
    export("support-chat@1", form="modelpack", out=tmp_path / "a")
    import_package(tmp_path / "a", out=tmp_path / "back")
    with (tmp_path / "back" / "deploy.toml").open("a") as file:
        file.write("\n# mine\n")
    with pytest.raises(InputError, match=r"is not the lock of support-chat@1"):
        export(str(tmp_path / "back"), form="modelpack", out=tmp_path / "b")


def test_evidence_that_is_gone_is_not_exported_without(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    shutil.rmtree(tmp_path / "home" / "evidence")
    with pytest.raises(InputError, match="put it back"):
        export("support-chat@1", form="modelpack", out=tmp_path / "a")
