"""Why an entry may not be written: roles, the state of its release, the rules. The same answer before writing and when reading again."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, get_args

from trimtab.core.errors import InputError
from trimtab.core.files import digest_of
from trimtab.core.release import EntryKind, Person, Release, Role
from trimtab.decide.incidents import action_refusals, impact_refusals, incident_refusals
from trimtab.decide.release_book import MAY, ROLES, Book, Record, day, effective, moment, roles_of, standing
from trimtab.decide.release_rules import Rules, rules_from

NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
"""Of a release and of an alias: what also fits as a host's name."""
PERSON = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}")
_COMPLETES = {"use", "licences", "by", "made", "rules", "cards", "statement_sha256"}
"""What a later entry of the same release may say otherwise than the first."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """An entry that somebody would write, or that was written. at: ISO 8601 UTC; is_signed: by the person's key, where there is one."""

    kind: EntryKind
    by: str
    about: str
    body: Mapping[str, Any]
    at: str
    is_signed: bool = True


def refusals(book: Book, wish: Wish) -> tuple[str, ...]:
    """Why not, as sentences; empty = it may be written. `book`: the ledger before it."""
    if wish.kind not in ROLES:  # of an entry that was forged: the ledger itself writes none
        return (f"There is no entry of kind {wish.kind!r}.",)
    first = wish.kind == "person" and not book.people
    if not first:
        if wish.by not in book.people:
            return (f"There is nobody called {wish.by!r} in the ledger; `trimtab release people list` shows who is.",)
        held = roles_of(book, wish.by)
        if not set(held) & set(ROLES[wish.kind]):
            needed = " or ".join(ROLES[wish.kind])
            return (f"{wish.by} may not do this: it takes the role {needed}, and {wish.by} has {', '.join(held) or 'none'}.",)
        if book.people[wish.by].public_key and not wish.is_signed:
            return (f"It is in the name of {wish.by}, who has a key, and not signed with it.",)
    check = _CHECKS.get(wish.kind)
    try:
        return tuple(check(book, wish)) if check is not None else ()
    except InputError as error:
        return (str(error),)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return (f"The entry is not of the form of one ({type(error).__name__}: {error}).",)


def rules_of(body: Mapping[str, Any]) -> Rules:
    """The rules that a `release` entry came with. Raises InputError, KeyError."""
    return rules_from(body["rules"], f"of {body['name']}@{body['number']}")


def _person(book: Book, wish: Wish) -> list[str]:
    person = Person(**{**wish.body, "roles": tuple(wish.body["roles"])})
    if not PERSON.fullmatch(person.name) or person.name != wish.about:
        return [f"{person.name!r} is no name for a person; take letters, digits and . _ @ -, 64 at most."]
    foreign = [role for role in person.roles if role not in get_args(Role)]
    if foreign:
        return [f"There is no role {foreign[0]!r}; the roles are {', '.join(get_args(Role))}."]
    if person.public_key and not _PUBLIC_KEY.fullmatch(person.public_key):
        return ["A public key is 64 hex digits (Ed25519)."]
    if not book.people:
        wrong = wish.by != person.name or set(person.roles) != set(get_args(Role)) or bool(person.public_key and not wish.is_signed)
        return ["The first person of a ledger adds itself, with all roles, and signs that."] if wrong else []
    twin = next((one.name for one in book.people.values() if one.public_key == person.public_key and one.name != person.name), "")
    if person.public_key and twin:
        return [f"That is the key of {twin}; everybody signs with a key of their own."]
    others = {**book.people, person.name: person}
    if not any("approver" in one.roles for one in others.values()):
        return [f"{person.name} is the last approver; give the role to somebody else first."]
    return []


def _release(book: Book, wish: Wish) -> list[str]:
    release = Release.of(wish.body)
    rules_of(wish.body)  # raises for what are no rules
    verdicts = set(dict(wish.body["gates"]).values())
    if release.id != wish.about or not NAME.fullmatch(release.name) or not verdicts <= {"pass", "fail", "inconclusive"}:
        return [
            f"{release.name!r} is no name for a release; take lower-case letters, digits and -, beginning with a letter, 63 at most."
            if not NAME.fullmatch(release.name)
            else "The entry is not of the form of a release."
        ]
    if release.by != wish.by:
        return [f"The release names {release.by} as its proposer, and {wish.by} wrote it."]
    record = book.records.get(release.id)
    if record is None:
        if release.number != (following := book.next_number(release.name)):
            return [f"The next release of {release.name} is {release.name}@{following}, not {release.id}."]
    else:
        state = standing(book, record, wish.at).state
        if "release" not in MAY[state] or record.promotions:
            return [f"{release.id} {_was(state)}, so it can no longer be changed; make a new release with `trimtab release create`."]
        different = [key for key in {**wish.body, **record.entry.body} if wish.body.get(key) != record.entry.body.get(key)]
        if set(different) - _COMPLETES:
            return [f"Only the use and the licences of {release.id} may be completed; make a new release with `trimtab release create`."]
    return []


def _was(state: str) -> str:
    return {"live": "is live", "retired": "was retired", "revoked": "was revoked"}.get(state, "has served")


def _found(book: Book, release_id: str) -> Record:
    record = book.records.get(release_id)
    if record is None:
        name, _, _ = release_id.partition("@")
        own = book.ids.get(name, ())
        known = f"{name} has {', '.join(own[-5:])}" if own else "`trimtab release list` shows what there is"
        raise InputError(f"There is no release {release_id!r}; {known}.")
    return record


