"""pytest: the fixture `trimtab_check`. Loaded by every pytest run where trimtab is installed, so nothing is imported before it is used.

def test_model(trimtab_check):
    result = trimtab_check("deploy.toml")
    assert result.passed, result.explain()
"""

from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from trimtab.api import CheckResult


class Check(Protocol):
    """`trimtab.check`, with relative paths taken from pytest's root folder."""

    def __call__(self, lock: str = "deploy.toml", **options: Any) -> "CheckResult": ...


@pytest.fixture(scope="session")
def trimtab_check(request: pytest.FixtureRequest) -> Check:
    """Call it with a lockfile and the options of `trimtab.check`; what was asked before in this session is not measured again."""
    root = request.config.rootpath
    known: dict[str, CheckResult] = {}

    def check(lock: str = "deploy.toml", **options: Any) -> "CheckResult":
        import trimtab

        key = repr((lock, sorted(options.items())))
        if key not in known:
            known[key] = trimtab.check(root / lock, **options)
        return known[key]

    return check
