"""Outcomes that a finished run keeps, and the few that its lockfile carries."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

from trimtab.core.evidence import Outcome
from trimtab.record.outcomes import read_outcomes

KNOWN_CLUSTERS = 6
"""Known answers of a lockfile in each sub-suite, each from a cluster of its own."""


def stored_outcomes(run_dir: Path, deployment_sha256: str) -> tuple[Outcome, ...]:
    """Outcomes of one deployment in a run directory, () if it has none. Raises InputError for a damaged file."""
    found: list[Outcome] = []
    for path in sorted((run_dir / "items").glob(f"*-{deployment_sha256[:16]}.parquet")):
        found += read_outcomes(path)[0]
    return tuple(found)


def known_answers(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Sub-suite -> item id -> value, drawn by hash of the names: one item of each of KNOWN_CLUSTERS clusters."""
    by_cluster: dict[str, dict[str, Outcome]] = {}
    for one in sorted(outcomes, key=lambda one: hashlib.sha256(f"known\0{one.suite}\0{one.item_id}".encode()).digest()):
        clusters = by_cluster.setdefault(one.suite, {})
        if one.value is not None and math.isfinite(one.value) and len(clusters) < KNOWN_CLUSTERS:
            clusters.setdefault(one.cluster, one)
    return {
        suite: {one.item_id: float(one.value) for one in clusters.values() if one.value is not None}
        for suite, clusters in sorted(by_cluster.items())
        if clusters
    }
