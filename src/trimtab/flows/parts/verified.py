"""What can be held against what of a release: files, decision, signature, approvals, weights. Each check is one sentence."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trimtab.core.decision import Verdict
from trimtab.core.errors import InputError, TrimtabError
from trimtab.core.files import digest_of, sha256_file
from trimtab.core.model import Snapshot
from trimtab.core.release import Blob, Release
from trimtab.decide.release_book import Book, Record, standing
from trimtab.flows.parts.known import known_answers, stored_outcomes
from trimtab.flows.parts.packed import packed_snapshot, whole_snapshot
from trimtab.flows.parts.recompute import is_same, recompute
from trimtab.flows.parts.release_folder import Released, place
from trimtab.package.cargo import PACKED
from trimtab.record.deploy import DeployLock, read_deploy_toml
from trimtab.record.evidence_store import EvidenceStore
from trimtab.record.run import read_decision
from trimtab.record.statements import differences, read_signed
from trimtab.sources.open import open_source

Plain = Mapping[str, Any]
State = Literal["right", "wrong", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at.

    name: `files`, `decision`, `items`, `signature`, `ledger`, `approvals`, `weights` ...
    state: unknown = it could not be checked; needed: then nothing is proved without it
    """

    name: str
    state: State
    sentence: str
    needed: bool = False


def verdict_of(checks: Sequence[Check]) -> Verdict:
    """Fail if anything is wrong, inconclusive if something that is needed could not be checked."""
    if any(check.state == "wrong" for check in checks):
        return "fail"
    return "inconclusive" if any(check.state == "unknown" and check.needed for check in checks) else "pass"


def wrong(name: str, sentence: str) -> Check:
    """A check that failed."""
    return Check(name=name, state="wrong", sentence=sentence)


def files_checks(folder: Path, evidence: Sequence[Blob], cards: Sequence[Blob]) -> list[Check]:
    """Every file of evidence against its digest, and the cards that are there."""
    found = []
    lacking = [blob.name for blob in cards if not (folder / blob.name).is_file()]
    for blob in (*evidence, *cards):
        path = folder / blob.name
        if blob.name in lacking:
            continue
        if not path.is_file():
            found.append(wrong("files", f"{blob.name} is missing."))
        elif path.stat().st_size != blob.size_bytes or sha256_file(path) != blob.sha256:
            found.append(wrong("files", f"{blob.name} is not the file that the release names: its sha256 is {sha256_file(path)[:16]}..."))
    names = {blob.name for blob in evidence}
    others = sorted(path.relative_to(folder).as_posix() for path in (folder / "items").glob("*"))
    found += [wrong("files", f"{name} lies among the items, and the release does not name it.") for name in others if name not in names]
    if not found:
        size_bytes = sum(blob.size_bytes for blob in evidence)
        n_cards = len(cards) - len(lacking)
        also = f" and {n_cards} card{'' if n_cards == 1 else 's'}" if n_cards else ""
        sentence = f"All {len(evidence)} files of evidence ({size_bytes:,} bytes){also} are as named."
        found.append(Check(name="files", state="right", sentence=sentence))
    if lacking:
        found.append(Check(name="files", state="unknown", sentence=f"Not here, and so not checked: {_listed(lacking)}."))
    return found


def decision_checks(folder: Path, release: Release | None) -> list[Check]:
    """Lock, decision, release and items against each other; the decision computed again."""
    try:
        decision = read_decision(folder)
    except TrimtabError as error:
        return [wrong("decision", str(error))]
    found = []
    lock: DeployLock | None = None
    if release is not None or (folder / "deploy.toml").exists():
        try:
            lock = read_deploy_toml(folder / "deploy.toml")
        except TrimtabError as error:
            found.append(wrong("decision", str(error)))
    try:
        told = [*(_lock_faults(lock, decision, folder) if lock else ()), *(_release_faults(release, lock, decision) if release else ())]
    except (LookupError, TypeError, ValueError, AttributeError, TrimtabError) as error:
        told = [f"decision.json is not a whole decision ({type(error).__name__}: {error})."]
    found += [wrong("decision", sentence) for sentence in told]
    if lock is not None and not found:
        whose = "Decision, lock and release" if release is not None else "Decision and lock"
        found.append(Check(name="decision", state="right", sentence=f"{whose} say the same of what was judged, and how."))
    return found + _items_checks(folder, decision)


