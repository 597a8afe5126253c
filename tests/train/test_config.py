"""`train.toml` is read as it was written, and whatever cannot be is refused with the key's name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.errors import InputError
from trimtab.core.training import TrainConfig, TrainData, TrainLayout, TrainModel, TrainObjective, TrainRun
from trimtab.train.config import config_of, config_text, read_config, resolved

LEAST: dict[str, Any] = {"model": {"source": "m"}, "data": {"files": ["a.jsonl"]}, "train": {"steps": 3}}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    config = TrainConfig(
        model=TrainModel(source='hf:a/"b"', grid="Q4_0", tensors={"*.mlp.*": "keep"}, lora_targets=("q_proj",), lora_rank=4),
        data=TrainData(files=("a/*.jsonl", "b.txt"), chat=True),
        train=TrainRun(tokens=10**12, epochs=0.0),
        layout=TrainLayout(dp=2, zero_stage=2),
        objective=TrainObjective(kind="distil", teacher="t", top_k=64, text_share=0.25),
        hardware={"device": "h100-sxm", "n_devices": 8},
    )
    (tmp_path / "train.toml").write_text(config_text(config))
    assert read_config(tmp_path / "train.toml") == config


def test_least_and_numbers_in_either_form() -> None:
    config = config_of({**LEAST, "train": {"tokens": 3e11}, "optimizer": {"lr": 1}, "data": {"files": "a.jsonl"}})
    assert (config.train.tokens, config.optimizer.lr, config.data.files) == (300_000_000_000, 1.0, ("a.jsonl",))
    assert isinstance(config.train.tokens, int)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"trian": {}}, r"no table \[trian\]"),
        ({"train": 3}, "must be a table"),
        ({"train": {"steps": 3, "sequence": 4}}, r"\[train\] has no key 'sequence'"),
        ({"model": {}}, r"\[model\] source is missing"),
        ({"model": {"source": " "}}, "name a model"),
        ({"model": {"source": "m", "init": "zeros"}}, "init must be one of weights, random"),
        ({"model": {"source": "m", "tensors": {"a": 1}}}, r"\[model.tensors\]"),
        ({"model": {"source": "m", "init": "random", "lora_rank": 4}}, "random with lora_rank"),
        ({"model": {"source": "m", "lora_targets": ["q"]}}, "lora_targets needs"),
        ({"data": {"files": []}}, r"\[data\] files names no data"),
        ({"data": {"files": [1]}}, "files must be a list of texts"),
        ({"data": {"files": ["a"], "chat": 1}}, "chat must be true or false"),
        ({"train": {}}, "exactly one of tokens, steps and epochs; none"),
        ({"train": {"steps": 3, "tokens": 9}}, "tokens and steps is given"),
        ({"train": {"steps": True}}, "steps must be a whole number"),
        ({"train": {"steps": 1.5}}, "steps must be a whole number"),
        ({"train": {"steps": -1}}, "steps must be 0 or more"),
        ({"train": {"steps": 3, "seq_tokens": 1}}, "seq_tokens must be 2"),
        ({"train": {"steps": 3, "precision": "fp8"}}, "plan train --emit torchtitan"),
        ({"train": {"steps": 3, "precision": "int3"}}, "precision must be one of fp64, fp32, bf16"),
        ({"train": {"steps": 3, "global_batch_seqs": 6, "micro_batch_seqs": 4}}, "not divisible"),
        ({"train": {"steps": 3, "offload": True}, "layout": {"zero_stage": 0}}, "offload needs"),
        ({"train": {"steps": 3, "precision": "fp64"}, "optimizer": {"name": "adamw8bit"}}, "adamw8bit"),
        ({"optimizer": {"lr": 0}}, "lr must be above 0"),
        ({"optimizer": {"lr": "fast"}}, "lr must be a number"),
        ({"optimizer": {"lr": float("nan")}}, "lr must be 0 or more"),
        ({"optimizer": {"beta2": 1.0}}, "beta2 must be below 1"),
        ({"optimizer": {"decay_share": 1.5}}, "decay_share must be at most 1"),
        ({"layout": {"zero_stage": 1}}, "torchtitan"),
        ({"layout": {"zero_stage": "3"}}, "zero_stage must be one of 0, 2, 3"),
        ({"layout": {"tp": 2}}, "--emit torchtitan` or `--emit megatron"),
        ({"layout": {"sequence_parallel": True}}, "sequence_parallel"),
        ({"objective": {"kind": "distil"}}, "needs a teacher"),
        ({"objective": {"teacher": "t"}}, "kind = distil"),
        ({"objective": {"top_k": 3}}, "top_k"),
        ({"checkpoint": {"keep": 0}}, "keep must be 1 or more"),
        ({"hardware": {"devices": 3}}, r"\[hardware\] has no key"),
        ({"hardware": {"n_devices": 0}}, "n_devices must be 1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        config_of({**LEAST, **change})


def test_a_table_that_must_be_there() -> None:
    with pytest.raises(InputError, match=r"\[data\] is missing"):
        config_of({"model": {"source": "m"}})


def test_degrees_of_a_plan_that_change_nothing_are_passed_over() -> None:
    told = {"dp": 2, "tp": 1, "pp": 1, "vp": 1, "cp": 1, "ep": 1, "sequence_parallel": False}
    assert config_of({**LEAST, "layout": told}).layout == TrainLayout(dp=2)


@pytest.mark.parametrize("text", [b"[model", b"\xff\xfe"])
def test_no_toml(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "t.toml").write_bytes(text)
    with pytest.raises(InputError, match="cannot be read as TOML"):
        read_config(tmp_path / "t.toml")
    with pytest.raises(InputError, match=r"There is no .*none\.toml"):
        read_config(tmp_path / "none.toml")


def test_zeros_are_filled_in_for_so_many_processes() -> None:
    config = config_of({**LEAST, "train": {"steps": 3, "global_batch_seqs": 12, "micro_batch_seqs": 2}})
    full = resolved(config, 3)
    assert (full.layout.dp, full.train.grad_accum) == (3, 2)
    assert resolved(full, 3) == full
    with pytest.raises(InputError, match="take a multiple of 8"):
        resolved(config, 4)
    with pytest.raises(InputError, match="dp = 3, but 2"):
        resolved(full, 2)
    with pytest.raises(InputError, match="grad_accum = 5"):
        resolved(replace(config, train=replace(config.train, grad_accum=5)), 3)
