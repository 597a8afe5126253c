"""`trimtab serve`: what a lockfile or a site file names, made ready and answered for until somebody ends it."""

import asyncio
import contextlib
import dataclasses
import hashlib
import itertools
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.core.deployment import Candidate
from trimtab.core.errors import InputError, MissingError, TrimtabError
from trimtab.core.files import digest_of
from trimtab.core.site import Listen, ServedModel, Site, Version
from trimtab.engines.base import ABILITIES
from trimtab.engines.registry import engine_class
from trimtab.flows.events import Event, OnEvent, ignore
from trimtab.flows.parts.prepared import Prepared, prepare_lock
from trimtab.measure.meters import joules_between, read_energy
from trimtab.record.deploy import DeployLock
from trimtab.record.home import state_dir
from trimtab.record.run import caches_in_use

if TYPE_CHECKING:
    from trimtab.flows.parts.observer import Observer
    from trimtab.serve.access import Keys
    from trimtab.serve.feedback import FeedbackDesk
    from trimtab.serve.journey import Journey
    from trimtab.serve.probing import Prober
    from trimtab.serve.quota import Quota
    from trimtab.serve.shared import SharedQuota
    from trimtab.serve.traces import Traces

ANCHOR_LOOKS_S = (2.0, 60.0)
"""So long after the start, and after each look again, is looked whether gateways' logs are to be written into the ledger."""
SEGMENTS_REMEMBERED = 2
"""Of the spool, read at the start: feedback on requests that came before it is taken too."""

log = logging.getLogger("trimtab.serve")
access_log = logging.getLogger("trimtab.access")


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A gateway that listens. admin_url: empty if there is none; locks: by version id."""

    url: str
    admin_url: str
    site: Site
    locks: Mapping[str, DeployLock]


def serve(
    target: str | Path,
    *,
    change: Callable[[Site], Site] = lambda site: site,
    offline: bool = False,
    runs_watch: bool = False,
    on_event: OnEvent = ignore,
    on_ready: Callable[[Serving], None] = lambda serving: None,
) -> None:
    """Serve a deploy.toml or a site.toml until SIGTERM or SIGINT; what runs then is finished first.

    change: applied to the site each time its file is read, for options of the command line
    runs_watch: `trimtab watch` runs as a process beside it, for a site that is watched
    Raises InputError (file, lock, address), MissingError (an engine or the packages of `trimtab[serve]`).
    """
    try:
        import uvloop
    except ImportError as error:
        raise MissingError("Serving needs packages that are not installed.", "pip install 'trimtab[serve]'") from error
    site = read(Path(target), change)
    uvloop.run(_serve(Path(target), site, change, offline, runs_watch, on_event, on_ready))


def read(path: Path, change: Callable[[Site], Site]) -> Site:
    """The site of a file, with the options of the command line. Raises InputError."""
    from trimtab.serve.site import read_site

    site = change(read_site(path))
    check_listen(site.listen, need_keys=site.need_keys)
    return site


def check_listen(listen: Listen, *, need_keys: bool) -> None:
    """Raise InputError for an address that the network can reach without keys and without a word that this is meant."""
    if listen.host not in ("127.0.0.1", "::1", "localhost") and not (listen.open_to_network and need_keys):
        raise InputError(
            f"{listen.host} can be reached from the network: set `need_keys = true` and `open_to_network = true` in the site file "
            "(or give --keys --open-to-network), or listen on 127.0.0.1."
        )
    if bool(listen.tls_certificate) != bool(listen.tls_key):
        raise InputError("TLS needs both `tls_certificate` and `tls_key`.")


def prepare(site: Site, folder: Path, *, offline: bool, on_event: OnEvent) -> dict[str, Prepared]:
    """Build what the locks of a site name, by version id. Raises InputError for weights that are not those that were certified."""
    found = {}
    for model in site.models:
        for version in model.versions:
            if version.lock:
                on_event(Event(phase="open", message=f"{model.name}: {version.lock}"))
                one = found[version.id] = asyncio.run(prepare_lock(folder / version.lock, offline=offline))
                if one.lock.verdict != "pass":
                    log.warning("%s: the decision on %s is %s, not pass; the site allows it", model.name, version.id, one.lock.verdict)
                if shares_one_context(one.candidate):
                    log.warning(
                        "%s: %s names no slots, so llama.cpp answers requests without max_tokens one after the other",
                        model.name,
                        version.id,
                    )
                check_adapters(model, version, one.candidate)
        if model.adapters:
            names = ", ".join(one.name for one in model.adapters)
            log.warning("%s: nothing was certified with an adapter; the lock's evidence is not about %s", model.name, names)
    return found


def shares_one_context(candidate: Candidate) -> bool:
    """Whether one request may reserve all that there is for four: llama.cpp's context where nothing says how it is shared."""
    settings = candidate.settings
    return candidate.engine == "llamacpp" and settings.slots is None and settings.context_tokens is None


