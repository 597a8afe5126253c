"""docs/policies.md shows the margins that ship."""

from pathlib import Path

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
    rows = [row for row in ROWS if len(row) == 6 and row[0] != "gate"]
    assert len(rows) > 20
    for name, kind, unit, margin, control, least in rows:
        gate = catalog_gate(name)
        assert gate is not None, name
        assert (kind, unit, margin, control, least) == (gate.kind, gate.unit, f"{gate.margin:g}", gate.control, str(gate.min_clusters))
