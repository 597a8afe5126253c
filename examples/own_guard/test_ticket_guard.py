"""trimtab's contract tests on this guard, and what it is for."""

import pytest
from ticket_guard import TicketNumbers

from trimtab.core.guarding import Side
from trimtab.guard.base import Guard
from trimtab.testing.guard_contract import GuardContract


class TestContract(GuardContract):
    hits = ("See OPS-1234 for more.", "OPS-1, SEC-22", "as in SEC-99")
    clean = ("OPS has 1234 members.", "XOPS-12 is no ticket, nor is OPS-1234567890.")
    most_held_chars = 14

    @classmethod
    def open_guard(cls, side: Side) -> Guard:
        return TicketNumbers({}, side=side, time_limit_s=5.0)


@pytest.mark.parametrize(("projects", "n"), [((), 1), (("WEB",), 1), (("WEB", "OPS"), 2)])
def test_projects(projects: tuple[str, ...], n: int) -> None:
    options = {"projects": projects} if projects else {}
    assert len(TicketNumbers(options, side="in", time_limit_s=1.0).check("OPS-1 and WEB-2")) == n
