"""Answers that wait to be scored again: texts on disk, few and for a short time, because the site asked for them.

One file an answer, <folder>/<milliseconds>-<16 hex digits of the request>.json, readable by its owner only. The gateway writes, the watch
reads and removes; what nobody has read after KEEP_S goes too.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

KEEP_S = 3600.0
MOST_WAITING = 256


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One answer of a stable version, with what it answered, as guards left both.

    at_s: when it ended, UTC, seconds since 1970; stable, candidate: ids of the version that answered and of the one on trial beside it
    cluster: digest of the conversation; messages: of a chat, prompt: of a plain completion
    """

    request: str
    at_s: float
    model: str
    stable: str
    candidate: str
    cluster: str
    kind: Literal["chat", "completion"]
    answer: str
    messages: Sequence[Mapping[str, Any]] = ()
    prompt: str = ""


def keep_sample(folder: Path, sample: Sample, *, most: int = MOST_WAITING) -> bool:
    """Keep one, unless enough wait already; then it returns False. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if len(_waiting(folder, sample.at_s)) >= most:
        return False
    path = _path(folder, sample)
    part = path.with_suffix(".part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
        json.dump(asdict(sample), file, ensure_ascii=False)
    os.replace(part, path)
    return True


def waiting_samples(folder: Path, now_s: float, *, most: int = MOST_WAITING) -> list[Sample]:
    """Those that wait, oldest first. What is too old, or cannot be read, is removed."""
    found = []
    for path in _waiting(folder, now_s)[:most]:
        try:
            found.append(Sample(**json.loads(path.read_text(encoding="utf-8"))))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError):
            _remove(path)
    return found


def remove_sample(folder: Path, sample: Sample) -> None:
    """It was scored, or cannot be."""
    _remove(_path(folder, sample))


def _path(folder: Path, sample: Sample) -> Path:
    name = hashlib.sha256(sample.request.encode("utf-8", "replace")).hexdigest()[:16]
    return folder / f"{int(1000 * sample.at_s):015d}-{name}.json"


def _waiting(folder: Path, now_s: float) -> list[Path]:
    """Files that wait, oldest first; the old ones, and parts of writes that never ended, are removed."""
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    oldest = f"{int(1000 * max(0.0, now_s - KEEP_S)):015d}"
    found = []
    for path in paths:
        if path.name < oldest:
            _remove(path)
        elif path.suffix == ".json":
            found.append(path)
    return found


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
