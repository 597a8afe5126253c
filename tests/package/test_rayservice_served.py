"""What an exported RayService tells Ray Serve is what runs: its application, its site and its lock, on a Ray of one node."""

import importlib
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from trimtab.bridges.ray_app import Wanted, inner_site
from trimtab.core.errors import InputError
from trimtab.flows.export import export
from trimtab.package.manifests.pod import LOCK_PATH, SITE_DIR
from trimtab.package.manifests.rayservice import IMPORT_PATH
from trimtab.serve.site import read_site


def exported(run: Path, folder: Path) -> dict[str, Any]:
    """The application of the manifest, with its mounted files put where they are on this machine."""
    folder.mkdir(exist_ok=True)
    export(str(run), form="rayservice", out=folder / "out")
    found = list(yaml.safe_load_all((folder / "out" / "rayservice.yaml").read_bytes()))
    (config,) = [one for one in found if one["kind"] == "ConfigMap" and one["metadata"]["name"].endswith("-site")]
    (folder / "etc").mkdir()
    for name, text in config["data"].items():
        (folder / "etc" / name).write_text(text.replace(LOCK_PATH, str(folder / "etc" / "deploy.toml")), encoding="utf-8")
    (service,) = [one for one in found if one["kind"] == "RayService"]
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    application["args"]["site"] = application["args"]["site"].replace(SITE_DIR, str(folder / "etc"))
    return dict(application)


def named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def test_a_replica_serves_the_lock_on_loopback_without_what_the_gateway_does(run: Path, tmp_path: Path) -> None:
    wanted = Wanted.parse(exported(run, tmp_path / "here")["args"])
    text = inner_site(Path(wanted.site), wanted.model, 12345)
    (tmp_path / "site.toml").write_text(text, encoding="utf-8")
    site = read_site(tmp_path / "site.toml")
    assert (site.listen.host, site.listen.port, site.need_keys, site.audit) == ("127.0.0.1", 12345, False, "off")
    assert (site.models[0].name, site.models[0].min_replicas) == (wanted.model, 1)
    with pytest.raises(InputError, match="names no lock for 'other'"):
        inner_site(Path(wanted.site), "other", 1)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"site": "s", "model": "m"}, "args lack slots"),
        ({"site": "s", "model": "m", "slots": 1, "sots": 2}, "'sots' is not known"),
        ({"site": "s", "model": "m", "slots": 1, "min_replicas": 3}, "make no service"),
    ],
)
def test_arguments_that_make_no_service_are_refused(args: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Wanted.parse(args)


@pytest.mark.slow
@pytest.mark.cluster
def test_ray_serve_runs_the_application_of_the_manifest(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="pip install 'trimtab[ray]'")
    from ray import serve

    from trimtab.serve.server_process import free_port

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    application = exported(run, tmp_path)
    args = {**application["args"], "cpus": 1, "min_replicas": 1}
    port = free_port()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(named(IMPORT_PATH)(args), name="app", route_prefix="/")
        body = {"model": args["model"], "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=120) as answer:
            assert json.loads(answer.read())["usage"]["completion_tokens"] <= 4
        streamed = urllib.request.Request(asked.full_url, json.dumps({**body, "stream": True}).encode(), dict(asked.headers))
        with urllib.request.urlopen(streamed, timeout=120) as answer:
            assert answer.read().rstrip().endswith(b"data: [DONE]")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(asked.full_url, b"{}", dict(asked.headers)), timeout=120)
        assert refused.value.code in (400, 404, 422)
    finally:
        serve.shutdown()
        ray.shutdown()
