"""Candidates of a run by name, whole or in short."""

from pathlib import Path

import pytest

from trimtab.core.errors import InputError
from trimtab.flows.parts.row_lock import _row, is_short_for

NAMES = ("llamacpp q4_0", "openvino int4-sym-g64", "openvino int4-asym-g64", "openvino int4-asym-g64, healed")
DECISION = {"candidates": [{"id": name, "details": {"deployment_sha256": "0"}} for name in NAMES]}


def test_words_in_order_are_a_short_name() -> None:
    assert is_short_for("int4-g64", "openvino int4-sym-g64")
    assert is_short_for("q4_0", "llamacpp q4_0")
    assert not is_short_for("g64-int4", "openvino int4-sym-g64")
    assert not is_short_for("int4-g6", "openvino int4-sym-g64")


def test_a_whole_name_goes_before_names_that_it_is_short_for() -> None:
    assert _row(Path("run"), DECISION, "openvino int4-asym-g64")["id"] == "openvino int4-asym-g64"
    assert _row(Path("run"), DECISION, "sym-g64")["id"] == "openvino int4-sym-g64"


def test_a_short_name_of_several_names_them() -> None:
    with pytest.raises(InputError, match=r"several candidates that 'int4-g64' may be.*'openvino int4-sym-g64', 'openvino int4-asym-g64'"):
        _row(Path("run"), DECISION, "int4-g64")
    with pytest.raises(InputError, match=r"has no candidate 'q9'; it has 'llamacpp q4_0'"):
        _row(Path("run"), DECISION, "q9")
