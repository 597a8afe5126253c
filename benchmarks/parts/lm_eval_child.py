"""Runs under the Python of a throw-away environment: log-likelihoods by lm-eval's Transformers backend.

One JSON object a line on standard input and, as the answer, on standard output:

{"op": "open", "gguf": path, "folder": path, "threads": n}    expands the GGUF into the folder once, loads it at float32
{"op": "score", "pairs": [[context, continuation], ...], "batch_size": n}
    -> {"seconds": s, "logprobs": [...]}    sums over the continuation's tokens; tokenizing is in the seconds
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")


def expand(gguf: Path, folder: Path) -> None:
    """The model in Hugging Face form, weights at float32, tokenizer beside them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if (folder / "tokenizer.json").is_file():
        return
    model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    model.hf_quantizer = None  # this and the entry describe the file that was read, and nothing can be saved with them
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(folder)


def opened(gguf: Path, folder: Path, threads: int) -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(threads)
    expand(gguf, folder)
    return HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=1)


def score(lm: Any, pairs: list[list[str]], batch_size: int) -> dict[str, Any]:
    from lm_eval.api.instance import Instance

    lm.batch_size_per_gpu = batch_size
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=(context, continuation), idx=index)
        for index, (context, continuation) in enumerate(pairs)
    ]
    began = time.monotonic()
    answers = lm.loglikelihood(requests, disable_tqdm=True)
    return {"seconds": time.monotonic() - began, "logprobs": [answer[0] for answer in answers]}


def main() -> None:
    outgoing = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes to standard error
    lm: Any = None
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["op"] == "open":
            lm = opened(Path(asked["gguf"]), Path(asked["folder"]), asked["threads"])
            reply = {"prefix_id": lm.prefix_token_id, "ids_of_a": lm.tok_encode("a")}
        else:
            reply = score(lm, asked["pairs"], asked["batch_size"])
        outgoing.write(json.dumps(reply) + "\n")
        outgoing.flush()


if __name__ == "__main__":
    main()
