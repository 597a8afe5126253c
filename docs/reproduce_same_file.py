"""Perplexity of one GGUF file, and of its Q8_0 form, in llama.cpp and in OpenVINO GenAI.

usage: python reproduce_same_file.py MODEL.gguf TEXT.txt
"""

import os
import shutil
import sys
import tempfile

import llama_cpp
import numpy as np
import openvino
import openvino_genai

WINDOWS, WIDTH = 4, 512
HALF = WIDTH // 2


def llama_logits(path):
    llama = llama_cpp.Llama(path, n_ctx=WIDTH, logits_all=True, verbose=False)
    return lambda ids: (llama.reset(), llama.eval(ids.tolist()), llama.scores[:WIDTH])[-1]


def openvino_logits(path):
    openvino_genai.LLMPipeline(path, "CPU", enable_save_ov_model=True)  # writes openvino_model.xml beside the file
    request = openvino.Core().compile_model(f"{folder}/openvino_model.xml", "CPU").create_infer_request()
    places = np.arange(WIDTH)[None]
    fixed = {"attention_mask": np.ones_like(places), "position_ids": places, "beam_idx": np.zeros(1, np.int32)}
    return lambda ids: (request.reset_state(), request.infer(fixed | {"input_ids": ids[None]})["logits"][0])[-1]


def perplexity(logits_of):  # over the second half of each window, as llama.cpp's own tool counts
    nats = []
    for ids in windows:
        logits = logits_of(ids)[HALF - 1 : -1].astype(np.float64)
        nats.append(np.log(np.exp(logits).sum(1)) - logits[np.arange(HALF), ids[HALF:]])
    return np.exp(np.mean(nats))


with tempfile.TemporaryDirectory() as folder:
    shipped, q8_0 = shutil.copy(sys.argv[1], f"{folder}/shipped.gguf"), f"{folder}/q8_0.gguf"
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.allow_requantize = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, True
    llama_cpp.llama_model_quantize(shipped.encode(), q8_0.encode(), options)
    with open(sys.argv[2], "rb") as text:
        ids = llama_cpp.Llama(shipped, vocab_only=True, verbose=False).tokenize(text.read(), add_bos=False)
    windows = np.array(ids[: WINDOWS * WIDTH]).reshape(WINDOWS, WIDTH)
    for path in (shipped, q8_0):
        llama, genai = perplexity(llama_logits(path)), perplexity(openvino_logits(path))
        print(f"{os.path.basename(path):13} llama.cpp {llama:6.2f}   OpenVINO GenAI {genai:6.2f}")
