"""Which settings a search changes, for an engine, a workload and a machine. The list is catalog/axes.toml."""

import tomllib
from pathlib import Path
from typing import Any

from trimtab.core.workload import Workload

AXES_FILE = Path(__file__).parents[2] / "catalog" / "axes.toml"
HALF_CORES = "half-cores"


def axes_for(engine: str, workload: Workload, n_cores: int) -> dict[str, tuple[Any, ...]]:
    """Setting -> values to try besides its default, in the order to try them; settings that cannot matter here are left out."""
    true_here = {
        "always": True,
        "shared_prefix": workload.shared_prefix_tokens > 0,
        "several": max(workload.concurrency) > 1,
    }
    found: dict[str, tuple[Any, ...]] = {}
    for axis in tomllib.loads(AXES_FILE.read_text(encoding="utf-8"))["axis"]:
        if axis["engine"] == engine and true_here[axis["when"]]:
            known = [value for value in axis["values"] if value != HALF_CORES or n_cores > 1]
            if known:
                found[axis["setting"]] = tuple(n_cores // 2 if value == HALF_CORES else value for value in known)
    return found
