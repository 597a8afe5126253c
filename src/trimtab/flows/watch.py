"""`trimtab watch`: a running site by what its gateway notes of its requests, or a traffic log of any server."""

import dataclasses
import importlib.util
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.core.errors import MissingError, TrimtabError
from trimtab.core.files import digest_of
from trimtab.core.site import Site
from trimtab.core.watching import Late, Observed
from trimtab.flows.parts.watch_actions import Means
from trimtab.flows.parts.watch_covered import envelopes_of
from trimtab.flows.parts.watch_desk import Desk, Row, ignore
from trimtab.record.home import state_dir
from trimtab.watch.rules import load_watch_rules

if TYPE_CHECKING:
    from trimtab.flows.parts.live_quality import LiveQuality
    from trimtab.record.spool import Cursor
    from trimtab.watch.watcher import Watcher

BATCH = 500
SAVE_S, LIVE_S, LOOK_S, SITE_S = 5.0, 2.0, 0.5, 5.0
"""Between two states on disk, two live.json, two looks at the spool where nothing came, two looks at the site's file."""

log = logging.getLogger("trimtab.watch")


def watch(
    target: str | Path,
    *,
    rules: str = "",
    once: bool = False,
    dry_run: bool = False,
    admin_url: str = "",
    ledger: str = "",
    offline: bool = False,
    stop: threading.Event | None = None,
    on_alarm: Callable[[Row], None] = ignore,
    on_action: Callable[[Row], None] = ignore,
    on_live: Callable[[Row], None] = ignore,
) -> dict[str, Any]:
    """Watch a site until `stop` is set; with `once` read what is there and end. Returns what live.json holds then.

    target: the site.toml or deploy.toml that `trimtab serve` was given, by the same path
    admin_url: of the gateway, empty = by the site's admin_port; ledger: its URL, empty = that of TRIMTAB_HOME
    Raises InputError (file, rules, another watch of the site), MissingError.
    """
    check_packages()
    from trimtab.record.spool import watch_folder
    from trimtab.watch.state import held

    path = Path(target)
    means = _means(path, read_site_of(path), load_watch_rules(rules or "standard"), admin_url=admin_url, ledger=ledger, dry_run=dry_run)
    folder = watch_folder(means.home, path)
    lock = held(folder)
    try:
        return _Watch(path, folder, means, offline=offline, told=(on_alarm, on_action, on_live)).run(
            once=once, stop=stop or threading.Event()
        )
    finally:
        lock.release()


def read_site_of(path: Path) -> Site:
    """The site of a file. Raises InputError."""
    from trimtab.serve.site import read_site

    return read_site(path)


def check_packages() -> None:
    """Raises MissingError where the extra of the watch is not installed."""
    lacking = [name for name in ("datasketches", "msgspec", "py3langid") if importlib.util.find_spec(name) is None]
    if lacking:
        raise MissingError(f"Watching needs packages that are not installed: {', '.join(lacking)}.", "pip install 'trimtab[watch]'")


def _means(path: Path, site: Site, rules: Any, *, admin_url: str, ledger: str, dry_run: bool) -> Means:
    port = site.listen.admin_port
    url = admin_url.rstrip("/") or (f"http://127.0.0.1:{port}" if port else "")
    return Means(home=state_dir(), rules=rules, folder=path.absolute().parent, site=site, admin_url=url, ledger=ledger, dry_run=dry_run)


class _Watch:
    """One site under watch. told: on_alarm, on_action, on_live"""

    def __init__(self, path: Path, folder: Path, means: Means, *, offline: bool, told: tuple[Callable[[Row], None], ...]) -> None:
        from trimtab.record.spool import Cursor
        from trimtab.watch.state import Journal, read_state
        from trimtab.watch.watcher import Watcher

        self.path, self.folder, self.offline = path, folder, offline
        kept = read_state(folder)
        envelopes = envelopes_of(means.site, means.folder) if means.site is not None else {}
        made = Watcher(means.rules, envelopes=envelopes)
        self.watcher: Watcher = made if kept.watcher is None else Watcher.from_state(kept.watcher, means.rules, envelopes=envelopes)
        self.cursor: Cursor = kept.cursor or Cursor()
        on_alarm, on_action, self.on_live = told
        self.desk = Desk(watcher=self.watcher, journal=Journal.read(folder), means=means, on_alarm=on_alarm, on_action=on_action)
        self.saved_s = self.shown_s = self.read_s = time.monotonic()
        self.stamp = _stamp(path)

    def run(self, *, once: bool, stop: threading.Event) -> dict[str, Any]:
        """Until `stop`, or with `once` until all that is there was read."""
        from trimtab.record.spool import read_spool

        quality = None if once else self._quality()
        try:
            self.desk.settle()
            while not stop.is_set():
                items, cursor = read_spool(self.folder / "observed", self.cursor, most=BATCH)
                self._take(items, cursor)
                if quality is not None:
                    self._take_quality(quality)
                self._keep_up(is_idle=not items)
                if once and not items:
                    break
                if not items:
                    stop.wait(LOOK_S)
        finally:
            if quality is not None:
                quality.close()
            self._save()
        return self._show()

    def _take(self, items: Iterable[Observed | Late], cursor: "Cursor") -> None:
        now_s = time.time()
        for item in items:
            for alarm in self.watcher.take(item, now_s=now_s):
                self.desk.meet(alarm)
        self.cursor = cursor

    def _take_quality(self, quality: "LiveQuality") -> None:
        for alarm in quality.take():
            self.watcher.tell(alarm)
            self.desk.meet(alarm)
            quality.noted(alarm)

    def _quality(self) -> "LiveQuality | None":
        """What scores a sample of answers, where the site keeps one."""
        site = self.desk.means.site
        if site is None or not site.watch_sample_pct:
            return None
        from trimtab.flows.parts.live_quality import LiveQuality

        made = LiveQuality(self.folder, lambda: read_site_of(self.path), self.desk.means.folder, offline=self.offline)
        made.start()
        return made

    def _keep_up(self, *, is_idle: bool) -> None:
        """What is due by the clock."""
        now = time.monotonic()
        if now - self.read_s >= SITE_S:
            self.read_s = now
            self._read_again()
        if now - self.saved_s >= SAVE_S:
            self._save()
        if now - self.shown_s >= LIVE_S:
            self.on_live(self._show())

    def _read_again(self) -> None:
        """The site's file, if it was changed; one that is wrong is passed over with a warning."""
        stamp = _stamp(self.path)
        if stamp == self.stamp:
            return
        self.stamp = stamp
        try:
            site = read_site_of(self.path)
            self.watcher.cover(envelopes_of(site, self.desk.means.folder))
            self.desk.means = dataclasses.replace(self.desk.means, site=site)
        except TrimtabError as error:
            log.warning("the site stays as it was for the watch: %s", error)

    def _save(self) -> None:
        from trimtab.watch.state import write_state

        write_state(self.folder, self.watcher.state(), self.cursor)
        self.saved_s = time.monotonic()

    def _show(self) -> dict[str, Any]:
        from trimtab.watch.live import document
        from trimtab.watch.state import write_live

        cursor = self.cursor
        found = document(
            self.watcher,
            now_s=time.time(),
            site=self.path.name,
            site_id=self.folder.name,
            source="spool",
            dry_run=self.desk.means.dry_run,
            actions=self.desk.journal.rows,
            faults={
                "segments of the spool that were gone before they were read": cursor.missed,
                "broken lines of the spool": cursor.broken,
                "lost by the gateway": cursor.lost,
            },
        )
        write_live(self.folder, found)
        self.shown_s = time.monotonic()
        return found


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
        return found.st_mtime_ns, found.st_size
    except OSError:
        return 0, 0


