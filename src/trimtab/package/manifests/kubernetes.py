"""Plain Kubernetes: Deployment, Service, configuration, a volume that lasts, and who may talk to it."""

from typing import Any

from trimtab.core.release import Serving
from trimtab.package.image import USER
from trimtab.package.manifests.pod import POD_NOTES, annotations, config_map, container, keys_note, labels, volumes
from trimtab.package.manifests.sizing import DRAIN_S, resource_notes
from trimtab.package.manifests.text import checked_name, image_notes, title, yaml_bytes

BEFORE_DRAIN_S = 5
"""Until everybody has heard that a pod leaves; it still takes requests meanwhile."""

NOTES = [
    "One replica: its volume holds one audit log, and keys' limits are counted there. For more, give each a volume of its own (a "
    "StatefulSet); how many pay off was not measured.",
    "Volume: 1Gi is no measurement. How fast the audit log grows is yours to see; change it to what you must keep.",
    "NetworkPolicy: pods of the same namespace may ask; the pod itself may ask nobody, since weights and engine are in the image.",
    "PodDisruptionBudget: with one replica it lets a node be drained, and answers pause until the pod is up elsewhere.",
]


def kubernetes(serving: Serving) -> dict[str, bytes]:
    """kubernetes.yaml with all of it. Raises InputError, MissingError."""
    checked_name(serving)
    gateway = pod(serving, drained(container(serving, "gateway", {"name": "http"})))
    documents = [
        config_map(serving),
        volume_claim(serving),
        deployment(serving, gateway),
        service(serving),
        budget(serving),
        policy(serving, egress=[]),
    ]
    notes = [title(serving, "Kubernetes"), *resource_notes(serving), *image_notes(serving), keys_note(serving), *POD_NOTES, *NOTES]
    return {"kubernetes.yaml": yaml_bytes(notes, *documents)}


def selected(serving: Serving) -> dict[str, Any]:
    """The gateway's pods."""
    return {"matchLabels": {"app.kubernetes.io/name": serving.name}}


def volume_claim(serving: Serving) -> dict[str, Any]:
    """A volume for the audit log and what keys have spent."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": f"{serving.name}-home", "labels": labels(serving)},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }


def drained(container: dict[str, Any]) -> dict[str, Any]:
    """The container, which goes on taking requests until everybody has heard that its pod leaves."""
    return {**container, "lifecycle": {"preStop": {"sleep": {"seconds": BEFORE_DRAIN_S}}}}


def pod(serving: Serving, container: dict[str, Any], home: dict[str, Any] | None = None) -> dict[str, Any]:
    """A gateway's pod. home: where TRIMTAB_HOME lies; None = the claim, {} = a template of claims that is called so"""
    claimed = {"persistentVolumeClaim": {"claimName": f"{serving.name}-home"}} if home is None else home
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": DRAIN_S + BEFORE_DRAIN_S,
        "securityContext": {
            "runAsNonRoot": True,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [one for one in volumes(serving, claimed) if len(one) > 1],
    }


def deployment(serving: Serving, pod: dict[str, Any]) -> dict[str, Any]:
    """One pod, which is ended before the next one starts: its volume holds one log."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": serving.name, "labels": labels(serving), "annotations": annotations(serving)},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": selected(serving),
            "template": {"metadata": {"labels": labels(serving), "annotations": annotations(serving)}, "spec": pod},
        },
    }


def service(serving: Serving) -> dict[str, Any]:
    """The gateway's address in the cluster."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": serving.name, "labels": labels(serving)},
        "spec": {
            "selector": {"app.kubernetes.io/name": serving.name},
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        },
    }


def budget(serving: Serving) -> dict[str, Any]:
    """One gateway at a time may be moved."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": serving.name, "labels": labels(serving)},
        "spec": {"maxUnavailable": 1, "selector": selected(serving)},
    }


def policy(serving: Serving, *, egress: list[dict[str, Any]]) -> dict[str, Any]:
    """Pods of the namespace may ask the gateway. egress: whom it may ask itself, none where weights and engine are in its image"""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": serving.name, "labels": labels(serving)},
        "spec": {
            "podSelector": selected(serving),
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": serving.port}]}],
            "egress": egress,
        },
    }
