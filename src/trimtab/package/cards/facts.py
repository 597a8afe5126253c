"""What a card is made from, and which parts of a decision are about the deployment in question. Nothing is read or measured here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trimtab.core.phrases import line
from trimtab.core.release import Release
from trimtab.decide.release_guards import in_words

Plain = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """All that the cards of one deployment may say.

    decision: as in decision.json (schema trimtab.decision/1); lock: deploy.toml, parsed; run: as in run.json, empty if not at hand
    release: None for a deployment that was judged and not released
    describe: the model's card as `trimtab describe --json` has it under `card`, empty if not at hand
    """

    decision: Plain
    lock: Plain
    run: Plain = field(default_factory=dict)
    release: Release | None = None
    describe: Plain = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The deployment that a card is about, with what its decision says of it and of no other.

    name, version: of the release, else the short name of the deployment and ""
    deployment: id, engine, recipe, settings, build, size_bytes, weights_sha256, deployment_sha256
    gates: its own; empty for a baseline that was kept, as the gates of such a decision are those of another candidate
    speedup: over the baseline by requests in flight, its own; points: LoadPoints as they stand in decision.json
    is_kept: it is what would have been run anyway, and was not examined itself
    """

    name: str
    version: str
    verdict: str
    deployment: Plain
    gates: tuple[Plain, ...]
    speedup: Plain
    measurement: Plain
    is_kept: bool

    @property
    def title(self) -> str:
        return f"{self.name}, version {self.version}" if self.version else self.name

    @property
    def points(self) -> list[Plain]:
        return table(self.measurement.get("points"))

    @property
    def required(self) -> list[Plain]:
        return [gate for gate in self.gates if gate.get("required", True)]


def subject_of(facts: CardFacts) -> Subject:
    """The deployment that the lock names, else the one that was chosen, else the one that was compared."""
    decision, lock, release = facts.decision, facts.lock, facts.release
    row = _row(decision, lock)
    chosen, baseline = mapping(decision.get("chosen")), mapping(decision.get("baseline"))
    deployment = {**mapping(row.get("details")), **_named(lock)} or dict(chosen)
    own = row.get("status") == "certified" or decision.get("kind") != "optimize"
    is_chosen = not chosen or chosen.get("id") == deployment.get("id")
    is_baseline = deployment.get("id") == baseline.get("id")
    return Subject(
        name=line(release.name if release else deployment.get("id") or "a deployment"),
        version=str(release.number) if release else "",
        verdict=str(
            release.verdict if release else decision.get("verdict") or mapping(lock.get("decision")).get("verdict", "inconclusive")
        ),
        deployment=deployment,
        gates=tuple(table(decision.get("gates"))) if own and is_chosen else tuple(table(mapping(row.get("evidence")).get("gates"))),
        speedup=mapping(mapping(decision.get("speedup")).get("over_baseline")) if is_chosen and not is_baseline else {},
        measurement=mapping(row.get("measurement")) or (mapping(baseline.get("measurement")) if is_baseline else {}),
        is_kept=is_baseline and not own,
    )


def _row(decision: Plain, lock: Plain) -> Plain:
    """The row of the candidates that is about the subject."""
    rows = table(decision.get("candidates"))
    digest, name = lock.get("deployment_sha256"), lock.get("id") or mapping(decision.get("chosen")).get("id")
    same = [row for row in rows if digest and mapping(row.get("details")).get("deployment_sha256") == digest]
    same += [row for row in rows if name and row.get("id") == name]
    if decision.get("kind") != "optimize" and not name and not digest:
        same += rows
    return same[0] if same else {}


def _named(lock: Plain) -> dict[str, Any]:
    """A lock's deployment in the words of decision.json."""
    if not lock.get("id"):
        return {}
    engine = mapping(lock.get("engine"))
    build = {"engine": engine.get("name"), "version": engine.get("version"), "details": engine.get("details")}
    return {
        "id": lock["id"],
        "engine": engine.get("name"),
        "recipe": mapping(lock.get("recipe")).get("name"),
        "settings": mapping(lock.get("settings")),
        "build": build,
        "weights_sha256": mapping(lock.get("weights")).get("sha256"),
        "deployment_sha256": lock.get("deployment_sha256"),
    }


def mapping(value: Any) -> Plain:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def table(value: Any) -> list[Plain]:
    """The mappings of a list; empty for anything else."""
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, (list, tuple)) else []


def prohibited_of(facts: CardFacts) -> list[str]:
    """What it must not be used for, as its owner stated it and people read it."""
    return [in_words(use) for use in facts.release.use.prohibited] if facts.release else []


def source_of(facts: CardFacts) -> str:
    """Where the weights come from, as one types it."""
    return line(mapping(facts.lock.get("weights")).get("source") or mapping(facts.decision.get("reference")).get("source") or "")


def licence_of(facts: CardFacts) -> str:
    """Of the released weights; empty if unknown."""
    stated = facts.release.licences[0].licence if facts.release and facts.release.licences else ""
    return line(stated or facts.describe.get("licence") or "")


def hub_id(source: str) -> tuple[str, str]:
    """`("org/name", "rev")` of `hf:org/name@rev`; ("", "") for a source that is not on the Hub."""
    if not source.startswith("hf:"):
        return "", ""
    name, _, revision = source.removeprefix("hf:").partition("@")
    return ("/".join(name.split("/")[:2]), revision) if "/" in name else ("", "")
