"""The weekly page: from what the watch keeps and the ledger, self-contained and inert."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from trimtab.cli.main import main
from trimtab.core.errors import InputError
from trimtab.core.measurement import Interval
from trimtab.core.watching import Alarm
from trimtab.flows.incident import add_impact, list_impacts, open_incident
from trimtab.flows.parts.watch_ledger import note_alarm
from trimtab.flows.people import add_person
from trimtab.flows.watch_report import write_report
from trimtab.record.spool import watch_folder

pytest.importorskip("sqlalchemy")

LIVE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "watch" / "data" / "live.json").read_text())
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site with a week behind it: two alarms within, one from long before, one action."""
    for name in ("TRIMTAB_LEDGER", "TRIMTAB_AS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    site = tmp_path / "site.toml"
    folder = watch_folder(tmp_path / "home", site)
    folder.mkdir(parents=True)
    (folder / "live.json").write_text(json.dumps(LIVE))
    alarm = {**LIVE["alarms"][0], "stands": True}
    rows = [
        alarm,
        {**alarm, "id": "b", "text": SCRIPT, "stands": False, "ended": "back"},
        {**alarm, "id": "c", "at_s": alarm["at_s"] - 30 * 86400},
    ]
    (folder / "alarms.jsonl").write_text("".join(json.dumps({"alarm": row, "wishes": []}) + "\n" for row in rows) + '{"torn')
    action = {"phase": "ended", **LIVE["actions"][0]}
    (folder / "actions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ({"phase": "wanted", "id": "x", "at_s": 1.0}, action)))
    return site


def test_a_week_on_one_page(site: Path, tmp_path: Path) -> None:
    add_person("alice")
    open_incident(f"refusals {SCRIPT}", about="chat", severity="high", serious="rights", by="alice")
    open_incident("of another model", about="other", severity="low", by="alice")
    add_impact("women are refused more often", about="chat", severity="moderate", groups=["women"], by="alice")
    out = tmp_path / "week.html"
    found = write_report(site, out=out, now_s=LIVE["written_s"] + 60)
    assert [row["id"] for row in found["alarms"]] == [LIVE["alarms"][0]["id"], "b"]
    assert [row["kind"] for row in found["actions"]] == ["stop-canary"]
    assert [row["id"] for row in found["incidents"]] == ["incident-1"]
    page = out.read_text(encoding="utf-8")
    assert "2 alarms, 1 of which still stand; 1 open incident" in page
    for text in (
        "women are refused more often",
        "female fares worse",
        "Article 73(2)",
        "Fares worst: language de",
        "is not known; they are in no group",
    ):
        assert text in page
    assert SCRIPT not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"<script|https?://(?!www\.w3\.org)", re.sub(r"https://eur-lex\S+", "", page))
    figures = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(figures) >= 2
    assert all(ET.fromstring(figure).get("role") == "img" for figure in figures)


def test_a_change_for_one_group_is_suspected_of_an_effect_on_them(site: Path) -> None:
    add_person("alice")
    add_person("watch", roles=["operator"], by="alice")

    def alarm(name: str, group: dict[str, str]) -> Alarm:
        level = Interval(value=0.1, low=0.05, high=0.15, n=900)
        return Alarm(
            id=name,
            model="chat",
            version="v",
            signal="refused",
            before=level,
            after=level,
            change=level,
            method="m",
            slice=group,
            at_s=2.0,
            since_s=1.0,
            n_since=900,
        )

    women = {"group:sex": "female"}
    assert note_alarm("", alarm("a", women), about="chat", title="women are refused more", severity="high") == (
        "opened incident-1, suspected impact-1"
    )
    assert note_alarm("", alarm("b", women), about="chat", title="again", severity="high") == "joined incident-1, joined impact-1"
    assert note_alarm("", alarm("c", {}), about="chat", title="slow", severity="high") == "joined incident-1"
    assert note_alarm("", alarm("a", women), about="chat", title="x", severity="high") == "it stands in incident-1 already"
    (one,) = list_impacts()
    assert (one["state"], one["intended"], one["groups"], one["sources"]) == ("suspected", False, ["sex female"], ["incident-1", "a", "b"])


def test_a_quiet_week_and_no_ledger(site: Path, tmp_path: Path) -> None:
    found = write_report(site, out=tmp_path / "quiet.html", days=1, now_s=LIVE["written_s"] + 20 * 86400)
    page = (tmp_path / "quiet.html").read_text(encoding="utf-8")
    assert (found["alarms"], found["incidents"]) == ([], [])
    assert "Nothing changed for the worse in the last day, as far as was looked" in page
    assert "The watch last wrote at" in page
    assert not (tmp_path / "home" / "ledger").exists()


def test_mistakes_are_one_sentence(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"Nothing was watched of .*other\.toml yet"):
        write_report(tmp_path / "other.toml", out=tmp_path / "a.html")
    (watch_folder(tmp_path / "home", site) / "live.json").write_text("{")
    with pytest.raises(InputError, match="the watch writes it anew"):
        write_report(site, out=tmp_path / "a.html")
    assert main(["watch", "--logs", "x.jsonl", "--report", "a.html"]) == 2
    assert "--report is for a site under watch" in capsys.readouterr().err
