"""`trimtab plan models` as it is typed."""

import json

import pytest
from click.testing import CliRunner

from trimtab.cli.plan_models import count, models, size_text
from trimtab.core.errors import InputError


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def said(*words):
    result = CliRunner().invoke(models, words, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_the_table_holds_every_model():
    out = said()
    (row,) = [line for line in out.splitlines() if line.startswith("llama-3.1-8b ")]
    assert row.split()[:7] == ["llama-3.1-8b", "8.03B", "7.5B", "32", "4,096", "131.1", "131,072"]
    (row,) = [line for line in out.splitlines() if line.startswith("gpt-oss-120b ")]
    assert "18 sliding + 18 full" in row


def test_a_narrow_terminal_gets_fewer_columns_and_whole_names(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    out = said()
    assert "qwen3-coder-480b-a35b " in out
    assert "…" not in out


def test_one_model_is_told_with_its_costs():
    out = said("DeepSeek-R1-0528", "--seq", "4096")
    assert "58 mla" not in out
    assert "61 mla" in out
    assert "megatron-causal" in out
    found = json.loads(said("deepseek-v3", "mixtral-8x7b", "--json"))
    first, second = found["models"]
    assert first["kv_bytes_per_token"] == 2 * 576 * 61
    assert first["kv_bytes"]["8192"]["mla"] == 2 * 576 * 61 * 8192
    assert second["read_bytes_of_one_token"]["bf16"] == pytest.approx(2 * second["active_params"], rel=1e-3)
    assert first["train_flops_per_token"]["megatron-causal"] > first["train_flops_per_token"]["megatron-lora"]


def test_an_unknown_model_gets_near_names():
    with pytest.raises(InputError, match="near names: mixtral"):
        said("mixtral-8x8b")


def test_numbers_are_short():
    assert [count(number) for number in (1.04e13, 671e9, 8.03e9, 135e6, 12)] == ["10.4T", "671.0B", "8.03B", "135.0M", "12"]
    assert [size_text(size) for size in (1.3e12, 671e9, 16.1e9, 12)] == ["1.3 TB", "671 GB", "16.1 GB", "12 B"]
