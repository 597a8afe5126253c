"""The Python packages that serve here, as they are installed: what was judged is what ships, to the byte, with no index and no compiler.

A package's files come from its RECORD. Scripts outside of it and compiled caches are left out: both are made again where it is installed.
Source: Recording installed projects, and Binary distribution format (packaging.python.org).
"""

import base64
import hashlib
import importlib.util
import zipfile
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from trimtab.core.errors import InputError, MissingError

OWN = "trimtab"
VERIFYING = "release"
"""The extra with which `trimtab verify` checks signatures."""
_NOT_OF_THE_WHEEL = {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json"}
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Package:
    """One installed package.

    name, version: as it calls itself; stem: the same in file names, `llama_cpp_python-0.3.36`; licence: as it says, empty if it does not
    tags: what it runs on, such as `cp311-cp311-manylinux_2_28_x86_64`; files: by name in site-packages
    """

    name: str
    version: str
    stem: str
    licence: str
    tags: tuple[str, ...]
    files: Mapping[str, Path]


def packages_for(extras: Iterable[str], *, without: Collection[str] = ()) -> tuple[Package, ...]:
    """trimtab with some of its extras and all that these need, by name. without: packages that are left out, with what only they need.

    Raises MissingError for one that is not installed.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    pending = deque([(OWN, extra) for extra in ("", *extras)])
    while pending:
        name, extra = pending.popleft()
        if (name, extra) in seen or name in without:
            continue
        seen.add((name, extra))
        if name not in found:
            found[name] = _distribution(name, extra)
        for line in found[name].requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                pending.extend((canonicalize_name(needed.name), one) for one in ("", *needed.extras))
    return tuple(_package(found[name]) for name in sorted(found))


def _distribution(name: str, extra: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        wanted = f"{OWN}[{extra}]" if extra else OWN
        raise MissingError(f"The package {name} is needed and not installed here.", f"pip install '{wanted}'") from None


def _package(found: Distribution) -> Package:
    files = {str(path): Path(str(path.locate())) for path in found.files or () if _is_of_wheel(path.parts)}
    metadata = next((name for name in files if name.endswith(".dist-info/METADATA") and name.count("/") == 1), "")
    if not metadata:
        raise InputError(f"The package {found.name} was not installed from a wheel, so its files are not known; install it with pip.")
    if any(name.startswith("__editable__") for name in files):
        files = {name: path for name, path in files.items() if not name.startswith("__editable__")}
        for top in (found.read_text("top_level.txt") or found.name).split():
            files.update(_files_of_module(top))
    wheel = found.read_text("WHEEL") or ""
    return Package(
        name=found.name,
        version=found.version,
        stem=metadata.partition(".dist-info/")[0],
        licence=str(found.metadata.json.get("license_expression", "")),
        tags=tuple(line.partition(":")[2].strip() for line in wheel.splitlines() if line.startswith("Tag:")),
        files=files,
    )


def _is_of_wheel(parts: tuple[str, ...]) -> bool:
    outside = parts[0] in ("..", "/") or "__pycache__" in parts or parts[-1].endswith(".pyc")
    return not outside and not (parts[0].endswith(".dist-info") and parts[-1] in _NOT_OF_THE_WHEEL and len(parts) == 2)


def _files_of_module(top: str) -> dict[str, Path]:
    """Files of a module that runs from where it is worked on."""
    spec = importlib.util.find_spec(top)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise InputError(f"The module {top} is not a folder of Python files that can be packed; install its package with pip.")
    root = Path(folders[0])
    paths = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc")
    return {f"{top}/{path.relative_to(root).as_posix()}": path for path in paths}


def wheel_name(package: Package) -> str:
    """The file name that pip knows a wheel by."""
    parts = [tag.split("-") for tag in package.tags] or [["py3", "none", "any"]]
    return "-".join([package.stem, *(".".join(dict.fromkeys(part)) for part in zip(*parts, strict=True))]) + ".whl"


def write_wheel(package: Package, folder: Path) -> Path:
    """Write a package as a wheel again; the same files give the same bytes. Returns its path."""
    path = folder / wheel_name(package)
    record = f"{package.stem}.dist-info/RECORD"
    lines = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, source in sorted(package.files.items()):
            data = source.read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            lines.append(f"{_quoted(name)},sha256={digest},{len(data)}\n")
            archive.writestr(_entry(name, is_program=bool(source.stat().st_mode & 0o100)), data)
        archive.writestr(_entry(record, is_program=False), "".join([*lines, f"{record},,\n"]))
    return path


def _entry(name: str, *, is_program: bool) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3
    entry.external_attr = (0o100755 if is_program else 0o100644) << 16
    return entry


def _quoted(name: str) -> str:
    return f'"{name}"' if "," in name else name
