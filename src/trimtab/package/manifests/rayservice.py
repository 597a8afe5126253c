"""KubeRay: a RayService whose Serve application runs trimtab's own workers, and the gateway in front of it (ray.io/v1).

Fields: `ray-operator/apis/ray/v1/{rayservice,raycluster}_types.go` of ray-project/kuberay; paths of probes: Ray's dashboard and its agent.
"""

from typing import Any

from trimtab.core.release import Serving
from trimtab.core.site import ServedModel
from trimtab.package.manifests.network import dns, elsewhere, gateways, names, parts, ports
from trimtab.package.manifests.pod import HOME_DIR, LOCK_PATH, SITE_DIR, annotations, asked_for, config_map, labels, no_rights
from trimtab.package.manifests.ray_front import front, front_notes
from trimtab.package.manifests.site import SITE
from trimtab.package.manifests.sizing import (
    DRAIN_S,
    GATEWAY_BYTES,
    MIB,
    PULL_S,
    REQUEST_S,
    accelerators,
    memory_mib,
    resource_notes,
    start_s,
)
from trimtab.package.manifests.text import checked_name, digest_note, image_notes, image_of, title, yaml_bytes, yaml_text

RAY = "2.60.0"
IMPORT_PATH = "trimtab.bridges.ray_app:build"
SERVE_PORT, DASHBOARD_PORT, AGENT_PORT, STATE_PORT = 8000, 8265, 52365, 6379
RAY_BYTES = 1024 * MIB
"""For Ray's own processes on a node: about 1 GB was resident for a whole cluster on one machine, Ray 2.60 on two cores."""
STORE_BYTES = 128 * MIB
"""Ray's object store. Requests and answers are small; Ray takes no less than 75 MiB."""
HEAD_CPUS = 1
SHIFT_PCT, SHIFT_EVERY_S, SURGE_PCT = 10, 60, 25
"""Of an upgrade that moves traffic step by step: a tenth a minute, with a quarter of the replicas beside the old ones."""


def rayservice(serving: Serving) -> dict[str, bytes]:
    """rayservice.yaml: configuration, RayService, gateway, and who may talk to whom. Raises InputError, MissingError."""
    name = checked_name(serving)
    least, most = replicas(serving)
    ray = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": name, "labels": labels(serving), "annotations": annotations(serving)},
        "spec": {
            "serveConfigV2": yaml_text(serve_config(serving)),
            "upgradeStrategy": _upgrade(serving),
            "rayClusterDeletionDelaySeconds": REQUEST_S + DRAIN_S,
            "excludeHeadPodFromServeSvc": least > 0,
            "rayClusterConfig": _cluster(serving, least, most),
        },
    }
    notes = [
        title(serving, "KubeRay RayService"),
        *resource_notes(serving),
        *_ray_notes(serving, least, most),
        *_upgrade_notes(serving),
        *_state_notes(serving),
        *image_notes(serving),
        *digest_note(serving),
        f"The image must hold Ray {RAY.rpartition('.')[0]} with `ray` on its path, and bash, which KubeRay starts it with: `trimtab export "
        "--format image --extra ray` puts Ray into it. Every node, head and worker, runs the same one.",
        *front_notes(serving),
    ]
    documents = [config_map(serving), ray, _budget(serving), *_policies(serving), *front(serving, f"{name}-serve-svc", SERVE_PORT, most)]
    return {"rayservice.yaml": yaml_bytes(notes, *documents)}


def replicas(serving: Serving) -> tuple[int, int]:
    """Replicas at least and at most: as was asked, else one at most, and none at least where a cold start was measured."""
    if serving.cluster.replicas is not None:
        return serving.cluster.replicas
    return (0 if serving.cold_start_s is not None else 1), 1


def serve_config(serving: Serving) -> dict[str, Any]:
    """What Ray Serve is told: the application by its import path, and where it finds what was certified."""
    least, most = replicas(serving)
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": SERVE_PORT, "request_timeout_s": REQUEST_S},
        "applications": [
            {
                "name": serving.name,
                "import_path": IMPORT_PATH,
                "route_prefix": "/",
                "args": {
                    "site": f"{SITE_DIR}/{SITE}",
                    "model": serving.model,
                    "slots": serving.slots,
                    "cpus": serving.cpus,
                    "accelerators": accelerators(serving),
                    "min_replicas": least,
                    "max_replicas": most,
                    "idle_s": ServedModel.idle_s,
                },
            }
        ],
    }


