"""A check as JUnit XML, as CI services read it: one testcase for each thing that the lock names and for each gate.

Shape: the XSD in common use by Jenkins (testsuites > testsuite > properties?, testcase*; in a testcase skipped | failure, then system-out).
JUnit has no word for "cannot tell": what is inconclusive, not informative or not known is skipped, with the sentence.
"""

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from trimtab.core.phrases import is_number
from trimtab.record.explain import gate_change
from trimtab.record.summary import explain_check, margin_text, measured_sentence

Plain = Mapping[str, Any]

SUITE = "trimtab check"


def junit_xml(document: Plain) -> str:
    """The text of a JUnit XML file. The overall verdict is a testcase of its own: a check that cannot tell shows as skipped there."""
    suite = ElementTree.Element("testsuite", name=SUITE)
    properties = ElementTree.SubElement(suite, "properties")
    lock, measured = document.get("lock") or {}, document.get("measured") or {}
    told = {"lock": lock.get("path"), "deployment": lock.get("id"), "verdict": document.get("verdict"), "seed": measured.get("seed")}
    for name, value in told.items():
        ElementTree.SubElement(properties, "property", name=name, value=xml_text(value))
    for one in document.get("checks") or ():
        _lock_case(suite, one)
    for gate in document.get("gates") or ():
        _gate_case(suite, gate)
    _verdict_case(suite, document)
    took = document.get("seconds")
    suite.attrib |= _counts(suite) | {"time": f"{took:.1f}" if is_number(took) else "0"}
    if document.get("started"):
        suite.set("timestamp", xml_text(document["started"]).removesuffix("Z"))
    root = ElementTree.Element("testsuites", {"name": SUITE, **{key: suite.attrib[key] for key in ("tests", "failures", "errors", "time")}})
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _lock_case(suite: ElementTree.Element, one: Plain) -> None:
    case = _case(suite, "lock", str(one["name"]))
    if one["state"] == "changed" and one.get("fails"):
        _outcome(case, "failure", one["sentence"], "changed")
    elif one["state"] == "unknown":
        _outcome(case, "skipped", one["sentence"])
    else:
        ElementTree.SubElement(case, "system-out").text = xml_text(one["sentence"])


def _gate_case(suite: ElementTree.Element, gate: Plain) -> None:
    case = _case(suite, "gate", str(gate["name"]))
    figures = f"change {gate_change(gate)}, margin {margin_text(gate)}, n {gate.get('n')}"
    sentence = "; ".join(gate.get("reasons") or ()) or figures
    if gate.get("verdict") == "fail" and gate.get("required", True):
        _outcome(case, "failure", sentence, "worse")
    elif gate.get("verdict") != "pass" or not gate.get("informative"):
        _outcome(case, "skipped", f"{gate.get('verdict')}: {sentence}")
    ElementTree.SubElement(case, "system-out").text = xml_text(figures)


def _verdict_case(suite: ElementTree.Element, document: Plain) -> None:
    case = _case(suite, "check", "verdict")
    if document.get("verdict") == "fail":
        _outcome(case, "failure", explain_check(document), "fail")
    elif document.get("verdict") != "pass":
        _outcome(case, "skipped", explain_check(document))
    ElementTree.SubElement(case, "system-out").text = xml_text(measured_sentence(document))


def _case(suite: ElementTree.Element, kind: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=f"trimtab.{kind}", name=xml_text(name), time="0")


def _outcome(case: ElementTree.Element, tag: str, sentence: Any, kind: str = "") -> None:
    text = xml_text(sentence)
    found = ElementTree.SubElement(case, tag, {"message": text, **({"type": kind} if kind else {})})
    if tag == "failure":
        found.text = text


def _counts(suite: ElementTree.Element) -> dict[str, str]:
    cases = suite.findall("testcase")
    n = {tag: sum(case.find(tag) is not None for case in cases) for tag in ("failure", "skipped")}
    return {"tests": str(len(cases)), "failures": str(n["failure"]), "errors": "0", "skipped": str(n["skipped"])}


def xml_text(value: Any) -> str:
    """A text without the characters that XML 1.0 cannot hold, not even escaped (https://www.w3.org/TR/xml/#charsets)."""
    return "".join(char for char in str(value) if char in "\t\n\r" or _is_xml(ord(char)))


def _is_xml(code: int) -> bool:
    return 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or 0x10000 <= code <= 0x10FFFF
