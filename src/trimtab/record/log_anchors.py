"""The audit logs of several gateways, bound together: the newest signed checkpoint of each is an entry of the ledger from time to time.

Each gateway has a log of its own with one writer (record/audit.py). Its newest checkpoint goes to the shared state with every exchange, so
to another machine; what changed there is written into the ledger, all logs in one entry, once in ANCHOR_S by whichever gateway comes first.
Who cuts a log, even with its key and its own checkpoint in hand, is found out by the shared state; who can write that too, by the ledger.

entry  kind `anchor`, about `logs`; body {"logs": [checkpoint, ...]}. Its checkpoints are signed by the gateways themselves; the key of the
       first one of a log is the one that counts for it
"""

import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.release import Entry
from trimtab.record.chain_check import check_log
from trimtab.record.checkpoints import Checkpoint, checkpoint_of
from trimtab.record.ledger import Ledger, NoLedger
from trimtab.record.lock import is_locked
from trimtab.record.shared_state import SharedState, shared_ledger_url

ANCHOR_S = 3600.0
ABOUT = "logs"


@dataclass(frozen=True, kw_only=True)
class KnownLog:
    """What others hold of a log. host: where its gateway runs; key: that its checkpoints must have; newest: of the shared state

    anchored: the newest in the ledger, None if there is none yet; key is then of the shared state
    """

    log: str
    host: str
    key: str
    newest: Checkpoint | None
    anchored: Checkpoint | None


def anchor_logs(state: SharedState, home: Path, *, after_s: float = ANCHOR_S) -> int:
    """Write what changed into the ledger, unless that was done less than `after_s` ago and no log is new. Returns how many logs.

    Raises InputError, MissingError.
    """
    with state.anchoring() as is_mine:
        if not is_mine:
            return 0
        with Ledger.open(shared_ledger_url(), home=home) as ledger:
            entries = ledger.entries(about=ABOUT)
            known = _anchored(entries)
            changed = [one.checkpoint for one in state.logs() if _is_news(one.checkpoint, known)]
            is_due = not entries or (datetime.now(UTC) - datetime.fromisoformat(entries[-1].at)).total_seconds() >= after_s
            if not changed or not (is_due or any(one["log"] not in known for one in changed)):
                return 0
            ledger.append("anchor", by=f"gateway on {socket.gethostname()}"[:256], about=ABOUT, body={"logs": changed})
            return len(changed)


def known_logs(state: SharedState, home: Path) -> list[KnownLog]:
    """Every log that a gateway ever told of, by its name. Raises InputError, MissingError."""
    told = {str(one.checkpoint.get("log")): one for one in state.logs()}
    try:
        with Ledger.open(shared_ledger_url(), home=home, must_exist=True) as ledger:
            entries = ledger.entries(about=ABOUT)
    except NoLedger:
        entries = ()
    firsts, anchored = _firsts(entries), _anchored(entries)
    found = []
    for log in sorted({*told, *anchored}):
        newest = checkpoint_of(told[log].checkpoint, state.where) if log in told else None
        last = anchored.get(log)
        key = firsts[log].key if log in firsts else newest.key if newest is not None else ""
        found.append(KnownLog(log=log, host=told[log].host if log in told else "", key=key, newest=newest, anchored=last))
    return found


def check_known(folder: Path, known: KnownLog, trusted_key: str = "") -> dict[str, Any]:
    """Hold a log against all that others hold of it. trusted_key: that counts instead of the one that the ledger knows

    Returns verdict, reasons, n_records.
    """
    in_use = is_locked(folder)
    reasons: list[str] = []
    verdict, n_records = "pass", 0
    for where, checkpoint in (("the ledger", known.anchored), ("the shared state", known.newest)):
        if checkpoint is None:
            continue
        found = check_log(folder, checkpoint, trusted_key=trusted_key or known.key, is_copy=True, is_in_use=in_use)
        n_records = found.n_records
        if found.verdict != "pass":
            verdict = "fail" if "fail" in (verdict, found.verdict) else "inconclusive"
            reasons += [f"By {where}: {reason}" for reason in found.reasons]
    if known.anchored is None:
        reasons.append("The ledger does not know this log yet, so that only the shared state speaks for it.")
        verdict = "inconclusive" if verdict == "pass" else verdict
    return {"verdict": verdict, "reasons": reasons, "n_records": n_records}


def _is_news(plain: Mapping[str, Any], known: Mapping[str, Checkpoint]) -> bool:
    checkpoint = checkpoint_of(plain, "The shared state")
    last = known.get(checkpoint.log)
    return checkpoint.is_signed_by(checkpoint.key) and (
        last is None or (last.size, last.is_closed) != (checkpoint.size, checkpoint.is_closed)
    )


def _checkpoints(entries: Sequence[Entry]) -> Iterable[Checkpoint]:
    for entry in entries:
        if entry.kind == "anchor":
            for plain in entry.body.get("logs", ()):
                try:
                    checkpoint = checkpoint_of(plain, f"Entry {entry.seq} of the ledger")
                except InputError:
                    continue
                if checkpoint.is_signed_by(checkpoint.key):
                    yield checkpoint


def _firsts(entries: Sequence[Entry]) -> dict[str, Checkpoint]:
    found: dict[str, Checkpoint] = {}
    for checkpoint in _checkpoints(entries):
        found.setdefault(checkpoint.log, checkpoint)
    return found


def _anchored(entries: Sequence[Entry]) -> dict[str, Checkpoint]:
    """The largest of each log that is signed by the key of its first."""
    keys = {log: first.key for log, first in _firsts(entries).items()}
    found: dict[str, Checkpoint] = {}
    for checkpoint in _checkpoints(entries):
        last = found.get(checkpoint.log)
        if checkpoint.key == keys[checkpoint.log] and (last is None or last.size <= checkpoint.size):
            found[checkpoint.log] = checkpoint
    return found
