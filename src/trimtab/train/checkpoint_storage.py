"""How torch.distributed.checkpoint (DCP) writes and reads checkpoints here: safetensors and JSON in place of its pickled metadata.

DCP plans who writes which part of which tensor and who reads what on another number of processes; these two classes are its storage. Its
own FileSystemWriter keeps the metadata as a pickle, which runs code when it is read, and its writer of safetensors holds a second copy
of everything in memory and no checksums. Here each process writes one file (https://huggingface.co/docs/safetensors, section Format),
taking sha256 on the way; when all have, process 0 writes the manifest and renames the folder: a checkpoint is whole or its name is hidden.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from trimtab.core.files import sync_folder, write_atomic
from trimtab.train.checkpoint_manifest import NAME, Chunk, Manifest, SavedFile, SavedTensor, check_sizes, file_name, manifest_text

_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
# A manifest and rounding up to blocks want a little more than the tensors.
_SPARE_BYTES = 2**20


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` of torch.float32."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True, kw_only=True)
class _Written:
    """What a process tells process 0 of its file."""

    file: str
    saved: SavedFile


class SafetensorsWriter(StorageWriter):
    """One checkpoint on its way to the disk.

    target: folder it will have; extra: JSON that goes along; committed: called on process 0 after the rename
    What any process raises (OSError where there is too little room or no permission, Damaged where process 0 does not see the others'
    files) DCP raises on all.
    """

    def __init__(self, target: Path, *, step: int, world: int, extra: Mapping[str, Any], committed: Callable[[Path], None]) -> None:
        super().__init__()
        self.target = target
        self.part = target.with_name(f".{target.name}.part")
        self._step, self._world, self._extra = step, world, extra
        self._committed = committed

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing: each checkpoint has a writer of its own."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to prepare before the plans are known."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As planned."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Process 0: an empty hidden folder on a disk with room, and a file's name for each process."""
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)
        wanted = _SPARE_BYTES + sum(_item_bytes(item) for plan in plans for item in plan.items)
        free = shutil.disk_usage(self.part).free
        if free < wanted:
            raise OSError(errno.ENOSPC, f"It takes {wanted:,} bytes and {free:,} are free")
        return [replace(plan, storage_data=file_name(rank)) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future:
        """Every process: its file, on the disk when this returns."""
        results: list[WriteResult] = []
        if plan.items:
            tensors = {item.index.fqn: planner.resolve_data(item).detach() for item in plan.items}
            if len(tensors) != len(plan.items):
                raise ValueError("a process holds two parts of one tensor")
            written = _Written(file=plan.storage_data, saved=write_safetensors(self.part / plan.storage_data, tensors))
            results = [WriteResult(index=item.index, size_in_bytes=_item_bytes(item), storage_data=written) for item in plan.items]
        done: Future = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Process 0, when all have written: the manifest, then the name."""
        written = {result.index: result.storage_data for per_process in results for result in per_process}
        tensors = {name: _saved_tensor(name, saved, written) for name, saved in metadata.state_dict_metadata.items()}
        manifest = Manifest(
            step=self._step,
            world=self._world,
            torch=torch.__version__,
            extra=self._extra,
            files={one.file: one.saved for one in written.values()},
            tensors=tensors,
        )
        write_atomic(self.part / NAME, manifest_text(manifest))
        check_sizes(self.part)  # another machine's file may not have arrived: the folder has to be shared
        if self.target.exists():  # it was found damaged, or this run would not have come here again
            shutil.rmtree(self.target)
        os.rename(self.part, self.target)
        sync_folder(self.target.parent)
        self._committed(self.target)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """DCP is never asked to guess a storage here."""
        return False


def _item_bytes(item: WriteItem) -> int:
    return int(item.tensor_data.chunk.sizes.numel()) * int(item.tensor_data.properties.dtype.itemsize)


def _saved_tensor(name: str, saved: TensorStorageMetadata, written: Mapping[MetadataIndex, _Written]) -> SavedTensor:
    chunks = [
        Chunk(offsets=tuple(chunk.offsets), shape=tuple(chunk.sizes), file=written[MetadataIndex(name, chunk.offsets)].file)
        for chunk in saved.chunks
    ]
    return SavedTensor(dtype=dtype_name(saved.properties.dtype), shape=tuple(saved.size), chunks=tuple(chunks))


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> SavedFile:
    """Write tensors one after another without a copy of the whole, fsynced. Returns size and sha256. Raises OSError."""
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.dtype.itemsize
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    size = 0
    with path.open("wb", buffering=0) as file:
        for piece in [len(text).to_bytes(8, "little") + text, *(tensor for _, tensor in ordered)]:
            raw = piece if isinstance(piece, bytes) else _raw(piece)
            digest.update(raw)
            left = memoryview(raw)
            size += left.nbytes
            while left.nbytes:
                left = left[file.write(left) :]
        os.fsync(file.fileno())
    return SavedFile(size_bytes=size, sha256=digest.hexdigest())


def _raw(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


class SafetensorsReader(StorageReader):
    """A checkpoint whose files were checked, as DCP reads it."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        super().__init__()
        self._folder, self._manifest = folder, manifest

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing: each checkpoint has a reader of its own."""

    def read_metadata(self) -> Metadata:
        """What the manifest says, in DCP's words."""
        saved = self._manifest.tensors
        return Metadata(
            state_dict_metadata={
                name: TensorStorageMetadata(
                    properties=TensorProperties(dtype=getattr(torch, tensor.dtype)),
                    size=torch.Size(tensor.shape),
                    chunks=[ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.shape)) for c in tensor.chunks],
                )
                for name, tensor in saved.items()
            },
            storage_data={MetadataIndex(name, c.offsets): c.file for name, tensor in saved.items() for c in tensor.chunks},
        )

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool) -> None:
        """Which file holds which part."""
        self._files: dict[MetadataIndex, str] = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As planned."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As planned."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future:
        """Every process: the parts it wants, straight into its tensors."""
        wanted: dict[str, list[Any]] = {}
        for item in plan.items:
            wanted.setdefault(self._files[item.storage_index], []).append(item)
        for name, items in wanted.items():
            with safe_open(self._folder / name, framework="pt") as file:
                for item in items:
                    box = tuple(slice(begin, begin + n) for begin, n in zip(item.storage_offsets, item.lengths, strict=True))
                    fqn = item.storage_index.fqn
                    found = file.get_slice(fqn)[box] if box else file.get_tensor(fqn)
                    place = planner.resolve_tensor(item).detach()
                    place.copy_(found)
                    planner.commit_tensor(item, place)
        done: Future = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """DCP is never asked to guess a storage here."""
        return False


def read_whole(folder: Path, manifest: Manifest, name: str) -> torch.Tensor:
    """A tensor put together from all its parts, on the CPU."""
    saved = manifest.tensors[name]
    whole = torch.empty(saved.shape, dtype=getattr(torch, saved.dtype))
    for chunk in saved.chunks:
        box = tuple(slice(begin, begin + n) for begin, n in zip(chunk.offsets, chunk.shape, strict=True))
        with safe_open(folder / chunk.file, framework="pt") as file:
            whole[box] = file.get_tensor(name)
    return whole
