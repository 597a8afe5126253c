"""What the gateway counts: names that dashboards know, bounded labels, accounts that add up."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from trimtab.core.guarding import Verdict
from trimtab.serve.base import Usage
from trimtab.serve.meter import MOST_VALUES, Load, Meter, loads_of

DASHBOARD = Path(__file__).resolve().parents[2] / "examples" / "grafana" / "trimtab.json"
VERDICT = Verdict(guard="personal-data", side="in", action="redact", took_ms=0.4)


def samples(meter: Meter) -> dict[tuple[str, ...], float]:
    """name, label values in the order of their names -> value"""
    families = text_string_to_metric_families(meter.render().decode())
    return {(one.name, *(one.labels[name] for name in sorted(one.labels))): one.value for family in families for one in family.samples}


def answer(meter: Meter, **changes: Any) -> None:
    meter.request_began()
    values: dict[str, Any] = {
        "model": "chat",
        "version": "chat@1",
        "key_id": "k_1",
        "status": 200,
        "usage": Usage(prompt=100, completion=11),
        "seconds": 1.2,
        "first_token_s": 0.2,
        "verdicts": [VERDICT],
    }
    meter.request_ended(**{**values, **changes})


def test_a_request_is_counted_everywhere_it_belongs() -> None:
    meter = Meter()
    meter.request_began()
    assert samples(meter)[("trimtab_requests_in_flight",)] == 1
    meter = Meter()
    answer(meter, finish_reason="stop", queue_s=0.05)
    found = samples(meter)
    assert found[("trimtab_requests_in_flight",)] == 0
    assert found[("trimtab_requests_total", "chat", "200", "chat@1")] == 1
    assert found[("trimtab_key_requests_total", "k_1", "200")] == 1
    assert found[("trimtab_key_tokens_total", "k_1", "prompt")] == found[("vllm:prompt_tokens_total", "chat")] == 100
    assert found[("trimtab_key_tokens_total", "k_1", "completion")] == found[("vllm:generation_tokens_total", "chat")] == 11
    assert found[("vllm:request_success_total", "stop", "chat")] == 1
    assert found[("vllm:e2e_request_latency_seconds_sum", "chat")] == pytest.approx(1.2)
    assert found[("vllm:time_to_first_token_seconds_sum", "chat")] == pytest.approx(0.2)
    assert found[("vllm:request_time_per_output_token_seconds_sum", "chat")] == pytest.approx(0.1)
    assert found[("vllm:request_queue_time_seconds_sum", "chat")] == pytest.approx(0.05)
    assert found[("trimtab_guard_verdicts_total", "redact", "personal-data", "in")] == 1
    assert found[("trimtab_guard_seconds_sum", "personal-data")] == pytest.approx(0.0004)


def test_times_are_of_requests_that_ended_well_and_were_seen() -> None:
    meter = Meter()
    answer(meter, status=502, seconds=90.0)
    answer(meter, status=499)
    answer(meter, is_stream=False)  # a whole answer: its first token was not seen
    answer(meter, first_token_s=None, usage=Usage(prompt=3, completion=0))
    answer(meter, usage=Usage(prompt=3, completion=1))
    found = samples(meter)
    assert found[("vllm:e2e_request_latency_seconds_count", "chat")] == 3
    assert found[("vllm:time_to_first_token_seconds_count", "chat")] == 1
    assert found[("vllm:request_time_per_output_token_seconds_count", "chat")] == 0
    assert found[("vllm:request_queue_time_seconds_count", "chat")] == 0
    assert found[("vllm:request_success_total", "error", "chat")] == found[("vllm:request_success_total", "abort", "chat")] == 1
    assert found[("trimtab_request_seconds_count", "chat", "chat@1")] == 3


def test_a_refusal_counts_without_a_model() -> None:
    meter = Meter()
    answer(meter, model="", version="", key_id="", status=401, usage=Usage(prompt=0, completion=0), first_token_s=None, verdicts=[])
    answer(meter, version="", status=429, usage=Usage(prompt=0, completion=0), first_token_s=None, verdicts=[])
    found = samples(meter)
    assert found[("trimtab_requests_total", "none", "401", "none")] == 1
    assert found[("trimtab_requests_total", "chat", "429", "none")] == 1
    assert not any(name.startswith("vllm:") for name, *_ in found)


@pytest.mark.slow
def test_labels_are_bounded() -> None:
    meter = Meter()
    for number in range(MOST_VALUES + 50):
        answer(meter, key_id=f"k_{number}", model=f"model{number}", version=f"v{number}", verdicts=[])
    found = samples(meter)
    keys = {labels[0] for name, *labels in found if name == "trimtab_key_requests_total"}
    assert len(keys) == MOST_VALUES + 1
    assert found[("trimtab_key_requests_total", "other", "200")] == 50
    assert len({labels[0] for name, *labels in found if name == "vllm:prompt_tokens_total"}) == MOST_VALUES + 1
    size = len(meter.render())
    answer(meter, key_id="one more", model="one more", version="one more", verdicts=[])
    assert abs(len(meter.render()) - size) < 100


def test_loads_are_those_of_now() -> None:
    loads = [
        Load(model="chat", version="chat@1", running=3, waiting=2, replicas={"ready": 1}, memory_bytes=10),
        Load(model="chat", version="chat@2", running=1, waiting=0, replicas={"loading": 1}),
    ]
    meter = Meter(read_loads=lambda: loads)
    found = samples(meter)
    assert (found[("vllm:num_requests_running", "chat")], found[("vllm:num_requests_waiting", "chat")]) == (4, 2)
    assert found[("trimtab_replicas", "chat", "ready", "chat@1")] == 1
    assert ("trimtab_replica_memory_bytes", "chat", "chat@2") not in found
    loads.clear()
    assert not any(name in ("vllm:num_requests_running", "trimtab_replicas") for name, *_ in samples(meter))


def test_loads_come_from_the_dispatchers_snapshot() -> None:
    replica = {"number": 1, "status": "ready", "running": 2, "slots": 4, "memory_bytes": 7}
    row = {
        "version": "chat@1",
        "model": "chat",
        "waiting": 1,
        "replicas": [replica, {**replica, "number": 2, "status": "loading", "running": 0}],
    }
    [load] = loads_of({"versions": [row]})
    assert load == Load(model="chat", version="chat@1", running=2, waiting=1, replicas={"ready": 1, "loading": 1}, memory_bytes=14)


def test_shadows_and_the_audit_log() -> None:
    meter = Meter()
    meter.shadow_ended("chat", "chat@2", 200, Usage(prompt=5, completion=6), 0.5)
    meter.shadow_skipped("chat", "chat@2")
    meter.audit_failed()
    found = samples(meter)
    assert found[("trimtab_shadow_requests_total", "chat", "200", "chat@2")] == 1
    assert found[("trimtab_shadow_requests_total", "chat", "skipped", "chat@2")] == 1
    assert found[("trimtab_shadow_tokens_total", "chat", "chat@2")] == 11
    assert found[("trimtab_audit_failures_total",)] == 1


def test_energy_is_shared_out_by_tokens_and_absent_where_it_is_not_measured() -> None:
    readings: list[float | None] = [8.0, None, 3.0]
    meter = Meter(read_joules=lambda: readings.pop(0))
    answer(meter, key_id="a", usage=Usage(prompt=10, completion=20))
    answer(meter, key_id="b", usage=Usage(prompt=5, completion=5))
    found = samples(meter)
    assert (found[("trimtab_key_energy_joules_total", "a")], found[("trimtab_key_energy_joules_total", "b")]) == (6, 2)
    meter.render()
    found = samples(meter)
    assert (found[("trimtab_energy_joules_total",)], found[("trimtab_key_energy_joules_total", "none")]) == (11, 3)
    assert b"joules" not in Meter().render()


# The dashboard that ships


def everything() -> Meter:
    load = Load(model="chat", version="chat@1", running=1, waiting=1, replicas={"ready": 1}, memory_bytes=1)
    meter = Meter(read_loads=lambda: [load], read_joules=lambda: 1.0)
    answer(meter, queue_s=0.1, verdicts=[VERDICT, Verdict(guard="slow", side="in", action="allow", error="too slow")])
    meter.shadow_ended("chat", "chat@2", 200, Usage(prompt=1, completion=1), 0.1)
    meter.audit_failed()
    return meter


def queries(dashboard: dict[str, Any]) -> list[str]:
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return panels + [one["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]


def unknown(query: str, names: dict[str, set[str]]) -> list[str]:
    """What a query asks for and the gateway does not have: metrics, and labels in braces and after `by`."""
    bare = re.sub(r'"[^"]*"', '""', query)
    wanted = re.findall(r"\b(?:vllm:|trimtab_)[a-z0-9_]+", bare)
    missing = [name for name in wanted if name not in names]
    known = {label for name in wanted if name in names for label in names[name]}
    asked = re.findall(r"([a-z_]+)(?:=~|!=|=)", bare) + [
        label.strip() for part in re.findall(r"by \(([^)]*)\)", bare) for label in part.split(",")
    ]
    return missing + [label for label in asked if label not in known]


def test_the_dashboard_asks_for_nothing_that_is_not_there() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    names: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(everything().render().decode()):
        for one in family.samples:
            names.setdefault(one.name, set()).update(one.labels)
    asked = queries(dashboard)
    assert len(asked) > 30
    assert {query: missing for query in asked if (missing := unknown(query, names))} == {}
    assert unknown('sum by (le, colour) (rate(vllm:nothing_total{size="x"}[5m]))', names) == ["vllm:nothing_total", "size", "le", "colour"]
    shown = {re.sub(r"_(bucket|sum|count|created)$", "", name) for query in asked for name in names if name in query}
    ours = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in names}
    assert {name for name in ours - shown if name + "_total" not in ours} == set()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