# Logs


def watch_log(
    path: str | Path,
    *,
    rules: str = "",
    baseline: str | int = 0,
    by_version: bool = False,
    text_pct: float = 100.0,
    explore: str = "",
    stop: threading.Event | None = None,
    on_alarm: Callable[[Row], None] = ignore,
    on_live: Callable[[Row], None] = ignore,
) -> dict[str, Any]:
    """What changed in a traffic log. Nothing is done about it, and nothing is kept.

    path: .jsonl, .jsonl.gz, or a folder of them; baseline: a log of before that is read first, or how many requests of this one count as
        before; alarms within it are not told
    by_version: versions of a model are watched apart; else they are one, and a swap is a change
    text_pct: share of requests whose texts are looked at, by their ids
    explore: one of river's detectors that is run beside, on the log itself; it hints, and gives no alarms
    Returns live.json's document with `source` "log", `seconds`, `items_s`, the number of the baseline's own alarms as `before`, and what
        was `explored`, None if nothing was.
    Raises InputError, MissingError.
    """
    check_packages()
    from trimtab.watch.explore import Explorer
    from trimtab.watch.live import alarm_row
    from trimtab.watch.watcher import Watcher

    read = Path(path)
    explorer = Explorer(explore) if explore else None
    watcher, before, began = Watcher(load_watch_rules(rules or "standard")), 0, time.monotonic()
    faults: dict[str, int] = {}
    until = -1 if isinstance(baseline, str) else baseline
    sources = [*([Path(baseline)] if isinstance(baseline, str) and baseline else []), read]
    n, shown_s = 0, began
    for number, source in enumerate(sources):
        is_before = number < len(sources) - 1
        for item in _of_log(source, faults, by_version=by_version, text_pct=text_pct):
            n += 1
            if explorer is not None and isinstance(item, Observed) and not is_before:
                explorer.take(item)
            for alarm in watcher.take(item):
                if is_before or watcher.n_requests <= until:
                    before += 1
                    watcher.alarms.pop(alarm.id)
                else:
                    on_alarm(alarm_row(watcher, watcher.alarms[alarm.id]))
            if n % 256 == 0 and time.monotonic() - shown_s >= LIVE_S:
                shown_s = time.monotonic()
                on_live(_log_document(watcher, read, faults))
            if stop is not None and stop.is_set():
                break
    seconds = time.monotonic() - began
    explored = None if explorer is None else explorer.document()
    end = {"seconds": seconds, "items_s": n / max(seconds, 1e-9), "before": before, "explored": explored}
    return {**_log_document(watcher, read, faults), **end}


def _of_log(path: Path, faults: dict[str, int], *, by_version: bool, text_pct: float) -> Iterator[Observed | Late]:
    """The items of a log; what its reader passed over is added to `faults`."""
    from trimtab.evaluate.refusal import judge_refusal
    from trimtab.watch.logs import Fault, read_log

    for item in read_log(path, refused=lambda text: judge_refusal(text).refused, text_pct=text_pct):
        if isinstance(item, Fault):
            reason = f"{item.kind}: {item.text}"
            faults[reason] = faults.get(reason, 0) + item.n
        else:
            yield item if by_version else dataclasses.replace(item, version="")


def _log_document(watcher: "Watcher", path: Path, faults: dict[str, int]) -> dict[str, Any]:
    from trimtab.watch.live import document

    site_id = digest_of(str(path.absolute()))[:16]
    return document(watcher, now_s=time.time(), site=path.name, site_id=site_id, source="log", faults=faults)
