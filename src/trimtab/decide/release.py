"""A ledger read by its rules: who is who, how each release stands, what every alias pointed at when, and on whose word. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trimtab.core.errors import InputError
from trimtab.core.release import Entry, Person
from trimtab.core.watching import Impact, Incident
from trimtab.decide.incidents import noted_impact, noted_incident
from trimtab.decide.release_book import Book, Irregular, Record, Served, Standing, moment, record_of, standing
from trimtab.decide.release_may import Wish, body_sha256, no_alias, refusals, rules_of

_REFERENCE = re.compile(r"([^@\s]+)(?:@([^@\s]+))?")


def read_book(entries: Sequence[Entry], until: str = "") -> Book:
    """The ledger as it stood at a time (ISO 8601; empty = now). Entries that the rules do not allow are set aside and change nothing.

    entries: whole and in order, as the ledger checked them; signatures are its affair, that one is there is looked at here
    """
    people: dict[str, Person] = {}
    records: dict[str, Record] = {}
    aliases: dict[str, dict[str, tuple[Served, ...]]] = {}
    ids: dict[str, list[str]] = {}
    promoted_last: dict[str, str] = {}
    irregular: list[Irregular] = []
    incidents: dict[str, Incident] = {}
    impacts: dict[str, Impact] = {}
    book = Book(people=people, records=records, aliases=aliases, ids=ids, promoted_last=promoted_last, incidents=incidents, impacts=impacts)
    doubtful: set[str] = set()  # whose key was last given by an entry that was set aside: who signs with it may be anybody
    last = moment(until) if until else None
    for entry in entries:
        if last is not None and moment(entry.at) > last:
            break
        if entry.kind == "anchor":
            continue  # of gateways' logs: what it says is signed in itself, and is about no release
        reasons = refusals(book, _wish_of(entry))
        if entry.by in doubtful:
            reasons = (f"The key of {entry.by} was put there by somebody who may not; an approver must add {entry.by} again.", *reasons)
        if reasons:
            irregular.append(Irregular(entry=entry, reasons=reasons))
        elif entry.kind == "incident":
            incidents[entry.body["id"]] = noted_incident(incidents.get(entry.body["id"]), entry)
        elif entry.kind == "impact":
            impacts[entry.body["id"]] = noted_impact(impacts.get(entry.body["id"]), entry)
        else:
            if entry.kind == "release" and entry.about not in records:
                ids.setdefault(_name_of(entry), []).append(entry.about)
            if entry.kind in ("promotion", "rollback"):
                promoted_last[_name_of(entry)] = entry.about
            _apply(people, records, aliases, entry)
        if entry.kind == "person":
            (doubtful.add if reasons and people else doubtful.discard)(entry.about)
    return replace(book, irregular=tuple(irregular))


def _name_of(entry: Entry) -> str:
    """Of the release that an entry is about."""
    return entry.about.partition("@")[0]


def _wish_of(entry: Entry) -> Wish:
    is_signed = bool(entry.signature)
    return Wish(kind=entry.kind, by=entry.by, about=entry.about, body=entry.body, at=entry.at, is_signed=is_signed)


def _apply(people: dict[str, Person], records: dict[str, Record], aliases: dict[str, dict[str, tuple[Served, ...]]], entry: Entry) -> None:
    """What an allowed entry changes."""
    if entry.kind == "person":
        people[entry.about] = Person(**{**entry.body, "roles": tuple(entry.body["roles"])})
        return
    if entry.kind == "release":
        records[entry.about] = record_of(entry, body_sha256(entry.body), rules_of(entry.body), records.get(entry.about))
        return
    record = records.get(entry.about)
    if record is None:  # a run, an evaluation or an action, which changes nothing here
        return
    own = aliases.setdefault(record.release.name, {}) if entry.kind in ("promotion", "rollback", "revocation") else {}
    if entry.kind == "approval":
        records[entry.about] = replace(record, approvals=(*record.approvals, entry))
    elif entry.kind == "exception":
        records[entry.about] = replace(record, waivers=(*record.waivers, entry))
    elif entry.kind in ("promotion", "rollback"):
        alias = str(entry.body["to" if entry.kind == "promotion" else "alias"])
        own[alias] = (*own.get(alias, ()), Served(entry=entry, release_id=entry.about))
        records[entry.about] = replace(record, promotions=(*record.promotions, entry))
    elif entry.kind == "retirement":
        records[entry.about] = replace(record, retired=entry)
    elif entry.kind == "revocation":
        records[entry.about] = replace(record, revoked=entry)
        for alias, stretches in own.items():
            if stretches[-1].release_id == entry.about:
                own[alias] = (*stretches, Served(entry=entry, release_id=""))


def find(book: Book, reference: str) -> Record:
    """The release behind `support-chat@3`, `support-chat@production`, or `support-chat` for the last one. Raises InputError."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise InputError(f"{reference!r} names no release; write it as support-chat@3, or support-chat@production.")
    name, which = match[1], match[2] or ""
    own = book.ids.get(name, ())
    if not own:
        known = ", ".join(book.ids)
        raise InputError(
            f"There is no release called {name!r}; {f'there is {known}' if known else 'make one with `trimtab release create`'}."
        )
    if not which:
        return book.records[own[-1]]
    if which.isdecimal():
        numbered = f"{name}@{which.lstrip('0')}"
        if numbered in book.records:
            return book.records[numbered]
        raise InputError(f"There is no release {name}@{which}; {name} has {', '.join(own[-5:])}.")
    if which not in book.aliases.get(name, {}):
        raise InputError(no_alias(book, name, which))
    served = book.serving(name, which)
    if not served:
        raise InputError(f"{name}@{which} serves nothing now: what it pointed at was revoked. Promote another one, or roll back.")
    return book.records[served]


