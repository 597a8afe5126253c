"""`trimtab verify`: is what was kept still what was written?"""

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import to_plain
from trimtab.decide.release import find, read_book
from trimtab.flows.parts.release_folder import NAME as RELEASE
from trimtab.flows.parts.release_folder import cards_of, read_released
from trimtab.flows.parts.released import opened_store
from trimtab.flows.parts.verified import (
    Check,
    State,
    approval_checks,
    decision_checks,
    excerpt_checks,
    files_checks,
    irregular_checks,
    statement_checks,
    unpacked,
    verdict_of,
    weights_check,
    wrong,
)
from trimtab.package.bundle import MARK as BUNDLE_MARK
from trimtab.package.bundle import PACKAGE as BUNDLED
from trimtab.package.cargo import PACKED
from trimtab.record.chain import log_id, segments
from trimtab.record.chain_check import LogCheck, check_log
from trimtab.record.checkpoints import Checkpoint, anchors_of_folder, own_public_key, public_key_of, read_anchor
from trimtab.record.evidence_store import EvidenceStore
from trimtab.record.home import state_dir
from trimtab.record.ledger import Ledger
from trimtab.record.ledger_check import LedgerCheck
from trimtab.record.lock import is_locked
from trimtab.record.statements import NAME as STATEMENT

SCHEMA = "trimtab.verify/1"


def verify_log(folder: str | None = None, *, anchor: str | None = None, key: str | None = None) -> dict[str, Any]:
    """Read a whole log and hold it against its last signed checkpoint.

    folder: default TRIMTAB_HOME/audit; anchor: a copy of its checkpoint that was kept elsewhere, default the one under TRIMTAB_HOME
    key: PEM file of the public key that the checkpoint must be signed by, default this installation's
    Returns verdict (pass, fail, inconclusive), reasons, the first bad record, counts. Raises InputError, MissingError.
    """
    home = state_dir()
    path = Path(folder).expanduser().absolute() if folder else home / "audit"
    checkpoint = read_anchor(Path(anchor).expanduser()) if anchor else _kept(home, path)
    if checkpoint is None and not segments(path):
        raise InputError(f"There is no log in {path}; name the folder of one, or set TRIMTAB_HOME to where its gateway keeps things.")
    trusted_key = _trusted(home, key)

    def checked(against: Checkpoint | None) -> LogCheck:
        in_use = path.is_dir() and is_locked(path)
        return check_log(path, against, trusted_key=trusted_key, is_copy=anchor is not None, is_in_use=in_use)

    check = checked(checkpoint)
    if check.verdict != "pass" and not anchor and (newer := _kept(home, path)) != checkpoint:
        checkpoint = newer  # a gateway wrote, started or stopped while the log was read
        check = checked(checkpoint)
    return _answer(path, check, _other(path, checkpoint, check))


def verify_logs(folders: Sequence[str] = (), *, key: str | None = None) -> dict[str, Any]:
    """Hold the logs of several gateways against what the shared state and the ledger hold of each.

    folders: of logs, from whichever machines; default that of TRIMTAB_HOME. key: PEM file, default the key of each log's first anchor
    Returns verdict, reasons, and a row a log, those that are known and were not given too. Raises InputError, MissingError.
    """
    if not os.environ.get("TRIMTAB_STATE"):
        raise InputError("TRIMTAB_STATE names no shared state; one gateway's log is checked by `trimtab verify log`.")
    from trimtab.record.log_anchors import check_known, known_logs
    from trimtab.record.shared_state import SharedState, shared_ledger_url

    home = state_dir()
    paths = [Path(folder).expanduser().absolute() for folder in folders] or [home / "audit"]
    given = {log_id(path): path for path in paths}
    trusted = public_key_of(Path(key).expanduser()) if key else ""
    with SharedState.open() as state, Ledger.open(shared_ledger_url(), home=home) as ledger:
        chain = ledger.check()
        known = {one.log: one for one in known_logs(state, home)}
    rows = []
    for log in sorted({*given, *known}):
        row: dict[str, Any] = {"log": log, "host": known[log].host if log in known else "", "folder": str(given.get(log, ""))}
        if log not in given:
            checked: dict[str, Any] = {"verdict": "inconclusive", "reasons": ["It was not given."], "n_records": None}
        elif log not in known:
            checked = {"verdict": "fail", "reasons": ["No gateway ever told the others of this log."], "n_records": None}
        else:
            checked = check_known(given[log], known[log], trusted)
        rows.append({**row, **checked})
    verdicts = [row["verdict"] for row in rows] + (["fail"] if chain.verdict == "fail" else [])
    reasons = [f"Log {row['log'][:8]} of {row['host'] or 'an unknown host'}: {reason}" for row in rows for reason in row["reasons"]]
    return {
        "verdict": "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass",
        "reasons": [*(chain.reasons if chain.verdict == "fail" else ()), *reasons],
        "logs": rows,
    }


