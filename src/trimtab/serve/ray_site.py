"""A site's locks on a Ray cluster: what each becomes there, and whether the cluster can hold it."""

import contextlib
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Self

from trimtab.core.deployment import Candidate
from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import digest_of
from trimtab.core.site import ServedModel, Site, Version
from trimtab.serve.ray_link import RayLink
from trimtab.serve.ray_memory import MemoryNotes
from trimtab.serve.ray_pool import RayPool
from trimtab.serve.ray_wire import AppSpec, release_here, why_no_room

OWN = ("ray", "auto")
"""Names for the cluster that this machine is a node of."""


class RaySite:
    """Made by `joined`. link: to the cluster; notes: of what replicas took; drain_s: so long a replica that goes may end what it has"""

    def __init__(self, link: RayLink, notes: MemoryNotes, drain_s: float) -> None:
        self.link, self._notes, self._drain_s = link, notes, drain_s

    @classmethod
    @contextlib.asynccontextmanager
    async def joined(cls, site: Site, place: str, home: Path) -> AsyncIterator[Self]:
        """The cluster that a site names, until the block ends. place: what makes this gateway's names its own; home: of what is kept

        Raises InputError (address, versions), MissingError (no package), InfeasibleError (no cluster there).
        """
        link = RayLink(address_of(site.cluster), f"trimtab-{digest_of([socket.gethostname(), place])[:8]}")
        await link.join()
        try:
            yield cls(link, MemoryNotes(home / "serve" / "ray-memory.json"), site.request_s)
        finally:
            await link.close()

    def spec(self, model: ServedModel, version: Version, candidate: Candidate) -> AppSpec:
        """The application of one version."""
        settings = candidate.settings
        slots = version.slots or settings.slots or 1
        content = digest_of([model.name, version.id, version.content_sha256 or candidate.snapshot.digest, settings.identity(), slots])
        spec = AppSpec(
            app=f"{self.link.place}-{content[:12]}",
            model=model.name,
            engine=candidate.engine,
            snapshot=candidate.snapshot,
            settings=settings,
            adapters=model.adapters,
            slots=slots,
            n_cpus=settings.threads or 1,
            memory_bytes=0,
            drain_s=self._drain_s,
            release=release_here(),
        )
        return spec.scaled(model).reserving(self._notes.reserve(spec.content, spec.snapshot, version.memory_bytes))

    def pool(self, model: ServedModel, version: Version, candidate: Candidate) -> RayPool:
        return RayPool(self.link, self.spec(model, version, candidate), self._notes, wait_s=model.queue_wait_s)

    def check(self, models: Iterable[ServedModel], candidates: Mapping[str, Candidate]) -> None:
        """Raise MissingError for a replica that no node could hold, were it empty. candidates: by version id"""
        for model in models:
            for version in model.versions:
                if version.id in candidates:
                    why = why_no_room(self.spec(model, version, candidates[version.id]), self.link.up["nodes"])
                    if why:
                        raise MissingError(why, "add a larger node, or serve it with fewer threads")


def address_of(cluster: str) -> str:
    """A site's word for a cluster as Ray's. Raises InputError."""
    if cluster in OWN:
        return "auto"
    host, colon, port = cluster.removeprefix("ray://").rpartition(":")
    if not host or not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(
            f"The cluster {cluster!r} is no address: give ray, HOST:PORT of its head (6379 as a rule) or ray://HOST:PORT (10001)."
        )
    return cluster
