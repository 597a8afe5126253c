"""KServe: an LLMInferenceService, which runs vLLM on weights that it fetches, behind its scheduler (serving.kserve.io/v1alpha2).

Fields: `pkg/apis/serving/v1alpha2/llm_inference_service_types.go` of kserve/kserve; v1alpha1 has the same ones that are used here.
"""

import re
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.release import Serving
from trimtab.package.manifests.lock import HubName, hub_name, judged
from trimtab.package.manifests.pod import annotations, labels
from trimtab.package.manifests.sizing import ACCELERATOR, accelerators
from trimtab.package.manifests.text import checked_name, title, yaml_bytes
from trimtab.package.manifests.vllm import arguments, settings_notes

API, OLDER_API = "serving.kserve.io/v1alpha2", "serving.kserve.io/v1alpha1"
COOL_DOWN_S = 600
"""Before a replica above the least is given back; as long as the gateway keeps an idle one."""
_URI = re.compile(r"(hf|s3|pvc|oci)://[^/\s]+/\S+")


def llm_inference_service(serving: Serving) -> dict[str, bytes]:
    """llminferenceservice.yaml. Raises InputError for weights that KServe does not fetch or vLLM does not open, MissingError."""
    name = checked_name(serving)
    uri = weights_uri(serving)
    given, dropped = arguments(serving)
    spec: dict[str, Any] = {
        "model": {"uri": uri, "name": serving.model},
        **_replicas(serving),
        **_parallelism(serving),
        "router": {"route": {}, "gateway": {}, "scheduler": {}},
        "template": {"containers": [main_container(serving, given)]},
    }
    document = {
        "apiVersion": API,
        "kind": "LLMInferenceService",
        "metadata": {"name": name, "labels": labels(serving), "annotations": annotations(serving)},
        "spec": spec,
    }
    notes = [
        title(serving, "KServe LLMInferenceService"),
        *settings_notes(serving, dropped),
        *_weights_notes(serving, uri),
        *_scaling_notes(serving),
        *container_notes(serving),
        "Router: KServe makes the HTTPRoute, takes its default Gateway, and makes the InferencePool and the endpoint picker that "
        "`scheduler` "
        "asks for. What that picker weighs (queues, cache, prefixes) are vLLM's metrics and KServe's defaults.",
        f"{API} is what current KServe stores; an older one that knows only {OLDER_API} takes these fields under that name, but for "
        "`scaling`.",
        "Several hosts a replica (`worker`), prefill apart from decode (`prefill`) and adapters (`lora`) are not written: the lock names "
        "one "
        "engine on one machine.",
    ]
    return {"llminferenceservice.yaml": yaml_bytes(notes, document)}


def weights_uri(serving: Serving) -> str:
    """Where KServe finds the weights. Raises InputError where it finds none, or vLLM could not open them."""
    told = serving.cluster.weights_uri
    if told:
        if not _URI.fullmatch(told):
            raise InputError(
                f"--weights-uri {told!r} is no place that KServe fetches from; write hf://ORG/NAME, s3://..., pvc://... or oci://..."
            )
        if serving.weights_format != "safetensors":
            raise InputError(
                f"vLLM opens a folder of safetensors there, and {serving.name} is served with {serving.weights_format} weights; judge a "
                "candidate in safetensors, or export inferencepool, which runs the image that was judged."
            )
        return told
    model, why_not = on_hub(serving)
    if model is None:
        raise InputError(
            f"There is no LLMInferenceService for {serving.name}: {why_not} Say where the weights lie with --weights-uri, or export "
            "inferencepool, which runs the image that was judged."
        )
    return hub_uri(model)


def on_hub(serving: Serving) -> tuple[HubName | None, str]:
    """The model that vLLM would fetch, or why there is none."""
    model = hub_name(serving.source)
    if model is None:
        return None, f"it fetches weights from the Hugging Face Hub (or a bucket of yours), and these come from {serving.source}."
    if serving.weights_format != "safetensors" or not judged(serving).is_source:
        return (
            None,
            f"it runs vLLM on the hub's own safetensors, and these weights are {serving.weights_format}, recipe {judged(serving).recipe}.",
        )
    return model, ""


