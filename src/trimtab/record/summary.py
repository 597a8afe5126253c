"""A check in a few sentences and as a Markdown page, as CI services show it beside a job."""

from collections.abc import Mapping
from typing import Any

from trimtab.core.phrases import count, decimals_for, ended, fixed, is_number, line, percent, seconds
from trimtab.record.explain import gate_change

Plain = Mapping[str, Any]

VERDICT_WORDS = {"pass": "PASS", "fail": "FAIL", "inconclusive": "INCONCLUSIVE"}
STATE_WORDS = {"same": "same", "changed": "changed", "unknown": "not known"}
_SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_[]|#~"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def check_headline(document: Plain) -> str:
    """The answer in one sentence."""
    name = line((document.get("lock") or {}).get("id", "the deployment"))
    verdict = document.get("verdict")
    if verdict == "pass":
        mode = (document.get("measured") or {}).get("mode")
        if mode == "digests only":
            return f"{name} is what was certified, by its digests; nothing was measured."
        same = "what was certified" if mode == "known answers" else "still no worse than its reference"
        return f"{name} is {same}."
    if verdict == "fail":
        if any(gate.get("verdict") == "fail" for gate in document.get("gates") or ()):
            return f"{name} is worse than its reference."
        return f"{name} is not what was certified, or cannot run here."
    return f"Cannot tell whether {name} is still no worse."


def measured_sentence(document: Plain) -> str:
    """What was measured, on how much, and against what."""
    measured = document.get("measured") or {}
    mode = line(measured.get("mode", ""))
    if not measured.get("n_items"):
        return "Nothing was measured." if mode == "digests only" else ended(mode.capitalize())
    drawn = (
        f"{count(measured['n_items'])} items in {count(measured['n_clusters'])} clusters "
        f"({percent(measured.get('share'))} of the items, drawn with seed {measured.get('seed')})"
    )
    if mode == "known answers":
        return f"The certified outcomes were compared with new ones on {drawn}."
    return f"Measured on {drawn}, against {ended(measured.get('against'))}"


def watch_sentence(document: Plain) -> str:
    """What became of the items nearest to a flip; empty if none were watched."""
    rows = document.get("watch") or ()
    if not rows:
        return ""
    flips = [row for row in rows if row.get("flip")]
    told = ", ".join(f"{line(row['item_id'])} {line(row['flip'])}" for row in flips[:5]) + (", ..." if len(flips) > 5 else "")
    what = f"{len(flips)} flipped ({told})" if flips else "none flipped"
    return f"Watch list (an early warning, in no interval): of the {len(rows)} items nearest to a flip, {what}."


def explain_check(document: Plain) -> str:
    """What was found and why, a few sentences of plain text without line breaks."""
    sentences = [check_headline(document), *(ended(reason) for reason in document.get("reasons") or ())]
    told = set(document.get("reasons") or ())
    sentences += [
        ended(check["sentence"]) for check in document.get("checks") or () if check["state"] == "changed" and check["sentence"] not in told
    ]
    sentences.append(measured_sentence(document))
    if any(row.get("flip") for row in document.get("watch") or ()):
        sentences.append(watch_sentence(document))
    return " ".join(sentences)


def margin_text(gate: Plain) -> str:
    """A gate's margin with as many decimals as it needs."""
    return fixed(gate.get("margin"), decimals_for(gate.get("margin")))


def check_markdown(document: Plain) -> str:
    """The check as GitHub-flavoured Markdown: the answer, a table of what the lock names, a table of the gates."""
    lock = document.get("lock") or {}
    verdict = VERDICT_WORDS.get(str(document.get("verdict")), "INCONCLUSIVE")
    parts = [
        f"## trimtab check: {verdict}",
        f"{escaped(check_headline(document))} Lockfile {escaped(lock.get('path', ''))}, certified {escaped(lock.get('made', ''))}.",
    ]
    reasons = [f"- {escaped(reason)}" for reason in document.get("reasons") or ()]
    parts += ["\n".join(reasons)] if reasons else []
    rows = [f"| {escaped(one['name'])} | {_state(one)} | {escaped(one['sentence'])} |" for one in document.get("checks") or ()]
    parts.append("\n".join(["| What the lock names | State | Found |", "| --- | --- | --- |", *rows]))
    if document.get("gates"):
        gates = [_gate_row(gate) for gate in document["gates"]]
        head = ["| Gate | Verdict | Change and interval | Margin | n |", "| --- | --- | --- | ---: | ---: |"]
        parts.append("\n".join([*head, *gates]))
    parts.append(escaped(" ".join(filter(None, (measured_sentence(document), watch_sentence(document), _took(document))))))
    return "\n\n".join(parts) + "\n"


def _state(one: Plain) -> str:
    word = STATE_WORDS.get(str(one.get("state")), "not known")
    return f"**{word}: fails**" if one.get("fails") and one.get("state") == "changed" else word


def _gate_row(gate: Plain) -> str:
    verdict = VERDICT_WORDS.get(str(gate.get("verdict")), "INCONCLUSIVE")
    notes = "" if gate.get("informative") else ", not informative"
    notes += "" if gate.get("required") else ", advisory"
    cells = [
        escaped(gate.get("name", "")), f"{verdict}{notes}", escaped(gate_change(gate)), margin_text(gate), count(gate.get("n"))
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _took(document: Plain) -> str:
    return f"Took {seconds(document['seconds'])}." if is_number(document.get("seconds")) else ""


def escaped(text: Any) -> str:
    """One line of text that Markdown shows as it is: no markup, no table cell, no HTML, no control character."""
    return line(text).translate(_SPECIAL)
