"""Compose: one service, read-only, on loopback of the machine (compose-spec)."""

from typing import Any

from trimtab.core.release import Serving
from trimtab.package.cargo import LOCK
from trimtab.package.image import USER
from trimtab.package.manifests.pod import HEALTH, HOME_DIR, LOCK_PATH, SITE_DIR
from trimtab.package.manifests.site import SITE, site_files
from trimtab.package.manifests.sizing import DRAIN_S, memory_mib, resource_notes, start_s
from trimtab.package.manifests.text import checked_name, image_notes, image_of, title, yaml_bytes

KEYS = "/run/secrets/keys"

NOTES = [
    "Keys: a container's port is a network, so keys are needed. Make one with `trimtab keys add web` and copy "
    f"TRIMTAB_HOME/access/keys.json beside this file, readable for user {USER}; it holds hashes, no secrets.",
    f"Volume: `home` keeps {HOME_DIR}, the audit log and what keys have spent. A new volume has the owner that the folder has in the "
    "image.",
    "The port is published on loopback only; before others reach it, put TLS before it or name tls_certificate in site.toml.",
]


def compose(serving: Serving) -> dict[str, bytes]:
    """compose.yaml, and the site.toml and deploy.toml that it mounts. Raises InputError, MissingError."""
    name = checked_name(serving)
    memory = memory_mib(serving)
    limits = {"cpus": str(serving.cpus), **({} if memory is None else {"memory": f"{memory}M"}), "pids": 512}
    look = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{serving.port}{HEALTH}', timeout=5)"
    service: dict[str, Any] = {
        "image": image_of(serving),
        "entrypoint": ["trimtab", "serve", f"{SITE_DIR}/{SITE}"],
        "user": f"{USER}:{USER}",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "environment": {"TRIMTAB_HOME": HOME_DIR, "TRIMTAB_KEYS_FILE": KEYS},
        "ports": [f"127.0.0.1:{serving.port}:{serving.port}"],
        "configs": [{"source": "site", "target": f"{SITE_DIR}/{SITE}"}, {"source": "lock", "target": LOCK_PATH}],
        "secrets": ["keys"],
        "volumes": [f"home:{HOME_DIR}"],
        "tmpfs": ["/tmp"],
        "healthcheck": {
            "test": ["CMD", "python3", "-c", look],
            "interval": "10s",
            "timeout": "10s",
            "retries": 3,
            "start_period": f"{start_s(serving)}s",
            "start_interval": "2s",
        },
        "deploy": {"resources": {"limits": limits}},
        "init": True,
        "restart": "unless-stopped",
        "stop_grace_period": f"{DRAIN_S}s",
    }
    document = {
        "name": name,
        "services": {name: service},
        "configs": {"site": {"file": f"./{SITE}"}, "lock": {"file": f"./{LOCK}"}},
        "secrets": {"keys": {"file": "./keys.json"}},
        "volumes": {"home": {}},
    }
    notes = [title(serving, "Compose"), "Start: docker compose up", *resource_notes(serving), *image_notes(serving), *NOTES]
    return {"compose.yaml": yaml_bytes(notes, document), **site_files(serving, lock=LOCK_PATH, is_open=True)}
