"""Importing trimtab and asking for help stay quick: nothing heavy is loaded before it is used."""

import os
import resource
import subprocess
import sys

import pytest

LIMIT_S = 0.3
TRIES = 5


def cpu_seconds(*arguments: str) -> float:
    """User and system CPU seconds of one child process: other work on the machine does not count, as wall time would."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    "arguments", [("-c", "import trimtab"), ("-m", "trimtab", "--help"), ("-m", "trimtab", "optimize", "--help")], ids=str
)
def test_starts_quickly(arguments: tuple[str, ...]) -> None:
    cpu_seconds(*arguments)  # writes the bytecode
    # The least of five: caches and frequency only ever add.
    assert min(cpu_seconds(*arguments) for _ in range(TRIES)) < LIMIT_S


@pytest.mark.parametrize("statement", ["import trimtab", "import trimtab.cli.main"])
def test_loads_nothing_heavy(statement: str) -> None:
    heavy = ("scipy", "matplotlib", "pyarrow", "huggingface_hub", "openvino", "llama_cpp", "nncf", "gguf", "jinja2", "rich")
    code = f"{statement}; import sys; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
