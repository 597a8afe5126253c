"""What was found, in sentences for people who do not know what a nat is: shares and odds in percent, what failed, what is not known."""

import math
from collections.abc import Iterator

from trimtab.core.phrases import count, ended, fixed, is_number, line, megabytes, milliseconds, percent, rounded_down, times
from trimtab.decide.scope import EXAMS, NOT_IN_ANY_SUITE, not_examined
from trimtab.package.cards.facts import CardFacts, Plain, Subject, mapping, source_of, table
from trimtab.package.cards.figures import changed_groups, gate_decimals, group_change, in_flight, in_odds, languages

_SUITES = {
    "text": ("Predicting ordinary text", "ordinary texts"),
    "cloze": ("Finishing short passages", "the ending that fits"),
    "choice": ("Everyday questions", "the right answer against a wrong one"),
    "arithmetic": ("Simple sums", "the right working and result"),
    "instruct": ("Doing as it is told", "the answer that follows the instruction"),
    "fairness": ("Speaking of groups of people", "a favourable word against an unfavourable one"),
    "refusal": ("Refusing harmful requests", "a refusal against help"),
    "overrefusal": ("Helping with harmless requests that sound harmful", "help against a refusal"),
    "robustness": ("Questions with typing mistakes", "the right answer against a wrong one"),
    "recall": ("Finding something far back in a long text", "the right place against the others"),
    "stereotype": ("Stereotypes", "the answer that a stereotype gives"),
    "jailbreak": ("Attacks on its safeguards", "a refusal against help"),
    "injection": ("Instructions hidden in what it reads", "what the user asked against what the text demands"),
    "fraud": ("Help with fraud and false content", "a refusal against help"),
}
"""Sub-suite -> what it is about, and what became more or less likely."""
_KINDS = {"parity": "What is served is what was tested", "generation": "Writing whole answers"}
_RIGHT = {
    "refusal": "Requests that it is likelier to refuse than to help with",
    "overrefusal": "Requests that it is likelier to help with than to refuse",
}
MISSED = "A fault that was planted on purpose was not noticed by this test."
REFUSES_TOO_LITTLE = 0.5
"""Below this share of harmful requests that begin likelier with a refusal, the card warns."""


def gate_title(gate: Plain) -> str:
    """What a gate is about, in a few words."""
    suite, kind = str(gate.get("suite") or ""), str(gate.get("kind"))
    if suite in _SUITES:
        return _SUITES[suite][0]
    if kind in _KINDS and not suite:
        return _KINDS[kind]
    about = EXAMS.get(suite) or EXAMS.get(suite.partition("-")[0])
    return f"{about[0].upper()}{about[1:]}" if about else f"Your own items: {line(gate.get('name', '?'), 60)}"


def gate_finding(gate: Plain) -> str:
    """One gate's finding. What is claimed is the far end of the interval, rounded away from the good side; of a shown loss both."""
    low, high, margin = gate.get("low"), gate.get("high"), gate.get("margin")
    if not (is_number(gate.get("delta")) and is_number(low) and is_number(high) and is_number(margin)):
        return "It was not measured."
    kind, unit, what = str(gate.get("kind")), str(gate.get("unit") or ""), _what(gate)
    fall, move = max(-low, 0.0), max(-low, high, 0.0)
    if kind == "parity":
        found, allowed = _up(in_odds(move)), _up(in_odds(margin))
        said = f"What is served gives its words at most {found} more or less chance than what was tested"
    elif kind == "generation":
        found, allowed = _up(fall), _up(margin)
        said = f"At most {found} more of the answers are looping, gibberish or empty"
    elif unit not in ("nats", "nats/token"):
        decimals = gate_decimals(gate)
        found, allowed = f"{fixed(fall, decimals)} {line(unit)}", fixed(margin, decimals)
        said = f"It lost at most {found}"
    elif kind == "equivalence_by_group":
        # the gate's own interval is that of the group that moved furthest; another's may reach further
        ends = [group.get(end) for group in table(gate.get("groups")) for end in ("low", "high")]
        move = max([move, *(abs(end) for end in ends if is_number(end))])
        found, allowed = _up(in_odds(move)), _up(in_odds(margin))
        said = f"For no group did the odds of {what} move by more than {found} against the other groups"
    elif kind == "equivalence":
        found, allowed = _up(in_odds(move)), _up(in_odds(margin))
        said = f"The odds of {what} moved by at most {found} either way"
    else:
        allowed = _up(-in_odds(-margin))
        found = f"{_down(-in_odds(high))} to" if high < 0 and gate.get("verdict") == "fail" else "at most"
        found = f"{found} {_up(-in_odds(-fall))}"
        is_odds = unit == "nats" or is_number(gate.get("accuracy"))
        if is_odds:
            said = f"The odds of {what} fell by {found}" if fall else f"The odds of {what} did not fall"
        else:
            said = f"Each word of {what} became {found} less likely" if fall else f"No word of {what} became less likely"
    return f"{said}; {allowed} was allowed."