def _upgrade(serving: Serving) -> dict[str, Any]:
    if not serving.cluster.gateway_class:
        return {"type": "NewCluster"}
    return {
        "type": "NewClusterWithIncrementalUpgrade",
        "clusterUpgradeOptions": {
            "gatewayClassName": serving.cluster.gateway_class,
            "stepSizePercent": SHIFT_PCT,
            "intervalSeconds": SHIFT_EVERY_S,
            "maxSurgePercent": SURGE_PCT,
        },
    }


def _cluster(serving: Serving, least: int, most: int) -> dict[str, Any]:
    asked = {"cpu": "500m", "memory": "512Mi"}
    return {
        "rayVersion": RAY,
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": int(ServedModel.idle_s),
            "resources": {"requests": asked, "limits": dict(asked)},
            "securityContext": no_rights(),
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        },
        **_fault_tolerance(serving),
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0", "object-store-memory": str(STORE_BYTES)},
            "template": _template(serving, "ray-head", _head(serving)),
        },
        "workerGroupSpecs": [
            {
                "groupName": "replicas",
                "replicas": least,
                "minReplicas": least,
                "maxReplicas": most,
                "rayStartParams": {"object-store-memory": str(STORE_BYTES)},
                "template": _template(serving, "ray-worker", _worker(serving)),
            }
        ],
    }


def _fault_tolerance(serving: Serving) -> dict[str, Any]:
    if not serving.cluster.redis:
        return {}
    secret = {"secretKeyRef": {"name": f"{serving.name}-redis", "key": "password"}}
    return {"gcsFaultToleranceOptions": {"redisAddress": serving.cluster.redis, "redisPassword": {"valueFrom": secret}}}


