"""Runs in llm-analysis's own environment: questions as a JSON list on stdin, answers as one on the last line of stdout."""

import contextlib
import json
import logging
import sys

from llm_analysis.analysis import ActivationRecomputation, DSZeRO, LLMAnalysis
from llm_analysis.config import DtypeConfig, GPUConfig, ModelConfig, ParallelismConfig

RECOMPUTE = (ActivationRecomputation.NONE, ActivationRecomputation.SELECTIVE, ActivationRecomputation.FULL)
ZERO = (DSZeRO.NONE, DSZeRO.STAGE_1, DSZeRO.STAGE_2, DSZeRO.STAGE_3)
MICRO_S = 9e-6  # its own value for NVLink


def answer(question):
    shape, layout, gpu = dict(question["model"]), question["layout"], question["gpu"]
    gated = shape.pop("mlp_gated_linear_units")
    model = ModelConfig(**shape, expansion_ratio=shape["ffn_embed_dim"] / shape["hidden_dim"])
    analysis = LLMAnalysis(
        model,
        GPUConfig(**gpu, intra_node_min_message_latency=MICRO_S),
        DtypeConfig(),
        ParallelismConfig(tp_size=layout["tp"], pp_size=layout["pp"], dp_size=layout["dp"], sp_size=layout["tp"] if question["sp"] else 1),
        flops_efficiency=question["flops_efficiency"],
    )
    found = analysis.training(
        batch_size_per_gpu=layout["micro_batch"],
        gradient_accumulation_steps=layout["grad_accum"],
        seq_len=question["seq_len"],
        total_num_tokens=1e9,
        activation_recomputation=RECOMPUTE[layout["recompute"]],
        ds_zero=ZERO[layout["zero_stage"]],
        mlp_gated_linear_units=gated,
    )
    seconds = found["latency_per_iter"]
    tokens = question["global_batch"] * question["seq_len"]
    return {
        "step_time_s": seconds,
        "tok_s_per_device": tokens / seconds / question["n_devices"],
        "peak_memory_bytes": found["(weight+op_state+grad+act)_memory_per_gpu"],
    }


logging.disable(logging.CRITICAL)
answers = []
for question in json.load(sys.stdin):
    with contextlib.redirect_stdout(sys.stderr):
        try:
            answers.append(answer(question))
        except Exception as error:
            answers.append({"why": f"{type(error).__name__}: {error}"[:200]})
print(json.dumps(answers))
