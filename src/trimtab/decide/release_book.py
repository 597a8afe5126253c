"""What a ledger's entries say at one time: people, releases, how each stands and why, what every alias points at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from trimtab.core.decision import Verdict
from trimtab.core.release import Entry, EntryKind, Person, Release, ReleaseState, Role
from trimtab.core.watching import Impact, Incident
from trimtab.decide.intended_use import use_gaps
from trimtab.decide.licences import licence_gaps
from trimtab.decide.release_rules import Rules

ROLES: Mapping[EntryKind, tuple[Role, ...]] = {
    "person": ("approver",),
    "run": ("operator",),
    "evaluation": ("operator",),
    "release": ("operator",),
    "approval": ("approver",),
    "promotion": ("operator",),
    "rollback": ("operator",),
    "retirement": ("operator",),
    "revocation": ("operator", "approver"),
    "incident": ("operator", "approver", "auditor"),
    "exception": ("approver",),
    "impact": ("operator", "approver", "auditor"),
    "action": ("operator",),
}
"""Who may write what: one of these roles. The first person of a ledger adds itself."""

NOTED: frozenset[EntryKind] = frozenset({"evaluation", "incident", "impact", "action"})
"""What may be noted of a release at any time; it changes nothing about it."""

MAY: Mapping[ReleaseState, frozenset[EntryKind]] = {
    "draft": NOTED | {"release", "exception", "rollback", "retirement", "revocation"},
    "candidate": NOTED | {"release", "exception", "approval", "rollback", "retirement", "revocation"},
    "approved": NOTED | {"release", "exception", "approval", "promotion", "rollback", "retirement", "revocation"},
    "live": NOTED | {"exception", "approval", "promotion", "rollback", "revocation"},
    "retired": NOTED | {"revocation"},
    "revoked": NOTED,
}
"""The machine: what may be written about a release in each state. A rollback goes only where the alias has been before."""

NEXT: Mapping[ReleaseState, frozenset[ReleaseState]] = {
    "draft": frozenset({"candidate", "approved", "live", "retired", "revoked"}),
    "candidate": frozenset({"draft", "approved", "live", "retired", "revoked"}),
    "approved": frozenset({"draft", "candidate", "live", "retired", "revoked"}),
    "live": frozenset({"draft", "candidate", "approved", "revoked"}),
    "retired": frozenset({"revoked"}),
    "revoked": frozenset(),
}
"""Where a release can get to by one entry, or by time alone (approvals and waivers expire). To `live` by a promotion or a rollback only."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """One stretch of what an alias pointed at.

    entry: that made it so; release_id: empty = nothing (what it pointed at was revoked)
    """

    entry: Entry
    release_id: str


@dataclass(frozen=True, kw_only=True)
class Irregular:
    """An entry that the rules do not allow; it changes nothing. reasons: sentences."""

    entry: Entry
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the ledger holds of one release.

    entry: the `release` entry that counts, the last one; sha256: digest of its body, which approvals name
    gates: name -> verdict of the decision's required gates
    proposers: who wrote `release` entries of it
    approvals, waivers, promotions (rollbacks to it too): entries, in order
    """

    entry: Entry
    sha256: str
    release: Release
    rules: Rules
    gates: Mapping[str, Verdict]
    proposers: frozenset[str]
    approvals: tuple[Entry, ...] = ()
    waivers: tuple[Entry, ...] = ()
    promotions: tuple[Entry, ...] = ()
    retired: Entry | None = None
    revoked: Entry | None = None

    @property
    def open_gates(self) -> tuple[str, ...]:
        """Required gates that did not pass."""
        return tuple(name for name, verdict in self.gates.items() if verdict != "pass")


