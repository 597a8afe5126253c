"""Rules of a release as data: what must be there and who must have said yes before an alias may point at it.

Shipped ones are in catalog/rules, others are TOML files; the ledger keeps them whole with each release, so that what was allowed then can
be judged again later, whatever the files say by then.
"""

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self, get_args

from trimtab.core.errors import InputError
from trimtab.core.files import digest_of
from trimtab.core.site import GuardUse
from trimtab.decide.intended_use import USE_FIELDS, question_ids

LicenceUnknown = Literal["refuse", "allow"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What one kind of release must meet.

    approvals: people with the role approver who must have approved what the release is now
    proposer_may_approve: whether one of them may be who proposed it
    approval_days: an approval that is older counts no more
    waivers: whether gates may be waived; waiver_days: the longest that a waiver may last
    required_use: fields of core.release.IntendedUse that must be filled in; required_answers: ids of questions that must be answered
    licences: SPDX ids that every model of the base-model chain must be under, one of them
    licence_unknown: what an unknown one means
    guards: what the gateway must put before every model that is released under these rules
    aliases: alias -> fields from approvals to required_answers that are stricter for it
    """

    name: str
    version: str
    approvals: int = 1
    proposer_may_approve: bool = False
    approval_days: int = 90
    waivers: bool = True
    waiver_days: int = 30
    required_use: tuple[str, ...] = USE_FIELDS
    required_answers: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    licence_unknown: LicenceUnknown = "refuse"
    guards: tuple[GuardUse, ...] = ()
    aliases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of everything the rules say."""
        return digest_of(self)

    def of_alias(self, alias: str) -> Self:
        """The rules as they hold for one alias."""
        return replace(self, aliases={}, **self.aliases.get(alias, {}))


STRICTER: Mapping[str, Callable[[Any, Any], bool]] = {
    "approvals": lambda own, base: bool(own >= base),
    "proposer_may_approve": lambda own, base: bool(own <= base),
    "approval_days": lambda own, base: bool(own <= base),
    "waivers": lambda own, base: bool(own <= base),
    "waiver_days": lambda own, base: bool(own <= base),
    "required_answers": lambda own, base: set(base) <= set(own),
}
"""What an alias may have of its own, and when that is no looser than what holds for all."""


def rules_names() -> list[str]:
    """Names of the rules that ship."""
    folder = resources.files("trimtab") / "catalog" / "rules"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_rules(name_or_path: str | Path) -> Rules:
    """Shipped rules by name (`standard`, `two-person`), or those of a TOML file (a path that ends in .toml). Raises InputError."""
    name = str(name_or_path)
    if not name.endswith(".toml"):
        if name not in rules_names():
            raise InputError(f"Unknown rules {name!r}; the shipped ones are {', '.join(rules_names())}, or give a path that ends in .toml.")
        text = (resources.files("trimtab") / "catalog" / "rules" / f"{name}.toml").read_text(encoding="utf-8")
        return rules_from(tomllib.loads(text), name)
    try:
        return rules_from(tomllib.loads(Path(name).read_text(encoding="utf-8")), name)
    except OSError as error:
        raise InputError(f"Rules file {name} cannot be read: {error.strerror or error}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"Rules {name} are not valid TOML: {error}.") from None


def rules_from(table: Mapping[str, Any], where: str) -> Rules:
    """Rules from TOML or from the ledger's JSON, every field checked. where: what to call them. Raises InputError."""
    known = {one.name for one in dataclasses.fields(Rules)}
    unknown = sorted(set(table) - known)
    if unknown:
        raise InputError(f"Rules {where}: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(known))}.")
    if not all(isinstance(table.get(key), str) and table[key].strip() for key in ("name", "version")):
        raise InputError(f"Rules {where} need a name and a version, both texts.")
    values = {key: _checked(key, value, where) for key, value in table.items() if key != "aliases"}
    rules = Rules(**values)
    aliases = table.get("aliases", {})
    if not isinstance(aliases, Mapping) or not all(isinstance(own, Mapping) for own in aliases.values()):
        raise InputError(f"Rules {where}: aliases must be tables such as [aliases.production].")
    return replace(rules, aliases={alias: _own(rules, alias, own, where) for alias, own in aliases.items()})


def _own(rules: Rules, alias: str, own: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What holds for one alias alone: never less than what holds for all."""
    values = {}
    for key, value in own.items():
        if key not in STRICTER:
            raise InputError(f"Rules {where}, alias {alias!r}: {key!r} cannot differ by alias; {', '.join(STRICTER)} can.")
        values[key] = _checked(key, value, f"{where}, alias {alias!r}")
        if not STRICTER[key](values[key], getattr(rules, key)):
            raise InputError(f"Rules {where}, alias {alias!r}: {key} is looser than for all others; an alias may only be stricter.")
    return values


def _checked(key: str, value: Any, where: str) -> Any:
    """One field as its type. Raises InputError for a wrong one."""
    least = {"approvals": 1, "approval_days": 1, "waiver_days": 1}
    if key in least:
        if type(value) is not int or not least[key] <= value <= 36500:
            raise InputError(f"Rules {where}: {key} must be a whole number of at least {least[key]}, not {value!r}.")
        return value
    if key in ("proposer_may_approve", "waivers"):
        if type(value) is not bool:
            raise InputError(f"Rules {where}: {key} must be true or false, not {value!r}.")
        return value
    if key == "licence_unknown":
        if value not in get_args(LicenceUnknown):
            raise InputError(f"Rules {where}: licence_unknown must be one of {', '.join(get_args(LicenceUnknown))}, not {value!r}.")
        return value
    if key == "guards":
        return _guards(value, where)
    if key in ("name", "version"):
        return value
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) and one.strip() for one in value):
        raise InputError(f"Rules {where}: {key} must be a list of texts, not {value!r}.")
    allowed = {"required_use": USE_FIELDS, "required_answers": question_ids()}.get(key)
    foreign = [one for one in value if allowed is not None and one not in allowed]
    if foreign and allowed is not None:
        raise InputError(f"Rules {where}: {key} names {foreign[0]!r}; it can hold {', '.join(allowed)}.")
    return tuple(value)


def _guards(value: Any, where: str) -> tuple[GuardUse, ...]:
    """`[[guards]]` as in a site file; what a guard's options mean is looked at when a gateway opens it."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, Mapping) and isinstance(one.get("name"), str) for one in value):
        raise InputError(f"Rules {where}: guards must be [[guards]] tables, each with a name.")
    words = {"side": ("in", "out", "both"), "on_hit": ("flag", "redact", "block"), "on_error": ("closed", "open")}
    for one in value:
        for key, given in one.items():
            if key not in ("name", "options", *words):
                raise InputError(f"Rules {where}, guard {one['name']!r}: unknown key {key!r}.")
            if key in words and given not in words[key]:
                raise InputError(f"Rules {where}, guard {one['name']!r}: {key} must be one of {', '.join(words[key])}, not {given!r}.")
        if not isinstance(one.get("options", {}), Mapping):
            raise InputError(f"Rules {where}, guard {one['name']!r}: options must be a table.")
    return tuple(GuardUse(**one) for one in value)
