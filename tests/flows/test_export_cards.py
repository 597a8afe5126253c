"""`trimtab export RUN --format cards` on the files of a real run, without its model."""

import json
import shutil
from pathlib import Path

import pytest

from trimtab.core.errors import InputError
from trimtab.flows.export import export
from trimtab.flows.parts.card_facts import card_facts
from trimtab.flows.parts.shipment import shipment_of

SAMPLES = Path(__file__).parents[1] / "package" / "cards"
pytest.importorskip("cyclonedx")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(SAMPLES / "passed.json", folder / "decision.json")
    for name in ("deploy.toml", "run.json"):
        shutil.copy(SAMPLES / name, folder / name)
    return folder


def test_the_four_files_are_written_once_and_the_same_again(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "cards"
    document = export(str(run), form="cards", out=out)
    assert sorted(document["files"]) == ["README.md", "bom.cdx.json", "card.html", "technical-file.md"]
    assert document["verdict"] == "pass"
    assert "It is not released: nobody has stated what it is for" in (out / "card.html").read_text(encoding="utf-8")
    with pytest.raises(InputError):
        export(str(run), form="cards", out=out)
    export(str(run / "deploy.toml"), form="cards", out=tmp_path / "again")
    assert all((out / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in document["files"])


def test_a_lock_alone_has_cards_that_say_how_little_is_known(run: Path, tmp_path: Path) -> None:
    (run / "decision.json").unlink()
    (run / "run.json").unlink()
    export(str(run), form="cards", out=tmp_path / "cards")
    text = (tmp_path / "cards" / "README.md").read_text(encoding="utf-8")
    assert "It passed, but no test that had to be passed is on record here." in text
    assert "model-index" not in text


def test_a_broken_run_json_or_a_missing_model_leaves_things_unsaid(run: Path) -> None:
    (run / "run.json").write_text("{", encoding="utf-8")
    facts = card_facts(shipment_of(run, allow_uncertified=False))
    assert (facts.run, facts.describe) == ({}, {})
    assert facts.decision["verdict"] == "pass"
    (run / "run.json").write_text(json.dumps({"versions": {"trimtab": "0"}}), encoding="utf-8")
    assert card_facts(shipment_of(run, allow_uncertified=False)).run == {"versions": {"trimtab": "0"}}