def _template(serving: Serving, part: str, container: dict[str, Any]) -> dict[str, Any]:
    """A pod of the Ray cluster. KubeRay puts Ray's own command, its labels and its wait for the head into it."""
    own = {} if part == "ray-head" else {"automountServiceAccountToken": False}
    return {
        "metadata": {"labels": names(serving, part), "annotations": annotations(serving)},
        "spec": {
            **own,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": DRAIN_S,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [
                {"name": "site", "configMap": {"name": f"{serving.name}-site"}},
                {"name": "home", "emptyDir": {}},
                {"name": "tmp", "emptyDir": {}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{2 * STORE_BYTES // MIB}Mi"}},
            ],
        },
    }


def _container(serving: Serving, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "image": image_of(serving),
        "env": [
            {"name": "TRIMTAB_HOME", "value": HOME_DIR},
            {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
            {"name": "RAY_enable_autoscaler_v2", "value": "1"},
        ],
        "securityContext": no_rights(),
        "volumeMounts": [
            {"name": "site", "mountPath": SITE_DIR, "readOnly": True},
            {"name": "site", "mountPath": LOCK_PATH, "subPath": LOCK_PATH.rpartition("/")[2], "readOnly": True},
            {"name": "home", "mountPath": HOME_DIR},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }


def _head(serving: Serving) -> dict[str, Any]:
    asked = {"cpu": str(HEAD_CPUS), "memory": f"{2 * RAY_BYTES // MIB}Mi"}
    ready = {"httpGet": {"path": "/api/gcs_healthz", "port": DASHBOARD_PORT}}
    alive = {"httpGet": {"path": "/api/local_raylet_healthz", "port": AGENT_PORT}}
    return {
        **_container(serving, "ray-head"),
        "ports": [
            {"name": "gcs", "containerPort": STATE_PORT},
            {"name": "dashboard", "containerPort": DASHBOARD_PORT},
            {"name": "serve", "containerPort": SERVE_PORT},
        ],
        "resources": {"requests": asked, "limits": dict(asked)},
        "startupProbe": {**ready, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 60},
        "readinessProbe": {**ready, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**alive, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
    }


def _worker(serving: Serving) -> dict[str, Any]:
    alive = {"httpGet": {"path": "/api/local_raylet_healthz", "port": AGENT_PORT}}
    return {
        **_container(serving, "ray-worker"),
        "ports": [{"name": "serve", "containerPort": SERVE_PORT}],
        "resources": asked_for(serving, worker_mib(serving)),
        "startupProbe": {**alive, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 60},
        "readinessProbe": {
            "httpGet": {"path": "/-/healthz", "port": SERVE_PORT},
            "periodSeconds": 5,
            "timeoutSeconds": 5,
            "failureThreshold": 1,
        },
        "livenessProbe": {**alive, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
    }


def worker_mib(serving: Serving) -> int | None:
    """Of a worker pod: what the engine took with its head room, and Ray instead of the gateway; None if it was not measured."""
    engine = memory_mib(serving)
    return None if engine is None else engine + (RAY_BYTES + 2 * STORE_BYTES - GATEWAY_BYTES) // MIB


def _budget(serving: Serving) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": f"{serving.name}-ray", "labels": labels(serving)},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": names(serving, "ray-worker")}},
    }


def _policies(serving: Serving) -> list[dict[str, Any]]:
    """Ray's nodes talk among themselves on any port; the gateway asks the proxies, KubeRay the head, the head the cluster's API server."""
    inside, kuberay = parts(serving, "ray-head", "ray-worker"), elsewhere("kuberay-operator")
    proxies = {"from": [*gateways(serving), *kuberay], "ports": ports(SERVE_PORT)}
    redis = serving.cluster.redis.rpartition(":")[2]
    api_server = {"ports": ports(443, 6443, *((int(redis),) if redis else ()))}
    asked = {"ray-head": [{"from": kuberay, "ports": ports(DASHBOARD_PORT)}], "ray-worker": []}
    asks = {"ray-head": [api_server], "ray-worker": []}
    return [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": f"{serving.name}-{part}", "labels": labels(serving)},
            "spec": {
                "podSelector": {"matchLabels": names(serving, part)},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": inside}, proxies, *asked[part]],
                "egress": [{"to": inside}, dns(), *asks[part]],
            },
        }
        for part in asked
    ]


def _ray_notes(serving: Serving, least: int, most: int) -> list[str]:
    room, asked = worker_mib(serving), serving.cluster.replicas
    notes = []
    if room is not None:
        notes.append(
            f"A worker pod: {room} MiB = as above, with {RAY_BYTES // MIB} MiB for Ray and {2 * STORE_BYTES // MIB} MiB of /dev/shm in "
            "place "
            f"of the gateway. The head: {2 * RAY_BYTES // MIB} MiB, not measured; no replica runs there (num-cpus 0)."
        )
    told = "as --replicas said" if asked else "how many pay off was not measured: say --replicas 0..8"
    notes.append(f"Replicas: {least} to {most} ({told}); one a worker pod, which Ray's autoscaler asks KubeRay for.")
    if least:
        why = "" if asked else " A cold start was not measured, so one stays."
        return [*notes, f"Scale to zero: off.{why} The head's proxy gets no requests (excludeHeadPodFromServeSvc)."]
    return [
        *notes,
        f"Scale to zero: the last worker pod leaves after {int(ServedModel.idle_s)} s without requests; head and gateway stay and are "
        "paid. "
        "A pod that is gone takes no requests, so the head's proxy must (excludeHeadPodFromServeSvc false): it holds a request until a "
        f"worker is there, which takes a node, the image ({PULL_S} s are allowed, nobody measured it) and a start ({start_s(serving)} s at "
        "most). Ray 2.51 and 2.52 kept one replica whatever was asked (ray#59076): see it reach zero before you count on it.",
    ]


def _upgrade_notes(serving: Serving) -> list[str]:
    stays_s = REQUEST_S + DRAIN_S
    old = f"The old cluster stays {stays_s} s after the switch, so that what it answers can end (a request may take {REQUEST_S} s)."
    if serving.cluster.gateway_class:
        return [
            f"Upgrade: NewClusterWithIncrementalUpgrade moves {SHIFT_PCT} % of traffic every {SHIFT_EVERY_S} s to a second cluster that "
            "grows "
            f"by {SURGE_PCT} %. Alpha since KubeRay 1.5.1: the operator needs the feature gate RayServiceIncrementalUpgrade, the cluster "
            "the "
            f"Gateway API. {old}",
            "KubeRay makes the Gateway that shifts traffic; the gateway pods below ask the Serve service and would pass it by: point their "
            "url at that Gateway's address.",
        ]
    return [
        "Upgrade: NewCluster. A changed image or pod starts a second cluster of the same size beside the first, and traffic moves at once "
        f"when it is healthy: twice the devices for that time. {old} A changed serveConfigV2 alone is applied in place. --gateway-class "
        "NAME "
        "moves traffic step by step instead.",
    ]


def _state_notes(serving: Serving) -> list[str]:
    if serving.cluster.redis:
        return [
            f"Head lost: its state is in Redis at {serving.cluster.redis} (password: secret {serving.name}-redis, key password), workers "
            "go "
            "on answering and a new head takes up the state. That Redis must itself outlive a node.",
        ]
    return [
        "Head lost: without GCS fault tolerance the cluster's state goes with it, workers are restarted, and nothing answers until "
        "replicas "
        "are loaded again. --redis HOST:PORT keeps the state in a Redis of yours.",
    ]
