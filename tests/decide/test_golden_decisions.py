"""Whole decisions, frozen. Inputs come from the seeds in each file; `TRIMTAB_UPDATE_GOLDEN=1 pytest tests/decide/test_golden_decisions.py`
rewrites the expected decisions after a deliberate change (read the diff before committing it)."""

import json
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trimtab.core.evidence import Evidence
from trimtab.core.files import to_plain
from trimtab.decide.decide import decide

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*.json"))


def run_case(case: dict[str, Any], made: SimpleNamespace) -> Any:
    policy = made.policy(**{key: tuple(value) if isinstance(value, list) else value for key, value in case.get("policy", {}).items()})
    if case.get("identical"):
        base = made.evidence(**case.get("evidence", {}))
        base = Evidence(**{**{name: getattr(base, name) for name in base.__dataclass_fields__}, "candidate": base.reference})
    else:
        base = made.evidence(**case.get("evidence", {}))
    return to_plain(decide(policy, base, **case.get("call", {})))


def difference(expected: Any, found: Any, path: str = "") -> str:
    """The first place where two plain values differ, numbers compared to 1e-6."""
    if isinstance(expected, float) and isinstance(found, (int, float)):
        return "" if math.isclose(expected, found, rel_tol=1e-6, abs_tol=1e-9) else f"{path}: {expected} became {found}"
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        return next((d for key in expected if (d := difference(expected[key], found[key], f"{path}.{key}"))), "")
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return next((d for i in range(len(expected)) if (d := difference(expected[i], found[i], f"{path}[{i}]"))), "")
    return "" if expected == found and type(expected) is type(found) else f"{path}: {expected!r} became {found!r}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_decision_is_as_frozen(file: Path, made: SimpleNamespace) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    found = run_case(content["case"], made)
    if os.environ.get("TRIMTAB_UPDATE_GOLDEN") == "1":
        content["decision"] = found
        file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found["verdict"] == content["verdict"], found["reasons"]
    assert not difference(content["decision"], found)


def test_all_three_words_are_covered() -> None:
    assert len(FILES) >= 10
    assert {json.loads(file.read_text(encoding="utf-8"))["verdict"] for file in FILES} == {"pass", "fail", "inconclusive"}


def test_difference_sees_a_changed_number_and_a_changed_word() -> None:
    assert difference({"a": [1.0, "x"]}, {"a": [1.0, "x"]}) == ""
    assert difference({"a": [1.0, "x"]}, {"a": [1.001, "x"]}) == ".a[0]: 1.0 became 1.001"
    assert difference({"a": [1.0, "x"]}, {"a": [1.0, "y"]}) == ".a[1]: 'x' became 'y'"
