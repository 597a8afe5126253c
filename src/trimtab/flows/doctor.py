"""What this machine has for trimtab, what is missing, and the command that gets it. Loads no model and changes nothing."""

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from trimtab.core.errors import TrimtabError
from trimtab.core.files import to_plain

SCHEMA = "trimtab.doctor/1"
ROOM_BYTES = 2_000_000_000
LIBRARIES = (
    "llama-cpp-python",
    "openvino",
    "openvino-genai",
    "nncf",
    "onnxruntime-genai",
    "ctranslate2",
    "torch",
    "transformers",
    "torchao",
    "gguf",
    "huggingface-hub",
    "numpy",
)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing looked at.

    state: `ok`; `missing` = trimtab cannot work without it; `absent` = works without it, less is possible; `note` = a plain fact
    found: what is there, with version or unit
    fix: the command or step that gets what is missing, empty if nothing is
    """

    name: str
    state: Literal["ok", "missing", "absent", "note"]
    found: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Nothing that trimtab cannot work without is missing."""
        return all(check.state != "missing" for check in self.checks)

    def plain(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "healthy": self.healthy, "checks": to_plain(self.checks)}


def diagnose() -> Diagnosis:
    """All checks, in the order a person would ask. Never raises for what is missing."""
    return Diagnosis(
        checks=(
            *_machine_checks(),
            _python(),
            *_engine_checks(),
            _compiler(),
            *_folder_checks(),
            Check(name="libraries", state="note", found=", ".join(_versions())),
        )
    )


def _machine_checks() -> list[Check]:
    from trimtab.measure.machine import machine

    here = machine()
    flags = [flag for flag in here.flags if flag.startswith(("avx", "amx", "neon", "sve", "asimd", "f16c", "fma"))]
    accelerators = (
        Check(name="accelerators", state="ok", found=", ".join(here.accelerators))
        if here.accelerators
        else Check(name="accelerators", state="note", found="none found; models run on the CPU")
    )
    return [
        Check(name="system", state="note", found=here.system or platform.platform()),
        Check(name="cpu", state="note", found=f"{here.cpu}, {here.n_cores} cores usable" + (f" ({' '.join(flags)})" if flags else "")),
        Check(name="memory", state="note", found=f"{here.memory_bytes / 1e9:.1f} GB"),
        accelerators,
    ]


def _python() -> Check:
    return Check(name="python", state="ok", found=f"{platform.python_version()} ({sys.executable})")


def _engine_checks() -> list[Check]:
    """One an engine, with its interpreter where that is another. With none at all, the first to get is named as missing."""
    from trimtab.engines.interpreters import is_own, python_of
    from trimtab.engines.registry import engine_class, engine_names

    checks = []
    for name in engine_names():
        try:
            build = engine_class(name).build()
            details = build.details.replace(" = 1", "").replace(" | ", " ")
            where = "" if is_own(python := python_of(name)) else f"under {python}"
            checks.append(Check(name=f"engine {name}", state="ok", found=", ".join(filter(None, (build.version, details, where)))))
        except TrimtabError as error:
            sentence = str(error).partition(" Fix: ")[0]
            checks.append(Check(name=f"engine {name}", state="absent", found=sentence, fix=getattr(error, "fix", "")))
    if not any(check.state == "ok" for check in checks):
        checks.append(Check(name="engines", state="missing", found="no engine works", fix="pip install 'trimtab[llamacpp,openvino]'"))
    return checks


def _compiler() -> Check:
    """Only building llama.cpp needs one: absence is not an illness."""
    found = [path for names in (("cc", "gcc", "clang"), ("c++", "g++", "clang++")) if (path := _first(names, shutil.which))]
    if len(found) == 2:
        return Check(name="C and C++ compiler", state="ok", found=", ".join(found))
    return Check(
        name="C and C++ compiler",
        state="absent",
        found="not found; llama.cpp cannot be built for this processor",
        fix="apt-get install gcc g++ (Debian, Ubuntu); xcode-select --install (macOS)",
    )


def _first(names: tuple[str, ...], look: Callable[[str], str | None]) -> str | None:
    return next((path for name in names if (path := look(name))), None)


def _folder_checks() -> list[Check]:
    """State and cache folders: there, writable, with room for a few copies of a model."""
    from trimtab.record.home import cache_dir, state_dir

    checks = []
    for name, find in (("state folder", state_dir), ("cache folder", cache_dir)):
        try:
            checks.append(_folder(name, find()))
        except (TrimtabError, OSError) as error:
            checks.append(Check(name=name, state="missing", found=str(error), fix="export TRIMTAB_HOME=/a/folder/you/can/write/to"))
    return checks


def _folder(name: str, path: Path) -> Check:
    free = shutil.disk_usage(path).free
    found = f"{path}, {free / 1e9:.1f} GB free"
    if not os.access(path, os.W_OK):
        return Check(name=name, state="missing", found=f"{path} cannot be written to", fix="export TRIMTAB_HOME=/a/folder/you/can/write/to")
    if free < ROOM_BYTES:
        return Check(
            name=name,
            state="missing",
            found=f"{found}; {ROOM_BYTES / 1e9:.0f} GB are needed",
            fix="free some space, or set TRIMTAB_HOME to another disk",
        )
    return Check(name=name, state="ok", found=found)


def _versions() -> list[str]:
    found = []
    for name in ("trimtab", *LIBRARIES):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return found