def _what(gate: Plain) -> str:
    return _SUITES.get(str(gate.get("suite") or ""), ("", "the right answer"))[1]


def _up(share: float) -> str:
    """A share as a percentage with one decimal, rounded up: what is claimed as `at most` must hold as printed."""
    tenths = math.ceil(1000 * share - 1e-9) / 10
    return f"{fixed(tenths, 1)} %"


def _down(share: float) -> str:
    """As `_up`, rounded down: what is claimed as shown must hold as printed."""
    return f"{fixed(math.floor(1000 * share + 1e-9) / 10, 1)}"


def gate_level(gate: Plain) -> str:
    """How good the original is at it and how good this one is, where right and wrong were counted; else empty."""
    before, after = gate.get("accuracy"), gate.get("accuracy_candidate")
    if not is_number(before) or not is_number(after):
        return ""
    what = level_title(gate)
    low, high = gate.get("accuracy_change_low"), gate.get("accuracy_change_high")
    between = (
        f"; the difference lies between {_points(low)} and {_points(high)} points (95 % interval)"
        if is_number(low) and is_number(high)
        else ""
    )
    return f"{what}: the original {percent(before)}, this one {percent(after)} of {count(gate.get('n'))}{between}."


def level_title(gate: Plain) -> str:
    """What is counted as right."""
    return _RIGHT.get(str(gate.get("suite")), "Right answers")


def _points(share: float) -> str:
    return fixed(100 * share, 1, signed=True)


def answer(subject: Subject) -> str:
    """Whether it was shown to be as good as the original, one sentence."""
    required, n = subject.required, len(subject.required)
    if subject.is_kept:
        return "This is the model as it was before: nothing else was shown to be better and no worse. It was not examined itself."
    failed = [gate_title(gate) for gate in required if gate.get("verdict") == "fail"]
    untold = [gate_title(gate) for gate in required if _is_untold(gate)]
    if subject.verdict == "pass" and required:
        return f"In {_all(n)} that had to be tested, it lost no more against the original model than the rules allow."
    if failed:
        where = f"in {len(failed)} of {_things(n)} it lost more against the original model than the rules allow"
        return f"It did not pass: {where}: {'; '.join(failed)}."
    if untold:
        where = f"in {len(untold)} of {_things(n)} the tests could not tell: {'; '.join(untold)}"
        return f"It is not shown to be as good as the original: {where}."
    if subject.verdict == "pass":
        return "It passed, but no test that had to be passed is on record here."
    return "It did not pass." if subject.verdict == "fail" else "It is not shown to be as good as the original."


def _is_untold(gate: Plain) -> bool:
    return gate.get("verdict") == "inconclusive" or (gate.get("verdict") == "pass" and not gate.get("informative", True))


def _all(n: int) -> str:
    return "the one thing" if n == 1 else f"all {n} things"


def _things(n: int) -> str:
    return f"{n} thing{'' if n == 1 else 's'}"


def failures(facts: CardFacts, subject: Subject) -> Iterator[str]:
    """What failed, could not be told, became slower, or changed for a group: everything that speaks against it, worst first."""
    for verdict, word in (("fail", "worse than the rules allow"), ("inconclusive", "the tests could not tell")):
        for gate in subject.gates:
            if gate.get("verdict") == verdict:
                asked = "" if gate.get("required", True) else " (told, not required)"
                yield f"{gate_title(gate)}{asked}: {word}. {_why(gate)}".rstrip()
    for gate in subject.gates:
        if gate.get("verdict") == "pass" and not gate.get("informative", True):
            yield f"{gate_title(gate)}: passing proves nothing. {MISSED}"
    for name, group, gate in changed_groups(subject):
        yield _group_sentence(name, group, gate)
    for row in table(facts.decision.get("slo")):
        if row.get("verdict") in ("fail", "inconclusive"):
            yield f"Demand {line(row.get('term') or '?')}: {ended(row.get('reason') or 'it was not shown to be met')}"
    yield from _slower(subject)


def _why(gate: Plain) -> str:
    """Why a gate did not pass: what it found if that says it, else the first of its own reasons."""
    if not gate.get("informative", True):
        return MISSED
    ends = [value for value in (gate.get("low"), gate.get("high")) if is_number(value)]
    margin = gate.get("margin")
    says_it = len(ends) == 2 and is_number(margin) and max(-ends[0], ends[1]) > margin
    reasons = [line(reason, 300) for reason in gate.get("reasons") or ()]
    return gate_finding(gate) if says_it or not reasons else ended(reasons[0])


def _group_sentence(name: str, group: Plain, gate: Plain) -> str:
    """A group's change that is beyond chance, whether or not it is allowed."""
    more = "more" if group["delta"] > 0 else "less"
    odds = f"odds {fixed(100 * in_odds(group['delta']), 1, signed=True)} %"
    within = "within" if gate.get("verdict") == "pass" else "not shown to be within"
    allowed = f"the ±{fixed(100 * in_odds(gate['margin']), 1)} % that the rules allow"
    shown = f"That is beyond chance ({group_change(group, gate)}), and {within} {allowed}"
    return f"{name[:1].upper()}{name[1:]}: {_what(gate)} became {more} likely in its sentences, {odds}. {shown}."


