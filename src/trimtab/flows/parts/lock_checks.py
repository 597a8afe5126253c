"""What a lockfile names against what is here: one named check each, with what it was and what it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trimtab.core.deployment import Candidate, EngineBuild, Machine, Settings
from trimtab.core.errors import InputError
from trimtab.core.evidence import Outcome
from trimtab.core.files import digest_of, to_plain
from trimtab.core.model import Snapshot
from trimtab.flows.parts.known import stored_outcomes
from trimtab.record.deploy import DeployLock
from trimtab.record.run import read_decision

SHOWN_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class LockCheck:
    """One thing that the lock names.

    state: `unknown` = nothing here tells what it was
    fails: this change alone means that what is deployed is not what was certified
    numeric: this change may change outputs, and is a reason to measure again
    """

    name: str
    state: Literal["same", "changed", "unknown"]
    was: str
    now: str
    sentence: str
    fails: bool = False
    numeric: bool = False


@dataclass(frozen=True, kw_only=True)
class Beside:
    """The run directory of the certified run.

    settings: of the certified deployment; candidate: its outcomes on the certify items
    """

    folder: Path
    settings: Mapping[str, Any]
    policy: Mapping[str, Any]
    versions: Mapping[str, str]
    candidate: tuple[Outcome, ...]


def read_beside(folder: Path, lock: DeployLock) -> tuple[Beside | None, str]:
    """The run in `folder` if it is the one that the lock rests on, else None and why. Never raises for a folder that is no run."""
    if not (folder / "decision.json").is_file():
        return None, f"no decision.json lies in {folder}"
    try:
        decision = read_decision(folder)
        if digest_of(decision) != lock.decision_sha256:
            return None, f"decision.json in {folder} is not the one that the lock rests on"
        row = next((row for row in decision["candidates"] if row["id"] == lock.id), None)
        if row is None:
            return None, f"decision.json in {folder} has no candidate {lock.id!r}"
        return (
            Beside(
                folder=folder,
                settings=row["settings"],
                policy=decision["policy"],
                versions=decision["versions"],
                candidate=stored_outcomes(folder, str(row["details"].get("deployment_sha256") or lock.deployment.digest)),
            ),
            "",
        )
    except (InputError, KeyError, TypeError) as error:
        return None, f"the run in {folder} cannot be read ({error})"


def decision_check(lock: DeployLock, beside: Beside | None, why_not: str) -> LockCheck:
    """Whether the run that the lock rests on is at hand."""
    was = lock.decision_sha256[:SHOWN_DIGITS]
    if beside is not None:
        return LockCheck(name="decision", state="same", was=was, now=was, sentence=f"The certified run lies in {beside.folder}.")
    return LockCheck(
        name="decision",
        state="unknown",
        was=was,
        now="",
        sentence=f"The outcomes of the certified run are not at hand: {why_not}. No item is watched.",
    )


def source_check(lock: DeployLock, snapshot: Snapshot) -> LockCheck:
    """Source files by name and sha256: the one check that fails by itself, naming the files."""
    was = {file.name: file for file in lock.source_files}
    now = {file.name: file for file in snapshot.files}
    told = []
    for name in dict.fromkeys((*was, *now)):
        if name not in now:
            told.append(f"{name} is missing")
        elif name not in was:
            told.append(f"{name} was not there")
        elif was[name].sha256 != now[name].sha256:
            sizes = f", {was[name].size_bytes:,} bytes then and {now[name].size_bytes:,} now" if _sizes_differ(was[name], now[name]) else ""
            told.append(
                f"{name} has other contents (sha256 {was[name].sha256[:SHOWN_DIGITS]} then, {now[name].sha256[:SHOWN_DIGITS]} now{sizes})"
            )
    if not told and snapshot.digest == lock.source_sha256:
        return same("source files", lock.source_sha256, f"{_files(len(was))} of {lock.source}, each with its sha256.")
    return LockCheck(
        name="source files",
        state="changed",
        was=lock.source_sha256[:SHOWN_DIGITS],
        now=snapshot.digest[:SHOWN_DIGITS],
        sentence=f"{lock.source} is not what was certified: {'; '.join(told) or 'its format is another'}.",
        fails=True,
        numeric=True,
    )


def _sizes_differ(one: Any, other: Any) -> bool:
    return bool(one.size_bytes != other.size_bytes)


def _files(count: int) -> str:
    return "The file" if count == 1 else f"All {count} files"


def same(name: str, digest: str, sentence: str) -> LockCheck:
    """A check that found what the lock names."""
    shown = digest[:SHOWN_DIGITS]
    return LockCheck(name=name, state="same", was=shown, now=shown, sentence=sentence)


def digest_check(name: str, was: str, now: str, *, what: str, why: str, numeric: bool, fails: bool = False) -> LockCheck:
    """A digest against the lock's. what: the thing in words; why: what may have changed it."""
    if was == now:
        return same(name, was, f"{what}: as certified.")
    return LockCheck(
        name=name,
        state="changed",
        was=was[:SHOWN_DIGITS],
        now=now[:SHOWN_DIGITS],
        sentence=f"{what}: changed since it was certified. {why}",
        numeric=numeric,
        fails=fails,
    )


