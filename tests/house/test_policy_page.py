"""docs/policies.md shows the margins that ship."""

from pathlib import Path

from trimtab.decide.fairness_policy import load_fairness_policy
from trimtab.decide.policies import catalog_gate, load_policy

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "policies.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]


def test_the_shipped_margins_are_on_the_page():
    strict = {gate.name: gate for gate in load_policy("strict").gates}
    for gate in load_policy("standard").gates:
        row = next(row for row in ROWS if row[0] == gate.name)
        assert row[1:5] == [gate.kind, gate.unit, f"{gate.margin:g}", f"{strict[gate.name].margin:g}"]
        assert row[5:7] == [gate.control, str(gate.min_clusters)]


def test_the_gates_of_other_suites_are_on_the_page():
    answers = {gate.name: gate for gate in load_policy("answers").gates}
    rows = [row for row in ROWS if len(row) == 6 and row[0] != "gate" and row[0] not in answers]
    assert len(rows) > 20
    for name, kind, unit, margin, control, least in rows:
        gate = catalog_gate(name)
        assert gate is not None, name
        assert (kind, unit, margin, control, least) == (gate.kind, gate.unit, f"{gate.margin:g}", gate.control, str(gate.min_clusters))


def test_the_policy_for_answers_is_on_the_page():
    for gate in load_policy("answers").gates:
        row = next(row for row in ROWS if row[0] == gate.name and len(row) == 6)
        assert row[1:] == [gate.kind, gate.unit, f"{gate.margin:g}", gate.control, str(gate.min_clusters)]


def test_the_policies_of_decisions_are_on_the_page():
    both = [load_fairness_policy(name) for name in ("standard", "strict")]
    for metric in dict.fromkeys(gate.metric for policy in both for gate in policy.gates):
        found = [next((gate for gate in policy.gates if gate.metric == metric), None) for policy in both]
        (row,) = [row for row in ROWS if row[0] == metric]
        assert row[1:3] == [f"{gate.max_gap:g}" if gate else "" for gate in found]
        assert {gate.required for gate in found if gate} == {row[3]}
    for field in ("alpha", "min_group", "min_pairs", "small_groups"):
        row = next(row for row in ROWS if row[0] == f"`{field}`" and len(row) == 4)
        assert row[1:3] == [str(getattr(policy, field)) for policy in both]
