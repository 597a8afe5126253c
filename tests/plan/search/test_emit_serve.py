"""What is emitted for a deployment, read back by parsers of the engines' own option names, is that deployment again."""

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.errors import InputError
from trimtab.core.planning import ServeJob
from trimtab.plan.devices import device
from trimtab.plan.search.emit_serve import Deployed, halves, llm_inference_service, ray_service, sglang, trtllm, vllm
from trimtab.plan.serving.memory import BUDGETS

from .samples import GB80 as PLAIN
from .samples import dense

sys.path.insert(0, str(Path(__file__).parents[2] / "package"))

GB80 = replace(PLAIN, vendor="NVIDIA")
MODEL = "org/Some-Model-8B"
DENSE = ServeJob(architecture=dense(), device=GB80, engine="vllm", tp=4, pp=2, concurrency=96, prompt_tokens=2000, output_tokens=500)
MOE = replace(DENSE, architecture=dense("test-moe", n_experts=64, n_experts_used=4), tp=1, pp=1, ep=16, attention_dp=16)
JOBS = [
    DENSE,
    MOE,
    replace(DENSE, weights="fp8", kv="fp8"),
    replace(DENSE, tp=1, pp=1, concurrency=1),
    replace(MOE, attention_dp=1, tp=8, ep=8),
]
KV_BACK = {None: "", "auto": "", "fp8": "fp8", "fp8_e4m3": "fp8"}


def parsed(words: list[str], start: list[str], texts: str, switches: str = "") -> dict[str, Any]:
    assert words[: len(start)] == start
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("model", nargs="?")
    for name in texts.split():
        parser.add_argument(f"--{name}")
    for name in switches.split():
        parser.add_argument(f"--{name}", action="store_true")
    return vars(parser.parse_args(words[len(start) :]))


VLLM = (
    "tensor-parallel-size pipeline-parallel-size data-parallel-size max-num-seqs max-model-len gpu-memory-utilization quantization "
    "kv-cache-dtype kv-transfer-config"
)


def vllm_back(found: dict[str, Any]) -> dict[str, Any]:
    ranks = int(found["data_parallel_size"] or 1)
    tp = int(found["tensor_parallel_size"])
    return {
        "tp": tp,
        "pp": int(found["pipeline_parallel_size"]),
        "attention_dp": ranks,
        "ep": tp * ranks if found["enable_expert_parallel"] else 1,
        "concurrency": int(found["max_num_seqs"]) * ranks,
        "kv": KV_BACK[found["kv_cache_dtype"]],
        "weights": found["quantization"] or "bf16",
        "tokens": int(found["max_model_len"]),
    }


def as_told(job: ServeJob) -> dict[str, Any]:
    names = ("tp", "pp", "attention_dp", "ep", "concurrency", "kv", "weights")
    return {**{name: getattr(job, name) for name in names}, "tokens": job.prompt_tokens + job.output_tokens}


@pytest.mark.parametrize("job", JOBS)
def test_vllm(job: ServeJob) -> None:
    found = parsed(vllm(Deployed(job=job, model=MODEL)), ["vllm", "serve"], VLLM, "enable-expert-parallel")
    assert found["model"] == MODEL
    assert vllm_back(found) == as_told(job)
    assert found["kv_transfer_config"] is None
    half = parsed(vllm(Deployed(job=job, model=MODEL, role="prefill")), ["vllm", "serve"], VLLM, "enable-expert-parallel")
    assert json.loads(half["kv_transfer_config"])["kv_connector"] == "NixlConnector"


@pytest.mark.parametrize("job", JOBS)
def test_sglang(job: ServeJob) -> None:
    texts = "model-path tp-size pp-size dp-size ep-size max-running-requests context-length mem-fraction-static quantization kv-cache-dtype"
    words = sglang(Deployed(job=job, model=MODEL, role="decode"))
    found = parsed(words, ["python", "-m", "sglang.launch_server"], f"{texts} disaggregation-mode", "enable-dp-attention")
    ranks = int(found["dp_size"] or 1)
    back = {
        "tp": int(found["tp_size"]) // ranks,
        "pp": int(found["pp_size"]),
        "attention_dp": ranks,
        "ep": int(found["ep_size"] or 1),
        "concurrency": int(found["max_running_requests"]),
        "kv": KV_BACK[found["kv_cache_dtype"]],
        "weights": found["quantization"] or "bf16",
        "tokens": int(found["context_length"]),
    }
    assert back == as_told(job)
    assert found["enable_dp_attention"] == (job.attention_dp > 1)
    assert (found["model_path"], found["disaggregation_mode"]) == (MODEL, "decode")


