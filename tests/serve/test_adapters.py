"""Adapters of a site: what its file may say of them, who may use them, and what the log is told of them."""

import asyncio
import json
from pathlib import Path

import pytest

from trimtab.core.deployment import EngineBuild, Recipe, Settings
from trimtab.core.errors import InfeasibleError, InputError
from trimtab.core.files import sha256_file
from trimtab.core.model import Adapter, Snapshot, SnapshotFile
from trimtab.core.site import Site
from trimtab.record.deploy import DeployLock, write_deploy_toml
from trimtab.record.identities import Keyring, add_key
from trimtab.serve import replica_worker
from trimtab.serve.access import Access
from trimtab.serve.base import Refusal, Usage
from trimtab.serve.dispatch import plans_of
from trimtab.serve.door import Door, Incoming
from trimtab.serve.journey import Journey, began_record, ended_record
from trimtab.serve.limits import Limits
from trimtab.serve.meter import Meter
from trimtab.serve.notes import Notes
from trimtab.serve.quota import OwnQuota
from trimtab.serve.replica_worker import WorkerReplica
from trimtab.serve.site import read_site
from trimtab.testing.tiny_models import write_tiny_gguf, write_tiny_lora

ZEROS = "0" * 64


def write_lock(path: Path) -> None:
    lock = DeployLock(
        id="llamacpp", verdict="pass", decision_sha256=ZEROS, source="m.gguf", revision="", format="gguf", source_sha256=ZEROS,
        source_files=(SnapshotFile(name="m.gguf", size_bytes=1, sha256=ZEROS),), weights_sha256=ZEROS, template_sha256=ZEROS,
        recipe=Recipe(name="as-shipped", family="gguf", engine="llamacpp"), build=EngineBuild(engine="llamacpp", version="1"),
        settings=Settings(slots=2), policy="standard", policy_sha256=ZEROS, suite="core", suite_sha256=ZEROS, workload="chat",
        workload_sha256=ZEROS, reference_sha256=ZEROS, machine="cpu", machine_sha256=ZEROS, made="2026-11-26T00:00:00Z", trimtab="0.1.0",
    )  # fmt: skip
    write_deploy_toml(path, lock)


HEAD = '[[models]]\nname = "chat"\naliases = ["gpt"]\nlock = "deploy.toml"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a site: a lock, an adapter `fr.gguf` and a model `m.gguf`."""
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    write_lock(tmp_path / "deploy.toml")
    write_tiny_lora(tmp_path / "fr.gguf")
    write_tiny_gguf(tmp_path / "m.gguf")
    return tmp_path


def site(folder: Path, text: str) -> Site:
    (folder / "site.toml").write_text(text)
    return read_site(folder / "site.toml")


def test_an_adapter_is_a_name_of_its_own_beside_its_model(folder: Path) -> None:
    found = site(folder, HEAD + 'adapters = { support-fr = "fr.gguf" }')
    (model,) = found.models
    (adapter,) = model.adapters
    assert adapter == Adapter(name="support-fr", path=folder / "fr.gguf", sha256=sha256_file(folder / "fr.gguf"))
    assert found.asked_for("support-fr") == (model, adapter)
    assert found.asked_for("gpt") == found.asked_for("chat") == (model, None)
    assert found.asked_for("support") == (None, None)
    assert found.model_called("support-fr") is None
    assert site(folder, HEAD + '[models.adapters]\nsupport-fr = "fr.gguf"').models == found.models


def test_adapters_count_in_the_memory_that_is_planned_for_a_replica(folder: Path) -> None:
    rows = [{"id": "llamacpp", "measurement": {"peak_memory_bytes": 10**6}}]
    (folder / "decision.json").write_text(json.dumps({"schema": "trimtab.decision/1", "candidates": rows}))
    size = (folder / "fr.gguf").stat().st_size
    plain, two = HEAD, HEAD + 'adapters = { fr = "fr.gguf", de = "fr.gguf" }'

    def planned(text: str) -> int:
        (plan,) = plans_of(site(folder, f"memory = {10**9}\n{text}"))
        return plan.memory_bytes

    assert (planned(plain), planned(two)) == (10**6, 10**6 + 2 * size)
    assert planned(f'{HEAD}memory = 2_000_000\nadapters = {{ fr = "fr.gguf" }}') == 2 * 10**6, "what a site says is what a replica takes"
    with pytest.raises(InputError, match=rf"takes {10**6 + 2 * size:,}"):
        site(folder, f"memory = {10**6 + size}\n{two}")