def _state_refuses(book: Book, wish: Wish, record: Record) -> list[str]:
    """Whether the machine has no such step from where the release is."""
    now = standing(book, record, wish.at)
    if wish.kind in MAY[now.state]:
        return []
    if now.state == "revoked" and record.revoked is not None:
        reason = str(record.revoked.body.get("reason", "")).rstrip(".")
        return [f"{wish.about} was revoked on {day(record.revoked.at)} by {record.revoked.by}: {reason}. That is final."]
    if now.state == "retired" and record.retired is not None:
        return [f"{wish.about} was retired on {day(record.retired.at)} by {record.retired.by}; make a new release."]
    if now.state == "live":
        return [f"{wish.about} is live on {', '.join(now.live_on)}; promote or roll back to another one first."]
    return [f"{wish.about} is a {now.state}.", *now.gaps]


def _approval(book: Book, wish: Wish) -> list[str]:
    record = _found(book, wish.about)
    if refused := _state_refuses(book, wish, record):
        return refused
    if wish.body["release_sha256"] != record.sha256:
        return [f"{wish.about} was changed since it was looked at (entry {record.entry.seq}); look at it again and approve what it is now."]
    if wish.by in record.proposers and not effective(book, record).proposer_may_approve:
        return [f"{wish.by} proposed {wish.about} and may not approve it; somebody else with the role approver can."]
    return []


def _exception(book: Book, wish: Wish) -> list[str]:
    record = _found(book, wish.about)
    if refused := _state_refuses(book, wish, record):
        return refused
    gate, expires = str(wish.body["gate"]), moment(str(wish.body["expires"]))
    rules = effective(book, record)
    if not rules.waivers:
        return [f"The rules {record.rules.name!r} of {wish.about} allow no waivers."]
    if wish.by in record.proposers:
        return [f"{wish.by} proposed {wish.about} and may not waive its gates; somebody else with the role approver can."]
    if gate not in record.open_gates:
        what = "passed" if gate in record.gates else "is no required gate of it"
        return [f"{gate!r} {what}; the gates of {wish.about} that did not pass: {', '.join(record.open_gates) or 'none'}."]
    if not str(wish.body["reason"]).strip():
        return ["A waiver needs a reason."]
    if expires <= moment(wish.at):
        return ["The waiver would have expired already; choose a later time."]
    if expires > moment(wish.at) + timedelta(days=rules.waiver_days):
        return [f"A waiver may last {rules.waiver_days} days at most by the rules {record.rules.name!r}."]
    return []


def _promotion(book: Book, wish: Wish) -> list[str]:
    record, alias = _found(book, wish.about), str(wish.body["to"])
    if not NAME.fullmatch(alias):
        return [f"{alias!r} is no name for an alias; take lower-case letters, digits and -, beginning with a letter, 63 at most."]
    if standing(book, record, wish.at).state in ("retired", "revoked"):
        return _state_refuses(book, wish, record)
    if alias in book.live_on(wish.about):
        return [f"{alias} points at {wish.about} already."]
    return list(standing(book, record, wish.at, alias).missing)


def _rollback(book: Book, wish: Wish) -> list[str]:
    record, alias = _found(book, wish.about), str(wish.body["alias"])
    if wish.body["to"] != wish.about:
        return ["The entry is not of the form of a rollback."]
    if standing(book, record, wish.at).state in ("retired", "revoked"):
        return _state_refuses(book, wish, record)
    name = record.release.name
    if alias not in book.aliases.get(name, {}):
        return [no_alias(book, name, alias)]
    if book.serving(name, alias) == wish.about:
        return [f"{alias} points at {wish.about} already."]
    if not book.was_live_on(wish.about, alias):
        before = dict.fromkeys(one.release_id for one in book.aliases[name][alias] if one.release_id)
        return [f"{wish.about} has never been live on {alias}; these have: {', '.join(before)}. Promote it instead."]
    return []


def no_alias(book: Book, name: str, alias: str) -> str:
    """The sentence for an alias that does not exist."""
    known = ", ".join(book.aliases.get(name, {}))
    return f"{name} has no alias {alias!r}; {f'it has {known}' if known else 'nothing was promoted yet'}."


def _ends(book: Book, wish: Wish) -> list[str]:
    record = _found(book, wish.about)
    if refused := _state_refuses(book, wish, record):
        return refused
    return [] if wish.kind == "retirement" or str(wish.body["reason"]).strip() else ["A revocation needs a reason."]


def _incident(book: Book, wish: Wish) -> list[str]:
    if "@" in wish.about:
        _found(book, wish.about)
    return incident_refusals(book.incidents, about=wish.about, body=wish.body)


def _impact(book: Book, wish: Wish) -> list[str]:
    if "@" in wish.about:
        _found(book, wish.about)
    return impact_refusals(book.impacts, book.incidents, about=wish.about, body=wish.body)


def _action(book: Book, wish: Wish) -> list[str]:
    if "@" in wish.about:
        _found(book, wish.about)
    return action_refusals(wish.body)


_CHECKS: Mapping[EntryKind, Callable[[Book, Wish], list[str]]] = {
    "person": _person,
    "release": _release,
    "approval": _approval,
    "exception": _exception,
    "promotion": _promotion,
    "rollback": _rollback,
    "retirement": _ends,
    "revocation": _ends,
    "incident": _incident,
    "impact": _impact,
    "action": _action,
}


def body_sha256(body: Mapping[str, Any]) -> str:
    """Digest of a `release` entry's body, which approvals name."""
    return digest_of(body)
