"""Grafana: a dashboard of the gateway's metrics (serve/meter), to be imported as it is; it asks for the data source."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from trimtab.core.release import Serving
from trimtab.package.manifests.text import checked_name, title

WIDE, HIGH = 12, 8
_MODEL = 'model=~"$model"'
_SECONDS = "histogram_quantile(%s, sum by (le, model) (rate(%s_bucket{" + _MODEL + "}[$__rate_interval])))"

Panel = tuple[str, str, str, tuple[tuple[str, str], ...]]
"""Title, unit of Grafana's, what it shows in a sentence, (expression, legend) of each line."""

PANELS: tuple[Panel, ...] = (
    (
        "Requests",
        "reqps",
        "Requests that ended, by HTTP status.",
        ((f"sum by (model, status) (rate(trimtab_requests_total{{{_MODEL}}}[$__rate_interval]))", "{{model}} {{status}}"),),
    ),
    (
        "Errors of the server",
        "percentunit",
        "Share of requests that ended in a status of 500 or more.",
        (
            (
                f'sum by (model, version) (rate(trimtab_requests_total{{{_MODEL},status=~"5.."}}[$__rate_interval])) '
                f"/ sum by (model, version) (rate(trimtab_requests_total{{{_MODEL}}}[$__rate_interval]))",
                "{{model}} {{version}}",
            ),
        ),
    ),
    (
        "Time to the first token",
        "s",
        "Of streamed answers that ended well: half, and 95 in a hundred, are quicker.",
        tuple((_SECONDS % (share, "trimtab_time_to_first_token_seconds"), f"{{{{model}}}} {share}") for share in ("0.5", "0.95")),
    ),
    (
        "Time to the whole answer",
        "s",
        "Of answers that ended well: half, and 95 in a hundred, are quicker.",
        tuple((_SECONDS % (share, "trimtab_request_seconds"), f"{{{{model}}}} {share}") for share in ("0.5", "0.95")),
    ),
    (
        "At work and waiting",
        "short",
        "Requests that a replica works on, and those that wait for one.",
        (("vllm:num_requests_running", "{{model_name}} at work"), ("vllm:num_requests_waiting", "{{model_name}} waiting")),
    ),
    (
        "Tokens",
        "short",
        "Tokens a second, read and written.",
        (
            ("sum by (model_name) (rate(vllm:prompt_tokens_total[$__rate_interval]))", "{{model_name}} read"),
            ("sum by (model_name) (rate(vllm:generation_tokens_total[$__rate_interval]))", "{{model_name}} written"),
        ),
    ),
    (
        "Guards",
        "percentunit",
        "Share of texts in which a guard found something that it acted on.",
        (
            (
                'sum by (guard) (rate(trimtab_guard_verdicts_total{action!="allow"}[$__rate_interval])) '
                "/ sum by (guard) (rate(trimtab_guard_verdicts_total[$__rate_interval]))",
                "{{guard}}",
            ),
            ("sum by (guard) (rate(trimtab_guard_errors_total[$__rate_interval]))", "{{guard}} could not judge (per second)"),
        ),
    ),
    (
        "Copies to a version on trial",
        "reqps",
        "Shadow traffic by status; nobody is answered from it.",
        (
            (
                f"sum by (model, version, status) (rate(trimtab_shadow_requests_total{{{_MODEL}}}[$__rate_interval]))",
                "{{version}} {{status}}",
            ),
        ),
    ),
    (
        "Replicas",
        "short",
        "By state.",
        ((f"sum by (model, version, state) (trimtab_replicas{{{_MODEL}}})", "{{model}} {{version}} {{state}}"),),
    ),
    (
        "Memory of replicas",
        "bytes",
        "Resident, of a version's replicas together.",
        ((f"sum by (model, version) (trimtab_replica_memory_bytes{{{_MODEL}}})", "{{model}} {{version}}"),),
    ),
    (
        "Tokens by key",
        "short",
        "Tokens a second that each key uses.",
        (("topk(10, sum by (key) (rate(trimtab_key_tokens_total[$__rate_interval])))", "{{key}}"),),
    ),
    (
        "Power",
        "watt",
        "Of the whole machine, where it can tell; empty where it cannot.",
        (("rate(trimtab_energy_joules_total[$__rate_interval])", "machine"),),
    ),
)


def grafana(serving: Serving) -> dict[str, bytes]:
    """NAME.dashboard.json. Raises InputError."""
    name = checked_name(serving)
    dashboard = {
        "description": title(serving, "Grafana dashboard"),
        "title": f"trimtab {name}",
        "uid": f"trimtab-{hashlib.sha256(name.encode()).hexdigest()[:16]}",
        "tags": ["trimtab"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "timezone": "utc",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                {
                    "name": "model",
                    "label": "Model",
                    "type": "query",
                    "datasource": _source(),
                    "query": {"query": "label_values(trimtab_requests_total, model)", "refId": "models"},
                    "refresh": 2,
                    "includeAll": True,
                    "multi": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": list(_panels()),
    }
    text = json.dumps(dashboard, indent=2, ensure_ascii=False)
    return {f"{name}.dashboard.json": ("{" + text.removeprefix("{\n").lstrip() + "\n").encode()}  # whose it is stands in the first line


def _source() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${datasource}"}


def _panels() -> Iterable[dict[str, Any]]:
    for place, (name, unit, text, lines) in enumerate(PANELS):
        yield {
            "id": place + 1,
            "type": "timeseries",
            "title": name,
            "description": text,
            "datasource": _source(),
            "gridPos": {"x": WIDE * (place % 2), "y": HIGH * (place // 2), "w": WIDE, "h": HIGH},
            "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
            "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
            "targets": [
                {"refId": chr(ord("A") + number), "datasource": _source(), "expr": expression, "legendFormat": legend}
                for number, (expression, legend) in enumerate(lines)
            ],
        }
