"""The weights and their evidence as a CNCF ModelPack artifact: one raw layer a file, so that a registry keeps equal files once.

In the artifact the weights lie at the top, as engines and volume mounts expect them; a draft model and the run's files have their own
folders. Source: modelpack/model-spec, docs/spec.md, docs/config.md and docs/annotations.md as of v0.0.7 (media types `vnd.cncf.model`).
"""

from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.package.cargo import PACKED, PACKED_DRAFT, Cargo
from trimtab.package.folder import inside
from trimtab.package.oci import Manifest, put_file, put_json, unpack_blob, unpack_tar, write_manifest

ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
LAYER_TYPE = "application/vnd.cncf.model."
WEIGHT_RAW, CONFIG_RAW, DOC_RAW = (f"{LAYER_TYPE}{kind}.v1.raw" for kind in ("weight", "weight.config", "doc"))
FILEPATH = "org.cncf.model.filepath"
EVIDENCE, DRAFT = "evidence", "draft"
_WEIGHT_ENDINGS = (".gguf", ".safetensors", "_model.bin")
_PREFIXES = ((f"{EVIDENCE}/", ""), (f"{DRAFT}/", f"{PACKED_DRAFT}/"), ("", f"{PACKED}/"))
_SCALES = ((10**15, "Q"), (10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))


def write_modelpack(cargo: Cargo, layout: Path) -> str:
    """Write the artifact as an OCI layout into an empty folder; returns the digest of its manifest. Raises InputError, OSError."""
    layers = []
    for name, (path, sha256) in sorted(cargo.weight_files().items()):
        media_type = WEIGHT_RAW if name.endswith(_WEIGHT_ENDINGS) else CONFIG_RAW
        layers.append(put_file(layout, path, media_type, {FILEPATH: _name_inside(name)}, sha256=sha256))
    for name, path in sorted(cargo.evidence.items()):
        layers.append(put_file(layout, path, DOC_RAW, {FILEPATH: f"{EVIDENCE}/{name}"}))
    config = put_json(layout, model_config(cargo, [layer.digest for layer in layers]), CONFIG_TYPE)
    annotations = {"org.opencontainers.image.created": cargo.made, "org.opencontainers.image.title": cargo.serving.name}
    return write_manifest(layout, config, layers, name=cargo.version, artifact_type=ARTIFACT_TYPE, annotations=annotations)


def model_config(cargo: Cargo, diff_ids: list[str]) -> dict[str, Any]:
    """The artifact's configuration. diff_ids: digests of the layers, which are raw files and so their own content."""
    serving = cargo.serving
    descriptor = {
        "createdAt": cargo.made,
        "name": serving.name,
        "version": cargo.version,
        "title": serving.release_id or serving.model,
        "sourceURL": serving.source,
        "revision": cargo.revision,
        "licenses": list(cargo.licences),
    }
    config = {
        "architecture": cargo.architecture,
        "format": serving.weights_format,
        "paramSize": param_size(cargo.n_params),
        "precision": cargo.precision,
        "quantization": cargo.quantization,
        "capabilities": {"inputTypes": ["text"], "outputTypes": ["text"]},
    }
    return {
        "descriptor": {key: value for key, value in descriptor.items() if value},
        "config": {key: value for key, value in config.items() if value},
        "modelfs": {"type": "layers", "diffIds": diff_ids},
    }


def param_size(n_params: int) -> str:
    """`134.5M`: a number with at most one decimal and the letter of its scale; empty if it is not known."""
    for scale, letter in _SCALES:
        if n_params >= scale:
            return f"{n_params / scale:.1f}".removesuffix(".0") + letter
    return ""


def is_modelpack(manifest: Manifest) -> bool:
    """Whether an artifact is a ModelPack, of ours or of another tool's."""
    return manifest.artifact_type == ARTIFACT_TYPE or manifest.config.media_type == CONFIG_TYPE


def read_modelpack(manifest: Manifest, folder: Path) -> None:
    """Write what an artifact holds into a folder: weights into `packed`, evidence where a run has it.

    Raises InputError: damaged (the digest is named), a layer without a file's name, a name that leads out of the folder.
    """
    for layer in manifest.layers:
        if not layer.media_type.startswith(LAYER_TYPE):
            raise InputError(f"{manifest.layout}: the layer {layer.digest} is {layer.media_type}, which is no part of a ModelPack.")
        if not layer.media_type.endswith(".raw"):
            unpack_tar(manifest.layout, layer, folder / PACKED)
            continue
        given = layer.annotations.get(FILEPATH, "")
        if not given:
            raise InputError(f"{manifest.layout}: the layer {layer.digest} has no {FILEPATH}, so its file has no name.")
        inside(folder, given, manifest.layout)
        path = folder / _name_outside(given)
        if path.exists():
            raise InputError(f"{manifest.layout} holds two files called {given!r}; make it anew.")
        unpack_blob(manifest.layout, layer, path)


def _name_inside(name: str) -> str:
    """The path in the artifact of a file of weights."""
    return name.removeprefix(f"{PACKED}/") if name.startswith(f"{PACKED}/") else f"{DRAFT}/{name.removeprefix(f'{PACKED_DRAFT}/')}"


def _name_outside(name: str) -> str:
    """The path below the folder of a file of an artifact."""
    before, after = next((before, after) for before, after in _PREFIXES if name.startswith(before))
    return after + name.removeprefix(before)
