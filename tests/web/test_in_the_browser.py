"""The page in a real Chromium: sign-in, approve, roll back, live, keyboard, phone, schemes, without scripts, and stored scripts."""

import re
from typing import Any

import pytest

from trimtab.flows import incident, release

pytestmark = pytest.mark.slow

MINE = ("/", "/releases", "/releases/support-chat@3", "/releases/support-chat@2", "/history/support-chat", "/people", "/nowhere")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_nothing_serious_and_nothing_wider_than_the_page(visitor: Any, faults: Any, width: int, scheme: str) -> None:
    page = visitor("alice", width=width, scheme=scheme)
    for path in MINE:
        page.goto(path)
        for details in page.locator("details").all():
            details.evaluate("one => { one.open = true; }")
        assert faults(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    door = visitor("", width=width, scheme=scheme)
    door.goto("/sign-in")
    assert faults(door) == []
    assert door.evaluate("document.documentElement.scrollWidth") <= width


def test_by_keyboard_alone(visitor: Any, served: Any, new_release: Any) -> None:
    """From the form to sign in to an approval, with no pointer; what has the focus can be seen."""
    name = new_release("by-keys")
    page = visitor("", width=1000)
    page.goto(f"/releases/{name}")
    assert page.url.endswith(f"/sign-in?next=%2Freleases%2F{name.replace('@', '%40')}")
    _tab_to(page, "#code")
    page.keyboard.insert_text(served.code("bob"))
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/releases/{name}")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    _tab_to(page, "#approve-note")
    page.keyboard.insert_text("read by keyboard")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_text(f"{name} is approved by you.").wait_for()
    assert release.show(name)["approvals"][0]["note"] == "read by keyboard"


def _tab_to(page: Any, selector: str, most: int = 60) -> None:
    for _ in range(most):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} cannot be reached by the keyboard")


def test_a_release_on_a_phone_without_scripts(visitor: Any, new_release: Any) -> None:
    """Approve, promote and roll back where nothing runs in the browser."""
    first, second = new_release("plain"), new_release("plain")
    bob = visitor("bob", width=360, java_script_enabled=False)
    for name in (first, second):
        bob.goto(f"/releases/{name}")
        bob.get_by_role("button", name="Approve").click()
        bob.get_by_text(f"{name} is approved by you.").wait_for()
    opal = visitor("opal", width=360, java_script_enabled=False)
    for name in (first, second):
        opal.goto(f"/releases/{name}")
        opal.get_by_text("Promote", exact=True).first.click()
        opal.get_by_role("button", name="Promote").click()
        opal.get_by_text(f"production points at {name} now.").wait_for()
    opal.get_by_label("What went wrong").first.fill("slow at noon")
    opal.get_by_role("button", name=f"Roll production back to {first}").click()
    opal.get_by_text(f"production points at {first} again.").wait_for()
    assert release.show("plain@production")["release"] == first


def test_a_page_that_is_open_shows_what_others_do(visitor: Any, new_release: Any) -> None:
    name = new_release("live-view")
    page = visitor("vera")
    page.goto(f"/releases/{name}")
    page.locator("html[data-stream=open]").wait_for()
    assert "Nobody has approved it yet." in page.inner_text("main")
    page.evaluate("window.untouched = true")
    release.approve(name, by="bob", note="from elsewhere")
    page.get_by_text("from elsewhere").first.wait_for()
    assert page.evaluate("window.untouched"), "the page was not loaded again"
    assert "Updated" in page.inner_text("#said")


def test_leaving_ends_the_stream(visitor: Any, served: Any) -> None:
    page = visitor("opal", fresh=True)
    page.goto("/")
    page.locator("html[data-stream=open]").wait_for()
    n_before = len(served.app.state.changes.streams)
    cookies = page.context.cookies()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in")
    other = visitor("")
    other.context.add_cookies(cookies)
    other.goto("/releases")
    assert "/sign-in" in other.url, "the cookie names no session any more"
    for _ in range(50):
        if len(served.app.state.changes.streams) < n_before:
            return
        page.wait_for_timeout(100)
    raise AssertionError("the stream of a session that ended goes on")


def test_a_link_with_a_code_fills_the_form_and_leaves_no_trace(visitor: Any, served: Any) -> None:
    page = visitor("", fresh=True)
    page.goto(f"/sign-in#code={served.code('vera')}")
    assert page.evaluate("location.hash") == ""
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    assert "vera" in page.inner_text(".you")


def test_stored_scripts_stay_texts(visitor: Any, new_release: Any, served: Any) -> None:
    """In notes, reasons and titles, on every page that shows them; and the policy stops what would slip through."""
    name = new_release("inert")
    script = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><svg onload=\"document.title='owned'\">"
    release.approve(name, by="bob", note=script)
    incident.open_incident(script, about=name, severity="low", by="alice")
    page = visitor("alice")
    for path in (f"/releases/{name}", "/history/inert", "/", "/incidents", f"/releases/{name}/report"):
        page.goto(path)
        page.wait_for_timeout(50)
        assert page.title() != "owned", path
        assert "owned" not in page.evaluate("document.title"), path
    page.goto(f"/releases/{name}")
    assert "<script>document.title" in page.inner_text("main"), "it is shown as it was written"
    blocked = page.evaluate(
        """() => new Promise((done) => {
            document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective), { once: true });
            const script = document.createElement("script");
            try { script.textContent = "document.title = 'owned'"; document.body.append(script); } catch { done("trusted-types"); }
        })"""
    )
    assert blocked in ("script-src-elem", "trusted-types", "require-trusted-types-for")
    assert page.title() != "owned"


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_said_by_the_browser(visitor: Any, served: Any) -> None:
    page = visitor("alice")
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    for path in MINE[:-1]:
        page.goto(path)
    assert {re.match(r"\w+://[^/]*", url)[0] for url in asked} == {f"http://127.0.0.1:{served.port}"}  # type: ignore[index]
    assert said == [], "the policy of the page is broken by the page itself"
