"""The command line's surface, frozen: a change here is a change for users, and a line in the changelog."""

from collections.abc import Iterator

import click
import pytest

from trimtab.cli.main import VERBS, cli
from trimtab.cli.options import option_names
from trimtab.plan.tuning.budget import DEFAULT_LIMIT_S

COMMON = {"json", "quiet", "verbose", "no_color", "offline", "time_limit", "seed"}
CLUSTER = ("cluster", "cluster_store")
OWN = {
    "describe": {"html", "base", "engines"},
    "compare": {
        "policy",
        "suite",
        "workload",
        "prompts",
        "timing",
        "on",
        "answer",
        "chat",
        "logs",
        "noise",
        "control",
        "margin",
        "out",
        "fresh",
        *CLUSTER,
    },
    "optimize": {
        "workload",
        "out",
        "candidate",
        "policy",
        "engine",
        "suite",
        "fresh",
        "objective",
        "slo",
        "price_per_hour",
        "over_long",
        "mixed",
        "heal",
        "hardware_pools",
        *CLUSTER,
    },
    "check": {"junit", "summary", "digests_only", "sample", "run_dir", "source", "reference", "policy", "suite"},
    "evaluate": {"suite", "reference", "why", "answer", "chat", "eval_results", "out", "fresh", *CLUSTER},
    "certify": {"policy", "suite", "reference", "source", "candidate", "mitigate", "explain", "out", "fresh", *CLUSTER},
    "serve": {"host", "port", "admin_port", "keys", "watch", "open_to_network", "cluster"},
    "watch": {
        *("logs", "baseline", "by_version", "text_pct", "explore", "rules", "once", "report", "days", "dry_run", "admin_url", "ledger"),
    },
    "export": {
        *("format", "out", "base", "image", "port", "ledger", "allow_uncertified", "extra", "replicas", "redis", "gateway_class"),
        "weights_uri",
    },
    "import": {"out"},
    "doctor": set(),
    "ui": {"port", "ledger", "runs"},
}
OWN_OF_PARTS = {
    "runs": {"list": set(), "show": {"what_if", "price_per_hour", "power_watts", "price_per_kwh"}, "diff": set(), "rm": {"yes", "dry_run"}},
    "fairness": {
        "decisions": {
            *("decision", "label", "group", "positive", "positive_label", "score", "threshold", "before", "pair", "cluster", "missing"),
            *("policy", "mitigate", "features", "out"),
        },
        "data": {"fields", "group", "label", "out"},
    },
    "plan": {
        "serve": {
            *("hardware", "workload", "slo", "rate", "engine", "weights", "kv", "layout", "max_devices", "disaggregated", "objective"),
            *("price", "commitment", "html", "out", "emit"),
        },
        "train": {
            *("hardware", "devices", "tokens", "seq", "global_batch", "precision", "framework", "optimizer", "layout", "offload", "budget"),
            *("deadline", "objective", "why_not", "data", "failures", "checkpoint_storage", "price", "commitment", "html", "out", "emit"),
        },
        "fit": {"hardware", "devices", "context", "weights", "kv", "engine", "html", "out"},
        "simulate": {
            *("hardware", "steps", "trace", "workload", "rate", "duration", "burstiness", "speed", "replicas", "policy", "route", "slo"),
            *("engine", "weights", "kv", "layout", "slots", "batch_tokens", "kv_tokens", "reserve", "chunked", "prefix_cache", "overhead"),
            *("queue", "queue_limit", "queue_wait", "cold_start", "storage", "boot", "mtbf", "restart", "spot", "notice", "retry"),
            *("idle_watts", "region", "repeats", "price", "commitment", "html"),
        },
        "hardware": {"vendor", "kind"},
        "models": {"seq"},
        "measure": {"disk", "for"},
        "check": {"leave_out"},
    },
    "train": {
        "finetune": {
            *("data", "config", "out", "tokens", "steps", "epochs", "seq", "batch", "micro_batch", "lr", "lora", "precision", "chat"),
            *("from_scratch", "processes", "tensorboard", "mlflow", "price_per_hour", "region", "no_plan", "fresh"),
        },
        "heal": {"candidate", "tokens", "data", "lr", "policy", "suite", "processes", "out", "no_judge", "fresh"},
        "debias": {
            *("suite", "method", "data", "tokens", "strength", "lora", "lr", "policy", "against", "processes", "out", "no_judge", "fresh"),
        },
    },
    "keys": {"add": {"models", "verbs", "rpm", "tokens_per_day", "expires"}, "list": {"all"}, "rotate": {"overlap"}, "revoke": set()},
    "weights": {"serve": {"host", "port", "limit"}, "fetch": {"out", "digest", "host", "port", "limit", "stay"}},
    "verify": {
        "log": {"anchor", "key"},
        "logs": {"key"},
        "release": {"key", "anchor", "weights", "ledger"},
        "ledger": {"anchor", "key", "ledger"},
        "weights": {"signature", "key"},
    },
    "release": {
        "create": {"name", "use", "rules", "licence", "licence_source", "as", "ledger"},
        "use": {"template", "rules", "licence", "licence_source", "as", "ledger"},
        "approve": {"note", "as", "ledger"},
        "waive": {"gate", "reason", "lasts", "as", "ledger"},
        "promote": {"to", "note", "as", "ledger"},
        "rollback": {"to", "alias", "note", "as", "ledger"},
        "retire": {"reason", "as", "ledger"},
        "revoke": {"reason", "as", "ledger"},
        "show": {"ledger"},
        "list": {"ledger"},
        "history": {"at", "ledger"},
        "site": {"out", "ledger"},
        "push": {"to", "alias", "weights", "ledger"},
        "sign-weights": {"out"},
        "people add": {"roles", "public_key", "as", "ledger"},
        "people key": set(),
        "people list": {"ledger"},
    },
    "incident": {
        "open": {"about", "severity", "owner", "affected", "alarm", "serious", "note", "as", "ledger"},
        "update": {"state", "severity", "title", "owner", "affected", "alarm", "serious", "note", "as", "ledger"},
        "close": {"note", "owner", "as", "ledger"},
        "list": {"about", "all", "ledger"},
        "show": {"ledger"},
        "impact add": {"about", "severity", "intended", "state", "owner", "group", "mitigation", "source", "note", "as", "ledger"},
        "impact update": {
            *("effect", "severity", "intended", "state", "owner", "group", "mitigation", "source", "note"),
            *("as", "ledger"),
        },
        "impact list": {"about", "ledger"},
    },
    "ui": {"sign-in": {"as", "port", "ledger"}},
    "cache": {"show": set(), "prune": {"max_size", "older_than", "dry_run"}},
}


