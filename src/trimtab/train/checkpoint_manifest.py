"""What a checkpoint's folder says of itself: `manifest.json`, checked before any byte of a tensor is looked at. No torch, no pickle.

A checkpoint is a folder `step-00000050` of `process-00000.safetensors`, one file a process that had something to write, and the manifest:
`{"body": {...}, "sha256": digest of the body's canonical JSON}`. The body holds the size and sha256 of each file, and for each tensor its
type, its shape and which part of it lies in which file. What is being written, or is about to be removed, has a name with a dot before it.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.files import canonical_json, digest_of, parsed_json, sha256_file

NAME = "manifest.json"
SCHEMA = 1
_FOLDER = re.compile(r"step-(\d{8,})")
_FILE = re.compile(r"process-\d{5,}\.safetensors")


class Damaged(ValueError):
    """A checkpoint is not whole. The message is half a sentence that says what is wrong with which file."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A box of a tensor: where it begins in each dimension, how far it goes, and the file that holds it under the tensor's name."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    file: str


@dataclass(frozen=True, kw_only=True)
class SavedTensor:
    """dtype: torch's name of it, `float32`; chunks: cover the tensor without overlap."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, kw_only=True)
class SavedFile:
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """world: processes that wrote it; extra: JSON of the trainer's own."""

    step: int
    world: int
    torch: str
    extra: Mapping[str, Any]
    files: Mapping[str, SavedFile]
    tensors: Mapping[str, SavedTensor]


def folder_name(step: int) -> str:
    """`step-00000050`."""
    return f"step-{step:08d}"


def file_name(rank: int) -> str:
    """`process-00003.safetensors`."""
    return f"process-{rank:05d}.safetensors"


def step_folders(folder: Path) -> dict[int, Path]:
    """Checkpoints in a folder by step, the newest first, whole or not."""
    if not folder.is_dir():
        return {}
    named = ((_FOLDER.fullmatch(path.name), path) for path in folder.iterdir())
    return dict(sorted(((int(match[1]), path) for match, path in named if match), reverse=True))


def manifest_text(manifest: Manifest) -> str:
    """The text of `manifest.json`. Parts of tensors are lists `[offsets, shape, number of the file]`, for there are many."""
    names = sorted(manifest.files)
    number = {name: index for index, name in enumerate(names)}
    body = {
        "schema": SCHEMA,
        "step": manifest.step,
        "world": manifest.world,
        "torch": manifest.torch,
        "extra": manifest.extra,
        "files": [[name, manifest.files[name].size_bytes, manifest.files[name].sha256] for name in names],
        "tensors": {
            name: {"dtype": saved.dtype, "shape": saved.shape, "chunks": [[c.offsets, c.shape, number[c.file]] for c in saved.chunks]}
            for name, saved in manifest.tensors.items()
        },
    }
    return canonical_json({"body": body, "sha256": digest_of(body)})


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint. Raises Damaged when it is missing, unreadable or does not agree with its own checksum."""
    try:
        text = (folder / NAME).read_text(encoding="utf-8")
        body = parsed_json(text)["body"]
        if text != canonical_json({"body": body, "sha256": digest_of(body)}):
            raise Damaged(f"{NAME} does not agree with its own checksum")
        if body["schema"] != SCHEMA:
            raise Damaged(f"{NAME} has schema {body['schema']}, this trimtab reads {SCHEMA}")
        names = [str(name) for name, _, _ in body["files"]]
        if not all(_FILE.fullmatch(name) for name in names):
            raise Damaged(f"{NAME} names files that no checkpoint has")
        return Manifest(
            step=body["step"],
            world=body["world"],
            torch=body["torch"],
            extra=body["extra"],
            files={name: SavedFile(size_bytes=size, sha256=digest) for name, size, digest in body["files"]},
            tensors={name: _saved_tensor(saved, names) for name, saved in body["tensors"].items()},
        )
    except FileNotFoundError:
        raise Damaged(f"{NAME} is missing") from None
    except (OSError, KeyError, TypeError, IndexError, ValueError) as error:
        raise error if isinstance(error, Damaged) else Damaged(f"{NAME} cannot be read ({error})") from None


def _saved_tensor(saved: Mapping[str, Any], names: list[str]) -> SavedTensor:
    chunks = (Chunk(offsets=tuple(offsets), shape=tuple(shape), file=names[index]) for offsets, shape, index in saved["chunks"])
    return SavedTensor(dtype=saved["dtype"], shape=tuple(saved["shape"]), chunks=tuple(chunks))


def check_sizes(folder: Path) -> Manifest:
    """A quick look: the manifest is sound and its files are there in full length. Raises Damaged."""
    manifest = read_manifest(folder)
    for name, saved in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            raise Damaged(f"{name} is missing") from None
        if size != saved.size_bytes:
            raise Damaged(f"{name} has {size:,} bytes instead of {saved.size_bytes:,}")
    return manifest


def check_contents(folder: Path, manifest: Manifest, names: Collection[str]) -> None:
    """Every byte of these files is what was written. Raises Damaged."""
    for name in sorted(names):
        try:
            digest = sha256_file(folder / name)
        except OSError as error:
            raise Damaged(f"{name} cannot be read ({error.strerror})") from None
        if digest != manifest.files[name].sha256:
            raise Damaged(f"{name} does not agree with its checksum")
