"""Which Python runs an engine: trimtab's own, or one whose libraries need not live beside ours. Every worker is started through here.

TRIMTAB_<ENGINE>_PYTHON                    that interpreter, e.g. TRIMTAB_VLLM_PYTHON=/opt/vllm/bin/python
TRIMTAB_HOME/engines/<engine>/bin/python   taken where it exists and the variable is not set (TRIMTAB_HOME as record/home.py has it)

The other environment holds trimtab too, without extras. What an engine of another interpreter says of its build is asked there, by
engines/build_child.py; what it refuses is said here, from names and headers, so its file must not need its library to be imported.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from trimtab.core.deployment import EngineBuild
from trimtab.core.errors import InputError, MissingError
from trimtab.engines.base import Engine

PROTOCOL_VERSION = 1
"""Of what build_child.py answers."""
ASK_LIMIT_S = 60.0


def variable_of(engine: str) -> str:
    """The environment variable that names an engine's interpreter: TRIMTAB_VLLM_PYTHON."""
    return f"TRIMTAB_{engine.upper().replace('-', '_')}_PYTHON"


def own_folder(engine: str) -> Path:
    """Where an environment of its own for an engine is looked for."""
    home = os.environ.get("TRIMTAB_HOME", "")
    if not home:
        import platformdirs

        home = platformdirs.user_data_dir("trimtab", appauthor=False)
    return Path(home).expanduser() / "engines" / engine


def python_of(engine: str) -> str:
    """The interpreter that runs an engine; it need not exist. Raises InputError for a variable that holds no full path."""
    variable = variable_of(engine)
    if given := os.environ.get(variable, ""):
        if not os.path.isabs(given):
            raise InputError(f"{variable}={given} is not a full path; set it to the Python of {engine}'s environment, from the root on.")
        return given
    found = own_folder(engine) / "bin" / "python"
    return str(found) if found.exists() else sys.executable


def is_own(python: str) -> bool:
    """Whether this is the interpreter that runs here."""
    return python == sys.executable


def elsewhere(kind: type[Engine], engine: str, python: str) -> type[Engine]:
    """The same class, for asking only: its build is that of the other interpreter."""
    members = {"build": classmethod(lambda cls: build_in(python, engine)), "__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), members)


def build_in(python: str, engine: str) -> EngineBuild:
    """The build of an engine in another interpreter; asked once for each interpreter as it lies there.

    Raises MissingError: no such interpreter, no trimtab or another one in it, or what the engine lacks there.
    """
    try:
        changed_ns = os.lstat(python).st_mtime_ns
    except OSError as error:
        raise no_interpreter(python, engine, error) from error
    return _asked(python, engine, changed_ns)


def no_interpreter(python: str, engine: str, error: OSError) -> MissingError:
    """For an interpreter that cannot be started."""
    return MissingError(
        f"The engine {engine} runs under {python}, which cannot be started ({error.strerror or error}).",
        f"set {variable_of(engine)} to the Python of {engine}'s environment, or unset it",
    )


@functools.lru_cache(maxsize=32)
def _asked(python: str, engine: str, changed_ns: int) -> EngineBuild:
    command = [python, "-m", "trimtab.engines.build_child", engine]
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ASK_LIMIT_S, check=False)
    except OSError as error:
        raise no_interpreter(python, engine, error) from error
    except subprocess.TimeoutExpired as error:
        raise MissingError(
            f"{python}, which runs the engine {engine}, did not answer within {ASK_LIMIT_S:g} s.", "start it by hand"
        ) from error
    told = _last_object(ended.stdout)
    if told is None:
        raise _silent(python, engine, ended.stderr)
    if told.get("protocol") != PROTOCOL_VERSION:
        raise _other_trimtab(python, engine)
    if "missing" in told:
        raise MissingError(f"{told['missing']} Looked for under {python}.", str(told["fix"]))
    return EngineBuild(**told["build"])


def _last_object(text: str) -> dict[str, Any] | None:
    """The JSON object of the last line: libraries may print before it."""
    try:
        found = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return found if isinstance(found, dict) else None


def _silent(python: str, engine: str, complaint: str) -> MissingError:
    lines = complaint.strip().splitlines()
    last = lines[-1].strip() if lines else ""
    install = f"{python} -m pip install trimtab"
    if "No module named 'trimtab'" in last:
        return MissingError(f"The engine {engine} runs under {python} and needs trimtab, which is not installed there.", install)
    if "build_child" in last:
        return _other_trimtab(python, engine)
    if "No module named" in last:
        return MissingError(f"The engine {engine} runs under {python}, where trimtab lacks a library ({last.partition(': ')[2]}).", install)
    return MissingError(f"{python}, which runs the engine {engine}, failed: {last[:300] or 'it said nothing'}.", "start it by hand")


def _other_trimtab(python: str, engine: str) -> MissingError:
    return MissingError(
        f"The engine {engine} runs under {python}, whose trimtab is of another version than this one.",
        f"install the same version there: {python} -m pip install --upgrade trimtab",
    )
