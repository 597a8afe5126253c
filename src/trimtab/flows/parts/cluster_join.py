"""From what a user typed for a cluster to a place that work is given to and the results that it shares with this side."""

import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from trimtab.cluster.base import Place, Say
from trimtab.cluster.local import LocalPlace
from trimtab.cluster.ray_place import RayPlace, check_address
from trimtab.cluster.store import is_url, open_results
from trimtab.core.errors import InputError
from trimtab.core.files import digest_of
from trimtab.flows.parts.cluster_fan import Fan
from trimtab.flows.parts.cluster_units import TARGET, Hands
from trimtab.record.cache import Cache
from trimtab.record.home import cache_dir
from trimtab.record.run import RunDir

SEEN = "seen"
"""Kind of the entry by which nodes show that they see the shared results."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """address: `ray://host:port`, `auto`, or `local:N` for N at once on this machine; store: folder or URL of the shared results

    pool: hardware pool that work must be done in, empty = anywhere
    busy: id of the node that this side has to itself, empty = it is on none
    """

    address: str
    store: str
    pool: str = ""
    busy: str = ""

    @property
    def caches(self) -> Path:
        """Where models are fetched to and weights are built: the shared folder, or this machine's own where results are at a URL."""
        return cache_dir() if is_url(self.store) else Path(self.store)


def cluster_of(address: str, store: str, pool: str = "", busy: str = "") -> Cluster | None:
    """What a user typed; None = no cluster. store: empty = the folder of caches. Raises InputError."""
    if not address:
        if store:
            raise InputError("--cluster-store is where a cluster's results go; give --cluster too.")
        return None
    if not re.fullmatch(r"local(:[1-9]\d{0,2})?", address):
        check_address(address)
    place = store if is_url(store) else str(Path(store).expanduser().absolute()) if store else str(cache_dir())
    return Cluster(address=address, store=place, pool=pool, busy=busy)


@asynccontextmanager
async def join(cluster: Cluster, run: RunDir, *, fresh: bool, say: Say) -> AsyncIterator[tuple[Cache, Fan]]:
    """The shared results, and what gives work to the cluster. Raises InputError, MissingError before any work starts."""
    own = run.path / "cache"  # its presence says that this run began afresh, as in a run without a cluster
    part = "results"
    if fresh or own.exists():
        own.mkdir(exist_ok=True)
        part = f"fresh/{digest_of([str(run.path), run.head['started']])[:32]}"
    results = open_results(cluster.store, part)
    place = await _place(cluster, open_results(cluster.store), say, [cluster.pool] if cluster.pool else [])
    try:
        yield results, Fan(place, results, run, place_url=cluster.store, part=part, pool=cluster.pool)
    finally:
        await place.close()


async def _place(cluster: Cluster, results: Cache, say: Say, pools: Sequence[str]) -> Place:
    word, _, number = cluster.address.partition(":")
    if word == "local":
        return LocalPlace(Hands, int(number or 1))
    return await joined_ray(cluster, results, say, pools=pools)


async def joined_ray(cluster: Cluster, results: Cache, say: Say, *, pools: Sequence[str]) -> RayPlace:
    """A Ray cluster whose nodes have the versions of this side, see the results and are of the pools. Raises InputError, MissingError."""
    key = digest_of(secrets.token_hex(16))
    results.put_json(SEEN, key, True)
    say(f"connecting to {cluster.address}")
    try:
        place = await RayPlace.open(
            cluster.address, target=TARGET, place=cluster.store, seen=(SEEN, key), pools=pools, busy=cluster.busy, say=say
        )
    finally:
        results.drop(SEEN, key)
    kinds = sorted({node.cpu for node in place.nodes})
    say(f"{len(place.nodes)} nodes, {place.n_at_once} at once{'; their processors differ: ' + ', '.join(kinds) if len(kinds) > 1 else ''}")
    return place