def verify_ledger(*, anchor: str | None = None, keys: Sequence[str] = (), ledger: str = "") -> dict[str, Any]:
    """Read a whole ledger and hold it against its last signed checkpoint; every signature of a person is checked too.

    anchor, keys: as of `verify_release`. Returns verdict, reasons, the first bad entry, counts. Raises InputError, MissingError.
    """
    with Ledger.open(ledger, home=state_dir(), must_exist=True) as opened:
        found = _checked_ledger(opened, anchor, list(_given(keys)))
        return {"ledger": opened.where, **to_plain(found)}


def verify_release(
    what: str, *, keys: Sequence[str] = (), anchor: str | None = None, weights: str | None = None, ledger: str = ""
) -> dict[str, Any]:
    """Hold a release, or a folder, against everything that can be held against it, and compute its decision again from the items.

    what: `support-chat@3` or an alias, from the ledger and the evidence of this installation; or the folder of a release that was exported,
        of a bundle or of a run. A folder takes nothing but itself and the keys
    keys: PEM files of public keys that count; default this installation's, and for a name those of the ledger's people too
    anchor: a copy of the ledger's checkpoint that was kept elsewhere; weights: where they lie, as the engine opens them
    Returns verdict, checks (each a sentence), reasons (of those that failed or were needed), unchecked. Raises InputError, MissingError.
    """
    given = _given(keys)
    place = Path(weights).expanduser() if weights else None
    path = Path(what).expanduser()
    if path.is_dir():
        return _answer_of(str(path), _folder_checks(_inner(path), given, place))
    if path.exists() or "/" in what:
        raise InputError(f"{what} is not the folder of a run, of a bundle or of a release; a log is checked by `trimtab verify log`.")
    return _answer_of(what, _release_checks(what, given, anchor, place, ledger))


def _given(keys: Sequence[str]) -> dict[str, str]:
    """Public key -> name of its file. Raises InputError, MissingError."""
    paths = [Path(key).expanduser() for key in keys]
    for path in paths:
        if not path.is_file():
            raise InputError(f"There is no {path}; give the file of a public key.")
    return {public_key_of(path): path.name for path in paths}


def _inner(path: Path) -> Path:
    """A bundle keeps the run in a folder of its own."""
    return path / BUNDLED if (path / BUNDLE_MARK).is_file() else path


def _release_checks(what: str, given: Mapping[str, str], anchor: str | None, weights: Path | None, url: str) -> list[Check]:
    home = state_dir()
    with Ledger.open(url, home=home, must_exist=True) as ledger:
        state = _checked_ledger(ledger, anchor, list(given))
        checks = [_ledger_check(state)]
        try:
            entries = ledger.entries()
            book = read_book(entries)
            record = find(book, what)
            cards = cards_of(record.entry.body)
        except InputError as error:
            if state.verdict != "fail":
                raise
            return [*checks, wrong("ledger", f"The release cannot be read from it: {error}")]
    checks += irregular_checks(book, record.release.id)
    trusted = given or {**_own(home), **{one.public_key: one.name for one in book.people.values() if one.public_key}}
    store = opened_store()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checks += unpacked(folder, (*record.release.evidence, *cards), store) or files_checks(folder, record.release.evidence, cards)
        checks += decision_checks(folder, record.release)
        raw, faults = _statement(record.entry.body, store)
        checks += faults or statement_checks(raw, trusted, record.release, folder, cards=cards, lying_beside={})
        checks += [*approval_checks(book, record, entries[-1].at), weights_check(weights, folder / "deploy.toml")]
    return checks


def _statement(body: Mapping[str, Any], store: EvidenceStore) -> tuple[bytes | None, list[Check]]:
    named = str(body.get("statement_sha256") or "")
    try:
        return (store.get(named) if named else None), []
    except InputError as error:
        return None, [wrong("signature", f"The signed statement: {error}")]


