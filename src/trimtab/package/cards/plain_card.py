"""The card for people who are no engineers: one self-contained page. It loads nothing, runs nothing and escapes every text it prints."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from trimtab.core.phrases import count, fixed, is_number, line
from trimtab.package.cards.facts import CardFacts, Plain, Subject, licence_of, mapping, prohibited_of
from trimtab.package.cards.figures import (
    change,
    conditions,
    control,
    counted,
    gate_decimals,
    group_change,
    groups_by_axis,
    in_odds,
    languages,
    tests,
)
from trimtab.package.cards.sentences import (
    answer,
    failures,
    faster,
    gate_finding,
    gate_level,
    gate_title,
    limits,
    origin,
    sureness,
)

if TYPE_CHECKING:
    import jinja2

LONGEST = 2000
VERDICTS = {"pass": "passed", "fail": "did not pass", "inconclusive": "cannot tell"}


def plain_card(facts: CardFacts, subject: Subject) -> str:
    """card.html."""
    return _environment().get_template("card.html.j2").render(page=page_of(facts, subject)) + "\n"


@cache
def _environment() -> "jinja2.Environment":
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("trimtab.package.cards", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_tied,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _tied(value: Any) -> Any:
    """A number and its percent sign stay on one line."""
    return value.replace(" %", "\u00a0%") if isinstance(value, str) else value


def page_of(facts: CardFacts, subject: Subject) -> dict[str, Any]:
    """All that the page prints."""
    release = facts.release
    use = release.use if release else None
    return {
        "title": line(subject.title, 200),
        "verdict": subject.verdict,
        "verdict_word": "kept as it was" if subject.is_kept else VERDICTS.get(subject.verdict, line(subject.verdict, 40)),
        "answer": answer(subject),
        "origin": origin(facts, subject),
        "is_released": release is not None,
        "intended": _texts(use.intended) if use else [],
        "prohibited": _texts(prohibited_of(facts)),
        "affected": _texts(use.affected) if use else [],
        "tests": [_test(gate) for gate in subject.gates],
        "tested_on": list(_tested_on(facts, subject)),
        "axes": _axes(subject),
        "failures": list(failures(facts, subject)),
        "limits": list(limits(facts, subject)),
        "speed": list(faster(subject)),
        "conditions": conditions(facts),
        "sureness": list(sureness(facts, subject)),
        "owner": line(use.owner, 300) if use else "",
        "by": line(release.by, 200) if release else "",
        "made": line(release.made if release else facts.decision.get("finished") or facts.lock.get("made") or "", 40),
        "release_id": line(release.id, 200) if release else "",
        "licence": licence_of(facts),
        "digests": list(_digests(facts, subject)),
    }


def _texts(texts: Sequence[str]) -> list[str]:
    return [line(text, LONGEST) for text in texts if line(text)]


def _test(gate: Plain) -> dict[str, Any]:
    verdict = str(gate.get("verdict"))
    proves = verdict != "pass" or gate.get("informative", True)
    return {
        "title": gate_title(gate),
        "verdict": verdict if proves else "inconclusive",
        "word": VERDICTS.get(verdict, verdict) if proves else "proves nothing",
        "told": not gate.get("required", True),
        "finding": gate_finding(gate),
        "level": gate_level(gate),
        "figures": f"{line(gate.get('name', '?'), 60)}: {change(gate)}; margin {fixed(gate.get('margin'), gate_decimals(gate))}; "
        f"{counted(gate)}; planted fault {control(gate)}.",
    }


def _tested_on(facts: CardFacts, subject: Subject) -> Iterator[str]:
    if tests(facts) and subject.gates:
        yield f"Tests: {tests(facts)}. A cluster is what shares one text or pattern, and counts once."
    if languages(facts) and subject.gates:
        yield f"Languages (ISO 639): {', '.join(languages(facts))}."
    axes = groups_by_axis(subject)
    if axes:
        n = sum(len(rows) for rows in axes.values())
        yield f"Groups of people: {count(n)}, by {', '.join(axes)}. Nothing is known about groups that are not shown here."
    elif subject.gates:
        yield "No group of people was looked at."


def _axes(subject: Subject) -> list[dict[str, Any]]:
    """Bars of all axes on one scale, which shows the margin and every interval on both sides. Positions are percent of the width."""
    axes = groups_by_axis(subject)
    rows = [row for found in axes.values() for row in found]
    sizes = [abs(value) for _, group, _ in rows for value in (group.get("low"), group.get("high"), group["delta"]) if is_number(value)]
    margins = [gate["margin"] for _, _, gate in rows if is_number(gate.get("margin"))]
    reach = max([*(1.5 * margin for margin in margins), *(1.05 * size for size in sizes), 1e-9])
    return [{"name": axis, "groups": [_group(*row, reach) for row in found]} for axis, found in axes.items()]


def _group(name: str, group: Plain, gate: Plain, reach: float) -> dict[str, Any]:
    margin, low, high = gate.get("margin"), group.get("low"), group.get("high")
    ends = (_place(low, reach), _place(high, reach)) if is_number(low) and is_number(high) else None
    odds = f"{fixed(100 * in_odds(group['delta']), 1, signed=True)} %"
    edge = _place(-margin, reach) if is_number(margin) else 50.0
    return {
        "name": name,
        "odds": odds,
        "figures": group_change(group, gate),
        "ends": ends,
        "edge": edge,
        "at": _place(group["delta"], reach),
    }


def _place(value: float, reach: float) -> float:
    return round(50 + 50 * max(-1.0, min(1.0, value / reach)), 2)


def _digests(facts: CardFacts, subject: Subject) -> Iterator[tuple[str, str]]:
    release, lock = facts.release, facts.lock
    found = {
        "decision": release.decision_sha256 if release else mapping(lock.get("decision")).get("sha256"),
        "rules": release.policy_sha256 if release else mapping(lock.get("policy")).get("sha256"),
        "deployment": subject.deployment.get("deployment_sha256"),
        "weights": subject.deployment.get("weights_sha256"),
    }
    yield from ((what, line(digest, 80)) for what, digest in found.items() if digest)
