"""`trimtab release`: from a finished run to what an alias points at, every step an entry of the ledger that its rules allowed.

Answers are JSON types. `by`: who acts, empty = the only person there is; `ledger`: its URL, empty = that of TRIMTAB_HOME.
What the rules refuse is an InputError with the reasons; a refused promotion is an answer of its own.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trimtab.core.decision import Verdict
from trimtab.core.errors import InputError
from trimtab.core.files import digest_of, to_plain, write_atomic
from trimtab.core.release import Blob, Entry, IntendedUse, Release
from trimtab.decide.intended_use import parse_use, use_template
from trimtab.decide.licences import with_said
from trimtab.decide.release import AliasThen, changes_of, find, read_book, served_at
from trimtab.decide.release_book import Book, Record, moment, rules_in_force, standing
from trimtab.decide.release_may import no_alias
from trimtab.decide.release_rules import Rules, load_rules
from trimtab.flows.parts.attest import attest, keep_cards
from trimtab.flows.parts.card_facts import card_facts
from trimtab.flows.parts.licences import licences_of
from trimtab.flows.parts.release_folder import place
from trimtab.flows.parts.released import (
    Refused,
    entries_of,
    evidence_faults,
    now_after,
    opened_store,
    said_row,
    standing_row,
    who,
    write_entry,
)
from trimtab.flows.parts.shipment import Shipment, serving_of, shipment_of
from trimtab.package.cards.facts import CardFacts
from trimtab.package.cargo import LOCK
from trimtab.package.manifests import site
from trimtab.record.deploy import DeployLock, read_deploy_toml
from trimtab.record.disk import disk_error, sentences
from trimtab.record.lock import is_locked
from trimtab.record.run import check_is_run, read_decision, read_run

PRODUCTION = "production"
DEFAULT_RULES = "standard"
EVIDENCE = ("decision.json", "deploy.toml", "run.json", "candidates.jsonl", "report.html")


def create(
    run: str | Path,
    *,
    name: str,
    use: str | Path | None = None,
    rules: str = "",
    said: Mapping[str, str] | None = None,
    said_source: str = "",
    by: str = "",
    ledger: str = "",
) -> dict[str, Any]:
    """Propose what a finished run chose as the next release of `name`: its evidence goes into the store, its entry into the ledger.

    use: a use.toml; rules: name or file, empty = those of the release of that name promoted last, else `standard`
    said: model -> SPDX id, of models whose licence nothing here tells; said_source: where that can be read
    Raises InputError (run unfinished, lock of another decision, not allowed), MissingError.
    """
    folder = Path(run)
    lock, decision = judged(folder)
    asked = load_rules(rules) if rules else None
    meant = read_use(use) if use is not None else IntendedUse()
    licences = licences_of(lock, folder / "deploy.toml")
    person = who(read_book(entries_of(ledger)), by)
    told = with_said(licences, said or {}, by=person, source=said_source)
    evidence = _kept(folder)
    by_name = {blob.name: blob for blob in evidence}
    gates, facts = required_gates(decision), card_facts(shipment_of(folder, allow_uncertified=True))

    def draft(book: Book, at: str) -> tuple[str, dict[str, Any]]:
        release = Release(
            name=name,
            number=book.next_number(name),
            verdict=lock.verdict if decision["verdict"] == "pass" else decision["verdict"],
            decision_sha256=by_name["decision.json"].sha256,
            policy=lock.policy,
            policy_sha256=lock.policy_sha256,
            deployment_sha256=lock.deployment.digest,
            weights_sha256=lock.weights_sha256,
            lock_sha256=by_name["deploy.toml"].sha256,
            evidence=evidence,
            licences=told,
            use=meant,
            made=at,
            by=person,
        )
        rules_then = asked or rules_in_force(book, name) or load_rules(DEFAULT_RULES)
        key = book.people[person].public_key if person in book.people else ""
        return release.id, {**_body(release, rules_then, gates, lock), **_attested(release, facts, key)}

    _note_run(ledger, person, folder, decision, by_name["decision.json"])
    entry = write_entry(ledger, "release", by=person, draft=draft)
    return show(entry.about, ledger=ledger)


def _body(release: Release, rules: Rules, gates: Mapping[str, Verdict], lock: DeployLock) -> dict[str, Any]:
    """The body of a `release` entry: the release, and beside it what it takes to judge it again by the ledger alone."""
    beside = {"gates": dict(gates), "rules": rules, "source": lock.source, "revision": lock.revision, "trimtab": version("trimtab")}
    return {**to_plain(release), **to_plain(beside)}


def _attested(release: Release, facts: CardFacts, key: str) -> dict[str, Any]:
    """The rest of the body: cards and signed statement, which are in the store."""
    store = opened_store()
    cards = keep_cards(facts, release, store)
    return {"cards": to_plain(cards), "statement_sha256": attest(release, facts.decision, store, cards=cards, key=key)}


def judged(folder: Path) -> tuple[DeployLock, dict[str, Any]]:
    """The lock and the decision of a finished run. Raises InputError."""
    check_is_run(folder.resolve())
    if is_locked(folder):
        raise InputError(f"The run in {folder} is still going on; release it when it has ended.")
    if not read_run(folder).get("finished") or not (folder / "decision.json").exists():
        raise InputError(f"The run in {folder} is not finished; run the same command again, which goes on where it stopped.")
    decision = read_decision(folder)
    if not (folder / "deploy.toml").exists():
        raise InputError(
            f"The run in {folder} chose nothing to deploy ({decision['verdict']}): it has no deploy.toml, so nothing to release."
        )
    lock = read_deploy_toml(folder / "deploy.toml")
    if decision["kind"] == "optimize" and lock.id == (decision.get("baseline") or {}).get("id"):
        raise InputError(
            f"The run in {folder} kept its baseline, {lock.id}, which the gates did not examine; "
            "hold it against the reference with `trimtab compare REFERENCE BASELINE --out DIR`, and release that run."
        )
    if digest_of(decision) != lock.decision_sha256:
        raise InputError(
            f"{folder / 'deploy.toml'} belongs to another decision than {folder / 'decision.json'}; release a run as it was left."
        )
    return lock, decision


def required_gates(decision: Mapping[str, Any]) -> dict[str, Verdict]:
    """Verdicts of a decision's required gates; one whose planted fault was missed is inconclusive whatever it says."""
    return {
        str(gate["name"]): gate["verdict"] if gate["verdict"] != "pass" or gate.get("informative", True) else "inconclusive"
        for gate in decision["gates"]
        if gate.get("required", True)
    }


