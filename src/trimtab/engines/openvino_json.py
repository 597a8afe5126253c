"""JSON schemas as grammars for OpenVINO GenAI: a schema is read key by key, and written as the rules that an answer must follow.

GenAI can take schemas itself, and compiles them in a step of all running requests: one that it does not know makes that step and all later
ones fail. It also lets an answer be filled with white space. A grammar of our own has only what is known to compile, and the form that
llama.cpp's answers have: one space after `:` and `,`, and no other; properties in the order of the schema, none that it does not name.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trimtab.core.errors import EngineRefused

NOTES = frozenset({"title", "description", "default", "examples", "$schema", "$comment", "deprecated", "readOnly", "writeOnly"})
"""Keys that change nothing in what a schema allows."""
OWN = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "integer": frozenset({"minimum", "maximum"}),
    "number": frozenset({"minimum"}),
    "string": frozenset({"minLength", "maxLength"}),
    "boolean": frozenset(),
    "null": frozenset(),
}
"""Types, and the keys that are followed for each."""
DEFINITIONS = ("$defs", "definitions")
MOST_PARTS, MOST_RANGE, MOST_ITEMS, MOST_CHARS = 200, 1000, 64, 256
"""Parts of one schema, numbers of a range, and bounds of lists and texts."""
MOST_RULES = 128 * 2**10
"""Characters of the rules. All running requests wait while they are compiled, for so many about a second (SmolLM2's vocabulary, two busy
cores); the first grammar of a process takes some seconds more there."""
BASICS = r"""
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" "}" | "{" string ": " value members "}"
members ::= "" | ", " string ": " value members
array ::= "[" "]" | "[" value elements "]"
elements ::= "" | ", " value elements
string ::= "\"" chars
chars ::= "\"" | char chars
char ::= [^\0-\x1f\"\\] | "\\" escape
escape ::= ["\\/bfnrt] | "u00" [0-1] [0-9a-f]
natural ::= "0" | [1-9] digits
digits ::= "" | [0-9] digits
positive ::= natural | natural "." [0-9] digits
integer ::= natural | "-" natural
number ::= positive | "-" positive
boolean ::= "true" | "false"
null ::= "null"
"""


def grammar_of(schema: str) -> str:
    """The rules of a JSON schema, in GenAI's EBNF. Raises EngineRefused, `(json_schema: ` in its sentence, for what is not followed."""
    try:
        given = json.loads(schema, parse_constant=_no_constant)
        if not isinstance(given, Mapping):
            raise _refused("it is no object")
        return _Grammar(given).text()
    except ValueError:
        raise _refused("it is no JSON") from None
    except RecursionError:
        raise _refused("it is nested too deeply") from None


def _no_constant(name: str) -> None:
    raise ValueError(name)


class _Grammar:
    """The rules of one schema. A part of it is one rule, so that references, circles among them, are names of rules."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._rules: list[str] = []
        self._n_parts = 0
        self._starts: dict[str, list[str]] = {}  # rules with which a rule may begin, before anything of it is written
        self._named = {"#": "whole"}
        parts: list[tuple[str, Any]] = []
        for place in DEFINITIONS:
            if not isinstance(found := given.get(place, {}), Mapping):
                raise _refused(f"{place} is no object")
            for name, part in found.items():
                self._named[f"#/{place}/{name}"] = f"named{len(self._named)}"
                parts.append((self._named[f"#/{place}/{name}"], part))
        parts.append(("whole", {key: value for key, value in given.items() if key not in DEFINITIONS}))
        for rule, part in parts:
            self._rule(rule, self._part(part))
            self._starts[rule] = self._begins
        for rule in self._starts:
            self._check_circle(rule)

    def text(self) -> str:
        rules = "\n".join(["root ::= whole", *self._rules])
        if len(rules) > MOST_RULES:
            raise _refused("its lists, ranges and bounded texts are too many to be followed")
        return rules + BASICS

    def _rule(self, name: str, *choices: str) -> str:
        self._rules.append(f"{name} ::= {' | '.join(choices)}")
        return name

    def _new(self, *choices: str) -> str:
        return self._rule(f"rule{len(self._rules)}", *choices)

    def _check_circle(self, rule: str) -> None:
        """References that lead back to themselves with nothing written on the way have no end."""
        seen: set[str] = set()
        ahead = [rule]
        while ahead:
            for after in self._starts.get(ahead.pop(), ()):
                if after == rule:
                    raise _refused("a $ref leads back to itself")
                if after not in seen:
                    seen.add(after)
                    ahead.append(after)

    def _part(self, given: Any) -> str:
        """The expression of one part; `_begins` then names the rules that it may begin with."""
        self._n_parts += 1
        if self._n_parts > MOST_PARTS:
            raise _refused(f"it has more than {MOST_PARTS} parts")
        self._begins: list[str] = []
        if given is True:
            return "value"
        if not isinstance(given, Mapping):
            raise _refused(f"{_short(given)} stands where a schema is wanted")
        keys = {key: value for key, value in given.items() if key not in NOTES}
        for key, read in (("$ref", self._reference), ("allOf", self._only), ("anyOf", self._any), ("enum", _values), ("const", _value)):
            if key in keys:
                _check_alone(keys, key)
                return read(keys[key])
        kinds = keys.pop("type", None)
        if kinds is None:
            kinds = next((kind for kind, own in OWN.items() if own & keys.keys() and kind in ("object", "array")), None)
            if kinds is None:
                _check_keys(keys, ())
                return "value"
        listed = kinds if isinstance(kinds, list) and kinds else [kinds]
        if any(not isinstance(kind, str) or kind not in OWN for kind in listed):
            raise _refused(f"there is no type {_short(kinds)}")
        _check_keys(keys, listed)
        made = [self._of_type(kind, keys) for kind in listed]
        self._begins = []
        return made[0] if len(made) == 1 else self._new(*made)

    def _reference(self, target: Any) -> str:
        if not isinstance(target, str) or target not in self._named:
            raise _refused(f"$ref {_short(target)} names nothing in $defs")
        self._begins = [self._named[target]]
        return self._named[target]

    def _only(self, parts: Any) -> str:
        if not isinstance(parts, list) or len(parts) != 1:
            raise _refused("allOf is followed with one part only")
        return self._part(parts[0])

    def _any(self, parts: Any) -> str:
        if not isinstance(parts, list) or not parts:
            raise _refused("anyOf is no list of schemas")
        choices, begins = [], []
        for part in parts:
            choices.append(self._part(part))
            begins += self._begins
        self._begins = begins
        return self._new(*choices)

    def _of_type(self, kind: str, keys: Mapping[str, Any]) -> str:
        if kind == "object" and OWN["object"] & keys.keys():
            return self._object(keys)
        if kind == "array" and OWN["array"] & keys.keys():
            return self._array(keys)
        if kind == "string" and OWN["string"] & keys.keys():
            return self._string(keys)
        if kind in ("integer", "number") and {"minimum", "maximum"} & keys.keys():
            return self._number(kind, keys)
        return kind

    def _object(self, keys: Mapping[str, Any]) -> str:
        properties, required, others = keys.get("properties", {}), keys.get("required", []), keys.get("additionalProperties", True)
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise _refused("properties is no object, or required no list")
        if missing := [name for name in required if not isinstance(name, str) or name not in properties]:
            raise _refused(f"required names {_short(missing[0])}, which is not among the properties")
        if not properties:
            if others is False:
                return '"{}"'
            member = f'string ": " {self._part(others)}'
            return self._list("{", member, "}", 0, None)
        members = [
            (f"{_literal(f'{json.dumps(name, ensure_ascii=False)}: ')} {self._part(part)}", name in required)
            for name, part in properties.items()
        ]
        after = {False: '"}"', True: '"}"'}  # what comes after the members so far, by whether one has been written
        for member, is_required in reversed(members):
            with_it = {True: f'", " {member} {after[True]}', False: f"{member} {after[True]}"}
            after = {begun: self._new(*([with_it[begun]] if is_required else [with_it[begun], after[begun]])) for begun in (False, True)}
        return f'"{{" {after[False]}'

    def _string(self, keys: Mapping[str, Any]) -> str:
        least, most = _bounds(keys, "minLength", "maxLength", MOST_CHARS)
        end = r'"\""'
        if most is None:
            more = "chars"
            for _ in range(least):
                more = self._new(f"char {more}")
        else:
            more = end
            for number in range(most - 1, -1, -1):
                more = self._new(*([f"char {more}"] if number < least else [f"char {more}", end]))
        return f"{end} {more}"

    def _array(self, keys: Mapping[str, Any]) -> str:
        least, most = _bounds(keys, "minItems", "maxItems", MOST_ITEMS)
        return self._list("[", self._part(keys.get("items", True)), "]", least, most)

    def _list(self, begin: str, member: str, end: str, least: int, most: int | None) -> str:
        """Members with commas between, from `least` to `most` of them."""
        if most == 0:
            return f'"{begin}{end}"'
        member = self._new(member)
        if most is None:
            more = f"rule{len(self._rules)}"
            self._rule(more, f'"{end}"', f'", " {member} {more}')
        else:
            more = f'"{end}"'
            for number in range(most - 1, 0, -1):
                another = f'", " {member} {more}'
                more = self._new(*([another] if number < least else [another, f'"{end}"']))
        for _ in range(least - 1 if most is None else 0):
            more = self._new(f'", " {member} {more}')
        return self._new(*([f'"{begin}{end}"'] if least == 0 else []), f'"{begin}" {member} {more}')

    def _number(self, kind: str, keys: Mapping[str, Any]) -> str:
        low, high = keys.get("minimum"), keys.get("maximum")
        if type(low) in (int, float) and low == 0 and high is None:
            return "natural" if kind == "integer" else "positive"
        if kind == "integer" and type(low) is int and type(high) is int and 0 <= high - low < MOST_RANGE:
            return self._new(*(_literal(str(number)) for number in range(low, high + 1)))
        raise _refused(f"of bounds, minimum 0 is followed, and for integers a minimum with a maximum at most {MOST_RANGE} above it")


def _bounds(keys: Mapping[str, Any], least_key: str, most_key: str, limit: int) -> tuple[int, int | None]:
    least, most = keys.get(least_key, 0), keys.get(most_key)
    for bound in (least, most):
        if bound is not None and (type(bound) is not int or not 0 <= bound <= limit):
            raise _refused(f"{least_key} and {most_key} are followed from 0 to {limit}")
    if least is None or (most is not None and most < least):
        raise _refused(f"{most_key} is below {least_key}")
    return least, most


def _values(values: Any) -> str:
    if not isinstance(values, list) or not values:
        raise _refused("enum is no list of values")
    return "(" + " | ".join(map(_value, values)) + ")"


def _value(value: Any) -> str:
    return _literal(json.dumps(value, ensure_ascii=False, separators=(", ", ": ")))


def _literal(text: str) -> str:
    """A text of the grammar. What may mean something there, and all but ASCII, is written by its number."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise _refused("a text in it holds half a character")
    chars = (char if char.isascii() and char.isprintable() and char not in '"\\' else f"\\U{ord(char):08X}" for char in text)
    return f'"{"".join(chars)}"'


def _check_alone(keys: Mapping[str, Any], key: str) -> None:
    """Beside these no other key is followed, but for the type of listed values, which their texts have anyway."""
    if key in ("enum", "const"):
        values = keys[key] if key == "enum" and isinstance(keys[key], list) else [keys[key]]
        kinds = keys.get("type")
        if kinds is not None and not all(_has_type(value, kinds if isinstance(kinds, list) else [kinds]) for value in values):
            raise _refused(f"{key} lists a value of another type than {_short(kinds)}")
        keys = {name: value for name, value in keys.items() if name != "type"}
    if others := [name for name in keys if name != key]:
        raise _refused(f"{_short(others[0])} beside {key} is not followed")


def _has_type(value: Any, kinds: Sequence[Any]) -> bool:
    name = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}[type(value)]
    return name in kinds or (name == "integer" and "number" in kinds)


def _check_keys(keys: Mapping[str, Any], kinds: Iterable[str]) -> None:
    known = frozenset().union(*(OWN[kind] for kind in kinds))
    if unknown := sorted(keys.keys() - known):
        raise _refused(f"{_short(unknown[0])} is not followed")


def _short(value: Any) -> str:
    return json.dumps(value)[:60]


def _refused(why: str) -> EngineRefused:
    return EngineRefused(f"OpenVINO cannot hold an answer to this schema (json_schema: {why}).")
