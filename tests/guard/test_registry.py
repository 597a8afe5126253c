"""Guards by name, ours and those of other packages."""

from importlib.metadata import EntryPoint

import pytest

from trimtab.core import plugins
from trimtab.core.errors import InputError, MissingError
from trimtab.guard import registry
from trimtab.guard.limits import Limits


class Newer(Limits):
    contract_version = 2


def broken():
    raise RuntimeError


@pytest.fixture
def others(monkeypatch):
    points = [
        EntryPoint(name="newer", value=f"{__name__}:Newer", group=registry.GROUP),
        EntryPoint(name="no-class", value=f"{__name__}:broken", group=registry.GROUP),
        EntryPoint(name="absent", value="no_such_module_anywhere:X", group=registry.GROUP),
        EntryPoint(name="fine", value="trimtab.guard.limits:Limits", group=registry.GROUP),
        EntryPoint(name="limits", value="no_such_module_anywhere:X", group=registry.GROUP),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == registry.GROUP else [])
    # The entry points name this module, which pytest imports under a name of its own.
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules[Newer.__module__])


def test_others_are_named_after_ours_and_ours_win(others):
    assert registry.guard_names()[-4:] == ["newer", "no-class", "absent", "fine"]
    assert registry.guard_class("fine") is Limits
    assert registry.guard_class("limits") is Limits


@pytest.mark.parametrize(
    ("name", "words"),
    [("newer", "contract version 2, this trimtab speaks 1"), ("no-class", "is not a trimtab guard"), ("absent", "not installed")],
)
def test_what_cannot_be_used_says_why(others, name, words):
    with pytest.raises(MissingError, match=words):
        registry.guard_class(name)


def test_unknown_names_sides_and_options():
    with pytest.raises(InputError, match="the guards are personal, secrets"):
        registry.guard_class("persona")
    with pytest.raises(InputError, match="reads out texts only"):
        registry.open_guard("loops", side="in")
    with pytest.raises(InputError, match="has no option 'max'"):
        registry.open_guard("limits", {"max": 3})
    with pytest.raises(InputError, match="must be a number"):
        registry.open_guard("limits", {"max_chars": "many"})