def check_adapters(model: ServedModel, version: Version, candidate: Candidate) -> None:
    """Raise InputError for adapters that a version cannot be served with: by its engine, or by what its weights are."""
    from trimtab.sources.adapters import read_adapter, why_unfit
    from trimtab.sources.gguf import read_gguf_header

    if not model.adapters:
        return
    kind, snapshot = engine_class(candidate.engine), candidate.snapshot
    if "adapter" not in kind.abilities:
        why = kind.refuses(dataclasses.replace(snapshot, adapters=model.adapters), None, candidate.settings) or ABILITIES["adapter"]
        raise InputError(f"{model.name}: {version.id} cannot be served with adapters by the engine {candidate.engine}: {why}.")
    if snapshot.format != "gguf":
        return
    header = read_gguf_header(tuple(snapshot.root / file.name for file in snapshot.files))
    for one in model.adapters:
        if why := why_unfit(read_adapter(one.path), header):
            raise InputError(f"{model.name}: the adapter {one.name} ({one.path}) is not for {version.id}: {why}.")


async def _serve(
    target: Path,
    site: Site,
    change: Callable[[Site], Site],
    offline: bool,
    runs_watch: bool,
    on_event: OnEvent,
    on_ready: Callable[[Serving], None],
) -> None:
    from trimtab.guard.pipeline import Guards
    from trimtab.record.audit import AuditLog
    from trimtab.record.captures import Captures
    from trimtab.serve.access import Access
    from trimtab.serve.app import DRAIN_S, bound_socket, run_servers
    from trimtab.serve.base import Replica
    from trimtab.serve.dispatch import Dispatcher
    from trimtab.serve.door import Door
    from trimtab.serve.gateway import Gateway, OnEnded
    from trimtab.serve.meter import Meter, loads_of
    from trimtab.serve.notes import Notes
    from trimtab.serve.probing import Prober
    from trimtab.serve.ray_site import RaySite
    from trimtab.serve.replica_http import HttpReplica
    from trimtab.serve.replica_worker import WorkerReplica
    from trimtab.serve.sampling import Sampler
    from trimtab.serve.traces import Traces
    from trimtab.serve.traffic import kept

    folder = target.absolute().parent
    home = state_dir()
    listen = site.listen
    sockets = bound_socket(listen.host, listen.port), bound_socket("127.0.0.1", listen.admin_port) if listen.admin_port else None
    in_use = caches_in_use()
    prepared = await asyncio.to_thread(prepare, site, folder, offline=offline, on_event=on_event)
    cluster: RaySite | None = None

    def make_replica(model: ServedModel, version: Version) -> Replica:
        if not version.lock:
            return HttpReplica(model, version)
        one = prepared[version.id].candidate
        if cluster is not None:
            return cluster.pool(model, version, one)
        return WorkerReplica(engine=one.engine, snapshot=one.snapshot, settings=one.settings, model=model.name, adapters=model.adapters)

    def files_of(version: Version) -> tuple[Path, ...]:
        one = prepared.get(version.id)
        return () if one is None else tuple(one.candidate.snapshot.root / file.name for file in one.candidate.snapshot.files)

    place = digest_of(str(target.absolute()))[:16]
    traffic_path = home / "serve" / f"traffic-{place}.json"
    in_force = kept(traffic_path, site)
    dispatcher = Dispatcher(in_force, make_replica, files_of=files_of)
    async with contextlib.AsyncExitStack() as stack:
        if in_use is not None:
            stack.callback(in_use.release)
        if site.cluster:
            on_event(Event(phase="open", message=f"cluster: {site.cluster}"))
            cluster = await stack.enter_async_context(RaySite.joined(site, place, home))
            cluster.check(site.models, {key: one.candidate for key, one in prepared.items()})
        told: list[OnEnded] = [_accessed]
        traces = Traces.from_environment()
        if traces is not None:
            stack.callback(traces.close)
            told.append(partial(_traced, traces))
        if runs_watch:
            await stack.enter_async_context(_watch_beside(target, sockets[1]))
        watched = await asyncio.to_thread(_watched, home / "watch" / place, site) if site.watch else None
        if watched is not None:
            stack.push_async_callback(asyncio.to_thread, watched[0].close)
            told.append(partial(_observed, *watched))
        if site.audit != "off" and os.environ.get("TRIMTAB_STATE"):
            await stack.enter_async_context(_anchoring(home))
        counted = await stack.enter_async_context(counting(home))
        audit = await stack.enter_async_context(AuditLog.open(sync_s=site.audit_sync_ms / 1000)) if site.audit != "off" else None
        if counted.shared is not None and audit is not None:
            counted.shared.checkpoint = lambda: audit.checkpoint
        meter = Meter(read_loads=lambda: loads_of(dispatcher.snapshot()), read_joules=joules_meter())
        notes = Notes(audit=audit, meter=meter, refuses=site.audit == "refuse")
        gateway = Gateway(
            declared=site,
            site=in_force,
            guards={model.name: Guards(model.guards) for model in site.models},
            door=Door(access=Access(counted.keys), quota=counted.quota, notes=notes),
            dispatcher=dispatcher,
            meter=meter,
            notes=notes,
            digester=hashlib.sha256 if audit is None else audit.digester,
            captures=Captures(home / "captures", site.capture_pct),
            traffic_path=traffic_path,
            on_ended=told,
            sampler=Sampler(home / "watch" / place / "sample", site.watch_sample_pct) if watched is not None else None,
            wants_texts=watched[0].wants if watched is not None else lambda request: False,
            feedback=watched[1] if watched is not None else None,
        )

        prober = None
        if watched is not None:
            known = home / "watch" / place / "probes.json"
            prober = Prober(known, dispatcher, lambda: gateway.site, watched[0].late, every_s=site.watch_probe_s)
            await stack.enter_async_context(_asking(prober))

        async def reload() -> None:
            changed = await asyncio.to_thread(read, target, change)
            guards = {model.name: Guards(model.guards) for model in changed.models}
            prepared.update(await asyncio.to_thread(prepare, changed, folder, offline=offline, on_event=on_event))
            await gateway.reconfigure(changed, guards)
            if watched is not None:
                watched[0].pct = changed.watch_pct
            if prober is not None:
                prober.every_s = changed.watch_probe_s
            if needs_restart := what_stays(site, changed):
                log.warning("only a restart changes: %s", ", ".join(needs_restart))

        dispatcher.start()
        try:
            serving = _serving(site, sockets, {key: one.lock for key, one in prepared.items()})
            await run_servers(gateway, listen, sockets, reload=reload, on_ready=lambda: on_ready(serving))
        finally:
            await dispatcher.drain(DRAIN_S)
            await gateway.finish()


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Whose keys are known and how they are counted: here alone, or together with other gateways (`shared`)."""

    keys: "Keys"
    quota: "Quota"
    shared: "SharedQuota | None" = None


@contextlib.asynccontextmanager
async def counting(home: Path) -> AsyncIterator[Counted]:
    """Keys and limits, of this gateway alone or, where TRIMTAB_STATE names a database, of all that name it.

    Raises InputError, MissingError.
    """
    from trimtab.record.identities import Keyring, are_shared
    from trimtab.serve.limits import SpendFile
    from trimtab.serve.quota import OwnQuota

    if not os.environ.get("TRIMTAB_STATE"):
        async with SpendFile.kept(home) as limits:
            yield Counted(keys=Keyring(), quota=OwnQuota(limits))
        return
    from trimtab.record.identities import shared_state
    from trimtab.serve.shared import SharedQuota

    with await asyncio.to_thread(shared_state) as state:
        shared = SharedQuota(state=state)
        async with shared.running():
            yield Counted(keys=shared if are_shared() else Keyring(), quota=shared, shared=shared)


@contextlib.asynccontextmanager
async def _anchoring(home: Path) -> AsyncIterator[None]:
    """What gateways' logs have come to is written into the ledger from time to time, and once more at the end."""
    from trimtab.record.identities import shared_state

    state = await asyncio.to_thread(shared_state)
    from trimtab.record.log_anchors import ANCHOR_S, anchor_logs

    async def anchored(after_s: float) -> None:
        try:
            await asyncio.to_thread(anchor_logs, state, home, after_s=after_s)
        except TrimtabError as error:
            log.error("the logs of the gateways are not in the ledger: %s", error)

    async def keep() -> None:
        for look_s in itertools.chain(ANCHOR_LOOKS_S, itertools.repeat(ANCHOR_LOOKS_S[-1])):
            await asyncio.sleep(look_s)
            await anchored(ANCHOR_S)

    keeping = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
        await anchored(0.0)
        state.close()


