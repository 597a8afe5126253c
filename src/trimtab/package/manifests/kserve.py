"""KServe: an InferenceService around the container, and an LLMInferenceService where vLLM can open the same weights.

Fields: `pkg/apis/serving/v1beta1/{predictor,component}.go` and `v1alpha1/llm_inference_service_types.go` of kserve/kserve.
"""

from trimtab.core.release import Serving
from trimtab.package.manifests.llm_inference import OLDER_API, container_notes, hub_uri, main_container, on_hub
from trimtab.package.manifests.lock import HubName
from trimtab.package.manifests.pod import POD_NOTES, annotations, config_map, container, keys_note, labels, volumes
from trimtab.package.manifests.sizing import REQUEST_S, resource_notes
from trimtab.package.manifests.text import checked_name, image_notes, title, yaml_bytes
from trimtab.package.manifests.vllm import arguments, settings_notes

NOTES = [
    "minReplicas 0 leaves nothing running in KServe's Knative mode; its Standard mode (plain Deployments) needs KEDA for that, or "
    "minReplicas 1.",
    "maxReplicas: KServe's default; how many pay off was not measured. What is in `home` ends with its pod.",
    "The path is OpenAI's, /v1; KServe's own inference protocols are not spoken.",
]


def kserve(serving: Serving) -> dict[str, bytes]:
    """kserve.yaml, and kserve-llm.yaml for weights that vLLM opens from the hub. Raises InputError, MissingError."""
    name = checked_name(serving)
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "labels": labels(serving), "annotations": annotations(serving)},
        "spec": {
            "predictor": {
                "minReplicas": 0,
                "containerConcurrency": serving.slots,
                "timeout": REQUEST_S,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "containers": [container(serving, "kserve-container", {"protocol": "TCP"})],
                "volumes": volumes(serving, {"emptyDir": {}}),
            }
        },
    }
    model, why_not = on_hub(serving)
    notes = [
        title(serving, "KServe InferenceService"),
        *resource_notes(serving),
        *image_notes(serving),
        keys_note(serving),
        *POD_NOTES,
        *NOTES,
    ]
    if model is None:
        notes.append(f"There is no LLMInferenceService beside it: {why_not}")
        return {"kserve.yaml": yaml_bytes(notes, config_map(serving), service)}
    return {"kserve.yaml": yaml_bytes(notes, config_map(serving), service), "kserve-llm.yaml": _llm_file(serving, model)}


def _llm_file(serving: Serving, model: HubName) -> bytes:
    given, dropped = arguments(serving)
    document = {
        "apiVersion": OLDER_API,
        "kind": "LLMInferenceService",
        "metadata": {"name": serving.name, "labels": labels(serving), "annotations": annotations(serving)},
        "spec": {
            "model": {"uri": hub_uri(model), "name": serving.model},
            "replicas": 1,
            "router": {"route": {}, "gateway": {}},
            "template": {"containers": [main_container(serving, given)]},
        },
    }
    notes = [
        title(serving, "KServe LLMInferenceService"),
        *settings_notes(serving, dropped),
        *container_notes(serving),
        "With a scheduler, replicas that come and go, or weights elsewhere: --format llminferenceservice.",
    ]
    return yaml_bytes(notes, document)
