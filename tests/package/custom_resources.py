"""Schemas of Ray's, KServe's and the Gateway API's resources, written out from the fields of their APIs' sources (all Apache-2.0).

A cluster drops a field that its schema does not know without a word, so unknown fields are errors here; so is what the resources' own
rules (CEL) forbid of what is used. What is a PodSpec, a Service or the like there is Kubernetes' own, strict.

RayService: ray-project/kuberay, ray-operator/apis/ray/v1/rayservice_types.go as of 1.5.1 and raycluster_types.go as of 1.7.0
LLMInferenceService: kserve/kserve, pkg/apis/serving/v1alpha2/llm_inference_service_types.go, commit 01b1241038b3
InferencePool: kubernetes-sigs/gateway-api-inference-extension, api/v1/inferencepool_types.go as of 1.6
HTTPRoute, Gateway: kubernetes-sigs/gateway-api, apis/v1/httproute_types.go and gateway_types.go as of 1.4
"""

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]
LABEL = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
DNS = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DURATION = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"

TEXT: Schema = {"type": "string"}
NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 253}
FLAG: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
OPEN: Schema = {"type": "object"}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}


def strict(properties: Mapping[str, Any], required: tuple[str, ...] = (), **more: Any) -> Schema:
    """An object that takes these fields and no others."""
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": dict(properties), **more}


