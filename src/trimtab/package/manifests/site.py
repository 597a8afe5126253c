"""The configuration that goes beside a lock: site.toml, as `trimtab serve` reads it."""

from dataclasses import asdict
from typing import Any

from trimtab.core.release import Serving
from trimtab.core.toml import to_toml
from trimtab.package.cargo import LOCK
from trimtab.package.manifests.lock import judged
from trimtab.package.manifests.sizing import queue_wait_s
from trimtab.package.manifests.text import comment, title

SITE = "site.toml"


def site_toml(serving: Serving, *, lock: str, is_open: bool) -> str:
    """A site with this one model, which is loaded at the start. Raises InputError.

    lock: where the lock lies, from the site's folder; is_open: listens for the network, with keys; else on loopback, without
    """
    verdict = judged(serving).verdict
    notes = (
        [f"allow_uncertified: the decision is {verdict}, not pass, and whoever exported this said that it is meant."]
        if verdict != "pass"
        else []
    )
    version = {"lock": lock, "allow_uncertified": True if verdict != "pass" else None, "min_replicas": 1}
    return _site(serving, version, queue_wait_s(serving), notes, is_open=is_open)


def front_site_toml(serving: Serving, *, url: str, slots: int, wait_s: int) -> str:
    """A site whose model is answered elsewhere, by what was certified. url: with /v1 at the end; slots: requests at once there

    wait_s: the longest that a request may wait for a place there
    """
    notes = [f"{url} is answered by trimtab's own workers on what deploy.toml names; they check it, this gateway does not see it."]
    return _site(serving, {"url": url, "slots": slots}, wait_s, notes, is_open=True)


def _site(serving: Serving, version: dict[str, Any], wait_s: int | None, more: list[str], *, is_open: bool) -> str:
    guarded = "Guards: those that the release's rules and its prohibited uses name." if serving.guards else "No guards are set here."
    notes = [
        title(serving, "Site of `trimtab serve`"),
        f"{guarded} Limits, canaries and all other keys: docs/serve.md and docs/guards.md.",
        *(f"No guard stands behind this prohibited use, people must see to it: {' '.join(one.split())}" for one in serving.unguarded),
        *more,
    ]
    listen: dict[str, Any] = {"host": "0.0.0.0", "open_to_network": True} if is_open else {"host": "127.0.0.1"}
    model = {
        "name": serving.model,
        **version,
        "queue_wait_s": wait_s,
        "guards": [{key: value for key, value in asdict(guard).items() if value != {}} for guard in serving.guards] or None,
    }
    return comment(notes) + to_toml({"need_keys": is_open, "listen": {**listen, "port": serving.port}, "models": [model]})


def site_files(serving: Serving, *, lock: str, is_open: bool) -> dict[str, bytes]:
    """site.toml, and the lock that it names."""
    return {SITE: site_toml(serving, lock=lock, is_open=is_open).encode(), LOCK: serving.lock.encode()}