def _folder_checks(folder: Path, given: Mapping[str, str], weights: Path | None) -> list[Check]:
    weights = weights or (folder if (folder / PACKED).is_dir() else None)
    trusted = given or _own_if_there()
    if not (folder / RELEASE).is_file():
        if not (folder / "decision.json").is_file():
            raise InputError(f"{folder} holds no decision.json and no {RELEASE}; give the folder of a run, of a bundle or of a release.")
        unsigned = (
            "Nothing here is signed: whoever can write this folder could have written all of it anew. `trimtab release create` signs."
        )
        checks = [*decision_checks(folder, None), Check(name="signature", state="unknown", sentence=unsigned, needed=True)]
        return [*checks, weights_check(weights, folder / "deploy.toml")] if (folder / "deploy.toml").is_file() else checks
    try:
        released = read_released(folder / RELEASE)
    except InputError as error:
        return [wrong("ledger", str(error))]
    cards = released.cards
    checks = [wrong("ledger", sentence) for sentence in released.faults]
    checks += [*files_checks(folder, released.release.evidence, cards), *decision_checks(folder, released.release)]
    raw = (folder / STATEMENT).read_bytes() if (folder / STATEMENT).is_file() else None
    if raw is not None and hashlib.sha256(raw).hexdigest() != released.body.get("statement_sha256"):
        checks.append(wrong("signature", f"{STATEMENT} is not the one that the release names."))
    beside = {public_key_of(path): path.name for path in sorted(folder.parent.glob("keys/*.pub.pem"))}
    beside |= {key: name for name, key in released.keys.items() if key}
    checks += statement_checks(raw, trusted, released.release, folder, cards=cards, lying_beside=beside)
    return [*checks, *excerpt_checks(released, trusted), weights_check(weights, folder / "deploy.toml")]


def _checked_ledger(ledger: Ledger, anchor: str | None, keys: Sequence[str]) -> LedgerCheck:
    """Of several keys that count, one must have signed the checkpoint."""
    copy = Path(anchor).expanduser() if anchor else None
    found = ledger.check(copy, key=keys[0] if keys else "")
    for key in keys[1:]:
        found = found if found.verdict != "fail" else ledger.check(copy, key=key)
    return found


def _ledger_check(found: LedgerCheck) -> Check:
    if found.verdict == "pass":
        n = f"{found.n_entries} entries" if found.n_entries != 1 else "1 entry"
        return Check(name="ledger", state="right", sentence=f"The ledger is whole and in its order: {n}, as signed.")
    state: State = "wrong" if found.verdict == "fail" else "unknown"
    return Check(name="ledger", state=state, sentence=" ".join(found.reasons), needed=True)


def _own(home: Path) -> dict[str, str]:
    key = own_public_key(home)
    return {key: "this installation"} if key else {}


def _own_if_there() -> dict[str, str]:
    """A folder can be checked where nothing of trimtab's may be written."""
    try:
        return _own(state_dir())
    except InputError:
        return {}


def _answer_of(what: str, checks: Sequence[Check]) -> dict[str, Any]:
    verdict = verdict_of(checks)
    first = [check.sentence for check in checks if check.state == "wrong"]
    then = [check.sentence for check in checks if check.state == "unknown" and check.needed]
    unchecked = [check.sentence for check in checks if check.state == "unknown"]
    return {
        "schema": SCHEMA,
        "what": what,
        "verdict": verdict,
        "reasons": [*first, *then],
        "unchecked": unchecked,
        "checks": to_plain(checks),
    }


def _kept(home: Path, folder: Path) -> Checkpoint | None:
    """The checkpoint of the log that must lie in the folder: of the one that was last written there, else of the one that does."""
    found = anchors_of_folder(home, folder)
    if found:
        return found[-1][1]
    try:
        path = home / "anchors" / f"{log_id(folder)}.json"
    except InputError:
        return None  # a first record that cannot be read is found again when the log is read
    return read_anchor(path) if path.exists() else None


def _trusted(home: Path, key: str | None) -> str:
    return public_key_of(Path(key).expanduser()) if key else own_public_key(home)


def _other(folder: Path, checkpoint: Checkpoint | None, check: LogCheck) -> str:
    """Why the log is not the one that the checkpoint is of, empty if it is."""
    if checkpoint is None or not check.n_records:
        return ""
    try:
        found = log_id(folder)
    except InputError as error:
        return str(error)
    return "" if found == checkpoint.log else f"This is another log ({found}) than the one that was signed ({checkpoint.log})."


def _answer(folder: Path, check: LogCheck, other: str) -> dict[str, Any]:
    return {
        "folder": str(folder),
        **to_plain(check),
        "verdict": "fail" if other else check.verdict,
        "reasons": [*([other] if other else []), *check.reasons],
    }