@dataclass(frozen=True, kw_only=True)
class Book:
    """A ledger as it reads.

    people: by name; records: by release id, in the order of their first entries
    aliases: name -> alias -> its stretches, the present one last
    ids: name -> its releases in order; promoted_last: name -> id of the release that an alias was last pointed at
    incidents, impacts: by id, in the order they were first noted, as they stand
    irregular: entries that should not be there
    """

    people: Mapping[str, Person]
    records: Mapping[str, Record]
    aliases: Mapping[str, Mapping[str, tuple[Served, ...]]]
    ids: Mapping[str, Sequence[str]] = field(default_factory=dict)
    promoted_last: Mapping[str, str] = field(default_factory=dict)
    incidents: Mapping[str, Incident] = field(default_factory=dict)
    impacts: Mapping[str, Impact] = field(default_factory=dict)
    irregular: tuple[Irregular, ...] = ()

    def last(self, name: str) -> Record | None:
        """The newest release of a name."""
        own = self.ids.get(name, ())
        return self.records[own[-1]] if own else None

    def next_number(self, name: str) -> int:
        """Of the release of a name that is proposed next."""
        newest = self.last(name)
        return newest.release.number + 1 if newest is not None else 1

    def serving(self, name: str, alias: str) -> str:
        """Id of the release that an alias points at, empty if none."""
        stretches = self.aliases.get(name, {}).get(alias, ())
        return stretches[-1].release_id if stretches else ""

    def live_on(self, release_id: str) -> tuple[str, ...]:
        """Aliases that point at a release."""
        name = release_id.partition("@")[0]
        return tuple(alias for alias, stretches in self.aliases.get(name, {}).items() if stretches[-1].release_id == release_id)

    def was_live_on(self, release_id: str, alias: str) -> bool:
        """Whether an alias points at a release, or ever did."""
        return any(one.release_id == release_id for one in self.aliases.get(release_id.partition("@")[0], {}).get(alias, ()))