def hub_uri(model: HubName) -> str:
    """A model of the hub as KServe writes it."""
    return f"hf://{model.name}" + (f":{model.revision}" if model.revision else "")


def main_container(serving: Serving, given: dict[str, Any]) -> dict[str, Any]:
    """What is put over KServe's own container of vLLM. given: arguments of `vllm serve`"""
    flags = " ".join(f"--{key}" if value is True else f"--{key}={value}" for key, value in given.items())
    main: dict[str, Any] = {"name": "main"}
    if flags:
        main["env"] = [{"name": "VLLM_ADDITIONAL_ARGS", "value": flags}]
    if accelerators(serving):
        asked = {ACCELERATOR: str(accelerators(serving))}
        main["resources"] = {"requests": asked, "limits": dict(asked)}
    return main


def container_notes(serving: Serving) -> list[str]:
    """Of resources and arguments."""
    n = accelerators(serving)
    devices = f"{n} of {ACCELERATOR}, by the settings that {serving.engine} was judged with; processors and memory" if n else "none"
    return [
        f"Resources: what vLLM takes was not measured, so {devices} are asked for; add what is missing to `main`."
        if not n
        else f"Resources: {devices} were not measured for vLLM and are not asked for; add them to `main`.",
        "VLLM_ADDITIONAL_ARGS is read by the template of current KServe; one that starts `vllm serve` without it needs the same words as "
        "args.",
        "Probes, security context and the image of vLLM are KServe's own; nothing here changes them.",
    ]


def _replicas(serving: Serving) -> dict[str, Any]:
    """A fixed number, or a range that KServe's autoscaler moves in. Raises InputError for a range from nothing."""
    least, most = serving.cluster.replicas or (1, 1)
    if least == 0:
        raise InputError(
            f"--replicas {least}..{most}: an LLMInferenceService does not leave by itself: its minReplicas and idleReplicaCount begin at "
            "1, "
            "and nothing holds a request while there is no pod. Ask for 1 at least, or export knative, kserve or rayservice."
        )
    if least == most:
        return {"replicas": most}
    return {"scaling": {"minReplicas": least, "maxReplicas": most, "wva": {"keda": {"cooldownPeriod": COOL_DOWN_S}}}}


def _parallelism(serving: Serving) -> dict[str, Any]:
    return {"parallelism": {"tensor": accelerators(serving)}} if accelerators(serving) > 1 else {}


def _weights_notes(serving: Serving, uri: str) -> list[str]:
    notes = [f"Weights: {uri}. What was judged has the sha256 {serving.weights_sha256}; KServe does not hold the files against it."]
    if uri.startswith("oci://"):
        notes.append(
            "oci:// is an image with the weights below /models (a modelcar), which KServe takes once it is switched on there. An "
            "artifact that "
            "`--format modelpack` writes is no image, and KServe does not open it: copy its layers into one."
        )
    if uri.startswith("s3://"):
        notes.append("s3:// needs a service account with the bucket's credentials, named by `serviceAccountName` in the template.")
    return notes


def _scaling_notes(serving: Serving) -> list[str]:
    least, most = serving.cluster.replicas or (1, 1)
    if least == most:
        told = "as --replicas said" if serving.cluster.replicas else "how many pay off was not measured; say --replicas 1..8"
        return [
            f"Replicas: {most}, always ({told}). Scale to zero: no; with replicas 0 by hand, requests fail until somebody sets it back."
        ]
    return [
        f"Replicas: {least} to {most}, by llm-d's Workload Variant Autoscaler and KEDA, which must be installed, with Prometheus. Scale "
        "to zero: "
        "no; minReplicas begins at 1. KEDA can take the Deployment behind it to 0 on the queue of llm-d's picker (flow control), outside "
        "this file.",
    ]
