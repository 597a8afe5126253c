"""Who may talk to whom: labels of the parts of one service, and the peers of network policies."""

from typing import Any

from trimtab.core.release import Serving


def names(serving: Serving, part: str) -> dict[str, str]:
    """What the pods of one part are found by. KubeRay sets app.kubernetes.io/name itself, so that one is left to it."""
    return {"app.kubernetes.io/part-of": serving.name, "app.kubernetes.io/component": part}


def parts(serving: Serving, *of: str) -> list[dict[str, Any]]:
    """The pods of some parts, as peers."""
    return [{"podSelector": {"matchLabels": names(serving, part)}} for part in of]


def gateways(serving: Serving) -> list[dict[str, Any]]:
    """The gateway's pods, as peers."""
    return [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": serving.name}}}]


def elsewhere(name: str) -> list[dict[str, Any]]:
    """Pods called so by app.kubernetes.io/name, in whatever namespace they run, as peers."""
    return [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": name}}}]


def ports(*numbers: int) -> list[dict[str, Any]]:
    """TCP ports."""
    return [{"protocol": "TCP", "port": number} for number in numbers]


def dns() -> dict[str, Any]:
    """Egress to the cluster's name service, by its usual label."""
    both = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    return {"to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}], "ports": both}
