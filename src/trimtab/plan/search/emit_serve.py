"""A chosen deployment as arguments of an engine's server, and as Kubernetes manifests: plain values, which a flow writes as YAML.

Names of options: vLLM (docs.vllm.ai, engine arguments), SGLang (docs.sglang.io, server arguments), TensorRT-LLM (`trtllm-serve`,
`tensorrt_llm/commands/serve.py`), KServe
(`pkg/apis/serving/v1alpha1/llm_inference_service_types.go`), KubeRay (`RayService` v1) with Ray
Serve's `build_openai_app`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from trimtab.core.errors import InputError
from trimtab.core.planning import Device, ServeJob
from trimtab.plan.search.emit_train import per_host
from trimtab.plan.search.queueing import BUSIEST
from trimtab.plan.serving.memory import BUDGETS

Role = Literal["", "prefill", "decode"]
LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
RAY_IMAGE = "rayproject/ray-llm:latest"
RESOURCES = {
    "nvidia": "nvidia.com/gpu",
    "amd": "amd.com/gpu",
    "intel": "gpu.intel.com/xe",
    "gaudi": "habana.ai/gaudi",
    "google": "google.com/tpu",
    "aws": "aws.amazon.com/neuron",
}
"""Of a device's vendor: what its Kubernetes device plugin is asked for."""
KV_TRANSFER = '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'

