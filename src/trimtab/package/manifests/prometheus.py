"""Prometheus: a file of alerting rules on the metrics that the gateway has (serve/meter), for those who have one.

Thresholds on a change compare with the day before, because what is usual differs from model to model; they are rules of thumb, watched by
many looks. Alarms with a stated number of false ones are `trimtab watch`'s.
"""

from typing import Any

from trimtab.core.release import Serving
from trimtab.package.manifests.text import checked_name, title, yaml_bytes

DOCS = "docs/monitoring.md"
_RATE = 'sum by (model) (rate(trimtab_requests_total{status=~"%s"}[10m])) / sum by (model) (rate(trimtab_requests_total[10m]))'
_FIRST = "histogram_quantile(0.95, sum by (le, model) (rate(trimtab_time_to_first_token_seconds_bucket[15m]%s)))"
_BLOCKED = (
    'sum by (guard) (rate(trimtab_guard_verdicts_total{action="block"}[1h]%s)) / sum by (guard) (rate(trimtab_guard_verdicts_total[1h]%s))'
)
_BUSY = "sum by (model) (rate(trimtab_requests_total[10m])) > 0.05"

Rule = tuple[str, str, str, str, str, str]
"""Name, expression, how long it must hold, severity, one line, what to do."""

RULES: tuple[Rule, ...] = (
    (
        "TrimtabNoNumbers",
        "absent(trimtab_requests_in_flight)",
        "5m",
        "critical",
        "The gateway gives no metrics",
        "It is down, or Prometheus does not reach its admin port, which listens on loopback only.",
    ),
    (
        "TrimtabNoReplica",
        'sum by (model) (label_replace(vllm:num_requests_waiting > 0, "model", "$1", "model_name", "(.*)")) '
        'unless on (model) (sum by (model) (trimtab_replicas{state="ready"}) > 0)',
        "5m",
        "critical",
        "Requests wait for {{ $labels.model }} and no replica is ready",
        "`/state` of the admin port says what became of its replicas.",
    ),
    (
        "TrimtabErrors",
        f"({_RATE % '5..'}) > 0.02 and ({_BUSY})",
        "10m",
        "critical",
        "{{ $value | humanizePercentage }} of the requests for {{ $labels.model }} end in an error of the server",
        "The audit log has the error of each; a canary goes back with `trimtab release rollback` or `/traffic` of the admin port.",
    ),
    (
        "TrimtabTurnedAway",
        f"({_RATE % '429|503'}) > 0.05 and ({_BUSY})",
        "15m",
        "warning",
        "{{ $value | humanizePercentage }} of the requests for {{ $labels.model }} are turned away",
        "Limits of keys, or a full queue: more replicas, or higher limits.",
    ),
    (
        "TrimtabSlowFirstToken",
        f"({_FIRST % ''}) > 2 * ({_FIRST % ' offset 1d'}) and ({_FIRST % ''}) > 1",
        "30m",
        "warning",
        "The first token of {{ $labels.model }} takes {{ $value | humanizeDuration }} (95 %), twice what it took a day ago",
        "Longer prompts, more load, or another program on the machine; `trimtab watch` says which requests.",
    ),
    (
        "TrimtabQueue",
        "sum by (model_name) (vllm:num_requests_waiting) > 4 * clamp_min(sum by (model_name) (vllm:num_requests_running), 1)",
        "10m",
        "warning",
        "{{ $value }} requests wait for {{ $labels.model_name }}, four times as many as run",
        "More replicas, or fewer requests.",
    ),
    (
        "TrimtabGuardErrors",
        "sum by (guard) (increase(trimtab_guard_errors_total[15m])) > 0",
        "5m",
        "warning",
        "The guard {{ $labels.guard }} could not judge {{ $value | humanize }} texts",
        "What happens to such texts is the site's `on_error`; see the guard's own log.",
    ),
    (
        "TrimtabGuardBlocksMore",
        f"({_BLOCKED % ('', '')}) > 3 * ({_BLOCKED % (' offset 1d', ' offset 1d')}) and ({_BLOCKED % ('', '')}) > 0.01",
        "1h",
        "warning",
        "The guard {{ $labels.guard }} blocks {{ $value | humanizePercentage }}, three times the share of a day ago",
        "Somebody tries something, or the guard errs on a new kind of text; the audit log says whose requests.",
    ),
    (
        "TrimtabAuditGaps",
        "increase(trimtab_audit_failures_total[15m]) > 0",
        "0m",
        "critical",
        "{{ $value | humanize }} records could not be written to the audit log",
        "A full disk, or no right to write under TRIMTAB_HOME.",
    ),
    (
        "TrimtabShadowErrors",
        'sum by (model, version) (rate(trimtab_shadow_requests_total{status=~"5.."}[30m])) '
        "/ sum by (model, version) (rate(trimtab_shadow_requests_total[30m])) > 0.05",
        "30m",
        "warning",
        "{{ $value | humanizePercentage }} of the copies for {{ $labels.version }} of {{ $labels.model }} fail",
        "Users see nothing of it; the version on trial is not ready.",
    ),
)


def prometheus_rules(serving: Serving) -> dict[str, bytes]:
    """NAME.rules.yaml, for `rule_files` of prometheus.yml. Raises InputError, MissingError."""
    name = checked_name(serving)
    rules: list[dict[str, Any]] = [
        {
            "alert": alert,
            "expr": expression,
            "for": holds,
            "labels": {"severity": severity, "service": name},
            "annotations": {"summary": summary, "description": todo, "runbook": DOCS},
        }
        for alert, expression, holds, severity, summary, todo in RULES
    ]
    notes = [
        title(serving, "Prometheus alerts"),
        "Check: promtool check rules FILE. Scrape /metrics of the gateway's admin port.",
        "Thresholds are rules of thumb; alarms with a stated number of false ones are those of `trimtab watch`.",
    ]
    return {f"{name}.rules.yaml": yaml_bytes(notes, {"groups": [{"name": f"trimtab-{name}", "rules": rules}]})}