def _lock_faults(lock: DeployLock, decision: Plain, folder: Path) -> list[str]:
    if digest_of(decision) != lock.decision_sha256:
        return ["decision.json is not the one that deploy.toml rests on."]
    pairs = {
        "policy": (lock.policy_sha256, decision["policy"]["sha256"]),
        "suite": (lock.suite_sha256, decision["suite"]["digest"]),
        "verdict": (lock.verdict, decision["verdict"]),
        "reference": (lock.reference_sha256, decision["reference"]["deployment_sha256"]),
    }
    told = [f"deploy.toml and decision.json are of different {name}s." for name, (one, other) in pairs.items() if one != other]
    rows = [decision["chosen"], decision["baseline"], *(row["details"] for row in decision["candidates"])]
    own = [row for row in rows if row and row.get("deployment_sha256") == lock.deployment.digest]
    if not own or any(row["weights_sha256"] != lock.weights_sha256 for row in own):
        told.append("decision.json does not name the deployment of deploy.toml.")
    if lock.known_answers and not is_same(known_answers(stored_outcomes(folder, lock.deployment.digest)), dict(lock.known_answers)):
        told.append("The known answers of deploy.toml are not those of the items.")
    return told


def _release_faults(release: Release, lock: DeployLock | None, decision: Plain) -> list[str]:
    by_name = {blob.name: blob.sha256 for blob in release.evidence}
    pairs = {
        "decision.json": (release.decision_sha256, by_name.get("decision.json", "")),
        "deploy.toml": (release.lock_sha256, by_name.get("deploy.toml", "")),
        "verdict": (release.verdict, decision["verdict"]),
        "policy": (release.policy_sha256, decision["policy"]["sha256"]),
        "name of the policy": (release.policy, decision["policy"]["name"]),
    }
    if lock is not None:
        pairs["deployment"] = (release.deployment_sha256, lock.deployment.digest)
        pairs["weights"] = (release.weights_sha256, lock.weights_sha256)
    return [f"The release names another {name} than its evidence." for name, (one, other) in pairs.items() if one != other]


def _items_checks(folder: Path, decision: Plain) -> list[Check]:
    again = recompute(folder, decision)
    found = [wrong("items", sentence) for sentence in again.different]
    if again.n_gates and not again.different:
        gates = f"{again.n_gates} gate{'' if again.n_gates == 1 else 's'}"
        found.append(Check(name="items", state="right", sentence=f"{gates} computed again from the items: the same figures and verdicts."))
    found += [
        Check(name="items", state="unknown", sentence=sentence, needed=bool(again.n_judged and not again.n_gates))
        for sentence in again.unknown
    ]
    timings = "Timings, memory and speed-ups are what the machine measured then; nothing can be computed again from them."
    return [*found, Check(name="timings", state="unknown", sentence=timings)]


def statement_checks(
    raw: bytes | None,
    trusted: Mapping[str, str],
    release: Release,
    folder: Path,
    *,
    cards: Sequence[Blob],
    lying_beside: Mapping[str, str],
) -> list[Check]:
    """The signed statement of a release.

    trusted, lying_beside: public key -> whose; those of the second came with the evidence, which proves nothing
    """
    if raw is None:
        return [Check(name="signature", state="unknown", sentence="There is no signed statement here.", needed=True)]
    try:
        read = read_signed(raw, [*trusted, *lying_beside])
        told = differences(read.statement, release, read_decision(folder), cards)
    except InputError as error:
        return [wrong("signature", str(error))]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        return [wrong("signature", f"The statement and decision.json do not fit together ({type(error).__name__}: {error}).")]
    found = [wrong("signature", sentence) for sentence in told]
    known = [key for key in read.keys if key in trusted]
    if known:
        whose = " and ".join(f"{trusted[key]} ({key[:16]}...)" for key in known)
        return found or [
            Check(name="signature", state="right", sentence=f"The statement is about exactly this evidence, signed by {whose}.")
        ]
    beside = [key for key in read.keys if key in lying_beside]
    if beside:
        sentence = (
            f"The statement is signed by {beside[0][:16]}..., whose public key came with the evidence, which proves nothing; get "
            f"{lying_beside[beside[0]]} from somebody you trust and give it with --key."
        )
        return [*found, Check(name="signature", state="unknown", sentence=sentence, needed=True)]
    claimed = ", ".join(f"{key[:16]}..." for key in read.claimed) or "nobody"
    if not trusted:
        sentence = f"The statement names {claimed} as its signer, and no key is known here; give the right one with --key."
        return [*found, Check(name="signature", state="unknown", sentence=sentence, needed=True)]
    return [*found, wrong("signature", f"The statement has no right signature of {_any_of(trusted)}; it names {claimed}.")]


