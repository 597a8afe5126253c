"""A ledger with people and releases, the page on it, asked directly and by a real browser."""

import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("itsdangerous")
pytest.importorskip("sqlalchemy")

from starlette.testclient import TestClient

from trimtab.core.files import write_atomic
from trimtab.flows import people, release
from trimtab.web.app import listening, make_app
from trimtab.web.codes import make_code
from trimtab.web.desk import Desk

CHROMIUM = Path("/usr/bin/chromium")
SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
"""What must stay a text wherever it is shown."""

USE = """\
owner = "the support desk"
intended = ["drafts of answers that a person sends"]
prohibited = ["Legal advice", "topics: betting = casino, bet"]
affected = ["customers who write in"]
[answers]
benefit = "Answers come sooner."
harm = "A wrong answer that somebody sends unread."
errors = "None of the gates failed."
oversight = "Every draft is read; the desk may stop it."
redress = "The complaints address on every letter."
"""
PEOPLE = {"bob": ["approver"], "opal": ["operator"], "vera": ["viewer"], "audrey": ["auditor"]}


def _released_run() -> Any:
    path = Path(__file__).parents[1] / "cli" / "released_run.py"
    spec = importlib.util.spec_from_file_location("released_run_of_cli", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@dataclass
class Place:
    """A home with its ledger and runs. client(name): somebody who is signed in, "" = nobody"""

    home: Path
    runs: Path
    port: int = 8780
    app: Any = None
    clients: dict[str, "Client"] = field(default_factory=dict)
    opened: list[TestClient] = field(default_factory=list)

    def code(self, name: str, **change: Any) -> str:
        desk = Desk(home=self.home, port=self.port)
        person = desk.person(name)
        assert person is not None
        return make_code(self.home, person, **{"ledger": desk.ledger_id(), "port": self.port, **change})

    def client(self, name: str = "") -> "Client":
        if name not in self.clients:
            made = Client(self)
            if name:
                made.sign_in(name)
            self.clients[name] = made
        return self.clients[name]


class Client:
    """What a browser does, without one: cookies, Origin, and the token of the last form."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.http = TestClient(place.app, base_url=f"http://127.0.0.1:{place.port}", follow_redirects=False)
        self.http.__enter__()  # one event loop for all its requests
        place.opened.append(self.http)
        self.csrf = ""

    def sign_in(self, name: str) -> None:
        answer = self.post("/sign-in", {"token": hidden(self.http.get("/sign-in").text, "token"), "code": self.place.code(name)})
        assert answer.status_code == 303, answer.text
        self.csrf = hidden(self.http.get("/").text, "csrf")

    def get(self, path: str, **more: Any) -> Any:
        return self.http.get(path, **more)

    def post(self, path: str, form: dict[str, str] | None = None, *, origin: str | None = "own", **more: Any) -> Any:
        headers = {} if origin is None else {"origin": str(self.http.base_url) if origin == "own" else origin}
        return self.http.post(path, data={"csrf": self.csrf, **(form or {})}, headers=headers, **more)

    def post_json(self, path: str, value: Any, **headers: str) -> Any:
        own = {"origin": str(self.http.base_url), "x-csrf-token": self.csrf}
        return self.http.post(path, json=value, headers={**own, **headers})


def hidden(page: str, name: str) -> str:
    """The value of a hidden field."""
    return page.partition(f'name="{name}" value="')[2].partition('"')[0]


def fill(root: Path) -> Place:
    """alice proposed support-chat@1 to @3 from three runs, bob approved @1 and @2; both were promoted, @2 serves."""
    runs = root / "runs"
    finished_run = _released_run().finished_run
    write_atomic(root / "use.toml", USE)
    people.add_person("alice")
    for name, roles in PEOPLE.items():
        people.add_person(name, roles=roles, by="alice")
    for number in (1, 2, 3):
        run = finished_run(runs / f"demo{number}", seed=number, model=None if number == 1 else runs / "demo1.gguf")
        release.create(run, name="support-chat", use=root / "use.toml", by="alice")
        if number < 3:
            release.approve(f"support-chat@{number}", by="bob", note="read the report" if number == 1 else SCRIPT)
            release.promote(f"support-chat@{number}", by="alice")
    return Place(home=root / "home", runs=runs)


@pytest.fixture(scope="package")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The place of all tests here, which leave what others look at as it is, or make a release of their own."""
    root = tmp_path_factory.mktemp("web")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TRIMTAB_LEDGER", "TRIMTAB_EVIDENCE", "TRIMTAB_AS", "TRIMTAB_CACHE"):
            patch.delenv(name, raising=False)
        patch.setenv("TRIMTAB_HOME", str(root / "home"))
        yield fill(root)


@pytest.fixture(scope="module")
def place(filled: Place) -> Iterator[Place]:
    """The page, asked without a browser."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(filled.home))
        made = Place(home=filled.home, runs=filled.runs, app=make_app(port=8780, runs=(filled.runs,)))
        yield made
        for http in made.opened:
            http.__exit__()


@pytest.fixture(scope="package")
def new_release(filled: Place) -> Callable[[str], str]:
    """A release of its own for a test: name -> its id, proposed by alice."""
    n = iter(range(100, 200))

    def made(name: str) -> str:
        number = next(n)
        run = _released_run().finished_run(filled.runs.parent / "more" / f"r{number}", seed=number, model=filled.runs / "demo1.gguf")
        write_atomic(run / "report.html", f"<p>Of run {number}.</p>{SCRIPT}")
        return str(release.create(run, name=name, use=filled.runs.parent / "use.toml", by="alice")["release"])

    return made


@pytest.fixture(scope="package")
def served(filled: Place) -> Iterator[Place]:
    """The page in a real server."""
    import uvicorn

    server_socket = listening(0)
    port = int(server_socket.getsockname()[1])
    app = make_app(port=port, runs=(filled.runs,))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [server_socket]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield Place(home=filled.home, runs=filled.runs, port=port, app=app)
    server.should_exit = server.force_exit = True
    thread.join(5)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for the tests of a file. While it is there, an event loop runs in this thread, in which `asyncio.run` fails."""
    api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip("there is no Chromium here")
    with api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="package")
