import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from running_gateway import Running

MAIN = "import sys; from trimtab.cli.main import main; sys.exit(main())"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """`gateway(site_toml, ...)` starts `trimtab serve` on a free port, in a home of its own, and ends it with the test.

    before: statements of Python that it runs first, such as shorter time limits
    """
    with contextlib.ExitStack() as stack:

        def start(site: str, *options: str, home: Path = tmp_path / "home", before: str = "") -> Running:
            path = tmp_path / "site.toml"
            path.write_text(site, encoding="utf-8")
            process = subprocess.Popen(
                [sys.executable, "-c", f"{before}\n{MAIN}", "serve", str(path), "--port", "0", "--json", "-q", *options],
                env={**os.environ, "TRIMTAB_HOME": str(home)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise AssertionError(process.communicate(timeout=30)[1])
            said = json.loads(line)
            return Running(process=process, url=said["url"], admin_url=said["admin_url"], home=home)

        yield start