def _kept(folder: Path) -> tuple[Blob, ...]:
    """What of a run `verify` needs, put into the store."""
    store = opened_store()
    names = [name for name in EVIDENCE if (folder / name).is_file()]
    names += sorted(path.relative_to(folder).as_posix() for path in (folder / "items").glob("*") if path.suffix in (".parquet", ".json"))
    return tuple(store.put(folder / name, name=name) for name in names)


def _note_run(ledger: str, by: str, folder: Path, decision: Mapping[str, Any], blob: Blob) -> None:
    """A `run` entry, unless the ledger knows this decision already."""
    about = f"run-{blob.sha256[:16]}"
    if any(entry.kind == "run" and entry.about == about for entry in entries_of(ledger)):
        return
    body = {"verdict": decision["verdict"], "decision_sha256": blob.sha256, "folder_name": folder.resolve().name}
    write_entry(ledger, "run", by=by, draft=lambda book, at: (about, body))


def read_use(path: str | Path) -> IntendedUse:
    """A use.toml. Raises InputError."""
    try:
        return parse_use(Path(path).read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise InputError(f"There is no {path}; `trimtab release use --template > use.toml` writes one to fill in.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file.") from None
    except OSError as error:
        raise disk_error(Path(path), error, "read") from error


def template(rules: str = "") -> str:
    """A use.toml to fill in, with what the rules require marked. Raises InputError."""
    asked = load_rules(rules or DEFAULT_RULES)
    return use_template(asked.required_use, asked.required_answers)


def complete(
    reference: str,
    *,
    use: str | Path | None = None,
    said: Mapping[str, str] | None = None,
    said_source: str = "",
    by: str = "",
    ledger: str = "",
) -> dict[str, Any]:
    """Fill in a release's use or licences. Approvals given before do not count for what it is then; what is said already changes nothing.

    Raises InputError, MissingError.
    """
    known = read_book(entries_of(ledger))
    person = who(known, by)
    meant = read_use(use) if use is not None else None
    kept = find(known, reference)
    same_licences = with_said(kept.release.licences, said or {}, by=person, source=said_source) == kept.release.licences
    if same_licences and meant in (None, kept.release.use):
        return show(kept.release.id, ledger=ledger)
    with _kept_run(kept) as shipment:
        facts = card_facts(shipment)

    def draft(book: Book, at: str) -> tuple[str, dict[str, Any]]:
        record = find(book, reference)
        licences = with_said(record.release.licences, said or {}, by=person, source=said_source)
        changed = {"use": meant if meant is not None else record.release.use, "licences": licences, "by": person, "made": at}
        body = {**record.entry.body, **to_plain(changed)}
        key = book.people[person].public_key if person in book.people else ""
        return record.release.id, {**body, **_attested(Release.of(body), facts, key)}

    return show(write_entry(ledger, "release", by=person, draft=draft).about, ledger=ledger)


@contextlib.contextmanager
def _kept_run(record: Record) -> Iterator[Shipment]:
    """The run that a release rests on, out of the evidence, until the block ends. Raises InputError (missing, damaged), MissingError."""
    store = opened_store()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for blob in record.release.evidence:
            store.fetch(blob.sha256, place(folder, blob))
        yield shipment_of(folder, allow_uncertified=True, release=record.release, rules=record.rules)


def approve(reference: str, *, note: str = "", seen: str = "", by: str = "", ledger: str = "") -> dict[str, Any]:
    """Say yes to a release as it is now. seen: its release_sha256 when it was looked at, where that was a while ago: if it was changed
    since, that is refused. Raises InputError, MissingError.
    """
    entries = entries_of(ledger)
    book = read_book(entries)
    person, record = who(book, by), find(book, reference)
    if faults := evidence_faults(opened_store(), record.release.evidence):
        raise Refused(faults)
    body = {"note": note, "release_sha256": seen or record.sha256}
    write_entry(ledger, "approval", by=person, draft=lambda book, at: (record.release.id, body))
    return show(record.release.id, ledger=ledger)


def waive(reference: str, gate: str, *, reason: str, lasts_s: float, by: str = "", ledger: str = "") -> dict[str, Any]:
    """Answer for a gate that did not pass, for a time. Raises InputError, MissingError."""
    book = read_book(entries_of(ledger))
    person, record = who(book, by), find(book, reference)

    def draft(book: Book, at: str) -> tuple[str, dict[str, Any]]:
        expires = (moment(at) + timedelta(seconds=lasts_s)).isoformat(timespec="microseconds")
        return record.release.id, {"gate": gate, "reason": reason, "expires": expires}

    write_entry(ledger, "exception", by=person, draft=draft)
    return show(record.release.id, ledger=ledger)


def promote(reference: str, *, to: str = PRODUCTION, note: str = "", by: str = "", ledger: str = "") -> dict[str, Any]:
    """Point an alias at a release, if everything that its rules ask for is there.

    Returns `promoted`, and `reasons` where it was refused. Raises InputError for who may not, an unknown release, an unfit name.
    """
    entries = entries_of(ledger)
    book = read_book(entries)
    person, record = who(book, by), find(book, reference)
    release_id, faults = record.release.id, evidence_faults(opened_store(), record.release.evidence)

    def draft(book: Book, at: str) -> tuple[str, dict[str, Any]]:
        return release_id, {"to": to, "from": book.serving(record.release.name, to), "note": note}

    def answer(entry: Entry | None, reasons: Sequence[str]) -> dict[str, Any]:
        before = str(entry.body["from"]) if entry else book.serving(record.release.name, to)
        return {"release": release_id, "alias": to, "from": before, "promoted": entry is not None, "by": person, "reasons": list(reasons)}

    if faults:
        return answer(None, faults)
    try:
        return answer(write_entry(ledger, "promotion", by=person, draft=draft), ())
    except Refused as refused:
        if refused.reasons != standing(book, record, now_after(entries), to).missing:
            raise  # not for what the release lacks, but for who asked, or for the alias
        return answer(None, refused.reasons)


def rollback(name: str, *, to: str, alias: str = "", note: str = "", by: str = "", ledger: str = "") -> dict[str, Any]:
    """Point an alias back at a release that has been live on it; at once. to: `@2`, `2` or `support-chat@2`.

    alias: empty = the only one there is, else `production`. Raises InputError, MissingError.
    """
    book = read_book(entries_of(ledger))
    person = who(book, by)
    if "@" in name:
        raise InputError(f"Name the release without a number, as in `trimtab release rollback {name.partition('@')[0]} --to {to}`.")
    match = re.fullmatch(rf"(?:{re.escape(name)})?@?(\d+)", to)
    if match is None:
        raise InputError(f"{to!r} is no release of {name}; write it as @2.")
    record = find(book, f"{name}@{match[1]}")
    aliases = book.aliases.get(name, {})
    chosen = alias or (next(iter(aliases)) if len(aliases) == 1 else PRODUCTION)
    if chosen not in aliases:
        raise InputError(no_alias(book, name, chosen))
    release_id = record.release.id

    def draft(book: Book, at: str) -> tuple[str, dict[str, Any]]:
        return release_id, {"to": release_id, "alias": chosen, "from": book.serving(name, chosen), "note": note}

    entry = write_entry(ledger, "rollback", by=person, draft=draft)
    return {"release": release_id, "alias": chosen, "from": entry.body["from"], "by": person, "note": note}


def retire(reference: str, *, reason: str = "", by: str = "", ledger: str = "") -> dict[str, Any]:
    """Take a release that serves nowhere out of use. Raises InputError, MissingError."""
    return _end("retirement", reference, reason, by, ledger)


def revoke(reference: str, *, reason: str, by: str = "", ledger: str = "") -> dict[str, Any]:
    """End a release for good, wherever it is; aliases that point at it point at nothing then. Raises InputError, MissingError."""
    return _end("revocation", reference, reason, by, ledger)


def _end(kind: Any, reference: str, reason: str, by: str, ledger: str) -> dict[str, Any]:
    book = read_book(entries_of(ledger))
    person, record = who(book, by), find(book, reference)
    served = list(book.live_on(record.release.id))
    write_entry(ledger, kind, by=person, draft=lambda book, at: (record.release.id, {"reason": reason}))
    return {**show(record.release.id, ledger=ledger), "taken_from": served}


def show(reference: str, *, ledger: str = "") -> dict[str, Any]:
    """A release as it stands now, with all that is missing. Raises InputError, MissingError."""
    entries = entries_of(ledger)
    book = read_book(entries)
    return standing_row(book, find(book, reference), now_after(entries))


def list_releases(name: str = "", *, ledger: str = "") -> dict[str, Any]:
    """Every release (of a name) as it stands now, and the entries of the ledger that its rules do not allow."""
    entries = entries_of(ledger)
    book, at = read_book(entries), now_after(entries)
    rows = [standing_row(book, record, at) for record in book.records.values() if name in ("", record.release.name)]
    if name and not rows:
        find(book, name)  # raises the sentence for a name that does not exist
    irregular = [{"entry": one.entry.seq, "kind": one.entry.kind, "by": one.entry.by, "reasons": one.reasons} for one in book.irregular]
    return {"releases": rows, "irregular": to_plain(irregular)}


def history(name: str, *, at: str = "", ledger: str = "") -> dict[str, Any]:
    """What each alias of a name pointed at, at a time, and who decided that on what evidence; every change up to then.

    at: `2026-11-01 12:00` (UTC) or any ISO 8601, empty = now. Raises InputError.
    """
    entries = entries_of(ledger)
    time = when(at) if at else now_after(entries)
    return {
        "name": name,
        "at": time,
        "serving": [_then(one) for one in served_at(entries, name, time)],
        "changes": _changes(changes_of(entries, name, time)),
    }


def when(text: str) -> str:
    """A time as a person writes it, as the ledger does: UTC, ISO 8601. Raises InputError."""
    try:
        return moment(text.strip()).isoformat(timespec="microseconds")
    except ValueError:
        raise InputError(f"{text!r} is no time; write it as '2026-11-01 12:00' (UTC), or with a zone as 2026-11-01T12:00+01:00.") from None


def _then(one: AliasThen) -> dict[str, Any]:
    row: dict[str, Any] = {
        "alias": one.alias,
        "release": one.record.release.id if one.record else "",
        "since": one.since.at,
        "by": one.since.by,
        "how": one.since.kind,
        "note": one.since.body.get("note", one.since.body.get("reason", "")),
    }
    if one.record is None or one.standing is None or one.promoted is None:
        return {**row, "ended": one.since.about}
    release = one.record.release
    return {
        **row,
        "verdict": release.verdict,
        "decision_sha256": release.decision_sha256,
        "deployment_sha256": release.deployment_sha256,
        "release_sha256": one.record.sha256,
        "proposed_by": release.by,
        "proposed": one.record.entry.at,
        "rules": one.record.rules.name,
        "approvals": [said_row(said) for said in one.standing.approvals if not said.why_not],
        "waivers": [said_row(said) for said in one.standing.waivers if not said.why_not],
        "promoted_by": one.promoted.by,
        "promoted": one.promoted.at,
        "entries": sorted(
            {one.record.entry.seq, one.promoted.seq, one.since.seq}
            | {said.entry.seq for said in (*one.standing.approvals, *one.standing.waivers) if not said.why_not}
        ),
    }


def _changes(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """A row an entry. completes: a `release` entry of a release that was there already"""
    keys = ("note", "reason", "gate", "expires", "to", "alias", "from", "title", "severity", "verdict", "effect", "result")
    rows, seen = [], set()
    for entry in entries:
        own = {key: entry.body[key] for key in keys if entry.body.get(key)}
        if entry.kind == "release" and entry.about in seen:
            own["completes"] = True
        seen.add(entry.about)
        rows.append({"entry": entry.seq, "at": entry.at, "kind": entry.kind, "release": entry.about, "by": entry.by, **own})
    return rows


def site_files(reference: str, out: str | Path, *, ledger: str = "") -> dict[str, Any]:
    """Write deploy.toml, decision.json and a site.toml with the release's guards into a folder; `trimtab serve` takes the last.

    Raises InputError (folder not empty, evidence changed), MissingError.
    """
    record, folder = find(read_book(entries_of(ledger)), reference), Path(out)
    with _kept_run(record) as shipment:
        serving, decision = serving_of(shipment), (shipment.folder / "decision.json").read_bytes()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder; name a new one with --out.")
    with sentences(folder, "write"):
        for name, data in {**site.site_files(serving, lock=LOCK, is_open=False), "decision.json": decision}.items():
            write_atomic(folder / name, data)
    told = {"guards": to_plain(serving.guards), "unguarded": list(serving.unguarded)}
    return {"folder": str(folder), "site": str(folder / site.SITE), **told}
