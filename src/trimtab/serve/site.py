"""site.toml, or one deploy.toml, to a Site: what can be wrong with it is found here, before anything listens.

Whether the address it listens on is allowed is checked later: the command line has a say in it. Keys have the names of core.site's fields,
but for sizes: `memory` and `max_body` take a number of bytes or text such as "6 GiB". A model with one version may hold its `lock`,
`command` or `url` itself.
"""

import dataclasses
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from trimtab.core.errors import InputError
from trimtab.core.files import digest_of
from trimtab.core.model import Adapter
from trimtab.core.site import GuardUse, Listen, Rollout, ServedModel, Site, Version
from trimtab.record.deploy import SCHEMA as DEPLOY_SCHEMA
from trimtab.record.deploy import DeployLock, read_deploy_toml
from trimtab.record.disk import disk_error
from trimtab.record.home import cache_dir
from trimtab.record.run import read_decision
from trimtab.serve.site_fields import Table
from trimtab.sources.adapters import read_adapter
from trimtab.sources.digests import file_sha256

VERSION_KEYS = ("lock", "allow_uncertified", "command", "url", "upstream_model", "key_variable", "memory", "slots")


def read_site(path: Path) -> Site:
    """The site that a site.toml or a deploy.toml describes. Raises InputError: one sentence that names the key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"There is no {path}; give a site.toml, or the deploy.toml that `trimtab optimize` writes.") from None
    except OSError as error:
        raise disk_error(path, error, "read") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not valid TOML: {error}.") from None
    if str(document.get("schema", "")).split("/")[0] == DEPLOY_SCHEMA.split("/")[0]:
        return site_of_lock(path)
    return _site(Table(str(path), document), path.absolute().parent)


def site_of_lock(path: Path) -> Site:
    """A site with one model, named after what the lock's weights are called. Raises InputError."""
    lock = read_deploy_toml(path)
    if lock.verdict != "pass":
        raise InputError(
            f"{path}: its decision is {lock.verdict}, not pass; to serve it all the same, name it in a site.toml as a model's `lock`, "
            "with `allow_uncertified = true`."
        )
    name = model_name(lock)
    version = _with_lock(Version(id=f"{name}@{lock.deployment.digest[:8]}", lock=str(path.absolute())), lock)
    return Site(models=(ServedModel(name=name, versions=(version,), rollout=Rollout(stable=version.id)),))


def model_name(lock: DeployLock) -> str:
    """A short name for a lock's model: `Qwen3-4B` of `hf:Qwen/Qwen3-4B@rev:Q4_K_M`, `chat` of `models/chat.gguf`."""
    scheme, colon, rest = lock.source.partition(":")
    if colon and scheme == "hf":
        found = rest.partition("@")[0].rpartition("/")[2].partition(":")[0]
    elif colon and scheme == "pypi":
        found = rest.partition("==")[0]
    else:
        found = Path(lock.source).name.removesuffix(".gguf")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", found).strip("-") or "model"


def measured_bytes(lock_path: Path, lock: DeployLock) -> int | None:
    """The most memory that the lock's deployment was seen to take, where the run's decision lies beside it; else None."""
    try:
        decision = read_decision(lock_path.absolute().parent)
        rows = [row for row in decision["candidates"] if row["id"] == lock.id]
        return int(rows[0]["measurement"]["peak_memory_bytes"])
    except (InputError, KeyError, IndexError, TypeError, ValueError):
        return None


def _with_lock(version: Version, lock: DeployLock, adapters: Sequence[Adapter] = ()) -> Version:
    """A version with what its lock knows of it, where the site does not say otherwise. With other adapters it would be another version."""
    content = lock.deployment.digest
    measured = measured_bytes(Path(version.lock), lock)
    if adapters:
        content = digest_of([content, [(one.name, one.sha256) for one in adapters]])
        measured = None if measured is None else measured + adapters_bytes(adapters)
    return dataclasses.replace(
        version,
        content_sha256=content,
        decision_sha256=lock.decision_sha256,
        memory_bytes=version.memory_bytes or measured,
        slots=version.slots or lock.settings.slots,
    )


