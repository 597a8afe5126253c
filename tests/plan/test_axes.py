"""The settings that a search changes."""

import tomllib

import pytest

from trimtab.core.deployment import Settings
from trimtab.core.workload import Workload
from trimtab.engines.registry import engine_class
from trimtab.plan.axes import AXES_FILE, axes_for


def workload(**changes):
    return Workload(**{"name": "w", "prompt_tokens": 64, "output_tokens": 8, "concurrency": (1,), **changes})


def test_settings_that_cannot_matter_are_left_out():
    alone = axes_for("openvino", workload(), 4)
    assert "prefix_cache" not in alone
    assert "batch_tokens" not in alone
    assert alone["threads"] == (2,)
    full = axes_for("openvino", workload(concurrency=(1, 4), shared_prefix_tokens=32), 1)
    assert full["prefix_cache"] == (True,)
    assert "batch_tokens" in full
    assert "threads" not in full  # half of one core is none
    assert axes_for("another", workload(), 4) == {}


@pytest.mark.parametrize("axis", tomllib.loads(AXES_FILE.read_text())["axis"], ids=lambda axis: f"{axis['engine']}-{axis['setting']}")
def test_each_axis_is_a_setting_its_engine_states(axis):
    pytest.importorskip({"llamacpp": "llama_cpp", "openvino": "openvino"}[axis["engine"]])
    kind = engine_class(axis["engine"])
    assert axis["setting"] in kind.numeric_settings | kind.speed_settings
    Settings.parse({axis["setting"]: axis["values"][0]})