@dataclass(frozen=True, kw_only=True)
class Said:
    """An approval or a waiver as it stands. why_not: why it does not count, as a clause; empty = it counts. gate: of a waiver."""

    entry: Entry
    why_not: str
    gate: str = ""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a release stands at one time.

    gaps: what it lacks to be a candidate; lacks_approval: what it lacks to be approved besides, empty or one sentence
    """

    state: ReleaseState
    gaps: tuple[str, ...]
    lacks_approval: str
    approvals: tuple[Said, ...]
    waivers: tuple[Said, ...]
    live_on: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """All that stands between it and an alias."""
        return (*self.gaps, *([self.lacks_approval] if self.lacks_approval else []))


def rules_in_force(book: Book, name: str) -> Rules | None:
    """The rules of the release of a name that was promoted last, else of its first one; None where there is none."""
    own = book.ids.get(name, ())
    return book.records[book.promoted_last.get(name, own[0])].rules if own else None


def effective(book: Book, record: Record, alias: str = "") -> Rules:
    """What a release must meet: its own rules, and in who must say yes never less than those in force, or nobody would need to."""
    rules = record.rules.of_alias(alias)
    in_force = (rules_in_force(book, record.release.name) or record.rules).of_alias(alias)
    return replace(
        rules,
        approvals=max(rules.approvals, in_force.approvals),
        proposer_may_approve=rules.proposer_may_approve and in_force.proposer_may_approve,
        approval_days=min(rules.approval_days, in_force.approval_days),
        waivers=rules.waivers and in_force.waivers,
        waiver_days=min(rules.waiver_days, in_force.waiver_days),
    )


def standing(book: Book, record: Record, at: str, alias: str = "") -> Standing:
    """How a release stands at a time (ISO 8601), by its rules for all aliases, or by those for one."""
    rules = effective(book, record, alias)
    waivers = tuple(_waiver(book, record, rules, entry, at) for entry in record.waivers)
    approvals = tuple(_approval(book, record, rules, entry, at) for entry in record.approvals)
    gaps = (
        *use_gaps(record.release.use, rules.required_use, rules.required_answers),
        *licence_gaps(record.release.licences, rules.licences, rules.licence_unknown),
        *_gate_gaps(record, rules, waivers),
    )
    lacks = _lacks_approval(record, rules, approvals)
    live_on = book.live_on(record.release.id)
    state: ReleaseState
    if record.revoked is not None:
        state = "revoked"
    elif record.retired is not None:
        state = "retired"
    elif live_on:
        state = "live"
    else:
        state = "draft" if gaps else "candidate" if lacks else "approved"
    return Standing(state=state, gaps=gaps, lacks_approval=lacks, approvals=approvals, waivers=waivers, live_on=live_on)


def _gate_gaps(record: Record, rules: Rules, waivers: tuple[Said, ...]) -> list[str]:
    """Gates that did not pass and that nobody answers for."""
    release = record.release
    if not record.open_gates:
        if release.verdict == "pass":
            return []
        return [f"Its decision is {release.verdict}, for no single gate's sake, so there is nothing to waive: judge it again."]
    gaps = []
    for name in record.open_gates:
        own = [one for one in waivers if one.gate == name]
        if any(not one.why_not for one in own):
            continue
        word = "failed" if record.gates[name] == "fail" else "is inconclusive"
        why = f", and the waiver by {own[-1].entry.by} does not count: {own[-1].why_not}" if own else ""
        allowed = " (it can be waived)" if rules.waivers and not own else ""
        gaps.append(f"Its gate {name} {word}{why}{allowed}.")
    return gaps


def _lacks_approval(record: Record, rules: Rules, approvals: tuple[Said, ...]) -> str:
    """Why the approvals do not do, with those that do not count; empty if they do."""
    people = {one.entry.by for one in approvals if not one.why_not}
    if len(people) >= rules.approvals:
        return ""
    others = {one.entry.by: one.why_not for one in approvals if one.why_not and one.entry.by not in people}
    spent = "".join(f"; that by {by} does not count: {why}" for by, why in others.items())
    wanted = "1 approval" if rules.approvals == 1 else f"{rules.approvals} approvals"
    return f"It needs {wanted} and has {len(people)}{spent}."


def _approval(book: Book, record: Record, rules: Rules, entry: Entry, at: str) -> Said:
    why = ""
    if entry.body.get("release_sha256") != record.sha256:
        why = f"the release was changed after it (entry {record.entry.seq}), ask for it again"
    elif "approver" not in roles_of(book, entry.by):
        why = f"{entry.by} is no approver any more"
    elif entry.by in record.proposers and not rules.proposer_may_approve:
        why = f"{entry.by} proposed the release"
    elif moment(entry.at) + timedelta(days=rules.approval_days) <= moment(at):
        why = f"it was given on {day(entry.at)} and held for {rules.approval_days} days"
    return Said(entry=entry, why_not=why)


def _waiver(book: Book, record: Record, rules: Rules, entry: Entry, at: str) -> Said:
    why = ""
    if not rules.waivers:
        why = "the rules allow none here"
    elif moment(str(entry.body["expires"])) <= moment(at):
        why = f"it expired on {day(str(entry.body['expires']))}"
    elif moment(str(entry.body["expires"])) > moment(entry.at) + timedelta(days=rules.waiver_days):
        why = f"it was given for more than {rules.waiver_days} days"
    elif entry.by in record.proposers:
        why = f"{entry.by} proposed the release"
    elif "approver" not in roles_of(book, entry.by):
        why = f"{entry.by} is no approver any more"
    return Said(entry=entry, why_not=why, gate=str(entry.body["gate"]))


def roles_of(book: Book, name: str) -> tuple[Role, ...]:
    """What a person may do, () for one that nobody knows."""
    person = book.people.get(name)
    return person.roles if person is not None else ()


def moment(text: str) -> datetime:
    """A time as the ledger writes it, or any ISO 8601; without a zone it is UTC. Raises ValueError."""
    found = datetime.fromisoformat(text)
    return found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)


def day(text: str) -> str:
    """`2026-11-27` of a time."""
    return moment(text).strftime("%Y-%m-%d")


def record_of(entry: Entry, sha256: str, rules: Rules, before: Record | None) -> Record:
    """The record that a `release` entry begins or completes. Raises KeyError, TypeError for a body that is no release."""
    body: Mapping[str, Any] = entry.body
    return Record(
        entry=entry,
        sha256=sha256,
        release=Release.of(body),
        rules=rules,
        gates=dict(body["gates"]),
        proposers=frozenset({entry.by}) | (before.proposers if before else frozenset()),
        approvals=before.approvals if before else (),
        waivers=before.waivers if before else (),
        promotions=before.promotions if before else (),
    )
