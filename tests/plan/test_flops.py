import csv
import statistics
from pathlib import Path

import pytest

from trimtab.core.errors import InputError
from trimtab.plan import flops
from trimtab.plan.architectures import architecture, architecture_from_shape, architectures, find_architecture
from trimtab.plan.flops import convention_of, tokens_per_s, train_flops_per_token

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "planner"


def test_the_megatron_formulas_are_reproduced():
    layers, h, s, v = 105, 20480, 2048, 51200
    shape = architecture_from_shape(d_model=h, n_layers=layers, n_heads=128)
    model = 72 * layers * h**2 * (1 + s / (6 * h) + v / (12 * layers * h))
    full = 96 * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h))
    selective = 72 * layers * h**2 * (1 + s / (3 * h) + v / (12 * layers * h))
    assert train_flops_per_token(shape, s, "megatron") == pytest.approx(model, rel=1e-9)
    assert train_flops_per_token(shape, s, "megatron-hfu-full") == pytest.approx(full, rel=1e-9)
    assert train_flops_per_token(shape, s, "megatron-hfu-selective") == pytest.approx(selective, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "seq", "convention", "flops_per_token"),
    [
        # Figures as their papers print them: 6 N D of Chinchilla, PaLM's appendix B, table 1 of Megatron-LM at 2,048.
        ("palm-540b", 2048, "palm", 6 * 540.35e9 + 12 * 118 * 48 * 256 * 2048),
        ("llama-3.1-405b", 8192, "6n", 6 * 405.85e9),
        ("gpt-175b", 2048, "megatron", 72 * 96 * 12288**2 * (1 + 2048 / (6 * 12288) + 51200 / (12 * 96 * 12288))),
        ("llama-3.1-8b", 8192, "maxtext", 6 * (8.030e9 - 128256 * 4096) + 12 * 32 * 4096 * 8192),
        ("llama-3.1-8b", 8192, "megatron-causal", 6 * (8.030e9 - 128256 * 4096) + 6 * 32 * 4096 * 8192),
        ("mpt-7b", 65536, "palm", 6 * 6.918906e9 + 12 * 32 * 4096 * 65536),
    ],
)
def test_conventions_agree_with_hand_counts_to_half_a_percent(name, seq, convention, flops_per_token):
    assert train_flops_per_token(architecture(name), seq, convention) == pytest.approx(flops_per_token, rel=0.005)


def test_causal_and_whole_attention_differ_by_4_to_11_percent():
    for name, low, high in (("llama-3.1-405b", 0.035, 0.045), ("llama-3.1-8b", 0.10, 0.13)):
        shape = architecture(name)
        ratio = train_flops_per_token(shape, 8192, "maxtext") / train_flops_per_token(shape, 8192, "maxtext-causal") - 1
        assert low < ratio < high


def test_half_is_never_more_than_whole_and_recomputing_never_less():
    for shape in architectures():
        counts = {name: train_flops_per_token(shape, 4096, name) for name in flops.CONVENTIONS}
        assert counts["maxtext-causal"] <= counts["maxtext"]
        assert counts["6n-kaplan"] <= counts["torchtitan"] <= counts["palm"] + 1
        assert counts["megatron"] <= counts["megatron-hfu-selective"]
        assert counts["megatron"] <= counts["megatron-hfu-full"]
        assert counts["megatron-lora"] < counts["megatron-packed"] <= counts["megatron"]


def test_rates_go_back_to_tokens():
    shape = architecture("llama-3.1-8b")
    each = train_flops_per_token(shape, 8192, "megatron")
    assert tokens_per_s(shape, 8192, 400e12, "megatron") == pytest.approx(400e12 / each)


