"""MODEL of the plan verbs: a catalog name, or anything that `describe` reads, from its header alone."""

from pathlib import Path

from trimtab.core.errors import InputError
from trimtab.core.model import ModelHeader, Snapshot, SnapshotFile
from trimtab.core.planning import Architecture
from trimtab.describe.card import model_card
from trimtab.describe.shape import architecture_of
from trimtab.plan.architectures import architecture, find_architecture
from trimtab.record.home import cache_dir
from trimtab.sources.hub import fetch_config, parse_hub_spec
from trimtab.sources.local import find_model, header_of
from trimtab.sources.open import HUB, INDEX, open_source, read_header
from trimtab.sources.safetensors import read_config_header


def plan_model(spec: str, *, offline: bool = False) -> Architecture:
    """The architecture behind a spec: a catalog name or alias first, then a path, `hf:org/name@revision[:quant]` or `pypi:name==version`.

    A path may be a config.json, or a folder with nothing but one. Of a hub's model only config.json is fetched, unless a GGUF is meant.
    Nothing is hashed. Raises InputError (with near names of the catalog where the spec looks like one), MissingError.
    """
    text = spec.strip()
    if not text:
        raise InputError(
            "No model was named; give a catalog name such as llama-3.1-8b, a path, hf:org/name@revision or pypi:name==version."
        )
    path = Path(text).expanduser() if not text.startswith((HUB, INDEX, "~")) else None
    if path is not None and path.exists():
        return _of_path(path.absolute())
    if text.startswith(HUB):
        return _of_hub(text, offline)
    if text.startswith(INDEX):
        return _of_header(*_opened(text, offline))
    looks_like_path = text.endswith((".gguf", ".json", ".safetensors", ".xml")) or text.startswith((".", "/", "~"))
    return _of_path(Path(text).expanduser().absolute()) if looks_like_path else architecture(text)


def _of_path(path: Path) -> Architecture:
    alone = path if path.name.endswith(".json") and path.is_file() else path / "config.json"
    if alone.is_file() and not any(alone.parent.glob("*.safetensors*")):
        return _of_config(alone)
    model = find_model(path)
    header = header_of(model.format, model.root, model.paths[0])
    files = tuple(
        SnapshotFile(name=item.relative_to(model.root).as_posix(), size_bytes=item.stat().st_size, sha256="") for item in model.paths
    )
    return _of_header(Snapshot(source=str(path), format=model.format, root=model.root, files=files), header)


def _of_hub(spec: str, offline: bool) -> Architecture:
    """A repository that the catalog knows needs no network, unless a revision or a file of it is named."""
    parsed = parse_hub_spec(spec)
    known = find_architecture(parsed.repo) if parsed.revision == "main" and not parsed.quant else None
    if known is not None:
        return known
    config = None if parsed.quant else fetch_config(parsed, offline=offline)
    return _of_config(config) if config is not None else _of_header(*_opened(spec, offline))


def _of_config(path: Path) -> Architecture:
    snapshot = Snapshot(source=str(path), format="safetensors", root=path.parent, files=())
    return _of_header(snapshot, read_config_header(path))


def _opened(spec: str, offline: bool) -> tuple[Snapshot, ModelHeader]:
    snapshot = open_source(spec, cache_dir=cache_dir(), offline=offline)
    return snapshot, read_header(snapshot)


def _of_header(snapshot: Snapshot, header: ModelHeader) -> Architecture:
    return architecture_of(header, model_card(header, snapshot))