def signed_in() -> dict[str, Any]:
    """Cookies of whoever has signed in, by name."""
    return {}


@pytest.fixture
def visitor(browser: Any, served: Place, signed_in: dict[str, Any]) -> Iterator[Callable[..., Any]]:
    """visitor("alice", width=360, scheme="dark"): a browser page of somebody who is signed in by the form; "" = nobody.

    Sessions are kept: whoever comes again is still signed in.
    """
    states = signed_in
    contexts: list[Any] = []

    def enter(name: str = "", *, width: int = 1280, height: int = 900, scheme: str = "light", fresh: bool = False, **more: Any) -> Any:
        kept = None if fresh or not name else states.get(name)
        context = browser.new_context(
            base_url=f"http://127.0.0.1:{served.port}",
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            storage_state=kept,
            reduced_motion="reduce",
            **more,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        if name and kept is None:
            page.goto("/sign-in")
            page.get_by_label("Paste the code").fill(served.code(name))
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url("**/")
            if not fresh:
                states[name] = context.storage_state()
        return page

    yield enter
    for context in contexts:
        context.close()


@pytest.fixture(scope="package")
def faults() -> Callable[[Any], list[str]]:
    """What axe-core finds that is serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    axe = Axe()

    def found(page: Any) -> list[str]:
        result = axe.run(page, options={"resultTypes": ["violations"]})
        serious = [one for one in result.response["violations"] if one["impact"] in ("serious", "critical")]
        return [f"{one['id']}: {one['help']}: {[node['html'][:160] for node in one['nodes']]}" for one in serious]

    return found
