"""The container that Knative, KServe and plain Kubernetes run, and what it mounts."""

import math
from typing import Any

from trimtab.core.release import Serving
from trimtab.package.cargo import LOCK
from trimtab.package.image import PACKAGE, STATE, USER
from trimtab.package.manifests.site import SITE, site_toml
from trimtab.package.manifests.sizing import ACCELERATOR, accelerators, memory_mib, start_s
from trimtab.package.manifests.text import image_of

SITE_DIR = "/etc/trimtab"
KEYS_DIR = "/etc/trimtab-keys"
HOME_DIR = f"/{STATE}"
LOCK_PATH = f"/{PACKAGE}/{LOCK}"
"""Over the image's own lock, so that what the cluster says is what runs: an image with other weights does not start."""
HEALTH = "/health"
"""The gateway's path: 200 while it takes requests, 503 once it ends. It listens before the model is loaded; requests wait for that."""
START_EVERY_S = 2

ENVIRONMENT = {"TRIMTAB_HOME": HOME_DIR, "TRIMTAB_KEYS_FILE": f"{KEYS_DIR}/keys.json"}

POD_NOTES = [
    "Health: the gateway answers /health as soon as it listens; the model is loaded from then on, and requests wait for it in the "
    "gateway's queue. Metrics and state are for loopback only, and are off here (admin_port).",
    f"Written to: {HOME_DIR} (audit log, what keys have spent) and /tmp; the image and its lock are read-only.",
]


def labels(serving: Serving) -> dict[str, str]:
    """What things are found by; `app.kubernetes.io/name` selects."""
    return {"app.kubernetes.io/name": serving.name, "app.kubernetes.io/managed-by": "trimtab"}


def annotations(serving: Serving) -> dict[str, str]:
    """What it is, for whoever looks at the cluster."""
    released = {"trimtab-release": serving.release_id} if serving.release_id else {}
    return {**released, "trimtab-weights-sha256": serving.weights_sha256}


def keys_note(serving: Serving) -> str:
    """How clients get in."""
    return (
        f"Keys: the network reaches the gateway only with keys. Make one with `trimtab keys add web`, then `kubectl create secret generic "
        f"{serving.name}-keys --from-file=keys.json=TRIMTAB_HOME/access/keys.json`; it holds hashes, no secrets, and a change is seen "
        "when the cluster has copied it."
    )


def resources(serving: Serving) -> dict[str, Any]:
    """Requests equal limits, so that nothing else is promised what this was judged with."""
    return asked_for(serving, memory_mib(serving))


def asked_for(serving: Serving, mib: int | None) -> dict[str, Any]:
    """Processors and accelerators that it was judged with, and so much memory (None = not known). Requests are limits."""
    asked = {"cpu": str(serving.cpus), **({} if mib is None else {"memory": f"{mib}Mi"})}
    if accelerators(serving):
        asked[ACCELERATOR] = str(accelerators(serving))
    return {"requests": asked, "limits": dict(asked)}


def probes(serving: Serving) -> dict[str, Any]:
    """Start within the deadline, then ready at once or not at all, then alive."""
    get = {"httpGet": {"path": HEALTH, "port": serving.port}}
    tries = math.ceil(start_s(serving) / START_EVERY_S)
    return {
        "startupProbe": {**get, "periodSeconds": START_EVERY_S, "timeoutSeconds": 2, "failureThreshold": tries},
        "readinessProbe": {**get, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 1},
        "livenessProbe": {**get, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 3},
    }


def no_rights() -> dict[str, Any]:
    """A container that is nobody, may nothing, and writes only where something is mounted."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container(serving: Serving, name: str, port: dict[str, Any]) -> dict[str, Any]:
    """The gateway with its engine. port: what the port is beside its number."""
    return {
        "name": name,
        "image": image_of(serving),
        "command": ["trimtab", "serve", f"{SITE_DIR}/{SITE}"],
        "env": [{"name": key, "value": value} for key, value in ENVIRONMENT.items()],
        "ports": [{**port, "containerPort": serving.port}],
        "resources": resources(serving),
        **probes(serving),
        "securityContext": no_rights(),
        "volumeMounts": [
            {"name": "site", "mountPath": SITE_DIR, "readOnly": True},
            {"name": "site", "mountPath": LOCK_PATH, "subPath": LOCK, "readOnly": True},
            {"name": "keys", "mountPath": KEYS_DIR, "readOnly": True},
            {"name": "home", "mountPath": HOME_DIR},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def volumes(serving: Serving, home: dict[str, Any]) -> list[dict[str, Any]]:
    """What the container mounts. home: where TRIMTAB_HOME lies."""
    return [
        {"name": "site", "configMap": {"name": f"{serving.name}-site"}},
        {"name": "keys", "secret": {"secretName": f"{serving.name}-keys"}},
        {"name": "home", **home},
        {"name": "tmp", "emptyDir": {}},
    ]


def config_map(serving: Serving) -> dict[str, Any]:
    """site.toml and deploy.toml for the container."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{serving.name}-site", "labels": labels(serving)},
        "data": {SITE: site_toml(serving, lock=LOCK_PATH, is_open=True), LOCK: serving.lock},
    }