def test_with_another_adapter_it_is_another_version(folder: Path) -> None:
    def content(text: str) -> str:
        return site(folder, HEAD + text).models[0].versions[0].content_sha256

    plain, first = content(""), content('adapters = { fr = "fr.gguf" }')
    assert first == content('adapters = { fr = "fr.gguf" }')
    write_tiny_lora(folder / "fr.gguf", seed=5)
    assert len({plain, first, content('adapters = { fr = "fr.gguf" }'), content('adapters = { de = "fr.gguf" }')}) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + 'adapters = { fr = "gone.gguf" }', "models[0].adapters.fr names gone.gguf, which is no file"),
        (HEAD + 'adapters = ["fr.gguf"]', "models[0].adapters must be a table"),
        (HEAD + 'adapters = { fr = "" }', "models[0].adapters.fr must be a name, and be given a file"),
        (HEAD + "adapters = { fr = 3 }", "models[0].adapters.fr must be a text"),
        (HEAD + 'adapters = { fr = "m.gguf" }', "models[0].adapters.fr cannot be used:"),
        (HEAD + 'adapters = { fr = "site.toml" }', "is not a usable GGUF file"),
        (HEAD + 'adapters = { "fr\\u0007" = "fr.gguf" }', "models[0].adapters is 'fr\\x07', which holds U+0007"),
        (HEAD + 'adapters = { chat = "fr.gguf" }', "models[0].adapters.chat is 'chat', as models[0].name is"),
        (HEAD + 'adapters = { gpt = "fr.gguf" }', "models[0].adapters.gpt is 'gpt', as models[0].aliases[0] is"),
        ('[[models]]\nname = "a"\nurl = "http://h:1/v1"\nadapters = { fr = "fr.gguf" }', "are for models with a lock only"),
    ],
)
def test_every_mistake_is_one_sentence(folder: Path, text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        site(folder, text)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(folder / "site.toml"))


def test_keys_are_for_the_adapter_or_for_the_model(folder: Path) -> None:
    found = site(folder, 'need_keys = true\naudit = "off"\n' + HEAD + 'adapters = { support-fr = "fr.gguf" }')
    secrets = {name: add_key(name, models=[name], home=folder / "keys")[1] for name in ("chat", "support-fr")}
    notes = Notes(audit=None, meter=Meter(), refuses=False)
    door = Door(access=Access(Keyring(folder / "keys")), quota=OwnQuota(Limits()), notes=notes)

    def journey(secret: str, name: str) -> Journey:
        raw = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "hello"}}]}}'.encode()
        incoming = Incoming(id="r", path="/v1/chat/completions", headers={"authorization": f"Bearer {secret}"}, raw=raw)
        made = Journey(id="r", path=incoming.path, output=None)
        asyncio.run(door.admit(found, {"chat": no_guards()}, incoming, made))
        return made

    under, plain = journey(secrets["support-fr"], "support-fr"), journey(secrets["chat"], "gpt")
    digest = sha256_file(folder / "fr.gguf")
    assert (under.model, plain.model) == ("support-fr", "chat")
    for record in (began_record(under), ended(under)):
        assert (record["model"], record["adapter"], record["adapter_sha256"]) == ("support-fr", "support-fr", digest)
    assert "adapter" not in began_record(plain) | ended(plain)
    for secret, name in ((secrets["chat"], "support-fr"), (secrets["support-fr"], "chat"), (secrets["support-fr"], "gpt")):
        with pytest.raises(Refusal) as caught:
            journey(secret, name)
        assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def no_guards():
    from trimtab.guard.pipeline import Guards

    return Guards(())


def ended(journey: Journey) -> dict:
    class Output:
        def hexdigest(self) -> str:
            return ""

    journey.output = Output()
    return ended_record(journey, Usage(prompt=1, completion=1), 1.0, None)


@pytest.mark.parametrize("adapters", [(), (Adapter(name="fr", path=Path("fr.gguf"), sha256=ZEROS),)])
def test_a_probe_that_gets_no_turn_says_nothing_while_others_are_answered(
    adapters: tuple[Adapter, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_worker, "PROBE_TURN_S", 0.05)
    snapshot = Snapshot(source="m", format="gguf", root=Path("/nowhere"), files=(SnapshotFile(name="m.gguf", size_bytes=1, sha256=ZEROS),))

    async def scenario(answers: bool) -> None:
        replica = WorkerReplica(engine="fake", snapshot=snapshot, settings=Settings(), model="m", adapters=adapters)
        model = type("Model", (), {"probe_ids": (1,)})()
        monkeypatch.setattr(replica, "_running", lambda: (None, model))

        async def never(client: object, ids: object) -> None:
            replica._n_groups += answers
            await asyncio.sleep(60)

        monkeypatch.setattr(replica, "_probed", never)
        replica._known = asyncio.ensure_future(asyncio.sleep(0, ()))
        await replica.probe()

    asyncio.run(scenario(True))
    with pytest.raises(InfeasibleError, match="no token within"):
        asyncio.run(scenario(False))
