"""Throw-away environments for the programs that trimtab is held against. They are run there, never imported, and no extras of the project.

They lie in the cache folder (`peers/NAME`); delete them at any time.
"""

import subprocess
import sys
import tarfile
import venv
from collections.abc import Sequence
from pathlib import Path

from trimtab.measure.machine import available_cores
from trimtab.record.home import cache_dir

LLAMA_TOOLS = ("llama-quantize", "llama-perplexity", "llama-bench")


def peer_folder(name: str) -> Path:
    return cache_dir() / "peers" / name


def peer_python(name: str, packages: Sequence[str], *, make: bool) -> Path | None:
    """The Python of an environment that holds these packages; made at the first use. None if it is absent and `make` is false."""
    folder = peer_folder(name)
    ready, python = folder / "ready", folder / "bin" / "python"
    wanted = "\n".join(packages)
    if ready.is_file() and ready.read_text() == wanted:
        return python
    if not make:
        return None
    print(f"making a throw-away environment with {', '.join(packages)}", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True, clear=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-input", *packages], check=True, stdout=sys.stderr)
    ready.write_text(wanted)  # last: an interrupted installation has none and is made again
    return python


def llama_tools(version: str, *, make: bool) -> Path | None:
    """Folder of llama.cpp's own programs, compiled from the source that llama-cpp-python `version` carries: no wheel holds them.

    So they run the same llama.cpp as trimtab does. Some minutes at the first use; None if absent and `make` is false.
    """
    folder = peer_folder(f"llama-tools-{version}")
    programs = folder / "build" / "bin"
    ready = folder / "ready"
    if ready.is_file():
        return programs
    if not make:
        return None
    print("compiling llama.cpp's programs", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)  # an interrupted build goes on
    build = folder / "build"
    if not list(folder.glob("*/vendor/llama.cpp")):
        asked = ["--no-deps", "--no-binary", "llama-cpp-python", f"llama-cpp-python=={version}"]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *asked, "-d", folder], check=True, stdout=sys.stderr)
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
    source = next(folder.glob("*/vendor/llama.cpp"))
    flags = ["-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"]
    subprocess.run(["cmake", "-S", source, "-B", build, *flags], check=True, stdout=subprocess.DEVNULL)
    targets = [word for tool in LLAMA_TOOLS for word in ("--target", tool)]
    command = ["cmake", "--build", build, "--parallel", str(available_cores()), *targets]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    ready.touch()
    return programs
