"""Rules of the watch as data: from an alarm to what is done about it. The shipped ones are catalog/watch/standard.toml; pure.

A key that is not known is an error: a rule that was misspelt must not be one that never acts.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from trimtab.core.errors import InputError
from trimtab.core.groups import PREFIX
from trimtab.core.watching import About, ActionKind, Alarm, Severity, Signal

Serves = Literal["stable", "canary", "shadow"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
GROUP = PREFIX
"""What the keys of slices by groups of people begin with, as in `group:sex`."""
_DURATION = re.compile(r"(\d+)(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One line from alarm to action; empty = any. See catalog/watch/standard.toml.

    percent: of requests, for `sample`; replicas: how many more, for `scale`
    """

    name: str
    do: tuple[ActionKind, ...]
    signals: tuple[str, ...] = ()
    about: tuple[About, ...] = ()
    slices: tuple[str, ...] = ()
    serves: tuple[Serves, ...] = ()
    severity: Severity = "low"
    worse: bool = True
    cool_down_s: float = 3600.0
    percent: float = 10.0
    replicas: int = 1


@dataclass(frozen=True, kw_only=True)
class Grades:
    """From which change on an alarm is moderate, high, critical: points of a rate, percent of the level before for means."""

    points: tuple[float, float, float] = (2.0, 5.0, 20.0)
    percent: tuple[float, float, float] = (10.0, 25.0, 100.0)
    groups_step: int = 1


@dataclass(frozen=True, kw_only=True)
class Pages:
    """Whom `page` reaches, by names of environment variables, which hold addresses and secrets; an empty name = not that way.

    webhook: of a URL; webhook_secret: of the key that signs what is sent there
    mail_to: addresses; mail_from: one; smtp: HOST:PORT; smtp_user, smtp_password: names of variables; smtp_tls: STARTTLS is demanded
    """

    webhook: str = "TRIMTAB_WATCH_WEBHOOK"
    webhook_secret: str = "TRIMTAB_WATCH_WEBHOOK_SECRET"
    mail_to: tuple[str, ...] = ()
    mail_from: str = ""
    smtp: str = ""
    smtp_user: str = ""
    smtp_password: str = ""
    smtp_tls: bool = True


@dataclass(frozen=True, kw_only=True)
class Slices:
    """Which parts of the requests are watched by themselves; groups of people always are.

    by: labels, such as `language`; signals: that are judged in each part; most: parts of one kind, all further ones are `other`
    """

    by: tuple[str, ...] = ("language", "topic")
    signals: tuple[str, ...] = ("error", "refused", "valid_json", "guard_out", "thumbs", "edited", "retried", "shadow_nats_per_token")
    most: int = 12


