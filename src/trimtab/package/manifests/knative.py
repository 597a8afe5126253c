"""Knative Serving: a Service that leaves when nobody asks and comes with the next request (serving.knative.dev/v1)."""

from trimtab.core.release import Serving
from trimtab.package.manifests.pod import POD_NOTES, annotations, config_map, container, keys_note, labels, volumes
from trimtab.package.manifests.sizing import PULL_S, REQUEST_S, resource_notes, start_s
from trimtab.package.manifests.text import checked_name, image_notes, title, yaml_bytes

NOTES = [
    f"Deadline of a new revision: what a start may take, and {PULL_S} s to fetch the image, which was not measured.",
    "Pods at most: Knative's default; how many pay off was not measured. Each pod counts keys' limits and keeps an audit log for itself, "
    "and both end with it: where they must last, put a volume that lasts under `home`.",
    f"timeoutSeconds is the gateway's own request_s, {REQUEST_S} s, which is also the most that Knative allows by default.",
    "All security is set on the container: Knative takes it there without a feature flag.",
]


def knative(serving: Serving) -> dict[str, bytes]:
    """knative.yaml: the configuration and the Service. Raises InputError, MissingError."""
    name = checked_name(serving)
    service = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels(serving), "annotations": annotations(serving)},
        "spec": {
            "template": {
                "metadata": {
                    "labels": labels(serving),
                    "annotations": {
                        "autoscaling.knative.dev/min-scale": "0",
                        "serving.knative.dev/progress-deadline": f"{start_s(serving) + PULL_S}s",
                        **annotations(serving),
                    },
                },
                "spec": {
                    "containerConcurrency": serving.slots,
                    "timeoutSeconds": REQUEST_S,
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "containers": [container(serving, "gateway", {"name": "http1"})],
                    "volumes": volumes(serving, {"emptyDir": {}}),
                },
            }
        },
    }
    notes = [title(serving, "Knative Service"), *resource_notes(serving), *image_notes(serving), keys_note(serving), *POD_NOTES, *NOTES]
    return {"knative.yaml": yaml_bytes(notes, config_map(serving), service)}