@dataclass(frozen=True, kw_only=True)
class AliasThen:
    """What an alias pointed at, at one time, and why.

    record: None = nothing. since: the entry that made it so; promoted: the promotion that it goes back to, where that was a rollback
    standing: how the release stood just before it was promoted, by the alias's rules: its approvals and waivers are the why
    """

    alias: str
    record: Record | None
    since: Entry
    promoted: Entry | None = None
    standing: Standing | None = None


def served_at(entries: Sequence[Entry], name: str, at: str) -> tuple[AliasThen, ...]:
    """What each alias of `name` pointed at, at a time. Raises InputError for a name that nothing was released under by then."""
    book = read_book(entries, at)
    if name not in book.ids:
        raise InputError(f"Nothing was released as {name!r} by {at}; `trimtab release list` shows what there is.")
    return tuple(_serving(entries, book, alias, stretches) for alias, stretches in book.aliases.get(name, {}).items())


def _serving(entries: Sequence[Entry], book: Book, alias: str, stretches: Sequence[Served]) -> AliasThen:
    last = stretches[-1]
    if not last.release_id:
        return AliasThen(alias=alias, record=None, since=last.entry)
    firsts = [one.entry for one in stretches if one.release_id == last.release_id and one.entry.kind == "promotion"]
    before = read_book([entry for entry in entries if entry.seq < firsts[-1].seq])
    then = before.records[last.release_id]
    return AliasThen(
        alias=alias,
        record=then,
        since=last.entry,
        promoted=firsts[-1],
        standing=standing(before, then, firsts[-1].at, alias),
    )


def changes_of(entries: Sequence[Entry], name: str, at: str) -> tuple[Entry, ...]:
    """Entries about a name's releases up to a time, those set aside left out."""
    until = moment(at)
    strange = {one.entry.seq for one in read_book(entries, at).irregular}
    return tuple(
        entry for entry in entries if _name_of(entry) == name and moment(entry.at) <= until and entry.seq not in strange
        and entry.kind != "person"
    )  # fmt: skip
