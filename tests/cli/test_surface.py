"""The command line's surface, frozen: a change here is a change for users, and a line in the changelog."""

import click
import pytest

from trimtab.cli.main import VERBS, cli
from trimtab.cli.options import option_names

COMMON = {"json", "quiet", "verbose", "no_color", "offline", "time_limit", "seed"}
OWN = {
    "describe": {"html", "base", "engines"},
    "compare": {"policy", "suite", "workload", "timing", "out", "fresh"},
    "optimize": {"workload", "out", "candidate", "policy", "engine", "suite", "fresh", "objective", "slo", "price_per_hour"},
    "check": {"junit", "summary", "digests_only", "sample", "run_dir", "source", "reference", "policy", "suite"},
    "doctor": set(),
}


def test_the_verbs() -> None:
    assert set(VERBS) == set(OWN)


@pytest.mark.parametrize("verb", OWN)
def test_the_options(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    options = option_names(command)
    assert set(options) == OWN[verb] | COMMON
    assert all(option.help for option in options.values())
    assert all(option.envvar == f"TRIMTAB_{name.upper()}" for name, option in options.items())
