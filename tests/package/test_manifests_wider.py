"""Manifests of several pods: RayService, LLMInferenceService, InferencePool: valid by strict schemas; what they cannot do is refused."""

import copy
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_samples import MIB, OPENVINO, SAFETENSORS, SAMPLES, UNMEASURED, WIDER
from manifest_schemas import of_document

from trimtab.core.errors import InputError
from trimtab.core.release import ClusterWish, Serving
from trimtab.flows.export import cluster_wish
from trimtab.package.formats import WISHES, check_wish, manifest_files
from trimtab.package.manifests import rayservice, sizing
from trimtab.serve.app import DRAIN_S
from trimtab.serve.site import read_site

FORMS = tuple(WISHES)


def documents(form: str, serving: Serving) -> list[dict[str, Any]]:
    (data,) = manifest_files(form, serving).values()
    return list(yaml.safe_load_all(data))


def one(form: str, kind: str, serving: Serving, name: str = "") -> dict[str, Any]:
    (found,) = [row for row in documents(form, serving) if row["kind"] == kind and (not name or row["metadata"]["name"] == name)]
    return found


def wishing(serving: Serving, **wish: Any) -> Serving:
    return dataclasses.replace(serving, cluster=ClusterWish(**wish))


def pods(node: Any) -> Iterator[dict[str, Any]]:
    """Every pod spec in a document."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for inner in node.values():
            yield from pods(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from pods(inner)


def said(form: str, serving: Serving) -> str:
    (data,) = manifest_files(form, serving).values()
    return " ".join(" ".join(line.lstrip("# ") for line in data.decode().splitlines() if line.startswith("#")).split())


@pytest.mark.parametrize("sample", [*SAMPLES, "all"])
@pytest.mark.parametrize("form", FORMS)
def test_every_document_is_valid_with_unknown_fields_refused(form: str, sample: str) -> None:
    serving = WIDER[form] if sample == "all" else SAMPLES["safetensors" if form == "llminferenceservice" else sample]
    found = documents(form, serving)
    assert [(row["kind"], of_document(row)(row)) for row in found if of_document(row)(row)] == []
    assert len({(row["kind"], row["metadata"]["name"]) for row in found}) == len(found)


def test_a_field_that_a_cluster_would_drop_without_a_word_is_found() -> None:
    service = one("rayservice", "RayService", OPENVINO)
    for place in (service["spec"], service["spec"]["rayClusterConfig"], service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]):
        place["minReplica"] = 1
        assert "minReplica" in of_document(service)(service)
        del place["minReplica"]
    assert of_document(service)(service) == ""


@pytest.mark.parametrize(
    ("form", "kind", "change"),
    [
        ("llminferenceservice", "LLMInferenceService", {"replicas": 2}),  # beside scaling
        ("llminferenceservice", "LLMInferenceService", {"scaling": {"maxReplicas": 2}}),  # without what scales
        ("llminferenceservice", "LLMInferenceService", {"parallelism": {"pipeline": 2, "data": 2}}),
        ("inferencepool", "InferencePool", {"targetPorts": []}),
        ("inferencepool", "InferencePool", {"endpointPickerRef": {"name": "x"}}),  # a service without its port
        ("inferencepool", "Gateway", {"listeners": [{"name": "a", "port": 443, "protocol": "HTTPS"}]}),  # without a certificate
    ],
)
def test_what_the_resources_own_rules_forbid_is_found(form: str, kind: str, change: dict[str, Any]) -> None:
    document = one(form, kind, WIDER[form])
    changed = copy.deepcopy(document)
    changed["spec"] |= change
    assert of_document(document)(document) == ""
    assert of_document(changed)(changed) != ""


@pytest.mark.parametrize("form", ["rayservice", "inferencepool"])
def test_nobody_has_rights_and_roots_are_read_only(form: str) -> None:
    found = [spec for document in documents(form, WIDER[form]) for spec in pods(document)]
    assert len(found) == (3 if form == "rayservice" else 2)
    for spec in found:
        for container in spec["containers"]:
            context = container["securityContext"]
            assert (context["runAsNonRoot"], context["readOnlyRootFilesystem"], context["capabilities"]) == (True, True, {"drop": ["ALL"]})
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= {
                *(volume["name"] for volume in spec.get("volumes", [])),
                "home",  # a template of claims has the same name
            }


@pytest.mark.parametrize("form", ["rayservice", "inferencepool"])
def test_secrets_are_named_and_never_held(form: str) -> None:
    assert [row for row in documents(form, WIDER[form]) if row["kind"] == "Secret"] == []
    (data,) = manifest_files(form, WIDER[form]).values()
    assert b"support-chat-keys" in data
    assert (b"key: password" in data) == (form == "rayservice")


def test_a_ray_worker_asks_for_what_was_measured_and_for_ray() -> None:
    cluster = one("rayservice", "RayService", OPENVINO)["spec"]["rayClusterConfig"]
    (group,) = cluster["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    wanted_mib = math.ceil(610_541_568 * 1.25 / MIB + 256) - 256 + 1024 + 256
    assert worker["resources"]["requests"] == worker["resources"]["limits"] == {"cpu": "2", "memory": f"{wanted_mib}Mi"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    unmeasured = one("rayservice", "RayService", UNMEASURED)["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    assert unmeasured["template"]["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "2"}


def test_devices_are_asked_for_where_the_lock_has_some() -> None:
    cluster = one("rayservice", "RayService", WIDER["rayservice"])["spec"]["rayClusterConfig"]
    worker = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "nvidia.com/gpu" not in cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    llm = one("llminferenceservice", "LLMInferenceService", WIDER["llminferenceservice"])["spec"]
    assert llm["parallelism"] == {"tensor": 2}
    assert llm["template"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert "Accelerators: 2, by its settings" in said("rayservice", WIDER["rayservice"])


@pytest.mark.parametrize(
    ("serving", "least", "most"),
    [(OPENVINO, 0, 1), (UNMEASURED, 1, 1), (wishing(OPENVINO, replicas=(0, 8)), 0, 8), (wishing(OPENVINO, replicas=(2, 2)), 2, 2)],
)
def test_ray_leaves_to_zero_only_where_somebody_holds_the_first_request(serving: Serving, least: int, most: int) -> None:
    spec = one("rayservice", "RayService", serving)["spec"]
    (group,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"], group["replicas"]) == (least, most, least)
    assert spec["excludeHeadPodFromServeSvc"] == (least > 0)
    (application,) = yaml.safe_load(spec["serveConfigV2"])["applications"]
    assert application["import_path"] == rayservice.IMPORT_PATH
    assert (application["args"]["min_replicas"], application["args"]["max_replicas"]) == (least, most)
    assert ("Scale to zero: off" in said("rayservice", serving)) == (least > 0)


def test_an_upgrade_lets_what_runs_end() -> None:
    spec = one("rayservice", "RayService", OPENVINO)["spec"]
    assert spec["upgradeStrategy"] == {"type": "NewCluster"}
    assert spec["rayClusterDeletionDelaySeconds"] >= sizing.REQUEST_S + DRAIN_S
    step = one("rayservice", "RayService", WIDER["rayservice"])["spec"]["upgradeStrategy"]
    assert step["type"] == "NewClusterWithIncrementalUpgrade"
    assert step["clusterUpgradeOptions"]["gatewayClassName"] == "istio"
    assert "feature gate RayServiceIncrementalUpgrade" in said("rayservice", WIDER["rayservice"])


def test_a_head_keeps_its_state_in_redis_where_one_is_named() -> None:
    cluster = one("rayservice", "RayService", WIDER["rayservice"])["spec"]["rayClusterConfig"]
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"] == "redis.state:6379"
    head = one("rayservice", "NetworkPolicy", WIDER["rayservice"], "support-chat-ray-head")
    assert {"protocol": "TCP", "port": 6379} in head["spec"]["egress"][-1]["ports"]
    assert "gcsFaultToleranceOptions" not in one("rayservice", "RayService", OPENVINO)["spec"]["rayClusterConfig"]
    assert "without GCS fault tolerance the cluster's state goes with it" in said("rayservice", OPENVINO)


def test_ray_serve_takes_its_configuration() -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="pip install 'trimtab[ray]'")
    for serving in (OPENVINO, WIDER["rayservice"]):
        config = yaml.safe_load(one("rayservice", "RayService", serving)["spec"]["serveConfigV2"])
        assert schema.ServeDeploySchema.model_validate(config).applications[0].import_path == rayservice.IMPORT_PATH


def test_the_sites_are_ones_that_the_gateway_reads(tmp_path: Path) -> None:
    text = one("rayservice", "ConfigMap", WIDER["rayservice"], "support-chat-front")["data"]["site.toml"]
    (tmp_path / "site.toml").write_text(text, encoding="utf-8")
    (model,) = read_site(tmp_path / "site.toml").models
    assert model.versions[0].url == "http://support-chat-serve-svc:8000/v1"
    assert model.versions[0].slots == WIDER["rayservice"].slots * 8
    assert model.queue_wait_s == sizing.PULL_S + sizing.start_s(WIDER["rayservice"])


def test_workers_talk_to_nobody_outside() -> None:
    egress = one("rayservice", "NetworkPolicy", WIDER["rayservice"], "support-chat-ray-worker")["spec"]["egress"]
    assert all("to" in rule for rule in egress)
    assert egress[0]["to"] == [
        {"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "support-chat", "app.kubernetes.io/component": part}}}
        for part in ("ray-head", "ray-worker")
    ]


def test_pool_picker_pods_and_route_name_each_other() -> None:
    found = {(row["kind"], row["metadata"]["name"]): row for row in documents("inferencepool", WIDER["inferencepool"])}
    pool = found["InferencePool", "support-chat"]["spec"]
    pod = found["StatefulSet", "support-chat"]["spec"]
    assert pool["selector"]["matchLabels"].items() <= pod["template"]["metadata"]["labels"].items()
    assert pod["replicas"] == 3
    assert pool["targetPorts"] == [{"number": pod["template"]["spec"]["containers"][0]["ports"][0]["containerPort"]}]
    picker = pool["endpointPickerRef"]
    service = found["Service", picker["name"]]["spec"]
    assert service["ports"][0]["port"] == picker["port"]["number"]
    assert service["selector"] == found["Deployment", picker["name"]]["spec"]["template"]["metadata"]["labels"]
    rule = found["HTTPRoute", "support-chat"]["spec"]["rules"][0]
    assert rule["backendRefs"] == [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "support-chat"}]
    assert found["HTTPRoute", "support-chat"]["spec"]["parentRefs"] == [{"name": found["Gateway", "support-chat"]["metadata"]["name"]}]
    claims = {claim["metadata"]["name"] for claim in pod["volumeClaimTemplates"]}
    assert claims == {"home"}
    assert {volume["name"] for volume in pod["template"]["spec"]["volumes"]} == {"site", "keys", "tmp"}


@pytest.mark.parametrize(
    ("form", "wish", "says"),
    [
        ("llminferenceservice", {"replicas": (0, 4)}, "does not leave by itself"),
        ("inferencepool", {"replicas": (0, 4)}, "holds no request for one that is not"),
        ("inferencepool", {"replicas": (1, 4)}, "give one number above 0"),
        ("llminferenceservice", {"weights_uri": "ftp://somewhere/x"}, "is no place that KServe fetches from"),
    ],
)
def test_what_a_format_cannot_do_is_refused(form: str, wish: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        manifest_files(form, wishing(SAFETENSORS, **wish))


def test_weights_that_vllm_does_not_open_are_refused_and_told_where_they_run() -> None:
    for serving in (OPENVINO, wishing(OPENVINO, weights_uri="s3://bucket/chat")):
        with pytest.raises(InputError, match="export inferencepool"):
            manifest_files("llminferenceservice", serving)
    elsewhere = wishing(dataclasses.replace(SAFETENSORS, source="models/tiny"), weights_uri="oci://registry.example/chat:3")
    assert one("llminferenceservice", "LLMInferenceService", elsewhere)["spec"]["model"]["uri"] == "oci://registry.example/chat:3"
    assert "is no image, and KServe does not open it" in said("llminferenceservice", elsewhere)


@pytest.mark.parametrize(
    ("form", "wish"), [("knative", {"replicas": (1, 2)}), ("inferencepool", {"redis": "a:1"}), ("cards", {"weights_uri": "x"})]
)
def test_a_wish_that_a_format_would_pass_over_is_refused(form: str, wish: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="has nothing of the kind"):
        check_wish(form, ClusterWish(**wish))


def test_an_image_by_tag_is_named_as_one() -> None:
    tagged = dataclasses.replace(OPENVINO, image="registry.example/chat:3")
    assert "is named by tag, which may move" in said("rayservice", tagged)
    assert "is named by tag, which may move" not in said("rayservice", OPENVINO)


@pytest.mark.parametrize(
    "wrong",
    [{"replicas": "8..0"}, {"replicas": "0"}, {"replicas": "many"}, {"redis": "redis"}, {"redis": "redis:0"}, {"gateway_class": "A B"}],
)
def test_a_wish_that_makes_no_sense_is_one_sentence(wrong: dict[str, str]) -> None:
    (name,) = wrong
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')}"):
        cluster_wish(**wrong)


def test_wishes_are_read_as_they_are_typed() -> None:
    assert cluster_wish(replicas="0..8").replicas == (0, 8)
    assert cluster_wish(replicas="3").replicas == (3, 3)
    assert cluster_wish() == ClusterWish()
