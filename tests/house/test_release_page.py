"""docs/release.md shows the rules that ship, field by field, and who may do what."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

from trimtab.core.release import ReleaseState, Role
from trimtab.decide.release_rules import STRICTER, Rules, load_rules

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "release.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]


def shown(name: str, value: Any) -> str:
    """A field of the rules as the page has it."""
    if name == "licences":
        return str(len(value))
    if name == "aliases":
        return (
            "; ".join(f"{alias}: " + ", ".join(f"{key} {shown(key, one)}" for key, one in own.items()) for alias, own in value.items())
            or "none"
        )
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(value) or "none" if isinstance(value, tuple) else str(value)


def test_every_field_of_the_shipped_rules_is_on_the_page() -> None:
    standard, two_person = load_rules("standard"), load_rules("two-person")
    fields = [field.name for field in dataclasses.fields(Rules) if field.name not in ("name", "version")]
    for name in fields:
        (row,) = [row for row in ROWS if row[0] == f"`{name}`"]
        assert row[1:3] == [shown(name, getattr(standard, name)), shown(name, getattr(two_person, name))]
        if name == "licences":
            assert row[3].endswith(": " + ", ".join(standard.licences))
            assert standard.licences == two_person.licences
    told = [row[0].strip("`") for row in ROWS if len(row) == 4 and row[0].startswith("`")]
    assert told == ["name`, `version", *fields]


def test_what_an_alias_may_be_stricter_in_is_on_the_page() -> None:
    fields = [field.name for field in dataclasses.fields(Rules)]
    run = fields[fields.index("approvals") : fields.index("waiver_days") + 1]
    assert set(STRICTER) == {*run, "required_answers"}


def test_roles_and_states_are_on_the_page() -> None:
    firsts = [row[0] for row in ROWS]
    assert set(get_args(Role)) | set(get_args(ReleaseState)) <= set(firsts)