def what_stays(site: Site, changed: Site) -> list[str]:
    """What a site that is read again says otherwise, and what a running gateway does not change."""
    found = [name for name in ("listen", "cluster", "audit_sync_ms", "watch") if getattr(site, name) != getattr(changed, name)]
    return [*found, "audit"] if (site.audit == "off") != (changed.audit == "off") else found


def joules_meter() -> Callable[[], float | None] | None:
    """What tells the joules that the machine has used since it was last asked; None where it has no counter that may be read."""
    last = read_energy()
    if not last.counters_uj:
        return None

    def read() -> float | None:
        nonlocal last
        before, last = last, read_energy()
        return joules_between(before, last)

    return read


def _watched(folder: Path, site: Site) -> "tuple[Observer, FeedbackDesk]":
    """What tells the watch of requests, and takes what clients tell of them. Raises InputError."""
    from trimtab.evaluate.refusal import judge_refusal
    from trimtab.flows.parts.observer import Observer, refuses
    from trimtab.record.spool import read_newest
    from trimtab.serve.feedback import FeedbackDesk

    observer = Observer(folder, site.watch_pct, refused=lambda text: judge_refusal(text).refused, read_joules=joules_meter())
    desk = FeedbackDesk(observer.late, refuses)
    desk.load(read_newest(observer.folder, SEGMENTS_REMEMBERED))
    return observer, desk


