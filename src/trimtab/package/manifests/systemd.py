"""systemd: a unit that runs `trimtab serve` as a user of its own, on this machine's loopback."""

from trimtab.core.release import Serving
from trimtab.package.cargo import LOCK
from trimtab.package.manifests.lock import judged
from trimtab.package.manifests.site import SITE, site_files
from trimtab.package.manifests.sizing import DRAIN_S, memory_mib, resource_notes
from trimtab.package.manifests.text import checked_name, comment, title

PREFIX = "/opt/trimtab"
"""Where the note installs it; a virtual environment."""


def systemd(serving: Serving) -> dict[str, bytes]:
    """NAME.service, NAME.env, site.toml, deploy.toml and INSTALL.txt. Raises InputError."""
    name = checked_name(serving)
    return {
        f"{name}.service": _unit(serving).encode(),
        f"{name}.env": _environment(serving).encode(),
        **site_files(serving, lock=LOCK, is_open=False),
        "INSTALL.txt": _install(serving).encode(),
    }


def _unit(serving: Serving) -> str:
    name, memory = serving.name, memory_mib(serving)
    notes = [
        title(serving, "Unit"),
        *resource_notes(serving),
        "MemoryDenyWriteExecute is left out: engines that compile for the processor (OpenVINO) write code and run it.",
        "ProcSubset is left out: the gateway reads what the machine's memory and processors are.",
    ]
    limits = [f"CPUQuota={serving.cpus * 100}%", *([] if memory is None else [f"MemoryMax={memory}M", "MemorySwapMax=0"]), "TasksMax=512"]
    lines = [
        "[Unit]",
        f"Description=trimtab serves {serving.release_id or name}",
        "Wants=network-online.target",
        "After=network-online.target",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={PREFIX}/bin/trimtab serve /etc/trimtab/{name}/{SITE}",
        "ExecReload=/bin/kill -HUP $MAINPID",
        f"EnvironmentFile=/etc/trimtab/{name}/{name}.env",
        "Restart=on-failure",
        "RestartSec=2",
        f"TimeoutStopSec={DRAIN_S}",
        *limits,
        "DynamicUser=yes",
        f"StateDirectory=trimtab-{name}",
        f"CacheDirectory=trimtab-{name}",
        f"Environment=TRIMTAB_HOME=%S/trimtab-{name} TRIMTAB_CACHE=%C/trimtab-{name} HOME=%C/trimtab-{name}",
        "UMask=0077",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "ProtectKernelTunables=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelLogs=yes",
        "ProtectControlGroups=yes",
        "ProtectClock=yes",
        "ProtectHostname=yes",
        "ProtectProc=invisible",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "LockPersonality=yes",
        "RemoveIPC=yes",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallErrorNumber=EPERM",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return comment(notes) + "\n".join(lines) + "\n"


def _environment(serving: Serving) -> str:
    notes = [
        "Variables of the unit, one NAME=value a line. Secrets of other servers that site.toml names go here (chmod 600).",
        f"TRIMTAB_KEYS_FILE=/etc/trimtab/{serving.name}/keys.json, where site.toml says need_keys = true",
        "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318, for traces, with the extra `traces` installed",
    ]
    return comment(notes)


def _install(serving: Serving) -> str:
    name, lock = serving.name, judged(serving)
    etc = f"/etc/trimtab/{name}"
    extras = ",".join(["serve", *(one for one in serving.extras if one != "serve")])
    if ":" in serving.source:
        needs = f"It needs the network for {serving.source}, or a filled TRIMTAB_CACHE."
    else:
        needs = f"They are at {serving.source}: seen from {etc}, or a full path outside of people's homes, which the unit does not see."
    making = [
        f"Making weights (recipe {lock.recipe}) takes more memory than serving them, which is all the unit has. Better make them",
        "before, with `trimtab export --format modelpack` and `trimtab import`, and put the folder `packed` that the latter writes",
        f"beside {etc}/{LOCK}.",
    ]
    lines = [
        f"To run {serving.release_id or name} under systemd, as root:",
        "",
        f"  python3 -m venv {PREFIX}",
        f"  {PREFIX}/bin/pip install 'trimtab[{extras}]'",
        f"  install -d {etc}",
        f"  install -m 0644 {SITE} {LOCK} {name}.env {etc}/",
        f"  install -m 0644 {name}.service /etc/systemd/system/",
        f"  systemctl daemon-reload && systemctl enable --now {name}",
        f"  curl http://127.0.0.1:{serving.port}/health",
        "",
        f"The first start fetches or makes the weights and checks their digests; later ones only check. {needs}",
        *([] if lock.is_source else making),
        "",
        f"It listens on 127.0.0.1:{serving.port} without keys. For others to reach it, set host, open_to_network and need_keys in {SITE},",
        f"make a key with `trimtab keys add web`, install TRIMTAB_HOME/access/keys.json as {etc}/keys.json (0644: it holds",
        f"hashes, no secrets), and name that file in {name}.env as TRIMTAB_KEYS_FILE.",
    ]
    return "\n".join(lines) + "\n"