def build_check(was: EngineBuild, now: EngineBuild) -> LockCheck:
    """The engine's build. Another one is no failure by itself."""
    if was == now:
        return same("engine build", was.digest, f"{was.engine} {was.version}, as certified.")
    parts = [f"version {was.version}, now {now.version}"] if was.version != now.version else []
    if was.details != now.details:
        parts.append(f"build {was.details or 'not told'!r}, now {now.details or 'not told'!r}")
    return LockCheck(
        name="engine build",
        state="changed",
        was=f"{was.engine} {was.version}",
        now=f"{now.engine} {now.version}",
        sentence=f"{was.engine} is another build ({'; '.join(parts)}): a reason to measure again, no failure by itself.",
        numeric=True,
    )


def settings_check(lock: DeployLock, beside: Beside | None, numeric: frozenset[str]) -> LockCheck:
    """The lock's settings against those of the decision that it rests on."""
    given = to_plain(lock.settings.given())
    if beside is None:
        return LockCheck(
            name="settings",
            state="unknown",
            was="",
            now=_settings(given),
            sentence="The lock's settings are used; the run they were certified in is not at hand to compare them with.",
        )
    was = dict(beside.settings)
    different = sorted(key for key in was.keys() | given.keys() if was.get(key) != given.get(key))
    if not different:
        return LockCheck(name="settings", state="same", was=_settings(was), now=_settings(given), sentence="Settings: as certified.")
    told = ", ".join(f"{key} {was.get(key, 'not set')} then, {given.get(key, 'not set')} now" for key in different)
    may = any(key in numeric for key in different)
    effect = "may change outputs" if may else "changes speed only"
    return LockCheck(
        name="settings",
        state="changed",
        was=_settings(was),
        now=_settings(given),
        sentence=f"Settings other than those certified ({told}), which {effect}.",
        numeric=may,
    )


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def machine_check(lock: DeployLock, machine: Machine) -> LockCheck:
    """The hardware. Outputs are tried against the certified ones whenever they are at hand, so another machine does not fail."""
    if lock.machine_sha256 == machine.digest:
        return same("machine", machine.digest, f"{machine.cpu}, as certified.")
    return LockCheck(
        name="machine",
        state="changed",
        was=lock.machine,
        now=machine.cpu,
        sentence="Another machine than the one it was certified on: speeds measured there do not hold here.",
    )


def libraries_check(beside: Beside, now: Mapping[str, str]) -> LockCheck:
    """Versions of trimtab, Python and the libraries that matter to the result."""
    names = sorted(name for name in beside.versions.keys() | now.keys() if beside.versions.get(name) != now.get(name))
    if not names:
        return LockCheck(name="libraries", state="same", was="", now="", sentence=f"{len(now)} libraries, all of the same version.")
    told = ", ".join(f"{name} {beside.versions.get(name, 'absent')} then, {now.get(name, 'absent')} now" for name in names)
    return LockCheck(name="libraries", state="changed", was="", now="", sentence=f"Other versions: {told}.")


def reference_check(lock: DeployLock, reference: Candidate, provenance: str) -> LockCheck:
    """Whether what the deployment is held against is what it was held against then."""
    found = reference.deployment
    if found.digest == lock.reference_sha256:
        return same("reference", found.digest, f"Held against what it was certified against: {provenance}.")
    then = lock.reference
    settings = reference.settings
    is_known = then is not None and (then.weights_sha256, then.settings) == (reference.snapshot.digest, settings)
    sentence = (
        f"What it was certified against ({provenance}), as it is made today."
        if is_known
        else f"The certified reference cannot be told from what is here; held against {provenance}. Give --reference if it was another."
    )
    return LockCheck(
        name="reference",
        state="changed" if is_known else "unknown",
        was=lock.reference_sha256[:SHOWN_DIGITS],
        now=found.digest[:SHOWN_DIGITS],
        sentence=sentence,
    )


def certified_numeric_sha256(lock: DeployLock, beside: Beside | None, numeric: frozenset[str]) -> str:
    """Identity of what could change the certified outputs, as Candidate.numeric_sha256 has it."""
    settings = Settings.parse(beside.settings) if beside is not None else lock.settings
    return digest_of([lock.weights_sha256, lock.template_sha256, lock.build, settings.identity(numeric)])
