"""The looking pages in a real browser: nothing serious by axe-core, phone width, keyboard alone, live updates, and without scripts."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import scene

from trimtab.core.files import write_atomic
from trimtab.web.runs_view import key_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(served: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Files of runs, live traffic, the audit log and incidents under the page that is served."""
    root = tmp_path_factory.mktemp("site")
    scene.seed(root / "home", root / "runs")
    scene.note_incidents("alice")
    desk = served.app.state.desk
    kept = desk.runs
    shutil.copytree(root / "home" / "watch", served.home / "watch")
    shutil.copytree(root / "home" / "audit", served.home / "audit")
    desk.runs = (root / "runs", *kept)
    yield root
    desk.runs = kept
    shutil.rmtree(served.home / "watch")
    shutil.rmtree(served.home / "audit")


def paths(site: Path) -> list[str]:
    key = key_of(site / "runs" / "judged")
    looked = [
        "/runs",
        f"/runs/{key}",
        f"/runs/{key}/items?flip=lost",
        f"/runs/beside?a={key}&b={key}",
        "/models",
        "/live",
        "/alarms",
        "/fairness",
    ]
    return [
        *looked,
        "/incidents",
        "/incidents/incident-1",
        "/impacts/impact-1",
        "/incidents/new?alarm=9f3c5a1e0b7d2c48",
        "/audit?rule=injection",
    ]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_nothing_serious_is_found_and_nothing_runs(
    site: Path, visitor: Any, faults: Callable[[Any], list[str]], width: int, scheme: str
) -> None:
    page = visitor("alice", width=width, scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    for path in paths(site):
        assert page.goto(path).status == 200
        page.evaluate("for (const one of document.querySelectorAll('main details')) one.open = true")
        if width > 1000 or path in ("/live", "/incidents") or path.startswith(("/audit", "/runs/")):  # each takes half a second
            assert faults(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, f"{path} is wider than the screen"
        assert "owned" not in page.title()
        assert said == [], path


def test_by_keyboard_alone(site: Path, visitor: Any) -> None:
    page = visitor("alice", fresh=True)
    page.goto("/runs")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "f-verdict"
    page.keyboard.type("incon")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type("judged")
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs?verdict=inconclusive*text=judged*")
    page.get_by_role("link", name="judged").focus()
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Every item").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="b against a, item by item").wait_for()
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open] dd.verbatim").first.is_visible()
    assert page.locator("script:not([src]), main img").count() == 0, "texts are no markup"


def test_live_figures_follow_and_leave_place_and_focus(site: Path, served: Any, visitor: Any) -> None:
    page = visitor("alice", height=500)
    page.goto("/live")
    page.locator("html[data-stream=open]").wait_for()
    link = page.get_by_role("link", name="req-81d0")
    link.focus()
    page.evaluate("scrollTo(0, 400)")
    file = next((served.home / "watch").glob("*/live.json"))
    document = json.loads(file.read_text())
    document["n_requests"] = 987654
    document["written_s"] = time.time()
    document["alarms"][1] |= {"stands": True, "ended_s": None, "ended": ""}
    write_atomic(file, json.dumps(document))
    page.get_by_text("987,654 requests").wait_for()
    page.locator("#live-alarms .alarm").nth(1).wait_for()
    assert page.evaluate("document.activeElement.textContent") == "req-81d0"
    assert page.evaluate("Math.abs(scrollY - 400)") < 150
    spoken = page.locator("[aria-live=polite] p")
    assert "time to the first token of chat@stable" in spoken.inner_text()
    assert page.locator("[aria-live]").count() == 1, "figures that change all the time are not read out"


def test_without_scripts_a_run_is_found_and_an_incident_opened(site: Path, visitor: Any) -> None:
    page = visitor("alice", java_script_enabled=False, fresh=True)
    page.goto("/runs")
    page.get_by_label("name, model or winner").fill("judged")
    page.get_by_role("button", name="Filter").click()
    assert page.get_by_role("link", name="judged").count() == 1
    page.goto("/alarms")
    page.get_by_role("link", name="Open an incident from this").first.click()
    assert page.get_by_label("Alarms behind it").input_value() == "9f3c5a1e0b7d2c48"
    page.get_by_label("What went wrong, in one line").fill("Opened without scripts")
    page.get_by_label("Release or model").fill("chat")
    page.get_by_role("button", name="Open an incident").click()
    assert page.get_by_role("heading", name="Opened without scripts").is_visible()
    page.locator("summary", has_text="Say what is new").click()
    page.get_by_label("What is known, or was done").first.fill("seen by the desk")
    page.get_by_role("button", name="Say what is new").click()
    assert page.get_by_text("seen by the desk").is_visible()
    page.goto("/audit")
    page.get_by_label("guard or its rule").fill("injection.override")
    page.get_by_role("button", name="Search").click()
    assert page.get_by_role("link", name="req_0129").count() == 2