def adapters_bytes(adapters: Sequence[Adapter]) -> int:
    """What adapters add to a replica's memory: llama.cpp holds their files whole.

    Computing under them takes some more once they are used (up to 30 MiB on the demo model, however many and however often): that counts
    when it is measured.
    """
    return sum(one.path.stat().st_size for one in adapters)


def _site(top: Table, folder: Path) -> Site:
    listen = _listen(top.table("listen"), folder)
    models = tuple(_model(table, folder) for table in top.tables("models"))
    site = Site(
        models=models,
        listen=listen,
        cluster=top.text("cluster", Site.cluster),
        memory_bytes=top.size("memory"),
        patience_s=top.number("patience_s", Site.patience_s),
        need_keys=top.flag("need_keys", Site.need_keys),
        audit=cast(Any, top.one_of("audit", ("refuse", "alarm", "off"), Site.audit)),
        audit_sync_ms=top.number("audit_sync_ms", Site.audit_sync_ms, most=1000.0),
        abuse=cast(Any, top.one_of("abuse", ("off", "watch", "throttle"), Site.abuse)),
        max_body_bytes=top.size("max_body") or Site.max_body_bytes,
        request_s=top.number("request_s", Site.request_s, least=1.0),
        capture_pct=top.number("capture_pct", Site.capture_pct, most=100.0),
        watch=top.flag("watch", Site.watch),
        watch_pct=top.number("watch_pct", Site.watch_pct, most=100.0),
        watch_sample_pct=top.number("watch_sample_pct", Site.watch_sample_pct, most=100.0),
        watch_probe_s=top.number("watch_probe_s", Site.watch_probe_s),
        quality_reference=cast(Any, top.one_of("quality_reference", ("stable", "lock-reference"), Site.quality_reference)),
    )
    top.done()
    if not models:
        raise top.wrong("models", "must name at least one model; begin one with [[models]]")
    _check_names(top, site)
    _check_memory(top, site)
    return site


def _listen(table: Table, folder: Path) -> Listen:
    listen = Listen(
        host=table.text("host", Listen.host, required=True),
        port=table.count("port", Listen.port, least=0, most=65535),
        admin_port=table.count("admin_port", Listen.admin_port, most=65535),
        open_to_network=table.flag("open_to_network", Listen.open_to_network),
        tls_certificate=_path(table, "tls_certificate", folder),
        tls_key=_path(table, "tls_key", folder),
    )
    table.done()
    if listen.admin_port and listen.admin_port == listen.port:
        raise table.wrong("admin_port", "must be another port than listen.port")
    return listen


def _path(table: Table, key: str, folder: Path) -> str:
    """A file that must exist, relative to the site's folder; empty if not given."""
    given = table.text(key)
    if not given:
        return ""
    path = folder / Path(given).expanduser()
    if not path.is_file():
        raise table.wrong(key, f"names {given}, which is no file")
    return str(path)


def _model(table: Table, folder: Path) -> ServedModel:
    name = table.text("name", required=True)
    inner = table.tables("versions")
    own = [key for key in VERSION_KEYS if key in table]
    if inner and own:
        raise table.wrong(own[0], f"belongs into one of the versions of {name!r}, since there are [[models.versions]]")
    adapters = _adapters(table.table("adapters"), folder)
    versions = tuple(_version(one, folder, "", adapters) for one in inner) or (_version(table, folder, name, adapters),)
    rollout = _rollout(table.table("rollout"), versions)
    if adapters and not all(version.lock for version in versions):
        raise table.wrong("adapters", "are for models with a lock only; a command's or a url's server has adapters of its own")
    model = ServedModel(
        name=name,
        versions=versions,
        rollout=rollout,
        aliases=table.texts("aliases"),
        adapters=adapters,
        min_replicas=table.count("min_replicas", ServedModel.min_replicas),
        max_replicas=table.count("max_replicas", max(ServedModel.max_replicas, table.values.get("min_replicas") or 0), least=1),
        idle_s=table.number("idle_s", ServedModel.idle_s),
        target_queue=table.number("target_queue", ServedModel.target_queue),
        queue_limit=table.count("queue_limit", ServedModel.queue_limit),
        queue_wait_s=table.number("queue_wait_s", ServedModel.queue_wait_s, least=0.1),
        guards=tuple(_guard(one) for one in table.tables("guards")),
    )
    table.done(VERSION_KEYS)
    if model.max_replicas < model.min_replicas:
        raise table.wrong("max_replicas", f"is {model.max_replicas}, less than min_replicas, which is {model.min_replicas}")
    return model


