"""Rules and dashboard: every metric and label in them is one that the gateway has, and promtool takes the rules where it is at hand."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_samples import OPENVINO
from prometheus_client.parser import text_string_to_metric_families

from trimtab.core.guarding import Verdict
from trimtab.package.formats import manifest_files
from trimtab.package.manifests.prometheus import RULES
from trimtab.serve.base import Usage
from trimtab.serve.meter import Load, Meter

NAME = re.compile(r"\b(?:trimtab_|vllm:)[a-z_]+")


@pytest.fixture(scope="module")
def scrape() -> dict[str, set[str]]:
    """Every sample of a gateway to which everything has happened once: name -> its labels."""
    loads = [Load(model="chat", version="a", running=1, waiting=2, replicas={"ready": 1}, memory_bytes=5)]
    meter = Meter(read_loads=lambda: loads, read_joules=lambda: 3.0)
    verdict = Verdict(guard="secrets", side="in", action="block", findings=(), took_ms=1.0, error="broke")
    meter.request_began()
    meter.request_ended(
        model="chat",
        version="a",
        key_id="k",
        status=200,
        usage=Usage(prompt=3, completion=4),
        seconds=1.0,
        first_token_s=0.2,
        verdicts=(verdict,),
        queue_s=0.1,
        finish_reason="stop",
    )
    meter.shadow_ended("chat", "b", 500, Usage(prompt=1, completion=1), 0.5)
    meter.audit_failed()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(meter.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions() -> list[str]:
    files = manifest_files("grafana", OPENVINO)
    dashboard = json.loads(files["support-chat.dashboard.json"])
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]] + [rule["expr"] for rule in rules()]


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(manifest_files("prometheus-rules", OPENVINO)["support-chat.rules.yaml"])
    (group,) = document["groups"]
    return list(group["rules"])


def test_every_metric_is_one_that_the_gateway_has(scrape: dict[str, set[str]]) -> None:
    used = {name for expression in expressions() for name in NAME.findall(expression)}
    assert len(used) > 12
    assert used <= set(scrape)


def test_every_label_is_one_that_its_metrics_have(scrape: dict[str, set[str]]) -> None:
    for expression in expressions():
        has = set().union(*(scrape[name] for name in NAME.findall(expression)))
        grouped = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", expression) for label in labels.split(",")}
        matched = {label for labels in re.findall(r"\{([^}]*)\}", expression) for label in re.findall(r"(\w+)\s*(?:=|!)", labels)}
        assert grouped | matched <= has, expression


def test_a_rule_says_what_is_wrong_and_what_to_do_with_labels_it_has() -> None:
    assert [rule["alert"] for rule in rules()] == [rule[0] for rule in RULES]
    for rule in rules():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["description"].endswith(".")
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert re.search(rf"\b{label}\b", rule["expr"]), rule["alert"]


def test_the_dashboard_asks_for_its_source_and_no_panels_overlap() -> None:
    dashboard = json.loads(manifest_files("grafana", OPENVINO)["support-chat.dashboard.json"])
    assert [one["name"] for one in dashboard["templating"]["list"]] == ["datasource", "model"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in dashboard["panels"]})
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in dashboard["panels"])


def promtool(folder: Path, *words: str) -> str:
    """What it says of rules.yaml in the folder."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("needs promtool (on Debian: apt-get install prometheus)")
    (folder / "rules.yaml").write_bytes(manifest_files("prometheus-rules", OPENVINO)["support-chat.rules.yaml"])
    found = subprocess.run([program, *words], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    assert f"{len(RULES)} rules found" in promtool(tmp_path, "check", "rules", "rules.yaml")


FIRING = {
    "TrimtabNoNumbers": ([], {}),
    "TrimtabErrors": (
        [
            ('trimtab_requests_total{model="chat",version="a",status="200"}', "0+57x60"),
            ('trimtab_requests_total{model="chat",version="a",status="500"}', "0+3x60"),
        ],
        {"model": "chat"},
    ),
    "TrimtabNoReplica": (
        [
            ('vllm:num_requests_waiting{model_name="chat"}', "2x60"),
            ('trimtab_replicas{model="chat",version="a",state="failed"}', "1x60"),
        ],
        {"model": "chat"},
    ),
    "TrimtabQueue": (
        [('vllm:num_requests_waiting{model_name="chat"}', "9x60"), ('vllm:num_requests_running{model_name="chat"}', "2x60")],
        {"model_name": "chat"},
    ),
    "TrimtabAuditGaps": ([("trimtab_audit_failures_total", "0+1x60")], {}),
    "TrimtabGuardErrors": ([('trimtab_guard_errors_total{guard="secrets"}', "0+1x60")], {"guard": "secrets"}),
}
"""Rule -> series by the minute, and the labels of the alert that they must raise."""


def test_promtool_sees_the_alerts_that_planted_numbers_must_raise(tmp_path: Path) -> None:
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": series, "values": values} for series, values in inputs],
            "promql_expr_test": [
                {
                    "expr": f'ALERTS{{alertname="{alert}",alertstate="firing"}} > bool 0',
                    "eval_time": "50m",
                    "exp_samples": [{"labels": _shown(alert, labels), "value": 1}],
                }
            ],
        }
        for alert, (inputs, labels) in FIRING.items()
    ]
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": tests}), encoding="utf-8")
    assert "SUCCESS" in promtool(tmp_path, "test", "rules", "tests.yaml")


def _shown(alert: str, labels: dict[str, str]) -> str:
    severity = next(rule[3] for rule in RULES if rule[0] == alert)
    own = {"alertname": alert, "alertstate": "firing", "service": "support-chat", "severity": severity, **labels}
    return "{" + ", ".join(f'{key}="{value}"' for key, value in own.items()) + "}"