def many(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def count(least: int = 0) -> Schema:
    return {"type": "integer", "minimum": least}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def kube(name: str) -> Schema:
    """A type of Kubernetes itself, such as core.v1.PodSpec."""
    return {"$ref": f"#/$defs/io.k8s.api.{name}"}


def not_both(first: str, second: str) -> Schema:
    return {"not": {"required": [first, second]}}


# KubeRay

POD_TEMPLATE = kube("core.v1.PodTemplateSpec")
REDIS_SECRET = strict({"value": TEXT, "valueFrom": kube("core.v1.EnvVarSource")})
STORAGE = strict(
    {
        **dict.fromkeys(("claimName", "storageClassName", "subPath", "size"), TEXT),
        "accessModes": many(TEXT),
        "deletionPolicy": one_of("DeleteWithCluster", "Retain"),
    }
)
AUTOSCALER = strict(
    {
        "resources": kube("core.v1.ResourceRequirements"),
        "image": TEXT,
        "imagePullPolicy": one_of("Always", "IfNotPresent", "Never"),
        "securityContext": kube("core.v1.SecurityContext"),
        "idleTimeoutSeconds": {"type": "integer"},
        "upscalingMode": one_of("Default", "Aggressive", "Conservative"),
        "version": one_of("v1", "v2"),
        "env": many(kube("core.v1.EnvVar")),
        "envFrom": many(kube("core.v1.EnvFromSource")),
        "volumeMounts": many(kube("core.v1.VolumeMount")),
        "command": many(TEXT),
        "args": many(TEXT),
    }
)
HEAD_GROUP = strict(
    {
        "template": POD_TEMPLATE,
        "headService": kube("core.v1.Service"),
        "enableIngress": FLAG,
        "ingressOptions": OPEN,
        "resources": TEXTS,
        "labels": TEXTS,
        "rayStartParams": TEXTS,
        "serviceType": one_of("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
    },
    ("template",),
)
WORKER_GROUP = strict(
    {
        "suspend": FLAG,
        "groupName": TEXT,
        "replicas": count(),
        "minReplicas": count(),
        "maxReplicas": count(),
        "idleTimeoutSeconds": {"type": "integer"},
        "priority": {"type": "integer"},
        "resources": TEXTS,
        "labels": TEXTS,
        "rayStartParams": TEXTS,
        "template": POD_TEMPLATE,
        "scaleStrategy": strict({"workersToDelete": many(TEXT)}),
        "numOfHosts": count(1),
    },
    ("groupName", "minReplicas", "maxReplicas", "template"),
)
RAY_CLUSTER = strict(
    {
        "upgradeStrategy": strict({"type": one_of("Recreate", "None")}),
        "authOptions": strict({"enableK8sTokenAuth": FLAG, "secretName": TEXT, "mode": one_of("disabled", "token")}),
        "suspend": FLAG,
        "managedBy": one_of("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"),
        "autoscalerOptions": AUTOSCALER,
        "headServiceAnnotations": TEXTS,
        "enableInTreeAutoscaling": FLAG,
        "gcsFaultToleranceOptions": strict(
            {
                "backend": one_of("redis", "rocksdb"),
                "redisUsername": REDIS_SECRET,
                "redisPassword": REDIS_SECRET,
                "externalStorageNamespace": TEXT,
                "redisAddress": TEXT,
                "storage": STORAGE,
            },
            ("redisAddress",),
        ),
        "historyServerOptions": OPEN,
        "networkPolicy": OPEN,
        "tlsOptions": strict({"enabled": FLAG}),
        "headGroupSpec": HEAD_GROUP,
        "rayVersion": TEXT,
        "workerGroupSpecs": many(WORKER_GROUP),
    },
    ("headGroupSpec",),
)
STEPS = {"maxSurgePercent": count(), "stepSizePercent": count(), "intervalSeconds": count(), "gatewayClassName": NAME}
RAY_SERVICE = strict(
    {
        "rayClusterDeletionDelaySeconds": count(),
        "serveService": kube("core.v1.Service"),
        "upgradeStrategy": strict(
            {
                "type": one_of("NewClusterWithIncrementalUpgrade", "NewCluster", "None"),
                "clusterUpgradeOptions": strict(STEPS, ("stepSizePercent", "intervalSeconds", "gatewayClassName")),
            }
        ),
        "serveConfigV2": TEXT,
        "rayClusterConfig": RAY_CLUSTER,
        "excludeHeadPodFromServeSvc": FLAG,
    },
    ("rayClusterConfig",),
)

# Gateway API

PARENT = strict({"group": TEXT, "kind": NAME, "namespace": NAME, "name": NAME, "sectionName": NAME, "port": PORT}, ("name",))
MATCHED = strict({"type": one_of("Exact", "RegularExpression"), "name": NAME, "value": TEXT}, ("name", "value"))
BACKEND = strict(
    {
        "group": TEXT,
        "kind": NAME,
        "name": NAME,
        "namespace": NAME,
        "port": PORT,
        "weight": {"type": "integer", "minimum": 0, "maximum": 1_000_000},
        "filters": many(OPEN),
    },
    ("name",),
)
ROUTE_RULE = strict(
    {
        "name": NAME,
        "matches": many(
            strict(
                {
                    "path": strict({"type": one_of("Exact", "PathPrefix", "RegularExpression"), "value": {**TEXT, "pattern": "^/"}}),
                    "headers": many(MATCHED),
                    "queryParams": many(MATCHED),
                    "method": one_of("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"),
                }
            )
        ),
        "filters": many(OPEN),
        "backendRefs": many(BACKEND),
        "timeouts": strict({key: {"type": "string", "pattern": DURATION} for key in ("request", "backendRequest")}),
        "retry": OPEN,
        "sessionPersistence": OPEN,
    }
)
HTTP_ROUTE = strict({"parentRefs": many(PARENT), "useDefaultGateways": TEXT, "hostnames": many(NAME), "rules": many(ROUTE_RULE)})
SECRET = strict({"group": TEXT, "kind": NAME, "name": NAME, "namespace": NAME}, ("name",))
LISTENER = strict(
    {
        "name": {"type": "string", "pattern": DNS},
        "hostname": NAME,
        "port": PORT,
        "protocol": one_of("HTTP", "HTTPS", "TLS", "TCP", "UDP"),
        "tls": strict({"mode": one_of("Terminate", "Passthrough"), "certificateRefs": many(SECRET), "options": TEXTS}),
        "allowedRoutes": strict(
            {
                "namespaces": strict({"from": one_of("All", "Selector", "Same", "None"), "selector": OPEN}),
                "kinds": many(strict({"group": TEXT, "kind": NAME}, ("kind",))),
            }
        ),
    },
    ("name", "port", "protocol"),
    allOf=[{"if": {"properties": {"protocol": {"const": "HTTPS"}}}, "then": {"required": ["tls"]}}],
)
GATEWAY = strict(
    {"gatewayClassName": NAME, "listeners": many(LISTENER, minItems=1, maxItems=64), "addresses": many(OPEN), "infrastructure": OPEN},
    ("gatewayClassName", "listeners"),
)

# Gateway API Inference Extension

NUMBER = strict({"number": PORT}, ("number",))
PICKER = strict(
    {
        "group": TEXT,
        "kind": {"type": "string", "pattern": r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"},
        "name": NAME,
        "port": NUMBER,
        "failureMode": one_of("FailOpen", "FailClose"),
    },
    ("name", "port"),  # the port: because the kind is Service where nothing else is said
)
INFERENCE_POOL = strict(
    {
        "selector": strict(
            {"matchLabels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63, "pattern": LABEL}}},
            ("matchLabels",),
        ),
        "targetPorts": many(NUMBER, minItems=1, maxItems=8, uniqueItems=True),
        "appProtocol": one_of("http", "kubernetes.io/h2c"),
        "endpointPickerRef": PICKER,
    },
    ("selector", "targetPorts", "endpointPickerRef"),  # the picker: which most implementations require
)

# KServe

NAMED = strict({"name": TEXT})
LORA = strict({"adapters": many(OPEN), "maxRank": count(1), "maxAdapters": count(1), "maxCpuAdapters": count(1)})
URI = {"type": "string", "pattern": r"^(hf|s3|pvc|oci)://[^/]+/.+"}
KEDA = strict(
    {
        "pollingInterval": count(1),
        "cooldownPeriod": count(),
        "initialCooldownPeriod": count(),
        "idleReplicaCount": count(1),
        "fallback": OPEN,
        "advanced": OPEN,
    }
)
WVA = strict(
    {"variantCost": {"type": "string", "pattern": r"^\d+(\.\d+)?$"}, "hpa": strict({"behavior": OPEN}), "keda": KEDA},
    oneOf=[{"required": ["hpa"]}, {"required": ["keda"]}],
)
PARALLELISM = strict(
    {**dict.fromkeys(("tensor", "pipeline", "data", "dataLocal"), count(1)), "dataRPCPort": PORT, "expert": FLAG},
    **not_both("pipeline", "data"),
)
POD = kube("core.v1.PodSpec")
OFFLOAD = {"cpuBytesToUse": count(1), "evictionPolicy": one_of("lru", "arc"), "secondaryTiers": many(OPEN)}
WORKLOAD = {
    "replicas": count(),
    "scaling": strict({"minReplicas": count(1), "maxReplicas": count(1), "wva": WVA}, ("maxReplicas", "wva")),
    "parallelism": PARALLELISM,
    "labels": TEXTS,
    "annotations": TEXTS,
    "template": POD,
    "worker": POD,
    "kvCacheOffloading": strict(OFFLOAD, ("cpuBytesToUse",)),
}
SCHEDULER = strict(
    {
        "pool": strict({"spec": INFERENCE_POOL, "ref": NAMED}, **not_both("spec", "ref")),
        "labels": TEXTS,
        "annotations": TEXTS,
        "template": POD,
        "config": strict({"inline": OPEN, "ref": kube("core.v1.ConfigMapKeySelector")}),
        "replicas": count(1),
    }
)
PLACE = strict({"name": NAME, "namespace": NAME, "sectionName": NAME})
ROUTER = strict(
    {
        "route": strict({"http": strict({"refs": many(NAMED), "spec": HTTP_ROUTE}, **not_both("refs", "spec"))}),
        "gateway": strict({"refs": many(PLACE)}),
        "ingress": strict({"refs": many(PLACE)}),
        "scheduler": SCHEDULER,
    },
    **not_both("ingress", "gateway"),
)
LLM_INFERENCE_SERVICE = strict(
    {
        "model": strict({"uri": URI, "name": TEXT, "lora": LORA}, ("uri",)),
        "storageInitializer": strict({"enabled": FLAG}),
        **WORKLOAD,
        "router": ROUTER,
        "prefill": strict(WORKLOAD, **not_both("replicas", "scaling")),
        "baseRefs": many(NAMED),
    },
    ("model",),
    **not_both("replicas", "scaling"),
)

SPECS: Mapping[tuple[str, str], Schema] = {
    ("ray.io/v1", "RayService"): RAY_SERVICE,
    ("serving.kserve.io/v1alpha1", "LLMInferenceService"): LLM_INFERENCE_SERVICE,
    ("serving.kserve.io/v1alpha2", "LLMInferenceService"): LLM_INFERENCE_SERVICE,
    ("inference.networking.k8s.io/v1", "InferencePool"): INFERENCE_POOL,
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): HTTP_ROUTE,
    ("gateway.networking.k8s.io/v1", "Gateway"): GATEWAY,
}