def _version(table: Table, folder: Path, model_name: str, adapters: Sequence[Adapter]) -> Version:
    """A version; that of a model which holds its own, if `model_name` is given."""
    command = table.texts("command")
    version = Version(
        id=model_name or table.text("id", required=True),
        lock=_path(table, "lock", folder),
        command=command,
        url=table.text("url").rstrip("/"),
        upstream_model=table.text("upstream_model"),
        key_variable=table.text("key_variable"),
        memory_bytes=table.size("memory"),
        slots=table.count("slots", 0) or None,
    )
    allow_uncertified = table.flag("allow_uncertified", False)
    if not model_name:
        table.done()
    given = [key for key, value in (("lock", version.lock), ("command", command), ("url", version.url)) if value]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise table.wrong("lock", f"or command or url must be given, exactly one of the three; there is {found}")
    if command and not any("{port}" in part for part in command):
        raise table.wrong("command", "must hold {port} where the server is told its port")
    if version.url and not re.fullmatch(r"https?://[^/\s]+(/\S*)?/v1", version.url):
        raise table.wrong("url", f"must begin with http:// or https:// and end in /v1, not {version.url!r}")
    for key, value in (("upstream_model", version.upstream_model), ("key_variable", version.key_variable)):
        if value and version.lock:
            raise table.wrong(key, "is for a command or a url; a lock needs none")
    if allow_uncertified and not version.lock:
        raise table.wrong("allow_uncertified", "is for a lock; nothing is claimed for a command or a url")
    return _with_lock(version, _lock(table, version, allow_uncertified), adapters) if version.lock else version


def _adapters(table: Table, folder: Path) -> tuple[Adapter, ...]:
    """What `adapters = { name = "file.gguf" }` names, each file looked at."""
    found = []
    for name in table.values:
        path = Path(_path(table, name, folder))
        if not name.strip() or not table.text(name):
            raise table.wrong(name, "must be a name, and be given a file")
        try:
            read_adapter(path)
            found.append(Adapter(name=name, path=path, sha256=file_sha256(path, cache_dir())[1]))
        except InputError as error:
            raise InputError(f"{table.where}: {table.path}{name} cannot be used: {error}") from error
    return tuple(found)


def _lock(table: Table, version: Version, allow_uncertified: bool) -> DeployLock:
    try:
        lock = read_deploy_toml(Path(version.lock))
    except InputError as error:
        raise InputError(f"{table.where}: {table.path}lock cannot be used: {error}") from error
    if lock.verdict != "pass" and not allow_uncertified:
        why = f"is of a decision that is {lock.verdict}, not pass; to serve it all the same, write `allow_uncertified = true` beside it"
        raise table.wrong("lock", why)
    return lock


def _rollout(table: Table, versions: tuple[Version, ...]) -> Rollout:
    rollout = Rollout(
        stable=table.text("stable") or versions[0].id,
        canary=table.text("canary"),
        canary_pct=table.number("canary_pct", 0.0, most=100.0),
        shadow=table.text("shadow"),
        shadow_pct=table.number("shadow_pct", 0.0, most=100.0),
        sticky=cast(Any, table.one_of("sticky", ("user", "none"), "user")),
    )
    table.done()
    if len(versions) > 1 and "stable" not in table:
        raise table.wrong("stable", f"must name the version that answers as a rule, one of {', '.join(one.id for one in versions)}")
    ids = [version.id for version in versions]
    for key in ("stable", "canary", "shadow"):
        named = getattr(rollout, key)
        if named and named not in ids:
            raise table.wrong(key, f"names {named!r}, which is no version of this model; they are {', '.join(ids)}")
    for key in ("canary", "shadow"):
        if getattr(rollout, key) and getattr(rollout, key) == rollout.stable:
            raise table.wrong(key, "must be another version than the stable one")
        if getattr(rollout, f"{key}_pct") and not getattr(rollout, key):
            raise table.wrong(f"{key}_pct", f"needs {key}, the version that it is for")
    return rollout


