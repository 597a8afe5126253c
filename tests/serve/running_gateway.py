"""A gateway in a process of its own, as the tests of this folder meet it."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(kw_only=True)
class Running:
    """A gateway in a process of its own. url ends in /v1."""

    process: "subprocess.Popen[str]"
    url: str
    admin_url: str
    home: Path

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """End it; returns its exit code and what it said on stderr."""
        self.process.send_signal(how)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


def trimtab(home: Path, *args: str) -> Any:
    """The JSON that a verb prints. Raises CalledProcessError."""
    done = subprocess.run(
        [sys.executable, "-m", "trimtab", *args, "--json"],
        env={**os.environ, "TRIMTAB_HOME": str(home)},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)
