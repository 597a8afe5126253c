"""The push to the Hugging Face Hub, with the real library, against a server that speaks the hub's API as far as a push needs it."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

from trimtab.bridges.hub_push import push
from trimtab.core.errors import InputError, MissingError

LFS = (".gguf", ".bin", ".parquet")


class Hub(ThreadingHTTPServer):
    """repos: name -> what it was made with; files: committed; stored: LFS objects by sha256; tags; commits; refuse: status for all"""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, Any] = {}
        self.files: dict[str, bytes | str] = {}
        self.stored: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        self.commits: list[str] = []
        self.tokens: set[str] = set()
        self.refuse = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, document: Any, status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def do_PUT(self) -> None:
        data = self.body()
        self.server.stored[hashlib.sha256(data).hexdigest()] = data
        self.answer({})

    def do_GET(self) -> None:
        self.answer({"error": "not here"}, 404)

    def do_POST(self) -> None:
        path, data = urlparse(self.path).path, self.body()
        self.server.tokens.add(self.headers.get("authorization", ""))
        if self.server.refuse:
            return self.answer({"error": "You may not."}, self.server.refuse)
        if path == "/api/repos/create":
            return self.create(json.loads(data))
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in path:
            rows = json.loads(data)["files"]
            modes = [
                {"path": row["path"], "uploadMode": "lfs" if row["path"].endswith(LFS) else "regular", "shouldIgnore": False}
                for row in rows
            ]
            return self.answer({"files": modes})
        if path.endswith("/info/lfs/objects/batch"):
            href = f"{self.server.url}/put"
            objects = [{**row, "actions": {"upload": {"href": f"{href}/{row['oid']}"}}} for row in json.loads(data)["objects"]]
            return self.answer({"transfer": "basic", "objects": objects})
        if "/commit/" in path:
            return self.commit([json.loads(line) for line in data.splitlines()])
        if "/tag/" in path:
            tag = json.loads(data)["tag"]
            if tag in self.server.tags:
                return self.answer({"error": "Tag reference exists already"}, 409)
            self.server.tags[tag] = path.rpartition("/")[2]
            return self.answer({})
        return self.answer({"error": f"unknown {path}"}, 404)

    def create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        is_new = name not in self.server.repos
        self.server.repos.setdefault(name, wanted)
        self.answer({"url": f"{self.server.url}/{name}", "name": name}, 200 if is_new else 409)

    def commit(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["key"] == "header":
                self.server.commits.append(row["value"]["summary"])
            elif row["key"] == "file":
                self.server.files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            elif row["key"] == "lfsFile":
                self.server.files[row["value"]["path"]] = row["value"]["oid"]
        oid = hashlib.sha1(str(len(self.server.commits)).encode()).hexdigest()
        self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/o/n/commit/{oid}"})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "release"
    (made / "items").mkdir(parents=True)
    (made / "README.md").write_text("---\nlicense: apache-2.0\n---\n# support-chat\n", encoding="utf-8")
    (made / "deploy.toml").write_text("schema = 1\n", encoding="utf-8")
    (tmp_path / "weights.gguf").write_bytes(b"GGUF" * 1000)
    (made / "weights.gguf").symlink_to(tmp_path / "weights.gguf")
    (made / "items" / "text.parquet").write_bytes(b"rows")
    return made


def test_weights_card_and_evidence_are_one_commit_with_a_tag(folder: Path, hub: Hub) -> None:
    done = push(folder, to="example/support-chat", name="support-chat", version="3", endpoint=hub.url)
    assert hub.repos["example/support-chat"]["visibility"] == "private"
    assert hub.commits == ["support-chat@3, by trimtab"]
    assert hub.tags == {"v3": done["commit"]}
    assert set(hub.files) == {"README.md", "deploy.toml", "weights.gguf", "items/text.parquet"}
    assert hub.files["deploy.toml"] == (folder / "deploy.toml").read_bytes()
    stored = hub.stored[str(hub.files["weights.gguf"])]
    assert stored == (folder / "weights.gguf").read_bytes()
    assert hub.tokens == {"Bearer hf_of_a_test"}


def test_a_repository_that_is_there_is_used_and_a_tag_is_not_moved(folder: Path, hub: Hub) -> None:
    first = push(folder, to="example/support-chat", name="support-chat", version="3", endpoint=hub.url)
    with pytest.raises(InputError, match="has a tag v3 already"):
        push(folder, to="example/support-chat", name="support-chat", version="3", endpoint=hub.url)
    assert hub.tags == {"v3": first["commit"]}
    push(folder, to="example/support-chat", name="support-chat", version="", endpoint=hub.url)
    assert list(hub.tags) == ["v3"]


@pytest.mark.parametrize(("status", "match"), [(401, "refused"), (403, "refused"), (500, "refused")])
def test_what_the_hub_refuses_is_one_sentence(folder: Path, hub: Hub, status: int, match: str) -> None:
    hub.refuse = status
    with pytest.raises(InputError, match=match) as caught:
        push(folder, to="example/support-chat", name="support-chat", version="3", endpoint=hub.url)
    assert "\n" not in str(caught.value)


def test_wrong_input_is_one_sentence(folder: Path, hub: Hub) -> None:
    with pytest.raises(InputError, match="write ORG/NAME"):
        push(folder, to="a/b/c", name="support-chat", version="3", endpoint=hub.url)
    with pytest.raises(InputError, match="no aliases"):
        push(folder, to="a/b", name="support-chat", version="3", aliases=["production"], endpoint=hub.url)
    (folder / "README.md").unlink()
    with pytest.raises(InputError, match=r"has no README\.md"):
        push(folder, to="a/b", name="support-chat", version="3", endpoint=hub.url)
    assert hub.commits == []


def test_a_hub_that_is_away_is_one_sentence(folder: Path) -> None:
    with pytest.raises(MissingError, match="cannot be reached"):
        push(folder, to="a/b", name="support-chat", version="3", endpoint="http://127.0.0.1:9")