@contextlib.asynccontextmanager
async def _watch_beside(target: Path, admin: Any) -> AsyncIterator[None]:
    """`trimtab watch` as a process, until the block ends. admin: socket of the admin surface, None = there is none"""
    from trimtab.serve.watch_process import keep_running

    where = ["--admin-url", f"http://127.0.0.1:{admin.getsockname()[1]}"] if admin is not None else []
    running = asyncio.create_task(keep_running([sys.executable, "-m", "trimtab", "watch", str(target.absolute()), *where]))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait({running})


@contextlib.asynccontextmanager
async def _asking(prober: "Prober") -> AsyncIterator[None]:
    """Known questions are asked until the block ends."""
    asking = asyncio.create_task(prober.keep())
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.wait({asking})


def _observed(observer: "Observer", desk: "FeedbackDesk", record: Mapping[str, Any], journey: "Journey") -> None:
    observer.ended(record, journey)
    if journey.model:
        desk.remember(journey.id, journey.key_id, time.time())


def _accessed(record: Mapping[str, Any], journey: "Journey") -> None:
    if access_log.isEnabledFor(logging.INFO):
        from trimtab.serve.access_log import access_line

        access_log.info("%s", access_line(record))


def _traced(traces: "Traces", record: Mapping[str, Any], journey: "Journey") -> None:
    traces.request(record, path=journey.path, is_stream=journey.is_stream, traceparent=journey.traceparent)


def _serving(site: Site, sockets: tuple[Any, Any], locks: Mapping[str, DeployLock]) -> Serving:
    scheme = "https" if site.listen.tls_certificate else "http"
    host, port = sockets[0].getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    admin = "" if sockets[1] is None else f"http://127.0.0.1:{sockets[1].getsockname()[1]}"
    return Serving(url=f"{scheme}://{shown}:{port}/v1", admin_url=admin, site=site, locks=locks)