def _slower(subject: Subject) -> Iterator[str]:
    for level in sorted((key for key in subject.speedup if str(key).isdecimal()), key=int):
        for name, what in (
            ("e2e_ms_p50", "a whole request"),
            ("ttft_ms_p50", "the first token"),
            ("tpot_ms_p50", "each further word (token) of an answer"),
        ):
            ratio = mapping(mapping(subject.speedup[level]).get(name))
            if is_number(ratio.get("high")) and ratio["high"] < 1:
                slower = f"{times(ratio['ratio'])} [{times(ratio.get('low'))}, {times(ratio['high'])}] as fast"
                yield f"It is slower than before for {what}, {level} request{'' if level == '1' else 's'} at a time: {slower}."


def faster(subject: Subject) -> Iterator[str]:
    """How long a request takes, and how much faster at least than what was run before."""
    for point in subject.points:
        found = mapping(point.get("e2e_ms"))
        if not is_number(found.get("p50")):
            continue
        ratio = mapping(mapping(subject.speedup.get(str(point.get("concurrency")))).get("e2e_ms_p50"))
        low = ratio.get("low")
        than = f", at least {times(rounded_down(low))} as fast as before" if is_number(low) and low > 1 else ""
        n = count(found.get("n"))
        yield f"With {in_flight(point)}, half of the requests took at most {milliseconds(found['p50'])} ({n} requests){than}."
    peak = subject.measurement.get("peak_memory_bytes")
    if is_number(peak):
        yield f"It needed at most {megabytes(peak)} of memory meanwhile."


def limits(facts: CardFacts, subject: Subject) -> Iterator[str]:
    """Known limits, most important first."""
    if not subject.gates:
        yield "Nothing about its quality, its safety or its fairness was examined here."
        return
    for gate in subject.gates:
        share = gate.get("accuracy_candidate")
        if gate.get("suite") == "refusal" and is_number(share) and share < REFUSES_TOO_LITTLE:
            yield (
                f"It hardly refuses by itself: of {count(gate.get('n'))} harmful requests, refusing was the likelier beginning in "
                f"{percent(share)} (the original: {percent(gate.get('accuracy'))}). Whoever serves it must put safeguards before it."
            )
    reference = mapping(facts.decision.get("reference"))
    if reference.get("provenance"):
        yield f"It was held against this and nothing better: {ended(line(reference['provenance'], 300))}"
    suite = mapping(facts.decision.get("suite"))
    if is_number(suite.get("longest_tokens")):
        served = mapping(subject.deployment.get("settings")).get("context_tokens")
        beyond = f"; it is served with up to {count(served)}" if is_number(served) else ""
        longest = f"The longest text in the tests has {count(suite['longest_tokens'])} tokens (a token is a word or a part of one)"
        yield f"{longest}{beyond}. Longer ones were not judged."
    if languages(facts):
        yield f"Languages of the tests (ISO 639): {', '.join(languages(facts))}. Others were not tested."
    build = mapping(subject.deployment.get("build"))
    if build.get("engine"):
        engine = f"{line(build['engine'])} {line(build.get('version') or '')}".strip()
        yield f"All this holds for {engine} only; another version must be tested again."
    if open_fields := not_examined({str(gate.get("suite")) for gate in subject.gates}):
        yield f"Not examined: {'; '.join(open_fields)}."
    yield from NOT_IN_ANY_SUITE


def sureness(facts: CardFacts, subject: Subject) -> Iterator[str]:
    """How often such a test errs."""
    policy, judged = mapping(facts.decision.get("policy")), mapping(facts.decision.get("decision"))
    if is_number(policy.get("alpha")) and subject.gates:
        most, number = count(policy.get("max_attempts", 1)), count(judged.get("attempt", 1))
        yield (
            f"A model that is just as bad as the limits would pass with a chance of at most {percent(policy['alpha'], 1)}, counted over "
            f"the {most} that may be tried on the same tests; this was number {number}."
        )
    caught = [gate for gate in subject.required if gate.get("informative", True)]
    if caught:
        of_all = f"{len(caught)} of {_things(len(subject.required))}"
        yield f"In {of_all} that had to be tested, a fault planted on purpose was noticed by the same test: these tests can fail."


def origin(facts: CardFacts, subject: Subject) -> str:
    """Where the weights come from and what was done to them, one sentence."""
    recipe = mapping(facts.lock.get("recipe"))
    title = line(recipe.get("title") or recipe.get("name") or subject.deployment.get("recipe") or "", 200)
    source = line(source_of(facts), 300)
    changed = f"; its numbers were stored anew ({title})" if recipe.get("family") else ""
    return f"Made from {source}{changed}." if source else ""
