"""`torchrun ... -m trimtab.cli.train_worker train.toml [--out OUT]`: one process of a training run.

Exit codes are those of the command (0, 1, 2, 3, 70, 130). What ended the run is one JSON object in OUT/error.json, of the first process
that knew.
"""

import argparse
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from trimtab.core.errors import EXIT_BUG, TrimtabError
from trimtab.core.files import canonical_json, write_once
from trimtab.record.disk import disk_error


def main(arguments: list[str] | None = None) -> int:
    """Run, and return the exit code."""
    parser = argparse.ArgumentParser(prog="trimtab.cli.train_worker", description="One process of a training run.")
    parser.add_argument("config", type=Path, help="train.toml")
    parser.add_argument("--out", type=Path, help="the run folder, default the one that train.toml lies in; a run that is there goes on")
    told = parser.parse_args(arguments)
    out = told.out or told.config.absolute().parent
    try:
        from trimtab.train.config import read_config
        from trimtab.train.worker import run

        if os.environ.get("RANK", "0") == "0":
            (out / "error.json").unlink(missing_ok=True)
        run(read_config(told.config), out)
    except TrimtabError as error:
        print(error, file=sys.stderr, flush=True)
        _tell(out, type(error).__name__, str(error), error.exit_code)
        return error.exit_code
    except OSError as error:
        found = disk_error(Path(error.filename or out), error, "use")
        traceback.print_exc()
        _tell(out, type(found).__name__, str(found), found.exit_code)
        return found.exit_code
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        _tell(out, type(error).__name__, f"{type(error).__name__}: {error}", EXIT_BUG)
        return EXIT_BUG
    return 0


def _tell(out: Path, kind: str, message: str, exit_code: int) -> None:
    with suppress(OSError):  # a disk that is full is what it may be about; stderr has it too
        write_once(out / "error.json", (canonical_json({"kind": kind, "message": message, "exit_code": exit_code}) + "\n").encode())


if __name__ == "__main__":
    code = main()
    # No interpreter shutdown: threads of a checkpoint or of a stream may wait for processes that have gone.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
