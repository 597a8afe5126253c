"""The model card that the Hugging Face Hub reads: metadata by huggingface_hub's own classes, and what was found as Markdown.

Metadata fields: https://huggingface.co/docs/hub/model-cards and .../model-cards#evaluation-results
"""

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from trimtab.core.phrases import MINUS, count, fixed, is_number, line
from trimtab.package.cards.facts import CardFacts, Plain, Subject, hub_id, licence_of, mapping, prohibited_of, source_of
from trimtab.package.cards.figures import (
    change,
    conditions,
    control,
    counted,
    gate_decimals,
    group_change,
    groups_by_axis,
    languages,
    meaning,
    size_rows,
    speed_rows,
    tests,
)
from trimtab.package.cards.markdown import bullets, code, md, table
from trimtab.package.cards.sentences import answer, failures, level_title, limits, origin, sureness

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_LIBRARIES = {"ctranslate2": "ctranslate2", "llamacpp": "gguf", "openvino": "openvino", "transformers": "transformers"}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def hugging_face_card(facts: CardFacts, subject: Subject) -> str:
    """README.md: metadata and body. The metadata is read back by the library before it is handed out."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(**_metadata(facts, subject))
    text = f"---\n{data.to_yaml()}\n---\n\n{_body(facts, subject)}"
    ModelCard(text)
    return text


def _metadata(facts: CardFacts, subject: Subject) -> dict[str, Any]:
    licence, base, relation = licence_of(facts), *_base(facts)
    known = licence.lower() in _hub_licences()
    results = list(_eval_results(facts, subject))
    spoken = [one for one in languages(facts) if re.fullmatch(r"[a-z]{2,3}", one)]
    named: dict[str, Any] = {
        "base_model": base or None,
        "base_model_relation": relation or None,
        "library_name": _LIBRARIES.get(str(subject.deployment.get("engine"))),
        "license": licence.lower() if known else "other" if licence else "unknown",
        "license_name": licence if licence and not known else None,
        "language": spoken or None,
        "pipeline_tag": "text-generation",
        "tags": ["trimtab"],
    }
    return {**named, "model_name": subject.name, "eval_results": results} if results else named


@cache
def _hub_licences() -> frozenset[str]:
    text = (resources.files("trimtab") / "catalog" / "hub_licences.toml").read_text(encoding="utf-8")
    return frozenset(tomllib.loads(text)["names"])


def _base(facts: CardFacts) -> tuple[str, str]:
    """The Hub's name of the model that this one was made from, and `quantized` where that is what was done to that very model.

    Weights from elsewhere have the base model that their own header names. Whether they are its quantised form is not known: no relation.
    """
    name, _ = hub_id(source_of(facts))
    recipe = mapping(facts.lock.get("recipe"))
    if name:
        stored_anew = mapping(recipe.get("parameters")).get("type") != "as-shipped"
        bits = recipe.get("bits_per_weight")
        return name, "quantized" if recipe and stored_anew and is_number(bits) and bits < 16 else ""
    chain = facts.release.licences[1:] if facts.release else ()
    return next((one.model for one in chain if _HUB_NAME.fullmatch(one.model)), ""), ""


def _eval_results(facts: CardFacts, subject: Subject) -> Iterator["EvalResult"]:
    """The change of every gate that was measured, and the share right where that was counted. `verified` is the Hub's own to set."""
    from huggingface_hub import EvalResult

    suite = mapping(facts.decision.get("suite"))
    for gate in subject.gates:
        if not is_number(gate.get("delta")):
            continue
        name = line(gate.get("suite") or gate.get("name") or "?", 200)
        shared: dict[str, Any] = {
            "task_type": "text-generation",
            "dataset_type": f"trimtab-{line(suite.get('name') or 'suite', 200)}",
            "dataset_name": f"trimtab suite {line(suite.get('name') or '?', 200)} {line(suite.get('version') or '')}: {name}".replace(
                " :", ":"
            ),
            "dataset_config": name,
            "dataset_split": "certify",
            "dataset_revision": line(suite.get("digest") or "") or None,
        }
        counts = {"n": gate.get("n"), "n_clusters": gate.get("n_clusters")}
        judged = {
            key: gate.get(key)
            for key in ("unit", "low", "high", "confidence", "margin", "noise_floor", "verdict", "informative", "required")
            if gate.get(key) is not None
        }
        yield EvalResult(
            **shared,
            metric_type="change_against_reference",
            metric_name=meaning(gate),
            metric_value=gate["delta"],
            metric_args={**judged, **counts},
        )
        if is_number(gate.get("accuracy_candidate")):
            reference = {"reference": gate.get("accuracy")}
            yield EvalResult(
                **shared,
                metric_type="accuracy",
                metric_name=level_title(gate),
                metric_value=gate["accuracy_candidate"],
                metric_args={**reference, **counts},
            )


