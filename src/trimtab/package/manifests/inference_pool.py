"""Gateway API: gateway pods of ours behind an InferencePool (inference.networking.k8s.io/v1), its endpoint picker and an HTTPRoute.

Fields: `api/v1/inferencepool_types.go` of kubernetes-sigs/gateway-api-inference-extension 1.6, `apis/v1/httproute_types.go` and
`gateway_types.go` of kubernetes-sigs/gateway-api; arguments of the picker: `pkg/lwepp/server/options.go` of the former.
"""

from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.release import Serving
from trimtab.package.manifests.kubernetes import budget, drained, pod, policy, selected, volume_claim
from trimtab.package.manifests.network import dns, names, ports
from trimtab.package.manifests.pod import POD_NOTES, annotations, config_map, container, keys_note, labels, no_rights
from trimtab.package.manifests.sizing import REQUEST_S, resource_notes
from trimtab.package.manifests.text import checked_name, digest_note, image_notes, title, yaml_bytes

POOL_GROUP = "inference.networking.k8s.io"
PICKER = "registry.k8s.io/gateway-api-inference-extension/lwepp:v1.6.2"
PICKER_PORT = 9002
REPLICAS = 2
"""So that one may be moved; how many pay off was not measured."""
DEFAULT_GATEWAY = "inference-gateway"


def inference_pool(serving: Serving) -> dict[str, bytes]:
    """inferencepool.yaml: configuration, gateway pods, InferencePool, picker, HTTPRoute. Raises InputError, MissingError."""
    name = checked_name(serving)
    n = _replicas(serving)
    gateway = [_gateway(serving)] if serving.cluster.gateway_class else []
    documents = [
        config_map(serving),
        _stateful_set(serving, n),
        _headless(serving),
        budget(serving),
        _open_policy(serving),
        _pool(serving),
        *_picker(serving),
        *gateway,
        _route(serving, name if gateway else DEFAULT_GATEWAY),
    ]
    notes = [
        title(serving, "InferencePool"),
        *resource_notes(serving),
        *image_notes(serving),
        *digest_note(serving),
        keys_note(serving),
        *POD_NOTES,
        *_notes(serving, n),
    ]
    return {"inferencepool.yaml": yaml_bytes(notes, *documents)}


def _replicas(serving: Serving) -> int:
    least, most = serving.cluster.replicas or (REPLICAS, REPLICAS)
    if least != most or not most:
        raise InputError(
            f"--replicas {least}..{most}: an InferencePool takes the pods that are there and holds no request for one that is not; give "
            "one "
            f"number above 0, such as --replicas {max(1, most)}, or export knative or rayservice, which come and go."
        )
    return most


def _stateful_set(serving: Serving, n: int) -> dict[str, Any]:
    """Each pod has a volume, and so an audit log, of its own."""
    claim = volume_claim(serving)
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": serving.name, "labels": labels(serving), "annotations": annotations(serving)},
        "spec": {
            "replicas": n,
            "serviceName": f"{serving.name}-pods",
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "selector": selected(serving),
            "template": {
                "metadata": {"labels": labels(serving), "annotations": annotations(serving)},
                "spec": pod(serving, drained(container(serving, "gateway", {"name": "http"})), home={}),
            },
            "volumeClaimTemplates": [{"metadata": {"name": "home"}, "spec": claim["spec"]}],
        },
    }


def _headless(serving: Serving) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{serving.name}-pods", "labels": labels(serving)},
        "spec": {
            "clusterIP": "None",
            "selector": selected(serving)["matchLabels"],
            "ports": [{"name": "http", "port": serving.port, "targetPort": "http"}],
        },
    }


def _open_policy(serving: Serving) -> dict[str, Any]:
    """The Gateway's proxies run in a namespace that is not known here: any may ask, and needs a key."""
    closed = policy(serving, egress=[])
    closed["spec"]["ingress"] = [{"from": [{"namespaceSelector": {}}], "ports": ports(serving.port)}]
    return closed


def _pool(serving: Serving) -> dict[str, Any]:
    return {
        "apiVersion": f"{POOL_GROUP}/v1",
        "kind": "InferencePool",
        "metadata": {"name": serving.name, "labels": labels(serving)},
        "spec": {
            "selector": selected(serving),
            "targetPorts": [{"number": serving.port}],
            "endpointPickerRef": {"name": _picker_name(serving), "port": {"number": PICKER_PORT}, "failureMode": "FailOpen"},
        },
    }