@pytest.mark.parametrize(
    ("framework", "kind", "hint", "model", "expected"),
    [
        ("Composer/PyTorch FSDP", "model", "", "MPT-7b", "palm"),
        ("Megatron-Bridge 26.08", "model", "", "GPT OSS 120B", "megatron-causal"),
        ("Megatron-Bridge 26.04.01", "model", "", "GPT OSS 120B", "megatron-causal-2025"),
        ("Megatron-Bridge 25.11", "model", "", "LLAMA3_8B", "megatron-causal"),
        ("Megatron-Bridge 26.06", "model", "task: LoRA Performance", "LLAMA3_70B", "megatron-lora"),
        ("NeMo 24.07", "model", "task: pretraining", "LLAMA3-8B", "megatron"),
        ("NeMo 24.07", "model", "task: SFT (packed sequences)", "LLAMA2-7B", "megatron-packed"),
        ("Megatron-DeepSpeed", "hardware", "", "MT-NLG-530B", "megatron-hfu-full"),
        ("Megatron-LM (PTD-P)", "hardware (8TP, incl. recompute)", "", "GPT-18.4B", "megatron-hfu-full"),
        ("NeMo 25.09", "model", "", "LLAMA3-8B", "megatron-causal"),
        ("Megatron-Bridge 26.06", "model", "an exploration", "LLAMA3_70B", "megatron-causal"),
        ("MaxText", "model", "", "Llama3.1-8B", "maxtext"),
        ("MaxText", "model", "", "Llama4-Scout-17B-16E", "maxtext-causal"),
        ("", "model", "a blog", "x", ""),
    ],
)
def test_who_counts_how(framework, kind, hint, model, expected):
    name, why = convention_of(framework, kind, hint, model)
    assert name == expected
    assert why


def test_an_unknown_convention_is_named():
    with pytest.raises(InputError, match="'mfu' is not known; use one of 6n,"):
        train_flops_per_token(architecture("llama-3.1-8b"), 8192, "mfu")


PEAKS = {"TPU-v6e": 918e12, "TPU-v5p": 459e12, "A100-SXM-80GB": 312e12, "TPU-v4": 275e12}
UNTOLD_SEQ = {"Llama2-70B": 4096, "Mixtral-8x22B": 4096, "Mixtral-8x7B": 4096}  # from MaxText's recipes; the others train at 8,192


def published_pairs():
    """(framework, error of tokens/s from FLOP/s) of every published run that tells both."""
    with (DATA / "train.csv").open() as file:
        for row in csv.DictReader(file):
            tokens, rate = float(row["tok_s_per_device"] or 0), float(row["tflops_per_device"] or 0) * 1e12
            seq = int(row["seq_len"] or 0) or UNTOLD_SEQ.get(row["model"], 8192)
            if not tokens and row["step_time_s"] and row["global_batch_seqs"]:
                tokens = float(row["global_batch_seqs"]) * seq / float(row["step_time_s"]) / float(row["n_devices"])
            rate = rate or float(row["mfu_pct"] or 0) / 100 * PEAKS.get(row["device"], 0)
            shape = find_architecture(row["model"])
            name, _ = convention_of(row["framework"], row["tflops_kind"], f"{row['source']} {row['notes']}", row["model"])
            if tokens and rate and shape is not None and name:
                yield row["framework"].split(" ")[0], tokens_per_s(shape, seq, rate, name) / tokens - 1


@pytest.mark.skipif(not DATA.is_dir(), reason="the public data are not here")
def test_published_pairs_agree_to_half_a_percent():
    errors = {}
    for framework, error in published_pairs():
        errors.setdefault(framework, []).append(abs(error))
    every = sorted(error for found in errors.values() for error in found)
    assert len(every) > 440
    assert statistics.median(every) < 0.001
    assert sum(error <= 0.005 for error in every) > 0.91 * len(every)
    assert sum(error <= 0.02 for error in every) > 0.99 * len(every)
    for framework in ("Megatron-Bridge", "NeMo", "Megatron-LM", "MaxText", "Composer/PyTorch", "T5X/Pathways", "Megatron-DeepSpeed"):
        assert statistics.median(errors[framework]) < 0.005, framework


def test_of_experts_only_those_in_use_are_counted():
    shape = architecture("deepseek-v3")
    assert train_flops_per_token(shape, 4096, "6n") == pytest.approx(6 * 37.55e9, rel=0.01)
