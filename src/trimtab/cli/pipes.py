"""What to do when whoever reads stdout has gone."""

import contextlib
import os
import sys


def silence_stdout() -> None:
    """Sends what is still to come nowhere, so that the interpreter's last flush does not fail."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
