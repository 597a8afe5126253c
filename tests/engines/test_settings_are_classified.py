"""Every setting is numeric, speed-only or refused with a reason, in every shipped engine."""

import importlib
from dataclasses import fields

import pytest

from trimtab.core.deployment import Settings
from trimtab.engines.registry import SHIPPED, engine_class
from trimtab.testing.engine_contract import SAMPLES


@pytest.mark.parametrize("name", SHIPPED)
def test_every_setting_is_classified_once(name: str) -> None:
    if library := {"llamacpp": "llama_cpp", "openvino": "openvino_genai"}.get(name):
        pytest.importorskip(library)
    kind = engine_class(name)
    refused = importlib.import_module(kind.__module__).CANNOT
    assert all(reason for reason in refused.values())
    named = [*kind.numeric_settings, *kind.speed_settings, *refused]
    assert sorted(named) == sorted(item.name for item in fields(Settings))


def test_every_setting_has_a_sample_for_the_contract() -> None:
    assert set(SAMPLES) == {item.name for item in fields(Settings)}
