"""Pages that only look: runs, items, models, live traffic, fairness, alarms, the audit log; asked without a browser."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import scene

from trimtab.web.app import make_app
from trimtab.web.runs_view import key_of


@pytest.fixture(scope="module")
def page(place: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """alice, on a place with runs, a watched site and an audit log of its own."""
    root = tmp_path_factory.mktemp("looking")
    shutil.copytree(place.runs, root / "runs")
    scene.seed(root / "home", root / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(place.home))
        place.app = make_app(port=place.port, runs=(root / "runs",))
        place.clients.clear()
        client = place.client("alice")
        place.client("vera")
        place.app.state.desk.home = root / "home"
        patch.setenv("TRIMTAB_HOME", str(root / "home"))  # of the log's keys; the ledger stays where it is
        patch.setenv("TRIMTAB_LEDGER", f"sqlite:///{place.home / 'ledger' / 'ledger.db'}")
        client.root = root
        yield client


def text(page: Any, path: str, status: int = 200) -> str:
    answer = page.get(path)
    assert answer.status_code == status, answer.text[:2000]
    assert "style=" not in answer.text
    assert scene.SCRIPT not in answer.text
    return str(answer.text)


def test_runs_are_listed_filtered_and_one_is_shown_whole(page: Any) -> None:
    shown = text(page, "/runs")
    key = key_of(page.root / "runs" / "demo1")
    assert f'href="/runs/{key}"' in shown
    assert "No run fits." in text(page, "/runs?verdict=fail&text=demo1")
    assert "demo2" not in text(page, "/runs?text=demo3&verdict=pass").partition("<table")[2]
    one = text(page, f"/runs/{key}")
    for part in ("Is it no worse?", "All gates", "Candidates", "Attempts on certify items", "Conditions", "deploy.toml", "<svg"):
        assert part in one
    beside = text(page, f"/runs/beside?a={key}&b={key_of(page.root / 'runs' / 'demo2')}")
    assert "Answer, and what was asked otherwise" in beside


def test_a_run_that_is_not_there_is_one_sentence(page: Any) -> None:
    for path in ("/runs/none", "/runs/..%2f..", f"/runs/{key_of(page.root / 'runs' / 'demo1')}/files/run.json"):
        answer = page.get(path)
        assert answer.status_code in (400, 404)
        assert "Traceback" not in answer.text


def test_files_of_a_run_are_shut_off(page: Any) -> None:
    run = page.root / "runs" / "demo1"
    (run / "report.html").write_text(scene.SCRIPT)
    answer = page.get(f"/runs/{key_of(run)}/files/report.html")
    assert answer.text == scene.SCRIPT
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox")
    assert "allow-scripts" not in policy
    assert "default-src 'none'" in policy
    (run / "report.html").unlink()
    (run / "report.html").symlink_to(run / "run.json")
    assert page.get(f"/runs/{key_of(run)}/files/report.html").status_code == 400, "a link leads elsewhere"
    (run / "report.html").unlink()


def test_items_of_a_run_are_paged_and_filtered(page: Any) -> None:
    key = key_of(page.root / "runs" / "judged")
    assert f'href="/runs/{key}/items"' in text(page, f"/runs/{key}")
    shown = text(page, f"/runs/{key}/items")
    assert "b against a, item by item" in shown
    assert "page 1 of 3" in shown
    assert shown.index("mine-107") < shown.index("mine-119"), "the lost answers changed most"
    assert shown.count('<dd class="verbatim">') >= 50
    assert "&lt;script&gt;" in shown
    assert "page 3 of 3" in text(page, f"/runs/{key}/items?page=7")
    lost = text(page, f"/runs/{key}/items?flip=lost&group=sex:woman")
    assert "6 items by largest change" in lost
    assert "No item fits." in text(page, f"/runs/{key}/items?group=nobody")
    assert "kept no outcomes" in text(page, f"/runs/{key_of(page.root / 'runs' / 'demo1')}/items", status=400)


def test_many_runs_are_paged(page: Any) -> None:
    many = page.root / "runs" / "many"
    for number in range(60):
        (many / f"r{number:02d}").mkdir(parents=True)
        (many / f"r{number:02d}" / "run.json").write_text('{"schema": "trimtab.run/1"}')
    first, second = text(page, "/runs?text=many"), text(page, "/runs?text=many&page=2")
    assert first.count("damaged") >= 50
    assert 'href="/runs?text=many&amp;page=2"' in first
    assert ">r00<" in second
    shutil.rmtree(many)


def test_models_and_answers_looked_at_closely(page: Any) -> None:
    shown = text(page, "/models?model=m.gguf&prompt=What%27s+up%3F")
    assert "trimtab evaluate m.gguf --why" in shown
    answer = shown.partition('href="/answers/')[2].partition('"')[0]
    assert "carries much of the answer" in text(page, f"/answers/{answer}")
    assert "trimtab compare m.gguf n.gguf --on" in text(page, "/models?model=m.gguf&beside=n.gguf&prompt=x")
    links = dict(re.findall(r'href="/models/(\w+)">[^<]*/([^/<]+)<', shown))
    here = next(key for key, name in links.items() if name == "demo1.gguf")
    one = text(page, f"/models/{here}")
    assert "What one more token costs" in one
    assert "Tensors" in one
    assert text(page, "/models/none", status=400)


def test_live_alarms_and_fairness(page: Any) -> None:
    live = text(page, "/live")
    for part in (
        "time to the first token",
        "answers that refuse of chat@next",
        "14 % of today",
        "req-81c2",
        'class="spark"',
        "stop-canary",
    ):
        assert part in live
    assert live.count('data-live="live"') >= 5
    alarms = text(page, "/alarms")
    assert "back at its level before" in alarms
    assert "not done" in alarms
    fairness = text(page, "/fairness")
    assert '<span class="chip fail">worse</span>' in fairness
    assert "known of 54,720 of 136,800 requests" in fairness
    assert "Which kind of request fares worst" in fairness


def test_programs_read_runs_and_live_traffic(page: Any) -> None:
    rows = {row["name"]: row for row in page.get("/api/v1/runs").json()["runs"]}
    assert rows["judged"]["verdict"] == "inconclusive"
    assert [one["site"] for one in page.get("/api/v1/live").json()["sites"].values()] == ["site.toml"]


def test_the_audit_log_is_searched(page: Any) -> None:
    shown = text(page, "/audit")
    assert "req_0129" in shown
    assert "older records" in shown
    assert "was not checked for this page" in shown
    one = text(page, "/audit?request=req_0009")
    assert one.count("/audit?request=req_0009") >= 2
    assert "input_digest" in one
    assert "injection.override" in one
    blocked = text(page, "/audit?rule=injection.override&event=ended")
    assert "req_0129" in blocked
    assert "req_0128" not in blocked
    assert "is no time" in text(page, "/audit?since=yesterday")
    assert "No record fits" in text(page, "/audit?since=2001-01-01T00:00&until=2001-01-02T00:00%2B02:00")


def test_the_chain_is_checked_when_asked(page: Any) -> None:
    assert "as they were written" in text(page, "/audit?check=yes")
    path = next((page.root / "home" / "audit").glob("*.jsonl"))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"prompt_tokens":25', b'"prompt_tokens":26'))
    assert "was changed" in text(page, "/audit?check=yes")
    assert "changed</span>" in text(page, "/audit?request=req_0005")
    path.write_bytes(whole)


def test_viewers_see_all_but_the_audit_log(page: Any, place: Any) -> None:
    vera = place.clients["vera"]
    for path in ("/runs", "/models", "/live", "/alarms", "/fairness", "/incidents"):
        assert vera.get(path).status_code == 200
    assert vera.get("/audit").status_code == 403


def test_a_live_file_that_cannot_be_read_is_no_error(page: Any) -> None:
    path = next((page.root / "home" / "watch").glob("*/live.json"))
    whole = path.read_text()
    for broken in ("", "{", '{"schema": "trimtab.live/9"}', "[" * 5000):
        path.write_text(broken)
        assert "Nothing is watched yet" in text(page, "/live")
    path.write_text(json.dumps(json.loads(whole) | {"models": [], "alarms": [], "envelope": []}))
    assert "No request has ended yet." in text(page, "/live")
    path.write_text(whole)


def test_empty_pages_say_what_to_do(page: Any, tmp_path: Path) -> None:
    desk = page.place.app.state.desk
    kept = desk.home, desk.runs
    desk.home, desk.runs = tmp_path, (tmp_path / "runs",)
    try:
        told = {
            "/runs": "trimtab optimize",
            "/runs/beside": "Two runs are needed",
            "/models": "trimtab describe",
            "/live": "--watch",
            "/alarms": "--watch",
            "/fairness": "group:sex",
            "/audit": "trimtab serve",
        }
        for path, what in told.items():
            assert what in text(page, path)
    finally:
        desk.home, desk.runs = kept