VLLM_WEIGHTS = {"fp8": "fp8", "int4": "awq", "mxfp4": "mxfp4", "nvfp4": "modelopt_fp4", "int8": "compressed-tensors"}
"""Weight type -> `--quantization`, where the checkpoint is of that type. bf16 and fp16 need none."""
SGLANG_WEIGHTS = {"fp8": "fp8", "int4": "awq", "mxfp4": "mxfp4", "nvfp4": "modelopt_fp4", "int8": "w8a8_int8"}
KV_TYPES = {"fp8": "fp8_e4m3"}
PLAIN = ("", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What is to be started: one replica's job (with its largest number in flight), how many, and of which role.

    least_replicas: below `replicas`: an autoscaler may go down to so many; 0 = there are always `replicas`
    model: as the engine finds it, e.g. `meta-llama/Llama-3.1-8B-Instruct`
    memory_share: that the engine may take, in its own terms; 0 = as planned, its default
    """

    job: ServeJob
    model: str
    replicas: int = 1
    least_replicas: int = 0
    memory_share: float = 0.0
    role: Role = ""

    @property
    def n_devices(self) -> int:
        """Of one replica."""
        return self.job.tp * self.job.pp * self.job.attention_dp

    @property
    def context_tokens(self) -> int:
        return self.job.prompt_tokens + self.job.output_tokens


def halves(deployed: Deployed) -> tuple[Deployed, Deployed]:
    """The workers that prefill and those that decode, of a disaggregated deployment; `replicas` counts workers of each."""
    job = deployed.job
    before = replace(
        job,
        tp=job.prefill_tp or job.tp,
        ep=job.prefill_ep or job.ep,
        attention_dp=job.prefill_attention_dp or job.attention_dp,
        prefill_devices=0,
        decode_devices=0,
    )
    after = replace(job, prefill_devices=0, decode_devices=0)

    def workers(one: ServeJob, n_devices: int) -> int:
        return max(1, n_devices // (one.tp * one.pp * one.attention_dp))

    n_before, n_after = workers(before, job.prefill_devices), workers(after, job.decode_devices)
    after = replace(after, concurrency=max(1, -(-job.concurrency // n_after)))
    return (
        replace(deployed, job=before, replicas=deployed.replicas * n_before, role="prefill"),
        replace(deployed, job=after, replicas=deployed.replicas * n_after, role="decode"),
    )


def vllm(deployed: Deployed) -> list[str]:
    """`vllm serve ...`, as a list of words."""
    job = deployed.job
    words = ["vllm", "serve", deployed.model]
    for name, value in vllm_settings(deployed).items():
        flag = "--" + name.replace("_", "-")
        words += [flag] if value is True else [flag, str(value)]
    if job.attention_dp > 1 and not _n_experts(job):
        raise InputError(
            f"vLLM's --data-parallel-size makes {job.attention_dp} whole copies of {job.architecture.name}, which has no experts to share; "
            f"plan attention_dp=1 with {job.attention_dp} times the replicas."
        )
    return words


def vllm_settings(deployed: Deployed) -> dict[str, Any]:
    """vLLM's engine arguments by their Python names, as Ray's `engine_kwargs` and `vllm serve` both take them."""
    job = deployed.job
    settings: dict[str, Any] = {
        "tensor_parallel_size": job.tp,
        "pipeline_parallel_size": job.pp,
        "max_num_seqs": max(1, job.concurrency // job.attention_dp),  # of each data-parallel rank
        "max_model_len": deployed.context_tokens,
        "gpu_memory_utilization": _share(deployed, "vllm"),
    }
    if job.attention_dp > 1:
        settings["data_parallel_size"] = job.attention_dp
    if job.ep > 1:
        _whole_ep("vLLM", job)
        settings["enable_expert_parallel"] = True
    settings |= _typed("vLLM", job, VLLM_WEIGHTS, "quantization", "kv_cache_dtype")
    if deployed.role:
        settings["kv_transfer_config"] = KV_TRANSFER
    return settings


def sglang(deployed: Deployed) -> list[str]:
    """`python -m sglang.launch_server ...`. SGLang's tensor-parallel size counts the ranks of attention data parallelism too."""
    job = deployed.job
    words = ["python", "-m", "sglang.launch_server", "--model-path", deployed.model]
    words += ["--tp-size", str(job.tp * job.attention_dp), "--pp-size", str(job.pp)]
    if job.attention_dp > 1:
        words += ["--dp-size", str(job.attention_dp), "--enable-dp-attention"]
    if job.ep > 1:
        words += ["--ep-size", str(job.ep)]
    words += ["--max-running-requests", str(job.concurrency), "--context-length", str(deployed.context_tokens)]
    words += ["--mem-fraction-static", f"{_share(deployed, 'sglang'):g}"]
    for name, value in _typed("SGLang", job, SGLANG_WEIGHTS, "quantization", "kv-cache-dtype").items():
        words += [f"--{name}", str(value)]
    if deployed.role:
        words += ["--disaggregation-mode", deployed.role]
    return words


def trtllm(deployed: Deployed) -> tuple[list[str], dict[str, Any]]:
    """`trtllm-serve ...`, and what its `--config` file holds: `trtllm.yaml`, with the role of a half before it.

    Weights are quantised in the checkpoint.
    """
    job = deployed.job
    if job.attention_dp > 1 and job.tp > 1:
        raise InputError(
            f"TensorRT-LLM splits attention over tensors or over requests, not over tp={job.tp} and attention_dp={job.attention_dp} at "
            f"once; plan tp=1 or attention_dp=1."
        )
    options = {
        "tp_size": job.tp * job.attention_dp,
        "pp_size": job.pp,
        **({"ep_size": job.ep} if job.ep > 1 else {}),
        "max_batch_size": max(1, job.concurrency // job.attention_dp),
        "max_seq_len": deployed.context_tokens,
        "kv_cache_free_gpu_memory_fraction": _share(deployed, "trtllm"),
        "config": f"{deployed.role}.trtllm.yaml" if deployed.role else "trtllm.yaml",
    }
    words = ["trtllm-serve", deployed.model]
    for name, value in options.items():
        words += [f"--{name}", str(value)]
    config: dict[str, Any] = {
        "enable_attention_dp": job.attention_dp > 1,
        "kv_cache_config": {"dtype": _kv_type("TensorRT-LLM", job, "fp8")},
    }
    if deployed.role:
        config["cache_transceiver_config"] = {"backend": "DEFAULT"}
    return words, config


def llm_inference_service(deployed: Deployed, name: str, prefill: Deployed | None = None) -> dict[str, Any]:
    """KServe's LLMInferenceService, which runs vLLM. prefill: the other half of a disaggregated deployment."""
    spec: dict[str, Any] = {"model": {"uri": f"hf://{deployed.model}", "name": name}, **_workload(deployed)}
    if prefill is not None:
        spec["prefill"] = _workload(prefill)
    spec["router"] = {"route": {}, "gateway": {}, "scheduler": {}}
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "LLMInferenceService",
        "metadata": {"name": checked_label(name)},
        "spec": spec,
    }


def _workload(deployed: Deployed) -> dict[str, Any]:
    """Sizes go where KServe has fields for them, all else into vLLM's arguments. Across hosts each pod holds one host's devices."""
    job = deployed.job
    settings = vllm_settings(deployed)
    parallelism: dict[str, Any] = {"tensor": job.tp, "pipeline": job.pp}
    per_node = per_host(job.device)
    if job.attention_dp > 1:
        parallelism |= {"data": job.attention_dp, "dataLocal": max(1, min(job.attention_dp, per_node // job.tp))}
    if job.ep > 1:
        parallelism["expert"] = True
    said = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enable_expert_parallel")
    flags = []
    for key, value in settings.items():
        if key not in said:
            flag = "--" + key.replace("_", "-")
            flags.append(flag if value is True else f"{flag}={_quoted(value)}")
    main = {"name": "main", "env": [{"name": "VLLM_ADDITIONAL_ARGS", "value": " ".join(flags)}]}
    pod = {"containers": [main | _resources(job.device, min(deployed.n_devices, per_node))]}
    workload = {"replicas": deployed.replicas, "parallelism": parallelism, "template": pod}
    return workload if deployed.n_devices <= per_node else {**workload, "worker": pod}


def _quoted(value: object) -> str:
    text = str(value)
    return f"'{text}'" if " " in text or '"' in text else text


def ray_service(deployed: Deployed, name: str) -> dict[str, Any]:
    """KubeRay's RayService: one worker group, whose pods hold a host's devices. `serveConfigV2` is JSON, which is YAML too."""
    job = deployed.job
    per_pod = min(deployed.n_devices, per_host(job.device))
    pods_each = -(-deployed.n_devices // per_pod)
    pods, least = deployed.replicas * pods_each, (deployed.least_replicas or deployed.replicas)
    llm: dict[str, Any] = {
        "model_loading_config": {"model_id": name, "model_source": deployed.model},
        "engine_kwargs": vllm_settings(deployed),
        "deployment_config": {**_ray_replicas(deployed, least), "max_ongoing_requests": job.concurrency},
    }
    application = {
        "name": name,
        "import_path": "ray.serve.llm:build_openai_app",
        "route_prefix": "/",
        "args": {"llm_configs": [llm]},
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": checked_label(name)},
        "spec": {
            "serveConfigV2": json.dumps({"applications": [application]}, indent=2),
            "rayClusterConfig": {
                **({"enableInTreeAutoscaling": True} if least < deployed.replicas else {}),
                "headGroupSpec": {
                    "rayStartParams": {"num-gpus": "0"},
                    "template": {"spec": {"containers": [_ray_container("ray-head", job.device, 0)]}},
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "devices",
                        "replicas": pods,
                        "minReplicas": least * pods_each,
                        "maxReplicas": pods,
                        "rayStartParams": {},
                        "template": {"spec": {"containers": [_ray_container("ray-worker", job.device, per_pod)]}},
                    }
                ],
            },
        },
    }


def _ray_replicas(deployed: Deployed, least: int) -> dict[str, Any]:
    if least == deployed.replicas:
        return {"num_replicas": deployed.replicas}
    wanted = max(1, round(BUSIEST * deployed.job.concurrency))
    return {"autoscaling_config": {"min_replicas": least, "max_replicas": deployed.replicas, "target_ongoing_requests": wanted}}


def _ray_container(name: str, device: Device, n_devices: int) -> dict[str, Any]:
    return {"name": name, "image": RAY_IMAGE, **_resources(device, n_devices)}


def _resources(device: Device, n_devices: int) -> dict[str, Any]:
    """What a container asks its cluster for; nothing where the device is no resource of its own."""
    vendor = device.vendor.partition(" ")[0].lower()
    name = RESOURCES.get("gaudi" if device.name.startswith("gaudi") else vendor)
    if not n_devices or name is None or device.kind in ("cpu", "soc"):
        return {}
    asked = {name: str(n_devices)}
    return {"resources": {"limits": asked, "requests": asked}}


def checked_label(name: str) -> str:
    """The name, if clusters take it. Raises InputError."""
    if not LABEL.fullmatch(name):
        raise InputError(f"{name!r} is no name for a service: small letters, digits and -, 63 at most, a letter first; give another name.")
    return name


def _share(deployed: Deployed, engine: str) -> float:
    return deployed.memory_share or BUDGETS[engine][1]


def _typed(engine: str, job: ServeJob, weights: Mapping[str, str], weight_key: str, kv_key: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if job.weights not in PLAIN:
        if job.weights not in weights:
            raise InputError(f"{engine} has no setting for {job.weights} weights; it has {', '.join(weights)}, or another engine has.")
        given[weight_key] = weights[job.weights]
    if job.kv not in PLAIN:
        given[kv_key] = _kv_type(engine, job, KV_TYPES["fp8"])
    return given


def _kv_type(engine: str, job: ServeJob, fp8: str) -> str:
    if job.kv in PLAIN:
        return "auto"
    if job.kv != "fp8":
        raise InputError(f"{engine} has no setting for a KV cache in {job.kv}; plan it in bf16 or fp8.")
    return fp8


def _whole_ep(engine: str, job: ServeJob) -> None:
    if job.ep != job.tp * job.attention_dp:
        raise InputError(
            f"{engine} spreads experts over all {job.tp * job.attention_dp} ranks of a layer or none; ep={job.ep} cannot be had, plan "
            f"ep=1 or ep={job.tp * job.attention_dp}."
        )


def _n_experts(job: ServeJob) -> int:
    return max((block.feedforward.n_experts for block in job.architecture.blocks if block.feedforward), default=0)
