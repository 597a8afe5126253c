"""A container image that serves one judged deployment: engine, weights, gateway, configuration and a bill of materials.

It is written as an OCI layout straight away, on a base that is given as a root file system or as a layout: no daemon, no build tool, no
root. For a base that lies elsewhere there is a Containerfile with the same files. It runs as a user without rights on a root that is
read-only; what it writes goes to /var/lib/trimtab. Source: OCI image-spec 1.1, config.md; HEALTHCHECK as Docker and Podman read it.
"""

import json
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from trimtab.core.errors import InputError
from trimtab.package.base_image import LAYER_TAR, Base, put_base
from trimtab.package.cargo import LOCK, PACKED, PACKED_DRAFT, Cargo
from trimtab.package.compiled import compiled_members
from trimtab.package.installed import VERIFYING, Package, packages_for
from trimtab.package.manifests.site import SITE, site_toml
from trimtab.package.oci import Manifest, Member, put_json, put_tar, read_json_blob, table, unpack_tar, write_manifest
from trimtab.package.sbom import sbom

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
ROOT, STATE = "opt/trimtab", "var/lib/trimtab"
PACKAGE, SITE_PACKAGES = f"{ROOT}/package", f"{ROOT}/python"
USER = 65532
NOT_NEEDED = frozenset({"nncf", "matplotlib", "huggingface-hub"})
"""What makes weights, draws reports and fetches models: in an image all three are done."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_COMMAND = b'#!/bin/sh\nexec python3 -m trimtab "$@"\n'
_RAY_COMMAND = b'#!/bin/sh\nexec python3 -m ray.scripts.scripts "$@"\n'
"""KubeRay starts every node with `ray start`."""


def write_image(cargo: Cargo, base: Path, layout: Path) -> str:
    """Write the image as an OCI layout into an empty folder; returns the digest of its manifest. Same inputs, same digest.

    base: a root file system (.tar) or an OCI layout, with a Python of this minor version
    Raises InputError (base), MissingError (a package that is not installed here), OSError.
    """
    under = put_base(base, layout)
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if under.python != ours:
        raise InputError(
            f"{base} has {f'Python {under.python}' if under.python else 'no Python'}, and what is installed here is for {ours}."
        )
    packages = packages_for((*cargo.serving.extras, VERIFYING), without=NOT_NEEDED)
    layers = [put_tar(layout, members, LAYER_TAR) for members in _layers(cargo, packages, under.packages)]
    diff_ids = [*under.diff_ids, *(layer.digest for layer in layers)]
    config = put_json(layout, _image_config(cargo, under, diff_ids), CONFIG_TYPE)
    return write_manifest(layout, config, [*under.layers, *layers], name=cargo.version, annotations=labels(cargo))


def write_context(cargo: Cargo, base: str, folder: Path) -> None:
    """Write a Containerfile and the files that it copies, for docker, podman or buildah to build. base: name of an image with Python.

    The files are those of `write_image`, so the base must have a Python of this minor version. Raises MissingError, OSError.
    """
    packages = packages_for((*cargo.serving.extras, VERIFYING), without=NOT_NEEDED)
    for members in _layers(cargo, packages, {}):
        for member in members:
            path = folder / "rootfs" / member.name
            if member.content is None:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                for piece in _pieces(member.content):
                    file.write(piece)
            path.chmod(member.mode)
    (folder / "Containerfile").write_text(_containerfile(cargo, base), encoding="utf-8")


def _pieces(content: Path | bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


def _layers(cargo: Cargo, packages: Iterable[Package], system: Mapping[str, str]) -> Iterator[list[Member]]:
    """What lies on the base, what changes least often first: Python packages, weights, then evidence and configuration."""
    yield list(_site_packages(packages))
    for name, (path, _) in sorted(cargo.weight_files().items()):
        yield [Member(name=f"{PACKAGE}/{name}", content=path)]
    own = [Member(name=f"{PACKAGE}/{name}", content=path) for name, path in sorted(cargo.evidence.items())]
    own += [Member(name=f"{ROOT}/keys/{name}", content=key) for name, key in sorted(cargo.keys.items())]
    yield [
        *own,
        Member(name=f"{ROOT}/{SITE}", content=site_toml(cargo.serving, lock=f"package/{LOCK}", is_open=True).encode()),
        Member(name=f"{ROOT}/sbom.cdx.json", content=sbom(cargo, packages, system)),
        Member(name="usr/local/bin/trimtab", content=_COMMAND, mode=0o755),
        *([Member(name="usr/local/bin/ray", content=_RAY_COMMAND, mode=0o755)] if any(one.name == "ray" for one in packages) else []),
        Member(name=STATE, content=None, mode=0o700, owner=USER),
    ]


def _site_packages(packages: Iterable[Package]) -> Iterator[Member]:
    for package in packages:
        for name, path in package.files.items():
            if "tests" in PurePosixPath(name).parts[:-1]:
                continue
            source = path.read_bytes() if name.endswith(".py") else b""
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            yield Member(name=f"{SITE_PACKAGES}/{name}", content=source if name.endswith(".py") else path, mode=mode)
            if source:
                yield from compiled_members(f"{SITE_PACKAGES}/{name}", source)


def labels(cargo: Cargo) -> dict[str, str]:
    """What an image and its manifest say of themselves."""
    serving = cargo.serving
    found = {
        "org.opencontainers.image.title": serving.name,
        "org.opencontainers.image.version": cargo.version,
        "org.opencontainers.image.created": cargo.made,
        "org.opencontainers.image.revision": cargo.revision,
        "org.opencontainers.image.licenses": " AND ".join(cargo.licences),
        "trimtab.release": serving.release_id,
        "trimtab.engine": serving.engine,
        "trimtab.weights.sha256": serving.weights_sha256,
    }
    return {key: value for key, value in found.items() if value}


def _settings(port: int) -> dict[str, Any]:
    """How it is run, as an image configuration names it."""
    ask = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{port}/health', timeout=4)"
    return {
        "User": f"{USER}:{USER}",
        "WorkingDir": f"/{STATE}",
        "ExposedPorts": {f"{port}/tcp": {}},
        "Volumes": {f"/{STATE}": {}},
        "Entrypoint": ["python3", "-m", "trimtab"],
        "Cmd": ["serve", f"/{ROOT}/{SITE}"],
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["CMD", "python3", "-c", ask], "Interval": 30 * 10**9, "Timeout": 5 * 10**9, "StartPeriod": 60 * 10**9},
    }


def _environment() -> dict[str, str]:
    return {
        "PYTHONPATH": f"/{SITE_PACKAGES}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "HOME": f"/{STATE}",
        "TRIMTAB_HOME": f"/{STATE}",
        "TRIMTAB_OFFLINE": "1",
    }


def _image_config(cargo: Cargo, base: Base, diff_ids: list[str]) -> dict[str, Any]:
    environment = dict(line.split("=", 1) for line in base.config.get("Env") or ())
    environment.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    config = {**base.config, **_settings(cargo.serving.port), "Labels": {**table(base.config, "Labels"), **labels(cargo)}}
    config["Env"] = [f"{name}={value}" for name, value in {**environment, **_environment()}.items()]
    return {
        "created": cargo.made,
        "architecture": base.architecture or _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": cargo.made, "created_by": "trimtab export --format image"} for _ in diff_ids],
    }


def _containerfile(cargo: Cargo, base: str) -> str:
    settings = _settings(cargo.serving.port)
    health = settings["Healthcheck"]
    lines = [
        "# Builds the image in this folder: docker build . (or podman build, buildah build). The base must have Python "
        f"{sys.version_info[0]}.{sys.version_info[1]},",
        "# and for llama.cpp libgomp1 and libstdc++6. HEALTHCHECK is for images in Docker's own format; others pass it over.",
        f"ARG BASE={base}",
        "FROM ${BASE}",
        "COPY rootfs/ /",
        f"RUN chown {USER}:{USER} /{STATE} && chmod 700 /{STATE}",
        "ENV " + " ".join(f"{name}={json.dumps(value)}" for name, value in _environment().items()),
        "LABEL " + " ".join(f"{name}={json.dumps(value)}" for name, value in labels(cargo).items()),
        f"USER {settings['User']}",
        f"WORKDIR {settings['WorkingDir']}",
        f"EXPOSE {cargo.serving.port}",
        f"VOLUME /{STATE}",
        f"STOPSIGNAL {settings['StopSignal']}",
        f"HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD {json.dumps(health['Test'][1:])}",
        f"ENTRYPOINT {json.dumps(settings['Entrypoint'])}",
        f"CMD {json.dumps(settings['Cmd'])}",
    ]
    return "\n".join(lines) + "\n"


def is_image(manifest: Manifest) -> bool:
    """Whether a manifest is that of a container image."""
    return manifest.config.media_type == CONFIG_TYPE


def read_image(manifest: Manifest, folder: Path) -> None:
    """Write the package inside an image of ours into a folder. Raises InputError: damaged, or an image without one."""
    document = read_json_blob(manifest.layout, manifest.config)
    if "trimtab.weights.sha256" not in table(table(document, "config"), "Labels"):
        raise InputError(f"{manifest.layout} is an image that trimtab did not make; there is nothing in it to import.")
    names = [name for layer in manifest.layers for name in unpack_tar(manifest.layout, layer, folder, below=PACKAGE)]
    if LOCK not in names or not any(name.startswith((f"{PACKED}/", f"{PACKED_DRAFT}/")) for name in names):
        raise InputError(f"{manifest.layout} is an image without {LOCK} and weights in /{PACKAGE}; there is nothing in it to import.")
