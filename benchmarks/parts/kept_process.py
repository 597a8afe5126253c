"""A command that runs until a block ends, or until whoever runs the block does: however that happens, nothing of it is left running."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from trimtab.serve.server_process import KEEPER


@contextlib.contextmanager
def kept(command: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """The process that keeps a command, and ends as it does: the command is its only child. options: of subprocess.Popen"""
    keeper = subprocess.Popen([sys.executable, "-I", "-S", str(KEEPER), *command], stdin=subprocess.PIPE, text=True, **options)
    assert keeper.stdin is not None
    try:
        yield keeper
    finally:
        keeper.stdin.close()  # our death closes it too; at its end the keeper kills the command and all that it started
        keeper.wait()
