"""The published runs of a folder as anchors by quantity, each measurement once."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from trimtab.plan.anchors.published import Row, read_files
from trimtab.plan.anchors.scheme import Anchor

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "planner"
NAMES = ("train.csv", "train_vtrain_single_node.csv", "infer_silicon.csv", "infer.csv")


def files_of(data: Path) -> list[Path]:
    """The tables of runs in a folder; a file itself; empty where there is none."""
    return [data] if data.is_file() else [data / name for name in NAMES if (data / name).is_file()]


def read(paths: Sequence[Path]) -> tuple[Row, ...]:
    return read_files([str(path) for path in paths])


def anchors_by_quantity(rows: Iterable[Row]) -> dict[str, list[Anchor]]:
    """A measurement that several rows repeat counts once."""
    found: dict[str, dict[tuple[str, float, float], Anchor]] = {}
    for row in rows:
        for anchor in row.anchors:
            found.setdefault(anchor.quantity, {}).setdefault((anchor.model, anchor.measured, round(anchor.log_ratio, 9)), anchor)
    return {quantity: list(anchors.values()) for quantity, anchors in found.items()}
