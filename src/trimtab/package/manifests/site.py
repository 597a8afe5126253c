"""The configuration that goes beside a lock: site.toml, as `trimtab serve` reads it."""

import json

from trimtab.core.release import Serving
from trimtab.package.cargo import LOCK
from trimtab.package.manifests.lock import judged
from trimtab.package.manifests.sizing import queue_wait_s
from trimtab.package.manifests.text import comment, title

SITE = "site.toml"


def site_toml(serving: Serving, *, lock: str, is_open: bool) -> str:
    """A site with this one model, which is loaded at the start. Raises InputError.

    lock: where the lock lies, from the site's folder; is_open: listens for the network, with keys; else on loopback, without
    """
    verdict, wait_s = judged(serving).verdict, queue_wait_s(serving)
    notes = [
        title(serving, "Site of `trimtab serve`"),
        "Guards, limits, canaries and all other keys: docs/serve.md and docs/guards.md. None are set here.",
    ]
    if verdict != "pass":
        notes.append(f"allow_uncertified: the decision is {verdict}, not pass, and whoever exported this said that it is meant.")
    listen = ['host = "0.0.0.0"', "open_to_network = true"] if is_open else ['host = "127.0.0.1"']
    model = [
        f"name = {json.dumps(serving.model, ensure_ascii=False)}",
        f"lock = {json.dumps(lock)}",
        *(["allow_uncertified = true"] if verdict != "pass" else []),
        "min_replicas = 1",
        *([] if wait_s is None else [f"queue_wait_s = {wait_s}"]),
    ]
    blocks = [
        [f"need_keys = {'true' if is_open else 'false'}"],
        ["[listen]", *listen, f"port = {serving.port}"],
        ["[[models]]", *model],
    ]
    return comment(notes) + "\n\n".join("\n".join(block) for block in blocks) + "\n"


def site_files(serving: Serving, *, lock: str, is_open: bool) -> dict[str, bytes]:
    """site.toml, and the lock that it names."""
    return {SITE: site_toml(serving, lock=lock, is_open=is_open).encode(), LOCK: serving.lock.encode()}
