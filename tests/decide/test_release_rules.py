"""Rules as files, the use.toml, licences along a base-model chain, guards from prohibited uses."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.errors import InputError
from trimtab.core.files import to_plain
from trimtab.core.release import IntendedUse, Licence
from trimtab.core.site import GuardUse
from trimtab.decide.intended_use import parse_use, questions, use_gaps, use_template
from trimtab.decide.licences import bases_of, licence_chain, licence_gaps, licence_of, with_said
from trimtab.decide.release_guards import guards_of, in_words, unguarded
from trimtab.decide.release_rules import Rules, load_rules, rules_from, rules_names

BARE = 'name = "ours"\nversion = "1"\n'


def rules(tmp_path: Path, text: str) -> Rules:
    path = tmp_path / "ours.toml"
    path.write_text(BARE + text, encoding="utf-8")
    return load_rules(path)


def test_the_shipped_rules() -> None:
    assert rules_names() == ["standard", "two-person"]
    standard, two = load_rules("standard"), load_rules("two-person")
    assert (standard.approvals, two.approvals) == (1, 2)
    assert not standard.proposer_may_approve
    assert not two.proposer_may_approve
    assert standard.waivers
    assert not two.of_alias("production").waivers
    assert two.of_alias("staging").waivers
    assert set(standard.required_answers) < set(two.required_answers)


@pytest.mark.parametrize("name", ["standard", "two-person"])
def test_rules_come_back_from_the_ledger_as_they_were(name: str) -> None:
    loaded = load_rules(name)
    guarded = dataclasses.replace(loaded, guards=(GuardUse(name="topics", options={"deny": {"betting": ["casino"]}}),))
    for one in (loaded, guarded):
        again = rules_from(json.loads(json.dumps(to_plain(one))), "again")
        assert again == one
        assert again.digest == one.digest


def test_rules_of_a_file(tmp_path: Path) -> None:
    text = 'approvals = 2\n[[guards]]\nname = "personal"\non_hit = "redact"\n[aliases.production]\nrequired_answers = ["harm"]\n'
    found = rules(tmp_path, text)
    assert found.guards == (GuardUse(name="personal", on_hit="redact"),)
    assert found.of_alias("production").required_answers == ("harm",)
    assert found.of_alias("staging").required_answers == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("approvels = 1", "unknown key 'approvels'"),
        ("approvals = 0", "at least 1, not 0"),
        ("approvals = true", "at least 1, not True"),
        ("approval_days = 1.5", "whole number"),
        ('waivers = "no"', "true or false"),
        ('licence_unknown = "maybe"', "one of refuse, allow"),
        ("licences = [1]", "list of texts"),
        ('required_answers = ["why"]', "names 'why'"),
        ('required_use = ["colour"]', "names 'colour'"),
        ('guards = ["topics"]', "[[guards]] tables"),
        ('[[guards]]\nname = "topics"\nside = "up"', "one of in, out, both"),
        ('[[guards]]\nname = "topics"\nwhen = "now"', "unknown key 'when'"),
        ("aliases = 3", "tables such as"),
        ("[aliases.production]\napprovals = 1", None),
        ("approvals = 2\n[aliases.production]\napprovals = 1", "looser"),
        ("[aliases.production]\nproposer_may_approve = true", "looser"),
        ("waivers = false\n[aliases.production]\nwaivers = true", "looser"),
        ('required_answers = ["harm"]\n[aliases.production]\nrequired_answers = []', "looser"),
        ('[aliases.production]\nlicences = ["MIT"]', "cannot differ by alias"),
        ("= 1", "not valid TOML"),
    ],
)
def test_wrong_rules_are_one_sentence(text: str, words: str | None, tmp_path: Path) -> None:
    if words is None:
        assert rules(tmp_path, text).approvals == 1
        return
    with pytest.raises(InputError) as told:
        rules(tmp_path, text)
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_rules_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Unknown rules 'strict'; the shipped ones are standard, two-person"):
        load_rules("strict")
    with pytest.raises(InputError, match="cannot be read"):
        load_rules(tmp_path / "none.toml")
    (tmp_path / "bare.toml").write_text('version = "1"')
    with pytest.raises(InputError, match="need a name and a version"):
        load_rules(tmp_path / "bare.toml")


# intended use


def test_the_template_can_be_filled_in_and_says_what_is_required() -> None:
    standard = load_rules("standard")
    text = use_template(standard.required_use, standard.required_answers)
    assert parse_use(text, "use.toml") == IntendedUse()
    assert text.count("(required)") == len(standard.required_use) + len(standard.required_answers)
    assert all(question.text in text for question in questions())
    for key in ("owner", *standard.required_answers):
        text = text.replace(f'{key} = ""', f'{key} = "said"')
    for key in ("intended", "prohibited", "affected"):
        text = text.replace(f"{key} = []", f'{key} = ["one", " "]')
    filled = parse_use(text, "use.toml")
    assert filled.intended == ("one",)
    assert use_gaps(filled, standard.required_use, standard.required_answers) == ()
    assert use_gaps(IntendedUse(), standard.required_use, ()) == ("Its intended use lacks owner, intended, prohibited, affected.",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("owner = 3", "owner must be a text"),
        ('intended = "drafts"', "intended must be a list of texts"),
        ('purpose = "x"', "unknown key 'purpose'"),
        ('[answers]\nwhy = "x"', "no question 'why'"),
        ("[answers]\nharm = 1", "the answer 'harm' must be a text"),
        ("answers = 1", "must be a table"),
        ("owner", "not valid TOML"),
    ],
)
def test_wrong_uses_are_one_sentence(text: str, words: str) -> None:
    with pytest.raises(InputError) as told:
        parse_use(text, "use.toml")
    assert words in str(told.value)


# licences


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ({"general.license": "apache-2.0"}, "apache-2.0"),
        ({"license": ["mit"]}, "mit"),
        ({"license": "other", "license_name": "acme-community"}, "acme-community"),
        ({"license": "other"}, "other"),
        ({"license": 3, "licence": ""}, ""),
        ({}, ""),
    ],
)
def test_the_licence_that_metadata_name(metadata: dict[str, Any], licence: str) -> None:
    assert licence_of(metadata) == licence


def test_base_models_of_cards_and_headers() -> None:
    assert bases_of({"base_model": "org/base"}) == ("org/base",)
    assert bases_of({"base_model": ["org/a", " ", 3, "org/b", "org/a"]}) == ("org/a", "org/b")
    header = {
        "general.base_model.count": 2,
        "general.base_model.1.name": "Second",
        "general.base_model.1.organization": "Org",
        "general.base_model.0.repo_url": "https://hub.example/org/first",
        "general.base_model.0.name": "First",
    }
    assert bases_of(header) == ("org/first", "Org/Second")


def test_the_chain_is_followed_and_ends() -> None:
    cards = {
        "org/chat": ({"license": "mit", "base_model": "org/base"}, "its card"),
        "org/base": ({"license": "apache-2.0", "base_model": ["org/chat", "org/lost"]}, "its card"),
    }
    chain = licence_chain(
        "m.gguf", {"general.license": "mit", "base_model": "org/chat"}, "the header", lambda name: cards.get(name, ({}, ""))
    )
    assert [(one.model, one.licence, one.source) for one in chain] == [
        ("m.gguf", "mit", "the header"),
        ("org/chat", "mit", "its card"),
        ("org/base", "apache-2.0", "its card"),
        ("org/lost", "", ""),
    ]


def test_an_endless_chain_is_cut() -> None:
    chain = licence_chain("m0", {"base_model": "m1"}, "", lambda name: ({"base_model": f"m{int(name[1:]) + 1}"}, ""))
    assert len(chain) == 16


def test_what_a_person_says_of_a_licence_is_kept_as_said() -> None:
    chain = (Licence(model="m", licence="mit", source="its card"), Licence(model="org/base", licence=""))
    told = with_said(chain, {"org/base": "Apache-2.0", "org/more": "MIT"}, by="alice", source="https://base.example/LICENSE")
    assert [(one.model, one.licence) for one in told] == [("m", "mit"), ("org/base", "Apache-2.0"), ("org/more", "MIT")]
    assert told[1].source == "said by alice: https://base.example/LICENSE"


def test_unknown_licences_pass_only_where_rules_say_so() -> None:
    allowed = load_rules("standard").licences
    for licence in ("", "other", "unknown"):
        chain = (Licence(model="m", licence=licence),)
        assert licence_gaps(chain, allowed, "refuse") == ("The licence of m is unknown.",)
        assert licence_gaps(chain, allowed, "allow") == ()
    assert licence_gaps((Licence(model="m", licence="APACHE-2.0"),), allowed, "refuse") == ()
    assert licence_gaps((Licence(model="m", licence="llama3.1"),), allowed, "allow") != ()


# guards

KNOWN: Any = {"topics": "both", "hazards": "both", "loops": "out"}


@pytest.mark.parametrize(
    ("use", "read"),
    [
        ("topics: betting = casino, bet", "betting (casino, bet)"),
        ("topics: betting = ", "topics: betting = "),
        ("topics: casino, bet", "casino (bet)"),
        ("topics: casino", "casino"),
        ("hazards: advice on weapons", "hazards: advice on weapons"),
        ("Legal advice", "Legal advice"),
    ],
)
def test_prohibited_uses_in_the_words_of_people(use: str, read: str) -> None:
    assert in_words(use) == read


def test_prohibited_uses_that_name_a_guard_become_one() -> None:
    uses = (
        "hazards: advice on weapons",
        "topics: betting = casino, /bets?/",
        "topics: tax = tax return",
        "loops: endless answers",
        "hazards: drugs",
        "Legal advice",
        "note: this is no guard",
        "topics:",
    )
    required = (GuardUse(name="loops", on_hit="flag"),)
    assert guards_of(uses, required, KNOWN) == (
        GuardUse(name="loops", on_hit="flag"),
        GuardUse(name="hazards"),
        GuardUse(name="topics", options={"deny": {"betting": ["casino", "/bets?/"], "tax": ["tax return"]}}),
    )
    assert unguarded(uses, KNOWN) == ("Legal advice", "note: this is no guard", "topics:")


def test_the_guards_can_be_opened() -> None:
    pytest.importorskip("regex")
    from trimtab.guard.registry import open_guard

    for guard in guards_of(("topics: betting = casino, /bets?/",), (), KNOWN):
        opened = open_guard(guard.name, guard.options, side="in")
        assert opened.check("where is the next casino") != ()
        assert opened.check("where is the next library") == ()
