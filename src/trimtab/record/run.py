"""A run directory: all that one run reads, does and answers, in files that are whole or absent.

run.json          what the run is: digests it is bound to, inputs, versions, seed, machine, started, finished   trimtab.run/1
journal.jsonl     one line a finished step, with the digest of its result: a killed run resumes after the last  trimtab.step/1
candidates.jsonl  one line a change of a candidate; the last line of an id counts                               trimtab.candidate/1
items/*.parquet   outcomes of one deployment on one suite                                                       trimtab.outcomes/1
items/*           and what else its judgement rests on (record/observed.py)
decision.json     the answer                                                                                    trimtab.decision/1
deploy.toml       the lockfile (record/deploy.py);  report.html  the page (record/report.py)
"""

import contextlib
import json
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from trimtab.core.decision import CandidateResult
from trimtab.core.errors import InputError, TrimtabError
from trimtab.core.evidence import Outcome
from trimtab.core.files import digest_of, sha256_file, to_plain, write_atomic
from trimtab.record.disk import append_record, check_schema, read_json, read_records, sentences
from trimtab.record.home import cache_dir
from trimtab.record.lock import NAME as LOCK_NAME
from trimtab.record.lock import FolderLock, UseLock
from trimtab.record.outcomes import read_outcomes, write_outcomes

RUN_SCHEMA = "trimtab.run/1"
STEP_SCHEMA = "trimtab.step/1"
CANDIDATE_SCHEMA = "trimtab.candidate/1"
DECISION_SCHEMA = "trimtab.decision/1"
EVALUATION_SCHEMA = "trimtab.evaluation/1"


