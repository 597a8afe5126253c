"""`torchrun ... -m trimtab.cli.train_worker train.toml --out OUT`: one process of a training run."""

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run, and return the exit code."""
    parser = argparse.ArgumentParser(prog="trimtab.cli.train_worker", description="One process of a training run.")
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    told = parser.parse_args(arguments)
    from trimtab.train.config import read_config
    from trimtab.train.worker import run

    run(read_config(told.config), told.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