def _body(facts: CardFacts, subject: Subject) -> str:
    parts = [
        f"# {md(subject.title)}\n\n{md(answer(subject))} {md(origin(facts, subject))}\n\n",
        _use(facts),
        _results(subject),
        _groups(subject),
        _speed(facts, subject),
        f"## What speaks against it\n\n{bullets(list(failures(facts, subject)) or ['Nothing that was tested failed.'])}",
        f"## Limits\n\n{bullets(limits(facts, subject))}",
        _evidence(facts, subject),
    ]
    return "".join(parts).rstrip() + "\n"


def _use(facts: CardFacts) -> str:
    if facts.release is None:
        return "## Use\n\nIt is not released: nobody has stated what it is for.\n\n"
    use = facts.release.use
    said = f"## Use\n\nWho answers for it: {md(use.owner) if use.owner else 'nobody is named'}.\n\n"
    for title, texts in (
        ("Meant for", use.intended),
        ("Must not be used for", prohibited_of(facts)),
        ("People it may touch", use.affected),
    ):
        said += f"{title}:\n\n{bullets(texts)}" if texts else f"{title}: not stated.\n\n"
    return said


def _results(subject: Subject) -> str:
    if not subject.gates:
        return "## Results\n\nNo test of this deployment itself is on record.\n\n"
    rows = [
        [
            md(gate.get("name", "?"), 200),
            md(gate.get("verdict", "?")) + ("" if gate.get("required", True) else " (told only)"),
            md(change(gate)),
            _allowed(gate),
            md(counted(gate)),
            md(control(gate)),
        ]
        for gate in subject.gates
    ]
    heads = ("test", "verdict", "change against the reference", "allowed", "on", "planted fault")
    about = (
        "Changes are this deployment minus the reference; of parity what is served minus what was scored, of tests by group the change "
        "that is furthest from 0. A nat is a factor of e in probability."
    )
    return f"## Results\n\n{about}\n\n{table(heads, rows)}"


def _allowed(gate: Plain) -> str:
    either_way = gate.get("kind") in ("parity", "equivalence", "equivalence_by_group")
    return f"{'±' if either_way else MINUS}{fixed(gate.get('margin'), gate_decimals(gate))}"


def _groups(subject: Subject) -> str:
    rows = [
        [md(axis), md(name, 200), md(group_change(group, gate)), count(group.get("n")), _p(group.get("p_holm"))]
        for axis, found in groups_by_axis(subject).items()
        for name, group, gate in found
    ]
    if not rows:
        return "## By group of people\n\nNo group of people was looked at.\n\n"
    said = (
        "## By group of people\n\nEach group against the others of its kind in the same sentences; p is corrected for the search (Holm). "
        "Intervals are those of the test above.\n\n"
    )
    return said + table(("kind", "group", "change", "items", "p"), rows)


def _p(value: Any) -> str:
    if not is_number(value):
        return "not known"
    return "< 0.0001" if value < 0.0001 else fixed(value, 4)


def _speed(facts: CardFacts, subject: Subject) -> str:
    rows = [[row["level"], row["what"], row["median"], row["n"], row["over"] or "not timed in turns"] for row in speed_rows(subject)]
    said = f"## Speed and size\n\n{md(conditions(facts))}\n\n"
    if rows:
        said += table(("in flight", "what", "median", "on", "times as fast as before, with its 95 % interval"), rows)
    else:
        said += "It was not timed.\n\n"
    sizes = [[md(what), md(figure)] for what, figure in size_rows(subject)]
    return said + (table(("what it needs", "measured"), sizes) if sizes else "")


def _evidence(facts: CardFacts, subject: Subject) -> str:
    lock, release = facts.lock, facts.release
    decision = release.decision_sha256 if release else mapping(lock.get("decision")).get("sha256")
    policy = mapping(facts.decision.get("policy"))
    rows = [
        ("decision", decision),
        ("policy", f"{line(policy.get('name') or '?')}, {line(policy.get('sha256') or '')}" if policy.get("name") else ""),
        ("tests", f"{tests(facts)}, {line(mapping(facts.decision.get('suite')).get('digest') or '')}" if tests(facts) else ""),
        ("deployment", subject.deployment.get("deployment_sha256")),
        ("weights", subject.deployment.get("weights_sha256")),
    ]
    said = "## How it was tested\n\n" + bullets(sureness(facts, subject))
    said += table(("what", "sha256"), [[what, code(digest)] for what, digest in rows if digest])
    check = f"`trimtab verify {release.id}` checks all of this and computes the decision again.\n" if release else ""
    return said + check