class RunDir:
    """An open run directory, locked for this process until `close` (or the end of a `with` block).

    resumed: the directory held an unfinished or finished run with the same digests and seed; its steps count
    warnings: sentences to show, e.g. about a torn line that a killed run left
    """

    def __init__(self, path: Path, lock: FolderLock, head: dict[str, Any], *, resumed: bool) -> None:
        self.path = path
        self.head = head
        self.resumed = resumed
        self._lock = lock
        self._caches: UseLock | None = None
        self.warnings: list[str] = []
        self._steps = self._read_steps()
        self._candidates = self._read_candidates()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        digests: Mapping[str, str],
        seed: int,
        inputs: Mapping[str, Any] | None = None,
        versions: Mapping[str, str] | None = None,
        machine: Any = None,
        fresh: bool = False,
    ) -> Self:
        """Start a run in `path`, or resume the one that is there.

        digests: what the run is bound to, by name (`source`, `policy`, `workload`, `suite`, `builds` ...): all equal, and the seed
            too, or the directory is refused with a sentence that names what differs
        inputs: the request in the user's words (kept, not compared)
        fresh: move a run that is there aside (to `<name>.old-<time>`) and start anew
        Raises InputError (in use, other inputs, not a run directory, no permission, damaged) or MissingError (disk full).
        """
        path = path.absolute()
        lock = FolderLock(path)
        try:
            if (path / "run.json").exists() and fresh:
                lock = _move_aside(path, lock)
            if not (path / "run.json").exists():
                head = _new_head(digests, seed, inputs, versions, machine)
                _refuse_foreign(path)
                run = cls(path, lock, head, resumed=False)
            else:
                head = read_json(path / "run.json", RUN_SCHEMA)
                _refuse_different(path, head, digests, seed)
                run = cls(path, lock, head, resumed=True)
            run._remove_leftovers()
            run._write_head()
            run._caches = caches_in_use()
        except BaseException:
            lock.release()
            raise
        return run

    def step(self, key: str, compute: Callable[[], Any]) -> Any:
        """The result of a step: from the journal if it was finished before, else computed and written ahead of being returned.

        key: names the step and all it depends on, e.g. `screen/<deployment digest>`
        Returns the result as JSON types (tuples become lists, dataclasses mappings) both times.
        """
        if key in self._steps:
            return self._steps[key]
        return self.finish_step(key, compute())

    def finished(self, key: str) -> bool:
        """Whether the journal holds this step."""
        return key in self._steps

    def steps(self, prefix: str) -> list[str]:
        """Keys of the finished steps that begin with `prefix`, in the order they were finished."""
        return [key for key in self._steps if key.startswith(prefix)]

    def finish_step(self, key: str, result: Any) -> Any:
        """Write a step's result to the journal; returns it as JSON types. Raises MissingError if the disk is full."""
        plain = to_plain(result)
        append_record(self.path / "journal.jsonl", {"schema": STEP_SCHEMA, "key": key, "sha256": digest_of(plain), "result": plain})
        self._steps[key] = plain
        return plain

    def put_candidate(self, candidate: CandidateResult) -> None:
        """Append a candidate's present state; the last one of an id counts."""
        plain = to_plain(candidate)
        if self._candidates.get(candidate.id) == plain:
            return
        append_record(self.path / "candidates.jsonl", {"schema": CANDIDATE_SCHEMA, **plain})
        self._candidates[candidate.id] = plain

    def candidates(self) -> dict[str, dict[str, Any]]:
        """Candidates by id, in the order in which they first appeared."""
        return dict(self._candidates)

    def put_outcomes(self, deployment_sha256: str, suite: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Write the outcomes of a deployment on a suite; returns a mapping to keep in the journal: `file`, `sha256`, `n`."""
        name = f"items/{_slug(suite)}-{_slug(deployment_sha256)[:16]}.parquet"
        write_outcomes(self.path / name, outcomes, {"suite": suite, "deployment": deployment_sha256})
        return {"file": name, "sha256": sha256_file(self.path / name), "n": len(outcomes)}

    def get_outcomes(self, kept: Mapping[str, Any]) -> tuple[Outcome, ...] | None:
        """Outcomes from what `put_outcomes` returned; None if the file is gone or is not the one that was written."""
        path = self.path / str(kept["file"])
        try:
            if sha256_file(path) != kept["sha256"]:
                return None
        except OSError:
            return None
        return read_outcomes(path)[0]

    def write_text(self, name: str, text: str) -> Path:
        """Write a file of the run, whole or not at all; returns its path."""
        path = self.path / name
        with sentences(path, "write"):
            write_atomic(path, text)
        return path

    def write_decision(self, decision: Mapping[str, Any]) -> str:
        """Write decision.json; returns its digest (sha256 of the canonical JSON)."""
        plain = to_plain(decision)
        check_schema(plain, DECISION_SCHEMA, "The decision")
        self.write_text("decision.json", _pretty_json(plain))
        return digest_of(plain)

    def write_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        """Write evaluation.json: levels without a verdict."""
        plain = to_plain(evaluation)
        check_schema(plain, EVALUATION_SCHEMA, "The evaluation")
        self.write_text("evaluation.json", _pretty_json(plain))

    def finish(self) -> None:
        """Note in run.json that the run came to its end. Idempotent: the first end stays."""
        if self.head["finished"] is None:
            self.head["finished"] = now()
            self._write_head()

    def close(self) -> None:
        """Give the directory, and the built weights in the cache folder, free. Idempotent."""
        if self._caches is not None:
            self._caches.release()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_head(self) -> None:
        self.write_text("run.json", _pretty_json(self.head))

    def _read_steps(self) -> dict[str, Any]:
        path = self.path / "journal.jsonl"
        steps: dict[str, Any] = {}
        for number, record in enumerate(self._read_lines(path, STEP_SCHEMA, ("key", "sha256", "result")), start=1):
            if digest_of(record["result"]) != record["sha256"]:
                raise InputError(f"{path} is damaged at line {number}: the result is not the one written; start anew with --fresh.")
            steps[str(record["key"])] = record["result"]
        return steps

    def _read_candidates(self) -> dict[str, dict[str, Any]]:
        records = self._read_lines(self.path / "candidates.jsonl", CANDIDATE_SCHEMA, ("id",))
        return {str(record["id"]): {key: value for key, value in record.items() if key != "schema"} for record in records}

    def _read_lines(self, path: Path, schema: str, fields: Sequence[str]) -> list[dict[str, Any]]:
        records, warning = read_records(path, mend=True)
        if warning:
            self.warnings.append(warning)
        for number, record in enumerate(records, start=1):
            check_schema(record, schema, f"Line {number} of {path}")
            for field in fields:
                if field not in record:
                    raise InputError(f"{path} is damaged at line {number}: it has no {field!r}; start anew with --fresh.")
        return records

    def _remove_leftovers(self) -> None:
        """Temporary files of a killed writer; under the lock nobody else writes here."""
        with sentences(self.path, "write"):
            for folder in (self.path, self.path / "items"):
                for leftover in folder.glob(".*.part"):
                    leftover.unlink(missing_ok=True)


def read_run(path: Path) -> dict[str, Any]:
    """run.json of a run directory, without locking it. Raises InputError."""
    return read_json(path / "run.json", RUN_SCHEMA)


def read_decision(path: Path) -> dict[str, Any]:
    """decision.json, given itself or its run directory, without locking. Raises InputError."""
    return read_json(path / "decision.json" if path.is_dir() else path, DECISION_SCHEMA)


def read_evaluation(path: Path) -> dict[str, Any]:
    """evaluation.json of a run directory, without locking. Raises InputError."""
    return read_json(path / "evaluation.json", EVALUATION_SCHEMA)


def read_candidates(path: Path) -> dict[str, dict[str, Any]]:
    """Candidates by id as a run directory has them now, without locking or mending it. Raises InputError."""
    records, _ = read_records(path / "candidates.jsonl", mend=False)
    return {str(record.get("id")): record for record in records}


def read_step_keys(path: Path) -> list[str]:
    """Keys of the finished steps of a run directory, in their order, without locking or mending it. Raises InputError."""
    records, _ = read_records(path / "journal.jsonl", mend=False)
    return [str(record.get("key")) for record in records]


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What `remove_run` freed, and the files it kept because no run writes such files (paths relative to the run directory)."""

    path: Path
    n_files: int
    n_bytes: int
    kept: tuple[str, ...]


def check_is_run(path: Path) -> None:
    """Raises InputError unless `path` is itself (not by a link) a directory with the run.json of a run, of whatever version."""
    if path.is_symlink():
        raise InputError(f"{path} is a link; name the run directory itself.")
    if not path.is_dir():
        raise InputError(f"{path} is not a run directory: {_what_is_there(path)}")
    if (path / "train.toml").is_file():
        raise InputError(f"{path} is the folder of a training, which `trimtab train` reads; its page is {path / 'report.html'}.")
    head = path / "run.json"
    try:
        text = head.read_text(encoding="utf-8") if head.is_file() and not head.is_symlink() else ""
        schema = json.loads(text).get("schema") if text else None
    except (OSError, ValueError, AttributeError, RecursionError):
        schema = None
    if not isinstance(schema, str) or schema.partition("/")[0] != RUN_SCHEMA.partition("/")[0]:
        raise InputError(f"{path} is not a run directory: it has no run.json that trimtab wrote; `trimtab runs list FOLDER` finds runs.")


def _what_is_there(path: Path) -> str:
    """Why there is no folder at `path`, and what was probably meant."""
    if path.exists():
        return f"it is a file; name the folder it lies in, {path.parent}."
    usual = Path("runs") / path.name
    if (usual / "run.json").is_file():
        return f"there is no such folder; did you mean {usual}?"
    return "there is no such folder; `trimtab runs list` shows which runs there are."


def remove_run(path: Path, *, dry_run: bool = False) -> Removed:
    """Remove what a run wrote in its directory, and the directory if nothing else is in it. Links are kept, never followed.

    run.json goes last, so that what an interrupted removal left can be removed again.
    Raises InputError (not a run directory, in use, no permission) or MissingError.
    """
    check_is_run(path)
    lock = FolderLock(path)
    try:
        with sentences(path, "read"):
            inside = sorted(found for found in path.rglob("*") if found.is_symlink() or not found.is_dir())
        written = [found for found in inside if _is_written_by_runs(found, found.relative_to(path).as_posix())]
        written.sort(key=lambda found: (found.parent == path, found.name == "run.json", found.name == LOCK_NAME))
        n_bytes = sum(found.lstat().st_size for found in written)
        kept = tuple(found.relative_to(path).as_posix() for found in inside if found not in set(written))
        if not dry_run:
            with sentences(path, "remove"):
                for found in written:
                    found.unlink()
                folders = sorted((found for found in path.rglob("*") if found.is_dir() and not found.is_symlink()), reverse=True)
                for folder in (*(folder for folder in folders if _is_folder_of_runs(folder.relative_to(path).as_posix())), path):
                    if not any(folder.iterdir()):
                        folder.rmdir()
    finally:
        lock.release()
    return Removed(path=path, n_files=len([found for found in written if found.name != LOCK_NAME]), n_bytes=n_bytes, kept=kept)


_WRITTEN = re.compile(
    r"(run\.json|journal\.jsonl|candidates\.jsonl|decision\.json|evaluation\.json|deploy\.toml|(report|items)\.html|\.lock|\..+\.part"
    r"|items/[A-Za-z0-9_.-]+\.(parquet|json)|items/\..+\.part|cache/[a-z][a-z0-9_]*/[0-9a-f]{2}/([0-9a-f]{64}|\..+\.part))"
)
_FOLDERS = re.compile(r"items|cache(/[a-z][a-z0-9_]*(/[0-9a-f]{2})?)?")


def _is_written_by_runs(path: Path, name: str) -> bool:
    return bool(_WRITTEN.fullmatch(name)) and stat.S_ISREG(path.lstat().st_mode)


def _is_folder_of_runs(name: str) -> bool:
    return bool(_FOLDERS.fullmatch(name))


def caches_in_use() -> UseLock | None:
    """Keeps models in the cache folder from being removed under a run.

    Without locks there, a removal does not know of anybody and keeps them too.
    """
    with contextlib.suppress(OSError, TrimtabError):
        return UseLock.shared(cache_dir())
    return None


def now() -> str:
    """This moment, UTC, ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _new_head(
    digests: Mapping[str, str],
    seed: int,
    inputs: Mapping[str, Any] | None,
    versions: Mapping[str, str] | None,
    machine: Any,
) -> dict[str, Any]:
    head = {"schema": RUN_SCHEMA, "digests": dict(sorted(digests.items())), "seed": seed, "inputs": inputs or {}}
    plain = to_plain({**head, "versions": versions or {}, "machine": machine, "started": now(), "finished": None})
    return dict(plain)


def _refuse_foreign(path: Path) -> None:
    """A folder that holds something, but no run, is the user's: never written into. Leftovers of a killed start do not count."""
    with sentences(path, "read"):
        others = sorted(item.name for item in path.iterdir() if item.name != LOCK_NAME and not item.name.endswith(".part"))
    if others:
        (path / LOCK_NAME).unlink(missing_ok=True)
        raise InputError(f"{path} is not empty and not a run directory (it holds {others[0]!r}); choose another folder.")


def _refuse_different(path: Path, head: Mapping[str, Any], digests: Mapping[str, str], seed: int) -> None:
    before = {**head.get("digests", {}), "seed": head.get("seed")}
    asked = {**digests, "seed": seed}
    different = sorted(name for name in before.keys() | asked.keys() if before.get(name) != asked.get(name))
    if different:
        raise InputError(
            f"{path} holds a run with another {' and '.join(different)}; "
            "choose another folder, or start anew with --fresh (the old run is moved aside)."
        )


def _move_aside(path: Path, lock: FolderLock) -> FolderLock:
    """Rename the run directory under its lock, make a new one and lock that."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    target = path.with_name(f"{path.name}.old-{stamp}")
    count = 1
    while target.exists():
        count += 1
        target = path.with_name(f"{path.name}.old-{stamp}-{count}")
    with sentences(path, "move"):
        path.rename(target)
    lock.release()
    return FolderLock(path)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("._") or "_"


def _pretty_json(value: Any) -> str:
    """Indented, keys in their given order, no NaN."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
