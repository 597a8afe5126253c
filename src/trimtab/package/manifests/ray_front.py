"""The gateway before a Ray cluster: keys, limits, guards, audit log. It has no engine, and asks Ray Serve's proxies over HTTP."""

from typing import Any

from trimtab.core.release import Serving
from trimtab.core.site import ServedModel
from trimtab.package.manifests.kubernetes import budget, deployment, drained, pod, policy, service, volume_claim
from trimtab.package.manifests.network import dns, parts, ports
from trimtab.package.manifests.pod import LOCK_PATH, container, keys_note, labels
from trimtab.package.manifests.site import SITE, front_site_toml
from trimtab.package.manifests.sizing import GATEWAY_BYTES, MIB, PULL_S, start_s

FRONT_CPUS = 1


def front(serving: Serving, host: str, port: int, most: int) -> list[dict[str, Any]]:
    """Its configuration, volume, Deployment, Service, budget and network policy. host, port: of the Serve proxies; most: replicas there"""
    name = f"{serving.name}-front"
    site = front_site_toml(serving, url=f"http://{host}:{port}/v1", slots=serving.slots * most, wait_s=_wait_s(serving))
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": labels(serving)},
        "data": {SITE: site},
    }
    asked = {"cpu": str(FRONT_CPUS), "memory": f"{2 * GATEWAY_BYTES // MIB}Mi"}
    gateway = {**container(serving, "gateway", {"name": "http"}), "resources": {"requests": asked, "limits": dict(asked)}}
    gateway["volumeMounts"] = [mount for mount in gateway["volumeMounts"] if mount["mountPath"] != LOCK_PATH]
    spec = pod(serving, drained(gateway))
    for volume in spec["volumes"]:
        if volume["name"] == "site":
            volume["configMap"] = {"name": name}
    proxies = {"to": parts(serving, "ray-head", "ray-worker"), "ports": ports(port)}
    return [
        config,
        volume_claim(serving),
        deployment(serving, spec),
        service(serving),
        budget(serving),
        policy(serving, egress=[proxies, dns()]),
    ]


def _wait_s(serving: Serving) -> int:
    """So long a request may wait where a worker pod has to come first."""
    return max(int(ServedModel.queue_wait_s), PULL_S + start_s(serving))


def front_notes(serving: Serving) -> list[str]:
    """What the gateway needs, and what is not the same as with replicas of its own."""
    return [
        keys_note(serving),
        f"The gateway: {FRONT_CPUS} processor and {2 * GATEWAY_BYTES // MIB} MiB, of which 110 MiB were seen resident; a streamed token "
        "cost it 0.15 to 0.17 ms "
        "of a processor. One pod, since its volume holds one audit log and keys' limits are counted there.",
        "To the gateway the Ray cluster is one server with a url: it does not see single replicas, does not roll versions out over them, "
        "and "
        "scores no known answers in them. A new release is a new export, applied over the old one.",
    ]
