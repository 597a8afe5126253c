"""What a release holds that can be evidence for a point of a framework, part by part, as sentences with figures and digests."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from trimtab.core.phrases import count, fixed, is_number, line, percent, seconds, significant
from trimtab.decide.intended_use import questions
from trimtab.package.cards.facts import CardFacts, Plain, Subject, mapping, prohibited_of, source_of, table
from trimtab.package.cards.figures import (
    change,
    changed_groups,
    conditions,
    control,
    counted,
    gate_decimals,
    group_change,
    groups_by_axis,
    in_flight,
    languages,
    size_rows,
    speed_rows,
    tests,
)
from trimtab.package.cards.sentences import failures, limits, origin

LONGEST = 1000


def evidence(part: str, facts: CardFacts, subject: Subject, gates: Iterable[Plain]) -> list[str]:
    """The sentences of one part of catalog/frameworks.toml. gates: those that name the point. Raises KeyError for a part that is none."""
    if part == "gates":
        return [_gate(gate) for gate in gates]
    if part.startswith("answers:"):
        return list(_answers(facts, part.removeprefix("answers:").split(",")))
    return list(PARTS[part](facts, subject))


def _gate(gate: Plain) -> str:
    told = "" if gate.get("required", True) else ", told only"
    margin = fixed(gate.get("margin"), gate_decimals(gate))
    name, verdict = line(gate.get("name", "?"), 200), line(gate.get("verdict", "?"))
    return f"Test {name}: {verdict}{told}; {change(gate)}; allowed {margin}; {counted(gate)}; planted fault {control(gate)}."


def _answers(facts: CardFacts, asked: Iterable[str]) -> Iterator[str]:
    """What the owner stated. Not measured, and said to be so."""
    texts = {question.id: question.text for question in questions()}
    for key in asked:
        said = line(facts.release.use.answers.get(key, ""), LONGEST) if facts.release else ""
        if said:
            yield f"Stated by its owner. {texts.get(key, key)} {said}"


def _use(facts: CardFacts, subject: Subject) -> Iterator[str]:
    if facts.release:
        use = facts.release.use
        for what, found in (("meant for", use.intended), ("must not be used for", prohibited_of(facts)), ("may touch", use.affected)):
            if found:
                yield f"Stated by its owner: {what}: {_listed(found)}."


def _prohibited(facts: CardFacts, subject: Subject) -> Iterator[str]:
    if found := prohibited_of(facts):
        yield f"Stated by its owner: must not be used for: {_listed(found)}."


def _listed(texts: Iterable[str]) -> str:
    return "; ".join(line(text, LONGEST).rstrip(".") for text in texts)


def _people(facts: CardFacts, subject: Subject) -> Iterator[str]:
    if facts.release and facts.release.use.owner:
        yield f"Answers for it: {line(facts.release.use.owner, 200)}."
    if facts.release and facts.release.by:
        yield f"Proposed by {line(facts.release.by, 200)}. Who approved it stands in the ledger, not here."


def _identity(facts: CardFacts, subject: Subject) -> Iterator[str]:
    if facts.release:
        yield f"Release {line(facts.release.id, 200)}, made {line(facts.release.made, 40)}."
    for what, key in (("Deployment", "deployment_sha256"), ("Weights", "weights_sha256")):
        if subject.deployment.get(key):
            yield f"{what} sha256 {line(subject.deployment[key], 80)}."


def _serving(facts: CardFacts, subject: Subject) -> Iterator[str]:
    settings = mapping(subject.deployment.get("settings"))
    build = mapping(subject.deployment.get("build"))
    if build.get("engine"):
        said = ", ".join(f"{line(key, 100)} {line(value, 100)}" for key, value in sorted(settings.items()))
        yield f"Served by {line(build['engine'])} {line(build.get('version') or '')} with {said or 'default settings'}."


def _versions(facts: CardFacts, subject: Subject) -> Iterator[str]:
    found = mapping(facts.run.get("versions")) or mapping(facts.decision.get("versions"))
    if found:
        yield f"Versions: {', '.join(f'{line(name, 100)} {line(version, 100)}' for name, version in found.items())}."
    build = mapping(subject.deployment.get("build"))
    if build.get("details"):
        yield f"Build of the engine: {line(build['details'], LONGEST)}."


def _machine(facts: CardFacts, subject: Subject) -> Iterator[str]:
    if mapping(facts.decision.get("machine")) or mapping(facts.lock.get("machine")):
        yield conditions(facts)
        yield from (f"{what[0].upper()}{what[1:]}: {figure}." for what, figure in size_rows(subject))


def _origin(facts: CardFacts, subject: Subject) -> Iterator[str]:
    weights = mapping(facts.lock.get("weights"))
    if source_of(facts):
        revision = f" Revision {line(weights['revision'], 100)}." if weights.get("revision") else ""
        yield f"{origin(facts, subject)}{revision}"
    for file in table(weights.get("files")):
        yield f"File {line(file.get('name', '?'), 300)}, {count(file.get('size_bytes'))} bytes, sha256 {line(file.get('sha256', '?'), 80)}."


def _licences(facts: CardFacts, subject: Subject) -> Iterator[str]:
    for one in facts.release.licences if facts.release else ():
        where = f", read from {line(one.source, 200)}" if one.source else ""
        yield f"{line(one.model, 200)}: {line(one.licence, 200) or 'licence unknown'}{where}."


def _objective(facts: CardFacts, subject: Subject) -> Iterator[str]:
    objective, workload = mapping(facts.decision.get("objective")), mapping(facts.decision.get("workload"))
    if objective.get("name"):
        yield f"Chosen for {line(objective['name'])} under this load: {line(workload.get('title') or workload.get('name') or '?')}."
    for row in speed_rows(subject):
        if row["over"]:
            yield f"{row['what'][0].upper()}{row['what'][1:]}, {row['level']} in flight, times as fast as before: {row['over']}."


def _policy(facts: CardFacts, subject: Subject) -> Iterator[str]:
    policy = mapping(facts.decision.get("policy"))
    if not policy.get("name"):
        return
    yield f"Policy {line(policy['name'])} {line(policy.get('version') or '')}, sha256 {line(policy.get('sha256') or '?', 80)}."
    for gate in table(policy.get("gates")):
        margin = f"{line(gate.get('margin'))} {line(gate.get('unit') or '')}"
        yield f"Margin of {line(gate.get('name', '?'))}: {margin}. {line(gate.get('reason') or '')}"


def _architecture(facts: CardFacts, subject: Subject) -> Iterator[str]:
    card = facts.describe
    if card.get("architecture"):
        size = f", {count(card['n_params'])} parameters in {count(card.get('n_layers'))} layers" if is_number(card.get("n_params")) else ""
        yield f"Architecture {line(card['architecture'])}{size}."


def _effort(facts: CardFacts, subject: Subject) -> Iterator[str]:
    if is_number(facts.decision.get("seconds")):
        yield f"The judgement took {seconds(facts.decision['seconds'])}. {conditions(facts)}"


def _test_data(facts: CardFacts, subject: Subject) -> Iterator[str]:
    suite = mapping(facts.decision.get("suite"))
    if tests(facts):
        longest = f"; the longest has {count(suite['longest_tokens'])} tokens" if is_number(suite.get("longest_tokens")) else ""
        spoken = f"; languages {', '.join(languages(facts))}" if languages(facts) else ""
        yield f"Tests: {tests(facts)}{spoken}{longest}; sha256 {line(suite.get('digest') or '?', 80)}."


def _files(facts: CardFacts, subject: Subject) -> Iterator[str]:
    for blob in facts.release.evidence if facts.release else ():
        yield f"File {line(blob.name, 300)}, {count(blob.size_bytes)} bytes, sha256 {line(blob.sha256, 80)}."


def _groups(facts: CardFacts, subject: Subject) -> Iterator[str]:
    for axis, rows in groups_by_axis(subject).items():
        said = "; ".join(f"{name} {group_change(group, gate)}, n = {count(group.get('n'))}" for name, group, gate in rows)
        yield f"Groups, {axis}: {said}."
    beyond = [name for name, _, _ in changed_groups(subject)]
    if groups_by_axis(subject):
        yield f"Beyond chance at 5 %, corrected for the search over groups (Holm): {', '.join(beyond) or 'none'}."


def _residual(facts: CardFacts, subject: Subject) -> Iterator[str]:
    yield from failures(facts, subject)


def _limits(facts: CardFacts, subject: Subject) -> Iterator[str]:
    yield from limits(facts, subject)


def _controls(facts: CardFacts, subject: Subject) -> Iterator[str]:
    judged = mapping(facts.decision.get("decision"))
    for gate in subject.gates:
        if not is_number(gate.get("delta")):
            continue
        floor = (
            f"; the reference against itself moved by {significant(gate['noise_floor'], 2)}" if is_number(gate.get("noise_floor")) else ""
        )
        sees = f"; noticed four times in five: {significant(gate['detectable'], 2)}" if is_number(gate.get("detectable")) else ""
        name = f"{line(gate.get('name', '?'), 200)}, in {line(gate.get('unit') or '?', 100)}"
        yield f"Test {name}: planted fault {control(gate)}{floor}{sees}."
    if is_number(judged.get("joint_power")) and subject.gates:
        yield f"One exactly as good as the reference would pass all of them with a chance of {percent(judged['joint_power'])}."


def _speed(facts: CardFacts, subject: Subject) -> Iterator[str]:
    for row in speed_rows(subject):
        yield f"{row['what'][0].upper()}{row['what'][1:]}, {row['level']} in flight: median {row['median']}, {row['n']}."
    if subject.points:
        yield conditions(facts)


def _energy(facts: CardFacts, subject: Subject) -> Iterator[str]:
    for point in subject.points:
        if is_number(point.get("energy_j_per_token")):
            yield f"{significant(point['energy_j_per_token'])} J per output token, {in_flight(point)}, whole machine. {conditions(facts)}"


def _decision(facts: CardFacts, subject: Subject) -> Iterator[str]:
    digest = facts.release.decision_sha256 if facts.release else mapping(facts.lock.get("decision")).get("sha256")
    yield f"Decision: {line(subject.verdict)}{f', sha256 {line(digest, 80)}' if digest else ''}."
    yield from (line(reason, LONGEST) for reason in facts.decision.get("reasons") or ())


PARTS: Mapping[str, Callable[[CardFacts, Subject], Iterator[str]]] = {
    "use": _use,
    "prohibited": _prohibited,
    "people": _people,
    "identity": _identity,
    "serving": _serving,
    "versions": _versions,
    "machine": _machine,
    "origin": _origin,
    "licences": _licences,
    "objective": _objective,
    "policy": _policy,
    "architecture": _architecture,
    "effort": _effort,
    "test_data": _test_data,
    "files": _files,
    "groups": _groups,
    "residual": _residual,
    "limits": _limits,
    "controls": _controls,
    "speed": _speed,
    "energy": _energy,
    "decision": _decision,
}