@dataclass(frozen=True, kw_only=True)
class WatchRules:
    """All that a watch goes by. requests_per_false_alarm: of one version, over all that is watched of it

    outside_share: of a day's traffic that may be unlike what the evidence covered
    """

    name: str
    version: str
    rules: tuple[Rule, ...]
    requests_per_false_alarm: int = 1_000_000
    outside_share: float = 0.1
    slices: Slices = field(default_factory=Slices)
    severity: Grades = field(default_factory=Grades)
    page: Pages = field(default_factory=Pages)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a rule asks for. id: of the action, `ALARM-KIND`: an alarm leads to each kind once at most."""

    id: str
    kind: ActionKind
    rule: Rule
    alarm: Alarm


def load_watch_rules(name_or_path: str | Path = "standard") -> WatchRules:
    """Shipped rules by name, or those of a TOML file (a path that ends in .toml). Raises InputError."""
    name = str(name_or_path)
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"Watch rules {name} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    else:
        folder = resources.files("trimtab") / "catalog" / "watch"
        shipped = sorted(one.name.removesuffix(".toml") for one in folder.iterdir() if one.name.endswith(".toml"))
        if name not in shipped:
            raise InputError(f"Unknown watch rules {name!r}; the shipped ones are {', '.join(shipped)}, or give a path that ends in .toml.")
        text = (folder / f"{name}.toml").read_text(encoding="utf-8")
    try:
        return watch_rules_from(tomllib.loads(text), name)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"Watch rules {name} are not valid TOML: {error}.") from None


def watch_rules_from(table: Mapping[str, Any], where: str) -> WatchRules:
    """Rules from TOML, every field checked. where: what to call them. Raises InputError."""
    where = f"Watch rules {where}"
    _known(table, {one.name for one in fields(WatchRules)}, where)
    rules = table.get("rules", [])
    if not isinstance(rules, list) or not rules or not all(isinstance(one, Mapping) for one in rules):
        raise InputError(f"{where} have no [[rules]].")
    read = tuple(_rule(one, where) for one in rules)
    twice = [one.name for index, one in enumerate(read) if one.name in {other.name for other in read[:index]}]
    if twice:
        raise InputError(f"{where}: there are two rules named {twice[0]!r}.")
    values: dict[str, Any] = {key: _text(table, key, where) for key in ("name", "version")}
    if "requests_per_false_alarm" in table:
        values["requests_per_false_alarm"] = int(_number(table, "requests_per_false_alarm", where, 1000, 1e12, whole=True))
    if "outside_share" in table:
        values["outside_share"] = _number(table, "outside_share", where, 0.0, 1.0)
    values["slices"] = _slices(table.get("slices", {}), where)
    return WatchRules(**values, rules=read, severity=_grades(table.get("severity", {}), where), page=_pages(table.get("page", {}), where))


def _rule(table: Mapping[str, Any], where: str) -> Rule:
    name = table.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"{where}: a rule's name must be lower-case letters, digits and -, not {name!r}.")
    where = f"{where}, rule {name!r}"
    _known(table, {one.name for one in fields(Rule)} - {"cool_down_s"} | {"cool_down"}, where)
    words: dict[str, tuple[str, ...]] = {"do": get_args(ActionKind), "about": get_args(About), "serves": get_args(Serves)}
    values: dict[str, Any] = {"name": name}
    for key in ("do", "about", "serves", "signals", "slices"):
        if key in table:
            values[key] = _texts(table, key, where, words.get(key, ()))
    if not values.get("do"):
        raise InputError(f"{where} does nothing; name what to `do`, of {', '.join(words['do'])}.")
    if "severity" in table:
        (values["severity"],) = _texts({"severity": [table["severity"]]}, "severity", where, SEVERITIES)
    if "worse" in table:
        values["worse"] = _truth(table, "worse", where)
    if "cool_down" in table:
        values["cool_down_s"] = _duration(table["cool_down"], f"{where}: cool_down")
    if "percent" in table:
        values["percent"] = _number(table, "percent", where, 0.0, 100.0)
    if "replicas" in table:
        values["replicas"] = int(_number(table, "replicas", where, 1, 1000, whole=True))
    return Rule(**values)


def _slices(table: Any, where: str) -> Slices:
    where = f"{where}, [slices]"
    values: dict[str, Any] = {}
    for key in _table(table, {one.name for one in fields(Slices)}, where):
        values[key] = int(_number(table, key, where, 1, 64, whole=True)) if key == "most" else _texts(table, key, where, ())
    return Slices(**values)


def _grades(table: Any, where: str) -> Grades:
    where = f"{where}, [severity]"
    values: dict[str, Any] = {}
    for key in _table(table, {one.name for one in fields(Grades)}, where):
        if key == "groups_step":
            values[key] = int(_number(table, key, where, 0, 3, whole=True))
            continue
        steps = table[key]
        rising = isinstance(steps, list) and len(steps) == 3 and all(isinstance(one, int | float) for one in steps)
        if not rising or sorted(steps) != steps or steps[0] < 0:
            raise InputError(f"{where}: {key} must be three rising numbers (moderate, high, critical), not {steps!r}.")
        values[key] = tuple(float(one) for one in steps)
    return Grades(**values)


def _pages(table: Any, where: str) -> Pages:
    where = f"{where}, [page]"
    values: dict[str, Any] = {}
    for key in _table(table, {one.name for one in fields(Pages)}, where):
        if key == "mail_to":
            values[key] = _texts(table, key, where, ())
        elif key == "smtp_tls":
            values[key] = _truth(table, key, where)
        else:
            values[key] = _text(table, key, where) if table[key] != "" else ""
    for key in ("webhook", "webhook_secret", "smtp_user", "smtp_password"):
        if values.get(key) and not _VARIABLE.fullmatch(values[key]):
            raise InputError(
                f"{where}: {key} must name an environment variable, such as {key.upper()}; the value itself stands in no file."
            )
    if values.get("mail_to") and not (values.get("mail_from") and re.fullmatch(r"[^\s:]+:\d{1,5}", values.get("smtp", ""))):
        raise InputError(f'{where}: mail_to needs mail_from and smtp = "HOST:PORT".')
    return Pages(**values)


def _known(table: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise InputError(f"{where}: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(known))}.")


def _table(table: Any, known: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(table, Mapping):
        raise InputError(f"{where} must be a table.")
    _known(table, known, where)
    return table


def _text(table: Mapping[str, Any], key: str, where: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {key} must be a text, not {value!r}.")
    return value


def _truth(table: Mapping[str, Any], key: str, where: str) -> bool:
    if type(table[key]) is not bool:
        raise InputError(f"{where}: {key} must be true or false, not {table[key]!r}.")
    return bool(table[key])


def _texts(table: Mapping[str, Any], key: str, where: str, words: Sequence[str]) -> tuple[str, ...]:
    value = table[key]
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise InputError(f"{where}: {key} must be a list of texts, not {value!r}.")
    foreign = [one for one in value if words and one not in words]
    if foreign:
        raise InputError(f"{where}: {key} names {foreign[0]!r}; it may be {', '.join(words)}.")
    return tuple(value)


def _number(table: Mapping[str, Any], key: str, where: str, least: float, most: float, *, whole: bool = False) -> float:
    value = table[key]
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        raise InputError(f"{where}: {key} must be a {'whole ' if whole else ''}number from {least:g} to {most:g}, not {value!r}.")
    return float(value)


def _duration(value: Any, where: str) -> float:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InputError(f'{where} must be a time such as "30s", "10m", "6h" or "7d", not {value!r}.')
    return float(int(match[1]) * _SECONDS[match[2]])


# From alarm to wishes


def is_worse(alarm: Alarm, signal: Signal) -> bool:
    """Whether a change is one for the worse. Of a signal without a good side every change is."""
    return signal.worse == "both" or (alarm.change.value > 0) == (signal.worse == "up")


def severity_of(alarm: Alarm, signal: Signal, grades: Grades) -> Severity:
    """How severe, by the end of the change's interval that is nearer to none; for one group of people, groups_step more.

    What a gate of the policy says of live answers is `high`: its margin is what may not be passed.
    """
    if signal.name.startswith("quality:"):
        return "high"
    low, high = (alarm.change.value if end is None else end for end in (alarm.change.low, alarm.change.high))
    least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    if signal.kind == "mean":
        before = abs(alarm.before.value)
        size, steps = (100.0 * least / before if before else (float("inf") if least else 0.0)), grades.percent
    else:
        size, steps = 100.0 * least, grades.points
    grade = sum(size >= step for step in steps)
    if grade or is_worse(alarm, signal):
        grade += grades.groups_step if of_group(alarm) else 0
    return SEVERITIES[min(grade, len(SEVERITIES) - 1)]


def of_group(alarm: Alarm) -> bool:
    """Whether an alarm is about one group of people."""
    return any(key.startswith(GROUP) for key in alarm.slice)


def matches(rule: Rule, alarm: Alarm, signal: Signal, serves: str, severity: Severity) -> bool:
    """Whether a rule is for an alarm. serves: what the alarm's version does for its model now, empty = nothing, or not known."""
    by = {"groups" if key.startswith(GROUP) else key for key in alarm.slice} or {"all"}
    return (
        (not rule.signals or alarm.signal in rule.signals)
        and (not rule.about or signal.about in rule.about or ("people" in rule.about and of_group(alarm)))
        and (not rule.slices or bool(by & set(rule.slices)))
        and (not rule.serves or serves in rule.serves)
        and SEVERITIES.index(severity) >= SEVERITIES.index(rule.severity)
        and (not rule.worse or is_worse(alarm, signal))
    )


def wishes(
    rules: WatchRules, alarm: Alarm, signal: Signal, *, serves: str, fired: Mapping[tuple[str, str, str], float], part_of: str = ""
) -> tuple[Wish, ...]:
    """What an alarm leads to, rule by rule, each kind once. One that is part of another (its id) is told, and nothing else is done for it.

    fired: (rule, model, version) -> when it last did something; the clock is the alarm's own, so that a log gives the same answer
    """
    severity = severity_of(alarm, signal, rules.severity)
    found: dict[ActionKind, Wish] = {}
    for rule in rules.rules:
        last = fired.get((rule.name, alarm.model, alarm.version))
        if not matches(rule, alarm, signal, serves, severity) or (last is not None and alarm.at_s - last < rule.cool_down_s):
            continue
        for kind in rule.do if not part_of else ("alarm",) if "alarm" in rule.do else ():
            found.setdefault(kind, Wish(id=f"{alarm.id}-{kind}", kind=kind, rule=rule, alarm=alarm))
    return tuple(found.values())
