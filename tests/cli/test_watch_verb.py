"""`trimtab watch` as a user meets it: what it says, how it ends, and what stands in the ledger behind it."""

import io
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from released_run import finished_run
from rich.console import Console

pytest.importorskip("sqlalchemy")
pytest.importorskip("datasketches")

from trimtab.cli.main import main
from trimtab.cli.watch_views import live_view, report, sparkline
from trimtab.core.deployment import Settings
from trimtab.core.watching import Observed
from trimtab.record.spool import SpoolWriter, spool_folder

EXAMPLE = Path(__file__).parents[1] / "watch" / "data" / "live.json"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("TRIMTAB_LEDGER", "TRIMTAB_EVIDENCE", "TRIMTAB_AS", "TRIMTAB_WATCH_WEBHOOK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path / "home"


def run(*args: str, code: int = 0) -> None:
    assert main(list(args)) == code


def read(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> Any:
    capsys.readouterr()
    found = main([*args, "--json"])
    out, err = capsys.readouterr()
    assert found == code, err
    return json.loads(out)


RULES = """\
name = "team"
version = "1"
approvals = 1
proposer_may_approve = true
required_use = []
licence_unknown = "allow"
licences = ["apache-2.0"]
"""

SITE = """\
[[models]]
name = "chat"
[models.rollout]
stable = "chat@2"
[[models.versions]]
id = "chat@1"
lock = "runs/one/deploy.toml"
[[models.versions]]
id = "chat@2"
lock = "runs/two/deploy.toml"
"""


@pytest.fixture
def site(tmp_path: Path, home: Path) -> Path:
    """Two releases that were live one after the other, the second one now; its answers refuse more and more."""
    (tmp_path / "rules.toml").write_text(RULES, encoding="utf-8")
    run("release", "people", "add", "ann")
    for name, seed in (("one", 0), ("two", 1)):
        finished_run(tmp_path / "runs" / name, seed=seed, settings=Settings(slots=seed + 1))
        run("release", "create", f"runs/{name}", "--name", "chat", "--rules", "rules.toml")
        run("release", "approve", f"chat@{seed + 1}")
        run("release", "promote", f"chat@{seed + 1}")
    path = tmp_path / "site.toml"
    path.write_text(SITE, encoding="utf-8")
    draw, began_s = random.Random(1), time.time() - 3600
    writer: SpoolWriter[Observed] = SpoolWriter(spool_folder(home, path))
    for i in range(1200):
        flags = {"refused": draw.random() < (0.4 if i >= 700 else 0.04)}
        labels = {"language": "en"}
        writer.append(Observed(request=f"r{i}", at_s=began_s + i, model="chat", version="chat@2", flags=flags, labels=labels))
    writer.close()
    return path


def mine(tmp_path: Path, *kinds: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\nversion = "1"\n[[rules]]\nname = "all"\ndo = {json.dumps(kinds)}\n', encoding="utf-8")
    return str(path)


def test_a_rollback_stands_in_the_ledger_by_the_watch(site, tmp_path, capsys):
    run("release", "people", "add", "watch", "--roles", "operator", "--as", "ann")
    live = read(capsys, "watch", "site.toml", "--once", "--rules", mine(tmp_path, "alarm", "rollback"), code=1)
    found = {row["kind"]: row for row in live["actions"] if row["kind"] != "alarm"}
    assert "production points at chat@1 again" in found["rollback"]["result"]
    assert "traffic stays as it is: the site has no admin port" in found["rollback"]["result"]
    entries = _entries()
    kinds = [(one.kind, one.about) for one in entries if one.by == "watch"]
    assert ("incident", "chat@2") in kinds
    assert ("rollback", "chat@1") in kinds
    assert ("action", "chat@2") in kinds
    assert all(one.signature for one in entries if one.by == "watch")


def _entries() -> Any:
    from trimtab.flows.parts.released import entries_of

    return entries_of("")


def test_without_its_identity_the_ledger_stays_and_the_fix_is_named(site, tmp_path, capsys):
    live = read(capsys, "watch", "site.toml", "--once", "--rules", mine(tmp_path, "alarm", "rollback"), code=1)
    (rollback,) = (row for row in live["actions"] if row["kind"] == "rollback")
    assert "`trimtab release people add watch --roles operator` adds it" in rollback["result"]
    assert "chat@2 stays on production" in rollback["result"]
    assert not [one for one in _entries() if one.kind == "rollback"]


def test_what_is_outside_the_evidence_waits_to_be_certified_again(site, tmp_path, home, capsys):
    decision = tmp_path / "runs" / "two" / "decision.json"
    live = read(capsys, "watch", "site.toml", "--once", "--rules", mine(tmp_path, "certify"), code=1)
    (row, *_more) = [json.loads(line) for line in (home / "watch" / "recertify.jsonl").read_text().splitlines()]
    assert row["command"] == f"trimtab certify {decision.parent}"
    assert [one["covers"] for one in live["envelope"]] == ["any language requests"]
    again = read(capsys, "watch", "site.toml", "--once", "--rules", mine(tmp_path, "certify"), code=1)
    assert again["actions"] == live["actions"]


def test_a_person_reads_what_stands(site, capsys):
    capsys.readouterr()
    run("watch", "site.toml", "--once", "--dry-run", code=1)
    out, err = capsys.readouterr()
    assert "site.toml: 1,200 requests, 1 alarm stands (dry run)" in out
    assert "critical: chat@2: the answer refuses went from" in out or "high: chat@2: the answer refuses went from" in out
    assert "alarm by rule tell: dry run: nothing was done" in out
    assert err == ""


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ([], 2, "Give a site file, or a log with --logs"),
        (["site.toml", "--logs", "x.jsonl"], 2, "one of them"),
        (["nowhere.toml"], 2, "There is no nowhere.toml"),
        (["--logs", "nowhere.jsonl"], 2, "nowhere.jsonl"),
        (["--logs", "empty.jsonl", "--rules", "wild"], 2, "Unknown watch rules 'wild'"),
        (["site.toml", "--baseline", "10"], 2, "--baseline, --by-version and --explore are for --logs"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, capsys, args, code, says):
    (tmp_path / "empty.jsonl").write_text("")
    run("watch", *args, code=code)
    out, err = capsys.readouterr()
    assert says in err
    assert out == ""
    assert err.count("\n") == 1


def test_the_views_show_what_the_document_says():
    live = {**json.loads(EXAMPLE.read_text()), "seconds": 1.0, "items_s": 1.0, "before": 0}
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(live_view(live))
    shown = console.export_text()
    assert "site.toml: 152,034 requests" in shown
    assert "chat@stable is certified on English chat up to 2k tokens; 14 % of today's traffic is outside" in shown
    assert "group:sex is female" in shown
    assert "time to the first token of chat@stable" not in shown  # it does not stand
    for part in report(live):
        console.print(part)
    whole = console.export_text()
    assert "back at its level before" in whole
    assert "page by rule refusals: not done: TRIMTAB_WATCH_WEBHOOK is not set" in whole
    assert "3 × duplicate" in whole


def test_a_sparkline_weighs_points_by_their_requests():
    series = [{"at_s": float(i), "value": float(i % 2), "n": 1 if i % 2 else 9} for i in range(96)]
    assert len(sparkline(series)) == 24
    assert set(sparkline(series)) == {"▁"}
    assert sparkline([{"at_s": 0.0, "value": 0.0, "n": 1}, {"at_s": 30.0, "value": 1.0, "n": 1}]) == "▁█"
    assert sparkline([]) == ""
