"""A model that lies in files, as an engine opens it."""

from pathlib import Path

from trimtab.core.files import sha256_file
from trimtab.core.model import Adapter, Snapshot, SnapshotFile, SnapshotFormat


def snapshot_of(path: Path, *adapters: Adapter) -> Snapshot:
    """Of a GGUF file, or of a folder: one of OpenVINO, or one with safetensors, whose weights come first."""
    form: SnapshotFormat
    if path.is_file():
        files, form = [path], "gguf"
    else:
        files = sorted(path.iterdir(), key=lambda file: (file.suffix != ".safetensors", file.name))
        form = "safetensors" if files[0].suffix == ".safetensors" else "openvino"
    listed = tuple(SnapshotFile(name=file.name, size_bytes=file.stat().st_size, sha256=sha256_file(file)) for file in files)
    return Snapshot(source=str(path), format=form, root=path if path.is_dir() else path.parent, files=listed, adapters=adapters)
