"""Plans on the page: listed, shown whole, damaged ones named, texts of others as texts; without a browser and, for axe, in one."""

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trimtab.flows.parts.plan_kept import keep_plan
from trimtab.web.runs_view import key_of

SCRIPT = "<script>document.title='owned'</script>"
_SPEC = importlib.util.spec_from_file_location("sample_plan_of_record", Path(__file__).parents[1] / "record" / "sample_plan.py")
assert _SPEC is not None
assert _SPEC.loader is not None
samples = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(samples)


def fill(root: Path) -> Path:
    """A plan of each kind, one whose file is damaged, one of another shape."""
    for name, make in samples.PLANS.items():
        keep_plan(make() | {"headline": f"{make()['headline']} {SCRIPT}"}, root / "plans" / name)
    (root / "torn").mkdir()
    (root / "torn" / "plan.json").write_text('{"schema": "trimtab.plan/1"')
    (root / "odd").mkdir()
    (root / "odd" / "plan.json").write_text(
        json.dumps({"schema": "trimtab.plan/1", "kind": 7, "model": {"name": []}, "headline": None, "found": 1})
    )
    return root


@pytest.fixture
def plans(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    desk = place.app.state.desk
    monkeypatch.setattr(desk, "runs", (fill(tmp_path),))
    return tmp_path


def test_plans_are_listed_and_shown(place: Any, plans: Path) -> None:
    page = place.client("vera")
    shown = page.get("/plans").text
    assert SCRIPT not in shown
    assert "64 × h100-sxm train" in shown
    assert "damaged" in shown
    for name in samples.PLANS:
        key = key_of(plans / "plans" / name)
        assert f'href="/plans/{key}"' in shown
        one = page.get(f"/plans/{key}")
        assert one.status_code == 200, one.text
        assert SCRIPT not in one.text
        answer = page.get(f"/plans/{key}/report.html")
        assert "sandbox" in answer.headers["content-security-policy"]
        assert "allow-scripts" not in answer.headers["content-security-policy"]
    assert len(page.get("/api/v1/plans").json()["plans"]) == len(samples.PLANS) + 2


def test_what_is_no_plan_is_said_in_a_sentence(place: Any, plans: Path) -> None:
    page = place.client("vera")
    for path in (f"/plans/{key_of(plans / 'torn')}", f"/plans/{key_of(plans / 'odd')}", "/plans/none", "/plans/..%2f../report.html"):
        assert page.get(path).status_code in (400, 404), path
    outside = plans.parent / "elsewhere.html"
    outside.write_text("secret")
    report = plans / "plans" / "fit" / "report.html"
    report.unlink()
    report.symlink_to(outside)
    assert page.get(f"/plans/{key_of(report.parent)}/report.html").status_code == 400, "a link leads elsewhere"


def test_no_plan_yet(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place.app.state.desk, "runs", (tmp_path,))
    assert "No plans yet" in place.client("vera").get("/plans").text


@pytest.fixture
def served_plans(served: Any, tmp_path: Path) -> Iterator[Path]:
    desk = served.app.state.desk
    kept, desk.runs = desk.runs, (fill(tmp_path),)
    yield tmp_path
    desk.runs = kept


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_nothing_serious_is_found(served_plans: Path, visitor: Any, faults: Callable[[Any], list[str]], width: int, scheme: str) -> None:
    page = visitor("alice", width=width, scheme=scheme)
    for path in ("/plans", *(f"/plans/{key_of(served_plans / 'plans' / name)}" for name in ("train", "none"))):
        assert page.goto(path).status == 200
        assert faults(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, f"{path} is wider than the screen"
        assert "owned" not in page.title()