@pytest.mark.parametrize("job", JOBS)
def test_trtllm(job: ServeJob) -> None:
    words, config = trtllm(Deployed(job=job, model=MODEL))
    found = parsed(words, ["trtllm-serve"], "tp_size pp_size ep_size max_batch_size max_seq_len kv_cache_free_gpu_memory_fraction config")
    ranks = int(found["tp_size"]) if config["enable_attention_dp"] else 1
    back = {
        "tp": int(found["tp_size"]) // ranks,
        "pp": int(found["pp_size"]),
        "attention_dp": ranks,
        "ep": int(found["ep_size"] or 1),
        "concurrency": int(found["max_batch_size"]) * ranks,
        "kv": KV_BACK[config["kv_cache_config"]["dtype"]],
        "tokens": int(found["max_seq_len"]),
    }
    assert back == {name: value for name, value in as_told(job).items() if name != "weights"}
    assert found["config"] == "trtllm.yaml"


@pytest.mark.parametrize("job", JOBS)
def test_llm_inference_service(job: ServeJob) -> None:
    """Read back, and held against the fields of KServe's source with PodSpec from Kubernetes' own schema."""
    schemas = pytest.importorskip("manifest_schemas")
    document = llm_inference_service(Deployed(job=job, model=MODEL, replicas=3), "chat", Deployed(job=job, model=MODEL, role="prefill"))
    for workload in (document["spec"], document["spec"]["prefill"]):
        degrees = workload["parallelism"]
        flags = shlex.split(workload["template"]["containers"][0]["env"][0]["value"])
        found = parsed(flags, [], VLLM, "enable-expert-parallel")
        found |= {"tensor_parallel_size": degrees["tensor"], "pipeline_parallel_size": degrees["pipeline"]}
        found |= {"data_parallel_size": degrees.get("data"), "enable_expert_parallel": degrees.get("expert", False)}
        assert vllm_back(found) == as_told(job)
        n_devices = job.tp * job.pp * job.attention_dp
        assert ("worker" in workload) == (n_devices > GB80.devices_per_node)
        assert int(workload["template"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]) == min(n_devices, 8)
    assert document["spec"]["replicas"] == 3
    plain = {key: value for key, value in document["spec"].items() if key not in ("parallelism", "prefill", "worker")}
    assert schemas.custom_resource("serving.kserve.io/v1alpha1", "LLMInferenceService")({**document, "spec": plain}) == ""
    counts = {"tensor", "pipeline", "data", "dataLocal"}
    for workload in (document["spec"], document["spec"]["prefill"]):
        assert set(workload["parallelism"]) <= {*counts, "expert"}
        assert all(type(workload["parallelism"][key]) is int for key in counts & set(workload["parallelism"]))
        assert set(workload) <= {"model", "replicas", "parallelism", "template", "worker", "prefill", "router"}


@pytest.mark.parametrize("job", JOBS)
def test_ray_service(job: ServeJob) -> None:
    yaml = pytest.importorskip("yaml")
    schemas = pytest.importorskip("manifest_schemas")
    document = ray_service(Deployed(job=job, model=MODEL, replicas=2), "chat")
    assert (document["apiVersion"], document["kind"], document["metadata"]) == ("ray.io/v1", "RayService", {"name": "chat"})
    (application,) = yaml.safe_load(document["spec"]["serveConfigV2"])["applications"]
    assert application["import_path"] == "ray.serve.llm:build_openai_app"
    (config,) = application["args"]["llm_configs"]
    assert config["model_loading_config"] == {"model_id": "chat", "model_source": MODEL}
    assert config["deployment_config"] == {"num_replicas": 2, "max_ongoing_requests": job.concurrency}
    names = VLLM.replace("-", "_").split()
    found = {**dict.fromkeys(names), "enable_expert_parallel": False, **config["engine_kwargs"]}
    assert set(found) == {*names, "enable_expert_parallel"}
    assert vllm_back(found) == as_told(job)
    cluster = document["spec"]["rayClusterConfig"]
    (group,) = cluster["workerGroupSpecs"]
    gpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert gpus * group["replicas"] == 2 * job.tp * job.pp * job.attention_dp
    for one in (group, cluster["headGroupSpec"]):
        assert schemas.kubernetes("Pod", "v1")({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, **one["template"]}) == ""