def test_the_verbs() -> None:
    assert set(VERBS) == set(OWN) | set(OWN_OF_PARTS)


def parts_of(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command below a verb, `people add` where a part has parts of its own."""
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        yield from parts_of(command, f"{name} ") if isinstance(command, click.Group) else [(before + name, command)]


@pytest.mark.parametrize("verb", OWN_OF_PARTS)
def test_the_options_of_parts(verb: str) -> None:
    group = cli.get_command(click.Context(cli), verb)
    assert isinstance(group, click.Group)
    commands = dict(parts_of(group))
    assert set(commands) == set(OWN_OF_PARTS[verb])
    for name, command in commands.items():
        assert set(option_names(command)) == OWN_OF_PARTS[verb][name] | COMMON


def test_the_help_of_optimize_says_how_long_it_takes() -> None:
    command = cli.get_command(click.Context(cli), "optimize")
    assert command is not None
    assert "default time limit is six minutes" in " ".join((command.help or "").split())
    assert DEFAULT_LIMIT_S == 6 * 60


@pytest.mark.parametrize("verb", OWN)
def test_the_options(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    options = option_names(command)
    assert set(options) == OWN[verb] | COMMON
    assert all(option.help for option in options.values())
    assert all(option.envvar == f"TRIMTAB_{name.upper()}" for name, option in options.items())
