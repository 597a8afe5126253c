"""The technical file: point by point of the EU AI Act's Annex IV and of the NIST AI RMF, what a release holds as evidence."""

from trimtab.core.phrases import count
from trimtab.decide.scope import evidence_for, frameworks
from trimtab.package.cards.evidence import evidence
from trimtab.package.cards.facts import CardFacts, Subject
from trimtab.package.cards.markdown import bullets, md
from trimtab.package.cards.sentences import answer

NOTHING = "no evidence in this release"
_TITLES = {
    "EU AI Act": "EU AI Act, Annex IV (Regulation (EU) 2024/1689)",
    "NIST AI RMF": "NIST AI Risk Management Framework 1.0 (NIST AI 100-1)",
}


def technical_file(facts: CardFacts, subject: Subject) -> str:
    """technical-file.md. What is stated by people is said to be stated; whether a point is met is for people to judge."""
    gates = {point: [gate for gate in subject.gates if point in evidence_for(gate)] for point in _ids()}
    said = [f"# Technical file of {md(subject.title)}\n\n{md(answer(subject))}\n\n"]
    said.append(
        "Each point below has what this release holds as evidence for it, or says that there is none. What follows a point sums it up and "
        "is not its text. Whether a point applies, and whether this is enough for it, is for people to judge.\n\n"
    )
    sections, n_empty = [], 0
    for framework, title in _TITLES.items():
        sections.append(f"## {title}\n\n")
        for point in frameworks()["points"]:
            if not point["id"].startswith(framework):
                continue
            found = [text for part in point["parts"] for text in evidence(part, facts, subject, gates[point["id"]])]
            n_empty += not found
            asks = f"{point['asks'][0].upper()}{point['asks'][1:]}"
            sections.append(f"### {point['id'].removeprefix(framework).strip()}\n\n{asks}.\n\n{bullets(found or [NOTHING])}")
    said.append(f"Points with evidence: {count(len(gates) - n_empty)} of {count(len(gates))}.\n\n")
    return "".join([*said, *sections]).rstrip() + "\n"


def _ids() -> list[str]:
    return [point["id"] for point in frameworks()["points"]]
