"""A bundle for places with no network: wheels, weights, evidence, public keys, and a script that installs and verifies them."""

import hashlib
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from trimtab.core.errors import InputError
from trimtab.core.files import sha256_file
from trimtab.package.cargo import LOCK, Cargo
from trimtab.package.folder import inside
from trimtab.package.installed import VERIFYING, packages_for, write_wheel
from trimtab.package.oci import CHUNK_BYTES

SCHEMA = "trimtab.bundle/1"
MARK, SUMS, PACKAGE = "bundle.json", "SHA256SUMS", "package"

_INSTALL = """\
#!/bin/sh
# Installs trimtab and its engine from this folder alone, then checks the release that it carries. Nothing is fetched.
# usage: sh install.sh [FOLDER]    where to install, default ./venv beside this file; PYTHON=... names the interpreter
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
target=${{1:-$here/venv}}
python=${{PYTHON:-python3}}

stop() {{
    echo "install.sh: $1" >&2
    exit 3
}}

"$python" -c 'import sys; sys.exit(sys.version_info[:2] != ({major}, {minor}))' 2>/dev/null ||
    stop "Python {major}.{minor} is needed, and $python is not that. Fix: PYTHON=/path/to/python{major}.{minor} sh install.sh"
[ "$(uname -m)" = {machine} ] || stop "this bundle is for {machine}, and this machine is $(uname -m)."
(cd "$here" && sha256sum --quiet -c {sums}) || stop "the files named above are not those that were packed; copy the bundle again."

"$python" -m venv "$target" || stop "$python cannot make an environment. On Debian and Ubuntu: apt-get install python3-venv"
"$target/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --require-hashes \\
    --find-links "$here/wheels" -r "$here/requirements.txt"
{verify}
echo "Installed. To serve it: $target/bin/trimtab serve $here/{package}/{lock}"
"""


def write_bundle(cargo: Cargo, folder: Path, *, verify: str, on_step: Callable[[str], None]) -> str:
    """Write the bundle into an empty folder; returns the sha256 of its list of digests, which stands for all of it.

    verify: lines of sh that check the package, where $here is the bundle and $target the environment
    Raises InputError, MissingError (a package that is not installed here), OSError.
    """
    for name, (path, sha256) in cargo.weight_files().items():
        on_step(name)
        _copy(path, folder / PACKAGE / name, sha256)
    for name, path in cargo.evidence.items():
        _copy(path, folder / PACKAGE / name)
    for name, key in cargo.keys.items():
        _write(folder / "keys" / name, key)
    (folder / "wheels").mkdir()
    lines = []
    for package in packages_for((*cargo.serving.extras, VERIFYING)):
        on_step(f"{package.name} {package.version}")
        wheel = write_wheel(package, folder / "wheels")
        lines.append(f"{package.name}=={package.version} --hash=sha256:{sha256_file(wheel)}\n")
    _write(folder / "requirements.txt", "".join(lines).encode())
    machine, (major, minor) = platform.machine(), sys.version_info[:2]
    mark = {"schema": SCHEMA, "name": cargo.serving.name, "version": cargo.version, "python": f"{major}.{minor}", "machine": machine}
    _write(folder / MARK, (json.dumps(mark, indent=2) + "\n").encode())
    script = _INSTALL.format(major=major, minor=minor, machine=machine, sums=SUMS, verify=verify, package=PACKAGE, lock=LOCK)
    _write(folder / "install.sh", script.encode(), mode=0o755)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    _write(folder / SUMS, "".join(f"{sha256_file(folder / name)}  {name}\n" for name in names).encode())
    return sha256_file(folder / SUMS)


def is_bundle(path: Path) -> bool:
    """Whether a folder says that it is a bundle."""
    return (path / MARK).is_file() and (path / SUMS).is_file()


def read_bundle(bundle: Path, folder: Path) -> None:
    """Write the package of a bundle into a folder, each file held against its digest. Raises InputError, OSError."""
    prefix = f"{PACKAGE}/"
    for number, line in enumerate((bundle / SUMS).read_bytes().decode("utf-8", "replace").splitlines(), start=1):
        sha256, _, name = line.partition("  ")
        if not name or "\ufffd" in name:
            raise InputError(f"{bundle / SUMS} cannot be read at line {number}; copy the bundle again.")
        if name.startswith(prefix):
            source = inside(bundle, name, bundle)
            target = inside(folder, name.removeprefix(prefix), bundle)
            if not source.is_file():
                raise InputError(f"{bundle} is not whole: {name} is missing; copy the bundle again.")
            _copy(source, target, sha256)


def _copy(source: Path, target: Path, sha256: str = "") -> None:
    """Copy a file, in pieces. sha256: what it must be. Raises InputError if it is not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("xb") as written:
        while piece := read.read(CHUNK_BYTES):
            digest.update(piece)
            written.write(piece)
    if sha256 and digest.hexdigest() != sha256:
        raise InputError(f"{source} is not what was packed: its sha256 is {digest.hexdigest()}, not {sha256}; copy it again.")


def _write(path: Path, data: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