def _any_of(trusted: Mapping[str, str]) -> str:
    names = list(dict.fromkeys(trusted.values()))
    return names[0] if len(names) == 1 else f"any of {', '.join(names)}"


def weights_check(path: Path | None, lock_path: Path) -> Check:
    """Weights as the engine opens them against the lock.

    path: a file, a folder, or a folder with `packed/` in it; None = they are not here
    """
    if path is None:
        sentence = "The weights are not here, so that their bytes were not checked; give them with --weights."
        return Check(name="weights", state="unknown", sentence=sentence)
    try:
        lock = read_deploy_toml(lock_path)
        with tempfile.TemporaryDirectory() as scratch:  # digests that were kept from before would not see a change
            snapshot = _snapshot(path, Path(scratch))
    except TrimtabError as error:
        return wrong("weights", f"The weights cannot be opened: {error}")
    if snapshot.digest != lock.weights_sha256:
        return wrong("weights", f"The weights in {path} are not those that were judged: another file, content or name.")
    return Check(
        name="weights", state="right", sentence=f"The weights in {path} are those that were judged ({snapshot.size_bytes:,} bytes)."
    )


def _snapshot(path: Path, scratch: Path) -> Snapshot:
    if (path / PACKED).is_dir():
        return packed_snapshot(path, caches=scratch)
    return whole_snapshot(path, scratch) if path.is_dir() else open_source(str(path), cache_dir=scratch, offline=True)


def irregular_checks(book: Book, release_id: str) -> list[Check]:
    """Entries about a release, or about people, that somebody wrote past the rules. They count for nothing, and can never be taken out."""
    return [
        Check(
            name="rules",
            state="unknown",
            sentence=f"Entry {one.entry.seq}, {one.entry.kind} by {one.entry.by}, is not allowed and counts for nothing: {one.reasons[0]}",
        )
        for one in book.irregular
        if one.entry.about == release_id or one.entry.kind == "person"
    ]


def unpacked(folder: Path, evidence: Sequence[Blob], store: EvidenceStore) -> list[Check]:
    """Write evidence out of a store, so that it can be read as the run folder that it was. What cannot be read is a check that failed."""
    found = []
    for blob in evidence:
        try:
            store.fetch(blob.sha256, place(folder, blob))
        except InputError as error:
            found.append(wrong("files", f"{blob.name}: {error}"))
    return found


def approval_checks(book: Book, record: Record, at: str) -> list[Check]:
    """Who said yes to exactly this evidence, and what in the ledger about it does not count. at: a time, ISO 8601"""
    now = standing(book, record, at)
    good = [one.entry.by for one in now.approvals if not one.why_not]
    if good:
        found = [Check(name="approvals", state="right", sentence=f"Approved by {_listed(good)}, for exactly this evidence.")]
    else:
        found = [Check(name="approvals", state="unknown", sentence="Nobody has approved it as it is.")]
    told = [
        f"The approval by {one.entry.by} (entry {one.entry.seq}) does not count: {one.why_not}." for one in now.approvals if one.why_not
    ]
    for one in book.irregular:
        if one.entry.about == record.release.id:
            told.append(f"Entry {one.entry.seq} ({one.entry.kind} by {one.entry.by}) changes nothing: {' '.join(one.reasons)}")
    return found + [Check(name="approvals", state="unknown", sentence=sentence) for sentence in told]


def excerpt_checks(released: Released, trusted: Mapping[str, str]) -> list[Check]:
    """What a folder can tell of the ledger that it came from."""
    found = []
    people = list(dict.fromkeys(entry.by for entry in released.approvals))
    if not released.faults:
        yes = f"approved by {_listed(people)}, for exactly this evidence" if people else "approved by nobody as it is"
        sentence = f"Proposed by {released.entry.by} and {yes}; these entries are as they were written."
        found.append(Check(name="approvals", state="right", sentence=sentence))
    unknown = [f"{name} ({released.keys.get(name, '')[:16] or 'no key'}...)" for name in people if released.keys.get(name) not in trusted]
    if unknown:
        sentence = f"The keys of {_listed(unknown)} came with the folder; compare them with ones that you know."
        found.append(Check(name="approvals", state="unknown", sentence=sentence))
    ledger = "Only what the ledger says of this release is here: whether the ledger is whole, and what came later, was not checked."
    return [*found, Check(name="ledger", state="unknown", sentence=ledger)]


def _listed(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