def _picker_name(serving: Serving) -> str:
    return f"{serving.name}-picker"


def _picker(serving: Serving) -> list[dict[str, Any]]:
    """The endpoint picker with what it may read: the pool and the namespace's pods."""
    name = _picker_name(serving)
    meta = {"name": name, "labels": labels(serving)}
    mine = names(serving, "picker")
    reads = ["get", "watch", "list"]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": dict(meta)},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": dict(meta),
            "rules": [
                {"apiGroups": [""], "resources": ["pods"], "verbs": list(reads)},
                {"apiGroups": [POOL_GROUP], "resources": ["inferencepools"], "verbs": list(reads)},
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": dict(meta),
            "subjects": [{"kind": "ServiceAccount", "name": name}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": dict(meta),
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": mine},
                "template": {"metadata": {"labels": mine}, "spec": _picker_pod(serving)},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": dict(meta),
            "spec": {"selector": mine, "ports": [{"name": "grpc", "port": PICKER_PORT, "targetPort": "grpc", "appProtocol": "http2"}]},
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": dict(meta),
            "spec": {
                "podSelector": {"matchLabels": mine},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"namespaceSelector": {}}], "ports": ports(PICKER_PORT)}],
                "egress": [dns(), {"ports": ports(443, 6443)}],
            },
        },
    ]


def _picker_pod(serving: Serving) -> dict[str, Any]:
    here = {"tcpSocket": {"port": PICKER_PORT}}
    return {
        "serviceAccountName": _picker_name(serving),
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "picker",
                "image": PICKER,
                "args": [
                    f"--pool-name={serving.name}",
                    "--pool-namespace=$(NAMESPACE)",
                    f"--grpc-port={PICKER_PORT}",
                    "--enable-pprof=false",
                    "--tracing=false",
                ],
                "env": [{"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}],
                "ports": [{"name": "grpc", "containerPort": PICKER_PORT}],
                "readinessProbe": {**here, "periodSeconds": 2},
                "livenessProbe": {**here, "periodSeconds": 10, "failureThreshold": 3},
                "securityContext": no_rights(),
            }
        ],
    }


def _gateway(serving: Serving) -> dict[str, Any]:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": serving.name, "labels": labels(serving)},
        "spec": {
            "gatewayClassName": serving.cluster.gateway_class,
            "listeners": [
                {
                    "name": "https",
                    "protocol": "HTTPS",
                    "port": 443,
                    "tls": {"mode": "Terminate", "certificateRefs": [{"name": f"{serving.name}-tls"}]},
                    "allowedRoutes": {"namespaces": {"from": "Same"}},
                }
            ],
        },
    }


def _route(serving: Serving, gateway: str) -> dict[str, Any]:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": serving.name, "labels": labels(serving)},
        "spec": {
            "parentRefs": [{"name": gateway}],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
                    "backendRefs": [{"group": POOL_GROUP, "kind": "InferencePool", "name": serving.name}],
                    "timeouts": {"request": f"{REQUEST_S}s"},
                }
            ],
        },
    }


def _notes(serving: Serving, n: int) -> list[str]:
    made = serving.cluster.gateway_class
    gateway = (
        f"Gateway: of class {made}, HTTPS with the certificate in the secret {serving.name}-tls."
        if made
        else f"Gateway: the route hangs on {DEFAULT_GATEWAY}, which must be there, with TLS; --gateway-class NAME writes one."
    )
    return [
        f"Replicas: {n} always. Scale to zero: no; nothing here holds a request for a pod that is not there. Each pod keeps its audit "
        "log in a "
        "volume of its own and counts keys' limits for itself: a key may do so many times as much as its limit says.",
        f"Picker: the extension's own light one ({PICKER}), which takes pods in turn. Those that weigh queues and caches read vLLM's "
        "metrics, which "
        "the gateway does not give; it queues before its own slots instead. Named by tag: write the digest that your registry has. What it "
        "takes was not measured, so nothing is asked for it.",
        "FailOpen: without the picker requests still go to some pod. It serves TLS with a certificate that it makes itself; Istio wants a "
        "DestinationRule for that.",
        gateway,
        "NetworkPolicy: pods of any namespace may ask, since nobody knows here where the Gateway's proxies run; they need a key.",
    ]
