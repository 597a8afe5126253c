"""The settings that a search changes."""

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from trimtab.core.deployment import Settings
from trimtab.core.workload import Workload
from trimtab.engines.registry import engine_class
from trimtab.plan.tuning.axes import AXES_FILE, HALF_CORES, axes_for


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
    everything_matters = workload(concurrency=(1, 4), shared_prefix_tokens=32)
    tried = axes_for(axis["engine"], everything_matters, 4)[axis["setting"]]
    assert list(tried) == [2 if value == HALF_CORES else value for value in axis["values"]]


def test_each_setting_is_searched_or_the_page_says_why_not():
    page = (Path(__file__).parents[3] / "docs" / "settings.md").read_text()
    section = page.partition("## What `optimize` changes")[2].partition("\n## ")[0]
    changed, _, left = section.partition("It leaves alone")
    names = [
        [name for cell in re.findall(r"^\| (`[^|]+) \|", text, re.M) for name in re.findall(r"`(\w+)`", cell)] for text in (changed, left)
    ]
    axes = tomllib.loads(AXES_FILE.read_text())["axis"]
    assert set(names[0]) == {axis["setting"] for axis in axes}
    assert sorted(names[0] + names[1]) == sorted(item.name for item in dataclasses.fields(Settings))
    for axis in axes:
        row = next(line for line in changed.splitlines() if line.startswith(f"| `{axis['setting']}` |"))
        tried = row.split("|")[2 if axis["engine"] == "llamacpp" else 3]
        assert all(str(value).lower().replace("-", " ") in tried.replace(",", "").replace("-", " ") for value in axis["values"]), row