def test_ray_scales_between_the_replicas_of_quiet_and_busy_hours() -> None:
    document = ray_service(Deployed(job=DENSE, model=MODEL, replicas=6, least_replicas=2), "chat")
    (config,) = json.loads(document["spec"]["serveConfigV2"])["applications"][0]["args"]["llm_configs"]
    scaling = config["deployment_config"]["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (2, 6)
    assert 0 < scaling["target_ongoing_requests"] < config["deployment_config"]["max_ongoing_requests"]
    cluster = document["spec"]["rayClusterConfig"]
    (group,) = cluster["workerGroupSpecs"]
    assert cluster["enableInTreeAutoscaling"]
    assert (group["minReplicas"], group["maxReplicas"]) == (2, 6)


@pytest.mark.parametrize(
    ("emit", "changes", "words"),
    [
        (vllm, {"weights": "Q4_K_M"}, "vLLM has no setting for Q4_K_M weights"),
        (sglang, {"kv": "int8"}, "SGLang has no setting for a KV cache in int8"),
        (trtllm, {"kv": "int4"}, "TensorRT-LLM has no setting for a KV cache in int4"),
        (trtllm, {"attention_dp": 2}, "plan tp=1 or attention_dp=1"),
        (vllm, {"attention_dp": 2}, "2 whole copies of test-8b"),
        (vllm, {"architecture": MOE.architecture, "ep": 2}, "plan ep=1 or ep=4"),
    ],
)
def test_what_an_engine_cannot_is_said(emit: Any, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as refused:
        emit(Deployed(job=replace(DENSE, **changes), model=MODEL))
    assert words in str(refused.value)


def test_names_that_clusters_refuse_are_refused() -> None:
    for emit in (llm_inference_service, ray_service):
        with pytest.raises(InputError, match="63 at most"):
            emit(Deployed(job=DENSE, model=MODEL), "My Chat")


def test_the_halves_of_a_disaggregated_deployment() -> None:
    job = replace(DENSE, pp=1, prefill_devices=16, decode_devices=8, prefill_tp=8)
    before, after = halves(Deployed(job=job, model=MODEL, replicas=3))
    assert (before.job.tp, before.n_devices * before.replicas, before.role) == (8, 3 * 16, "prefill")
    assert (after.job.tp, after.n_devices * after.replicas, after.role) == (4, 3 * 8, "decode")
    assert after.job.concurrency * 2 >= job.concurrency
    assert "--kv-transfer-config" in vllm(before)
    assert sglang(after)[-2:] == ["--disaggregation-mode", "decode"]


def test_engines_may_take_what_the_plan_gave_them() -> None:
    asked = Deployed(job=DENSE, model=MODEL)
    shares = (
        parsed(vllm(asked), ["vllm", "serve"], VLLM)["gpu_memory_utilization"],
        sglang(asked)[sglang(asked).index("--mem-fraction-static") + 1],
        trtllm(asked)[0][trtllm(asked)[0].index("--kv_cache_free_gpu_memory_fraction") + 1],
    )
    assert tuple(map(float, shares)) == tuple(BUDGETS[engine][1] for engine in ("vllm", "sglang", "trtllm"))
    assert "0.5" in vllm(replace(asked, memory_share=0.5))


@pytest.mark.parametrize(
    ("name", "resource", "each"),
    [("mi300x", "amd.com/gpu", 8), ("tpu-v6e", "google.com/tpu", 4), ("gaudi3", "habana.ai/gaudi", 8), ("gb200", "nvidia.com/gpu", 4)],
)
def test_clusters_are_asked_for_the_devices_of_a_host(name: str, resource: str, each: int) -> None:
    job = replace(DENSE, device=device(name), tp=8, pp=2)
    pod = llm_inference_service(Deployed(job=job, model=MODEL), "chat")["spec"]["template"]["containers"][0]
    assert pod["resources"]["limits"] == {resource: str(each)}
    group = ray_service(Deployed(job=job, model=MODEL), "chat")["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    assert group["replicas"] * each == 16
