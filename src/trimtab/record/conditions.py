"""Conditions of a run as names and values: machine, workload, policy, versions, what was tried without success. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.core.phrases import MINUS, MISSING, count, fixed, interval, is_number, line, megabytes, percent, seconds, with_unit


def mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def settings_in_words(settings: Any) -> str:
    given = {key: value for key, value in mapping(settings).items() if value is not None}
    return ", ".join(f"{line(key)} {plain(value)}" for key, value in given.items()) or "engine defaults"


def plain(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}".replace("-", MINUS) if is_number(value) else line(value)


def pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and plain values for a list; nested mappings are flattened, long lists left out."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        name, unit = _name_and_unit(line(key))
        if isinstance(value, Mapping):
            found += [(f"{name}: {inner}", text) for inner, text in pairs(value)]
        elif value is None:
            found.append((name, MISSING))
        elif not isinstance(value, (list, tuple)) or len(value) <= 16:
            found.append((name, f"{plain(value)} {unit}" if is_number(value) and unit else plain(value)))
    return [(name, text) for name, text in found if text]


def _name_and_unit(key: str) -> tuple[str, str]:
    """`build_s` as (`build`, `s`), `n_failed` as (`number of failed`, ``)."""
    for unit in ("s", "ms", "nats", "bytes"):
        if key.endswith(f"_{unit}"):
            return key[: -len(unit) - 1].replace("_", " "), unit
    return (f"number of {key[2:]}" if key.startswith("n_") else key).replace("_", " "), ""


def predicted(estimate: Any) -> str:
    """End-to-end latency as it was predicted, by concurrency: `5,100 ms [4,200, 6,300] at 1 (roofline)`; empty without a prediction."""
    found = []
    for level, figures in mapping(estimate).items():
        e2e = mapping(mapping(figures).get("e2e_ms"))
        if is_number(e2e.get("value")):
            ends = interval(e2e.get("low"), e2e.get("high"), 0)
            found.append(f"{fixed(e2e['value'], 0)} {line(e2e.get('unit', ''))} {ends} at {line(level)}")
    return ", ".join(found)


def margins(decision: Mapping[str, Any]) -> list[list[str]]:
    specs = mapping(decision.get("policy")).get("gates") or ()
    return [[line(spec["name"]), f"{spec['margin']:g} {line(spec['unit'])}", line(spec.get("reason", ""))] for spec in specs]


Named = list[tuple[str, str]]


def facts(decision: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Named]]:
    """Conditions of the run, in groups of name and value."""
    joint, power = mapping(decision.get("decision")), mapping(decision.get("power"))
    workload, policy, noise = (mapping(decision.get(name)) for name in ("workload", "policy", "noise"))
    conditions = next((mapping(row["measurement"]).get("conditions") for row in rows if row.get("measurement")), None)
    levels = ", ".join(str(level) for level in workload.get("concurrency") or ())
    heard = ("noisy. " if noise.get("noisy") else "quiet. ") + line(noise.get("why") or "") if noise else MISSING
    timing = [
        ("workload", line(workload.get("name", ""))),
        ("prompt", _tokens(workload.get("prompt_tokens"))),
        ("output", _tokens(workload.get("output_tokens"))),
        ("requests in flight", levels),
        *pairs(mapping(conditions)),
    ]
    judged = [
        ("policy", f"{line(policy.get('name', ''))}, version {line(policy.get('version', ''))}"),
        ("policy sha256", line(policy.get("sha256") or joint.get("policy_sha256") or "")),
        ("chance of passing a worse one (alpha)", f"{fixed(policy.get('alpha'), 3)} over {policy.get('max_attempts', '?')} attempts"),
        *_power(joint, power),
    ]
    groups = [
        ("Machine", [*machine_facts(decision), ("noise", heard)]),
        ("Workload and timing", timing if workload else []),
        ("Policy and items", [*judged, *suite_facts(decision)]),
        ("Run", [*run_facts(decision), *pairs(mapping(decision.get("budget")))]),
        ("Versions", pairs(mapping(decision.get("versions")))),
    ]
    return [(title, named) for title, named in groups if named]


def machine_facts(document: Mapping[str, Any]) -> Named:
    """The machine of a decision or an evaluation."""
    machine = mapping(document.get("machine"))
    return [
        ("processor", line(machine.get("cpu") or "unknown")),
        ("cores", count(machine.get("n_cores"))),
        ("memory", megabytes(machine.get("memory_bytes"))),
        ("read bandwidth, all cores", with_unit(machine.get("read_gb_s"), "GB/s")),
        ("float32 matrix multiplication, all cores", with_unit(machine.get("matmul_gflop_s"), "GFLOP/s")),
        ("accelerators", plain(machine.get("accelerators") or "none")),
        ("instruction sets", plain(machine.get("flags") or "unknown")),
        ("system", line(machine.get("system") or "unknown")),
    ]


def suite_facts(document: Mapping[str, Any]) -> Named:
    """The items of a decision or an evaluation."""
    suite = mapping(document.get("suite"))
    return [
        ("items", f"{line(suite.get('name', ''))}, version {line(suite.get('version', ''))}"),
        ("number of items", f"{count(suite.get('n_items'))} in {count(suite.get('n_clusters'))} clusters"),
        ("items sha256", line(suite.get("digest", ""))),
    ]


def run_facts(document: Mapping[str, Any]) -> Named:
    """When a decision or an evaluation was made, and how long it took."""
    return [
        ("started", line(document.get("started", ""))),
        ("finished", line(document.get("finished", ""))),
        ("took", seconds(document.get("seconds"))),
        ("seed", line(document.get("seed", ""))),
        *pairs(mapping(document.get("work"))),
    ]


def _power(joint: Mapping[str, Any], power: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the items can show, as predicted before the run and as it came out; nothing where nothing was certified."""
    rows = []
    if power:
        rows += [
            ("predicted before the run: an equal candidate passes with", percent(power.get("joint_power"))),
            ("predicted before the run: stopped if it lost this share of every margin", percent(power.get("joint_detectable"))),
        ]
    if joint:
        rows += [
            ("at this n: an equal candidate passes with", percent(joint.get("joint_power"))),
            ("attempt on these items", line(joint.get("attempt", ""))),
            ("look", f"{line(joint.get('look', ''))} of {line(joint.get('n_looks', ''))}"),
            ("use of the evidence", line(joint.get("use", "")).replace("_", " ")),
        ]
    return rows


def _tokens(value: Any) -> str:
    return f"{count(value)} tokens" if is_number(value) else MISSING