def _guard(table: Table) -> GuardUse:
    options = table.table("options")
    guard = GuardUse(
        name=table.text("name", required=True),
        side=cast(Any, table.one_of("side", ("in", "out", "both"), GuardUse.side)),
        on_hit=cast(Any, table.one_of("on_hit", ("flag", "redact", "block"), GuardUse.on_hit)),
        on_error=cast(Any, table.one_of("on_error", ("closed", "open"), GuardUse.on_error)),
        options=dict(options.values),
    )
    table.done()
    return guard


def _check_names(top: Table, site: Site) -> None:
    """Names, aliases and adapters of all models, and ids of all versions, are each one's own."""
    names: dict[str, str] = {}
    ids: dict[str, str] = {}
    for number, model in enumerate(site.models):
        aliases = ((f"aliases[{place}]", alias) for place, alias in enumerate(model.aliases))
        adapters = ((f"adapters.{one.name}", one.name) for one in model.adapters)
        for key, name in (("name", model.name), *aliases, *adapters):
            _check_name(top, f"models[{number}].{key.partition('.')[0]}", name)
            if name in names:
                raise top.wrong(f"models[{number}].{key}", f"is {name!r}, as {names[name]} is")
            names[name] = f"models[{number}].{key}"
        for place, version in enumerate(model.versions):
            _check_name(top, f"models[{number}].versions[{place}].id", version.id)
            if version.id in ids:
                raise top.wrong(f"models[{number}].versions[{place}].id", f"is {version.id!r}, as that of {ids[version.id]} is")
            ids[version.id] = f"models[{number}].versions[{place}]"


def _check_name(top: Table, key: str, name: str) -> None:
    """Names go into headers, logs and labels: whoever reads one there must be able to tell it from another."""
    unseen = next((letter for letter in name if not letter.isprintable()), None)
    if unseen is not None:
        raise top.wrong(key, f"is {name!r}, which holds U+{ord(unseen):04X}; names are of characters that can be seen")
    if name != name.strip():
        raise top.wrong(key, f"is {name!r}; names neither begin nor end with a space")


def _check_memory(top: Table, site: Site) -> None:
    """Where there is a budget: every version's need is known, and fits beside what always runs."""
    if site.memory_bytes is None:
        return
    kept_bytes = 0
    for number, model in enumerate(site.models):
        for version in model.versions:
            if version.memory_bytes is None and not version.url:
                known = "was not measured with its lock" if version.lock else "cannot be known beforehand"
                raise top.wrong(
                    f"models[{number}]", f"needs memory for {version.id!r}, because there is a budget and what it takes {known}"
                )
            if version.id == model.rollout.stable and not version.url:
                kept_bytes += model.min_replicas * (version.memory_bytes or 0)
    if kept_bytes > site.memory_bytes:
        raise top.wrong("memory", f"is {site.memory_bytes:,} bytes, but what always runs (min_replicas) takes {kept_bytes:,}")
    for number, model in enumerate(site.models):
        for version in model.versions:
            need = 0 if version.url else version.memory_bytes or 0
            others = kept_bytes - (model.min_replicas * need if version.id == model.rollout.stable else 0)
            if need + others > site.memory_bytes:
                beside = f" beside {others:,} that always runs" if others else ""
                raise top.wrong("memory", f"is {site.memory_bytes:,} bytes, but models[{number}] ({version.id}) takes {need:,}{beside}")
