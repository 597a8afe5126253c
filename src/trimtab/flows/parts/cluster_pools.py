"""One search a hardware pool: each on a node of its pool, alone, because what is searched for is what is fastest on that machine.

The run folder lies where all nodes see it, so that its journal outlives the node: attempts on certify items still count after a crash, and
the same command goes on from there, on whichever node of the pool is left.
"""

import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trimtab.cluster.ray_place import RayPlace
from trimtab.cluster.store import open_results
from trimtab.cluster.units import NodeFacts, Receipt, Unit
from trimtab.core.errors import InputError
from trimtab.core.files import digest_of, write_atomic
from trimtab.flows.events import Event, OnEvent
from trimtab.flows.parts.cluster_join import Cluster, joined_ray
from trimtab.record.run import read_decision

SCHEMA = "trimtab.pools/1"
LOOK_S = 1.0


def pool_names(text: str) -> tuple[str, ...]:
    """Pools as typed, with commas between. Raises InputError."""
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    for name in names:
        if not name.isidentifier():
            raise InputError(f"--hardware-pools takes names of pools with commas between, such as cpu,h100, not {name!r}.")
    return tuple(dict.fromkeys(names))


def from_anywhere(name: str, value: Any) -> Any:
    """An argument as it means the same in another folder: files that there are here by their full paths, and the model's folder."""
    if isinstance(value, (list, tuple)):
        return [from_anywhere(name, one) for one in value]
    if isinstance(value, str) and value and (Path(value).is_file() or (name == "model" and Path(value).is_dir())):
        return str(Path(value).absolute())
    return value


async def on_pools(cluster: Cluster, pools: Sequence[str], *, out: Path, asked: Mapping[str, Any], on_event: OnEvent) -> dict[str, Any]:
    """Run `optimize` once a pool, all pools at the same time, and return what became of each as JSON types; also written to pools.json.

    out: has a run folder for each pool, and must be seen by all nodes; asked: the arguments of flows.optimize.optimize, JSON types
    Raises InputError, MissingError; what a pool's own run raises is in its row.
    """
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    place = await joined_ray(
        cluster, open_results(cluster.store), lambda message: on_event(Event(phase="cluster", message=message)), pools=pools
    )
    try:
        searches = [_one_pool(place, cluster, pool, out=out, asked=asked, on_event=on_event) for pool in pools]
        rows = await asyncio.gather(*searches)
    finally:
        await place.close()
    verdicts = {row["verdict"] for row in rows}
    verdict = next((one for one in ("fail", "inconclusive", "pass") if one in verdicts), "fail")
    document = {"schema": SCHEMA, "kind": "pools", "verdict": verdict, "model": asked["model"], "pools": rows}
    write_atomic(out / "pools.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return document


async def _one_pool(
    place: RayPlace, cluster: Cluster, pool: str, *, out: Path, asked: Mapping[str, Any], on_event: OnEvent
) -> dict[str, Any]:
    """One pool's row. A node that is lost is followed by the next of the pool, which goes on with the same run."""
    mark = out / f".{secrets.token_hex(8)}.part"
    write_atomic(mark, "")
    nodes = sorted((node for node in place.nodes if pool in node.pools), key=lambda node: (-node.cpus, node.name))
    receipt = Receipt(key="", fault="missing", error=f"Pool {pool} has no node.")
    try:
        for node in nodes:
            on_event(Event(phase="pool", message=f"{pool}: on node {node.name}, which does nothing else meanwhile"))
            unit = _unit(cluster, pool, node, n_nodes=len(nodes), out=out, mark=mark, asked=asked)
            receipt = await _followed(place, unit, out / f"{pool}.progress", on_event)
            if receipt.fault != "lost":
                break
            on_event(Event(phase="pool", message=f"{pool}: {receipt.error}"))
    finally:
        mark.unlink(missing_ok=True)
    if receipt.fault in ("input", "missing"):
        receipt.raise_fault()
    return _row(pool, receipt, out / pool)


def _unit(cluster: Cluster, pool: str, node: NodeFacts, *, n_nodes: int, out: Path, mark: Path, asked: Mapping[str, Any]) -> Unit:
    inner = {"cluster": "auto", "cluster_store": cluster.store, "pool": pool, "busy_node": node.id} if n_nodes > 1 else {}
    spec = {"asked": {**asked, **inner, "out": str(out / pool)}, "mark": str(mark), "progress": str(out / f"{pool}.progress")}
    return Unit(what="optimize", title=f"the search on pool {pool}", key=digest_of([spec, node.id]), spec=spec, pool=pool, node=node.id)


async def _followed(place: RayPlace, unit: Unit, progress: Path, tell: OnEvent) -> Receipt:
    """The receipt of a search, what it tells of itself passed on while it runs."""
    receipts: list[Receipt] = []
    work = asyncio.create_task(place.do([unit], lambda unit, receipt: receipts.append(receipt)))
    told = ""
    try:
        while not (await asyncio.wait([work], timeout=LOOK_S))[0]:
            text = progress.read_text(encoding="utf-8") if progress.exists() else ""
            if text and text != told:
                told = text
                event = Event(**json.loads(text))
                tell(replace(event, message=f"{unit.pool}: {event.message}") if event.message else event)
        await work
    finally:
        work.cancel()
        progress.unlink(missing_ok=True)
    return receipts[0]


def _row(pool: str, receipt: Receipt, folder: Path) -> dict[str, Any]:
    """What became of a pool: its decision's own figures, or why there is none."""
    row: dict[str, Any] = {"pool": pool, "node": receipt.node, "out": str(folder), "verdict": "fail", "why": receipt.error}
    row |= {"chosen": None, "engine": None, "recipe": None, "e2e_ms": None, "peak_memory_bytes": None, "over_baseline": None}
    if receipt.fault:
        return row
    decision = read_decision(folder)
    chosen = decision["chosen"]
    row |= {"verdict": decision["verdict"], "why": " ".join(decision["reasons"][:1]), "machine": decision["machine"]["cpu"]}
    if chosen is None:
        return row
    found = next((one for one in decision["candidates"] if one["id"] == chosen["id"]), None)
    measured = (found or {}).get("measurement") or {}
    points = measured.get("points") or [{}]
    over = decision["speedup"].get("over_baseline") or {}
    first: Mapping[str, Any] = next(iter(over.values()), {})
    return row | {
        "chosen": chosen["id"],
        "engine": chosen["engine"],
        "recipe": chosen["recipe"],
        "e2e_ms": (points[0].get("e2e_ms") or {}).get("p50"),
        "peak_memory_bytes": measured.get("peak_memory_bytes"),
        "over_baseline": first.get("e2e_ms_p50"),
    }
