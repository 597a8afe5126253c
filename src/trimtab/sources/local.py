"""Files and directories on this machine: what kind of model a path is, and which of its files belong to it."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from trimtab.core.errors import InputError
from trimtab.core.model import ModelHeader, SnapshotFormat
from trimtab.sources import ctranslate2, openvino, safetensors
from trimtab.sources.gguf import gguf_parts, is_later_part, read_gguf_header
from trimtab.sources.refusals import is_pickled, refuse_pickled

_WHAT = "a .gguf file, a directory with .safetensors and config.json, or one with openvino_model.xml"


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """The files of one model, weights first, all below `root`."""

    format: SnapshotFormat
    root: Path
    paths: tuple[Path, ...]


def find_model(path: Path) -> LocalModel:
    """The model at a path. Raises InputError, one sentence, for anything that is not exactly one model."""
    try:
        if path.is_dir():
            return _in_directory(path)
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise InputError(f"{path} is not a file or a directory (a pipe or a device?); give {_WHAT}.")
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; give {_WHAT}.") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{path} cannot be read ({reason}); check the path and its permissions.") from error
    if state.st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); fetch it again.")
    if path.suffix.lower() == ".gguf" or magic == b"GGUF":
        return _gguf(path)
    if path.name == openvino.MODEL_XML:
        return _openvino(path.parent)
    if path.suffix == ".safetensors" or path.name in (safetensors.INDEX, "config.json"):
        return _safetensors(path.parent)
    if is_pickled(path):
        raise refuse_pickled(path)
    raise InputError(f"{path} is not a model that trimtab reads; give {_WHAT}.")


def _gguf(path: Path, extra: tuple[Path, ...] = ()) -> LocalModel:
    return LocalModel(format="gguf", root=path.parent, paths=(*gguf_parts(path), *extra))


def _openvino(folder: Path) -> LocalModel:
    return LocalModel(format="openvino", root=folder, paths=openvino.snapshot_paths(folder))


def _safetensors(folder: Path) -> LocalModel:
    return LocalModel(format="safetensors", root=folder, paths=safetensors.snapshot_paths(folder))


def _in_directory(folder: Path) -> LocalModel:
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(f"{folder} cannot be listed (no permission); check its permissions.")
    ggufs = sorted(item for item in folder.glob("*.gguf") if item.is_file() and not is_later_part(item.name))
    has_openvino = (folder / openvino.MODEL_XML).is_file()
    has_safetensors = any(folder.glob("*.safetensors")) or (folder / safetensors.INDEX).is_file()
    kinds = [name for name, there in (("gguf", ggufs), ("openvino", has_openvino), ("safetensors", has_safetensors)) if there]
    if len(kinds) > 1:
        raise InputError(
            f"{folder} holds several models ({', '.join(kinds)}); give the path of one's file (.gguf, {openvino.MODEL_XML}, config.json)."
        )
    if has_openvino:
        return _openvino(folder)
    if not kinds and ctranslate2.is_ctranslate2(folder):
        return LocalModel(format="ctranslate2", root=folder, paths=ctranslate2.snapshot_paths(folder))
    if has_safetensors:
        return _safetensors(folder)
    if ggufs:
        return _one_gguf(folder, ggufs)
    pickled = sorted(item for item in folder.iterdir() if item.is_file() and is_pickled(item))
    if pickled:
        raise refuse_pickled(pickled[0])
    if (folder / "genai_config.json").is_file():
        raise InputError(f"{folder} is a model for ONNX Runtime GenAI; trimtab makes those itself: give the model that it was made from.")
    raise InputError(f"{folder} holds no weights; give {_WHAT}.")


def _one_gguf(folder: Path, ggufs: list[Path]) -> LocalModel:
    """The only model among GGUF files; a vision or audio projector beside it belongs to it."""
    if len(ggufs) == 1:
        return _gguf(ggufs[0])
    roles = {item: read_gguf_header(gguf_parts(item)) for item in ggufs[:64]}
    projectors = tuple(item for item, header in roles.items() if header.architecture == "clip")
    models = [item for item, header in roles.items() if item not in projectors and header.metadata.get("general.type") != "adapter"]
    if len(ggufs) > 64 or len(models) != 1 or len(projectors) > 1:
        names = ", ".join(item.name for item in ggufs[:4])
        raise InputError(f"{folder} holds {len(ggufs)} GGUF files ({names}{', ...' if len(ggufs) > 4 else ''}); give the path of one.")
    return _gguf(models[0], projectors)


def header_of(form: SnapshotFormat, root: Path, first: Path) -> ModelHeader:
    """The validated header of a model, from its format, folder and first weight file. Raises InputError."""
    if form == "gguf":
        return read_gguf_header(gguf_parts(first))
    if form == "ctranslate2":
        return ctranslate2.read_ctranslate2_header(root)
    return openvino.read_openvino_header(root) if form == "openvino" else safetensors.read_hf_header(root)
