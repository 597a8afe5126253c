"""What can be done with a release, as data: its fields, who may, the flow that does it, and the command that does the same."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trimtab.core.errors import InputError
from trimtab.core.release import EntryKind, Role
from trimtab.decide.release_book import MAY, ROLES
from trimtab.flows import release as flow
from trimtab.web.desk import Desk
from trimtab.web.pages import Refusal, Visit

Given = Mapping[str, str]
LONGEST_TEXT = 4000
DAY_S = 86400.0


@dataclass(frozen=True, kw_only=True)
class Field:
    """One thing that an act wants to know. kind: `choice` of what the page offers, `seen`: what the page showed, not typed"""

    name: str
    label: str
    kind: Literal["text", "area", "number", "choice", "seen"] = "text"
    required: bool = False
    hint: str = ""
    value: str = ""


@dataclass(frozen=True, kw_only=True)
class Act:
    """entry: the kind of entry that it writes, which says who may and in which states

    do: (release id, what was given, who, ledger) -> the flow's answer; done: the sentence for it
    words: of the command line, after `trimtab release`
    """

    name: str
    title: str
    about: str
    entry: EntryKind
    fields: tuple[Field, ...]
    do: Callable[[str, Given, str, str], Mapping[str, Any]]
    done: Callable[[Mapping[str, Any]], str]
    words: Callable[[str, Given], Sequence[str]]
    is_danger: bool = False

    @property
    def roles(self) -> tuple[Role, ...]:
        return ROLES[self.entry]

    def is_open(self, state: Any) -> bool:
        """Whether a release in this state can have it done."""
        return self.entry in MAY[state]


def _days(text: str) -> float:
    if not text.isdecimal() or not 1 <= int(text) <= 36500:
        raise InputError(f"{text!r} is no number of days; give a whole one from 1.")
    return int(text) * DAY_S


def _target(release: str, given: Given, by: str, ledger: str) -> Mapping[str, Any]:
    name, _, number = release.partition("@")
    return flow.rollback(name, to=f"@{number}", alias=given["alias"], note=given["note"], by=by, ledger=ledger)


def _promoted(row: Mapping[str, Any]) -> str:
    if not row["promoted"]:
        raise Refusal(409, "Not promoted", row["reasons"])
    return f"{row['alias']} points at {row['release']} now."


NOTE = Field(name="note", label="Note", kind="area")
REASON = Field(name="reason", label="Reason", kind="area", required=True)

ACTS = (
    Act(
        name="approve",
        title="Approve",
        about="You looked at the evidence and stand for it with your name.",
        entry="approval",
        fields=(
            Field(name="note", label="What you looked at, and why it is good enough", kind="area"),
            Field(name="release_sha256", label="The release as it was looked at", kind="seen", required=True),
        ),
        do=lambda release, given, by, ledger: flow.approve(release, note=given["note"], seen=given["release_sha256"], by=by, ledger=ledger),
        done=lambda row: f"{row['release']} is approved by you.",
        words=lambda release, given: ["approve", release, *_option("--note", given["note"])],
    ),
    Act(
        name="promote",
        title="Promote",
        about="Point an alias at it: what asks for the alias gets this release.",
        entry="promotion",
        fields=(Field(name="to", label="Alias", required=True, value=flow.PRODUCTION, hint="production, staging, or any name"), NOTE),
        do=lambda release, given, by, ledger: flow.promote(release, to=given["to"], note=given["note"], by=by, ledger=ledger),
        done=_promoted,
        words=lambda release, given: ["promote", release, "--to", given["to"], *_option("--note", given["note"])],
    ),
    Act(
        name="rollback",
        title="Roll back to it",
        about="Point an alias back at it, at once. It takes no approval: that was given then.",
        entry="rollback",
        fields=(Field(name="alias", label="Alias", kind="choice", required=True), Field(name="note", label="What went wrong", kind="area")),
        do=_target,
        done=lambda row: f"{row['alias']} points at {row['release']} again.",
        words=lambda release, given: [
            *("rollback", release.partition("@")[0], "--to", f"@{release.partition('@')[2]}", "--alias", given["alias"]),
            *_option("--note", given["note"]),
        ],
    ),
    Act(
        name="waive",
        title="Waive a gate",
        about="Answer with your name, for a time, for a gate that did not pass.",
        entry="exception",
        fields=(
            Field(name="gate", label="Gate", kind="choice", required=True),
            Field(name="reason", label="Why it may serve all the same", kind="area", required=True),
            Field(name="days", label="For how many days", kind="number", required=True, value="14"),
        ),
        do=lambda release, given, by, ledger: flow.waive(
            release, given["gate"], reason=given["reason"], lasts_s=_days(given["days"]), by=by, ledger=ledger
        ),
        done=lambda row: f"The waiver of {row['release']} is in the ledger.",
        words=lambda release, given: [
            *("waive", release, "--gate", given["gate"], "--reason", given["reason"], "--lasts", f"{given['days']}d"),
        ],
    ),
    Act(
        name="retire",
        title="Retire",
        about="Take it out of use. Nothing points at it, and nothing will again.",
        entry="retirement",
        fields=(Field(name="reason", label="Why", kind="area"),),
        do=lambda release, given, by, ledger: flow.retire(release, reason=given["reason"], by=by, ledger=ledger),
        done=lambda row: f"{row['release']} is retired.",
        words=lambda release, given: ["retire", release, *_option("--reason", given["reason"])],
        is_danger=True,
    ),
    Act(
        name="revoke",
        title="Revoke",
        about="End it for good, wherever it serves. That is final.",
        entry="revocation",
        fields=(REASON,),
        do=lambda release, given, by, ledger: flow.revoke(release, reason=given["reason"], by=by, ledger=ledger),
        done=lambda row: (
            f"{row['release']} is revoked" + (f", and taken from {', '.join(row['taken_from'])}." if row["taken_from"] else ".")
        ),
        words=lambda release, given: ["revoke", release, "--reason", given["reason"]],
        is_danger=True,
    ),
)


def _option(name: str, value: str) -> list[str]:
    return [name, value] if value else []


def given_of(form: Mapping[str, Any], fields: Sequence[Field], *, more: Sequence[str] = ("csrf",)) -> dict[str, str]:
    """What was given, every field there. more: names that may be there besides. Raises InputError."""
    names = [field.name for field in fields]
    for name, value in form.items():
        if name not in names and name not in more:
            raise InputError(f"There is no field {name!r} here; the fields are {', '.join(names)}.")
        if not isinstance(value, (str, int)) or isinstance(value, bool) or len(str(value)) > LONGEST_TEXT:
            raise InputError(f"{name} must be a text of {LONGEST_TEXT} characters at most.")
    given = {field.name: str(form.get(field.name, "")).strip() for field in fields}
    for field in fields:
        if field.required and not given[field.name]:
            raise InputError(f"{field.label} is needed.")
    return given


def done(visit: Visit, act: Act, release: str) -> str:
    """Do it in the visitor's name, and the sentence for that. Raises Refusal: signed elsewhere; what the flow raises."""
    given = given_of(visit.form, act.fields)
    need_key(visit, ["release", *act.words(release, given)])
    return act.done(act.do(release, given, visit.name, visit.desk.ledger))


def need_key(visit: Visit, words: Sequence[str]) -> None:
    """Raises Refusal with the command to run elsewhere where the visitor's key is not here. words: after `trimtab`"""
    if not visit.has_key:
        sentence = f"It must be signed with the key of {visit.name}, which is not on this machine. Run this where the key is:"
        raise Refusal(409, "Sign it where your key is", (sentence,), command=command_line(visit.desk, visit.name, words))


def command_line(desk: Desk, name: str, words: Sequence[str]) -> str:
    """The command that does the same, to paste into a shell. words: after `trimtab`"""
    ledger = ["--ledger", desk.shown_ledger] if desk.ledger else []
    return shlex.join(["trimtab", *words, "--as", name, *ledger])
