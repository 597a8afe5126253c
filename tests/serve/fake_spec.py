"""A version of a model that is not there, as the gateway hands it to a Ray cluster."""

from pathlib import Path

from trimtab.core.deployment import Settings
from trimtab.core.model import Snapshot, SnapshotFile
from trimtab.serve.ray_wire import AppSpec, release_here

SNAPSHOT = Snapshot(
    source="fake", format="gguf", root=Path("/nowhere"), files=(SnapshotFile(name="m.gguf", size_bytes=10 * 2**20, sha256="0" * 64),)
)
SPEC = AppSpec(
    app="trimtab-here-1",
    model="letters",
    engine="fake",
    snapshot=SNAPSHOT,
    settings=Settings(slots=2),
    adapters=(),
    slots=2,
    target=2.0,
    min_replicas=0,
    initial_replicas=1,
    max_replicas=3,
    idle_s=5.0,
    n_cpus=1,
    memory_bytes=2**30,
    drain_s=60.0,
    release=release_here(),
)
