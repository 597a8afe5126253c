"""What is inside an image, as CycloneDX 1.6 JSON: the model, Python packages, packages of the system. Written by hand, so that one content
has one text; the tests hold it against the schema."""

import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from trimtab.package.cargo import Cargo
from trimtab.package.installed import Package


def sbom(cargo: Cargo, packages: Iterable[Package], system: Mapping[str, str]) -> bytes:
    """The bill of materials of an image. system: packages of its base, name -> version"""
    components = [_model(cargo), *map(_python, packages), *(_debian(name, version) for name, version in sorted(system.items()))]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": cargo.made,
            "component": {"type": "container", "bom-ref": "image", "name": cargo.serving.name, "version": cargo.version},
        },
        "components": components,
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _model(cargo: Cargo) -> dict[str, Any]:
    files = [
        {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": sha256}]}
        for name, (_, sha256) in sorted(cargo.weight_files().items())
    ]
    model = {"type": "machine-learning-model", "bom-ref": "model", "name": cargo.serving.model, "version": cargo.version}
    return {**model, **_licences(cargo.licences), "components": files}


def _python(package: Package) -> dict[str, Any]:
    purl = f"pkg:pypi/{package.name.lower().replace('_', '-')}@{quote(package.version)}"
    named = {"type": "library", "bom-ref": purl, "name": package.name, "version": package.version, "purl": purl}
    return {**named, **_licences((package.licence,) if package.licence else ())}


def _debian(name: str, version: str) -> dict[str, Any]:
    purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _licences(expressions: tuple[str, ...]) -> dict[str, Any]:
    return {"licenses": [{"expression": " AND ".join(expressions)}]} if expressions else {}
