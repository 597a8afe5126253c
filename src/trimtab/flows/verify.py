"""`trimtab verify`: is what was kept still what was written?"""

from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import to_plain
from trimtab.record.chain import log_id, segments
from trimtab.record.chain_check import LogCheck, check_log
from trimtab.record.checkpoints import Checkpoint, anchors_of_folder, public_key_of, read_anchor
from trimtab.record.home import state_dir
from trimtab.record.lock import is_locked


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
    own = home / "keys" / "signing.pub.pem"
    if key:
        return public_key_of(Path(key).expanduser())
    return public_key_of(own) if own.exists() else ""


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
