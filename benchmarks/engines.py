"""One model's weights in every engine at hand: how far apart are their scores, and where one of the differences comes from.

    python benchmarks/engines.py [--quick] [--engines NAME,NAME] [--items N] [--state DIR] [--without-why]

All forms of the demo model are made from one file and held against llama.cpp on its float32 expansion: on the shipped texts by KL
divergence (lower bound by the 32 likeliest tokens), change of log-probability and same first choice, each with its standard error over
passages; on multiple choice and cloze (--items of each, drawn by hash) by the change of the mean with its 95 % interval. A form whose
engine is not installed is left out, and said. vLLM runs under the Python that `trimtab doctor` names. --state keeps outcomes: the same
command goes on.

Why: three engines round weights to 8 bits and end an order of magnitude apart. What they do is rebuilt in torch, one step at a time (a
scale a row or a group of 32, activations as they are or in 8 bits a token, the embedding too or not), on the same texts.

--quick: few items and texts, for correctness of the script. The last line of stdout is one JSON object: name, figures, targets, ok. `ok`:
every engine in float32 is within the target of the reference.
"""

import argparse
import asyncio
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from parts.forms import MODEL, SETTINGS, Bench, Form, by_sub_suite, candidate_of, drawn, levels_of, open_bench, score_forms, told, units_of
from parts.tables import interval, table
from parts.text_quality import text_quality

from trimtab.core.deployment import Candidate
from trimtab.core.errors import TrimtabError
from trimtab.evaluate.screen import ScreenResult, ratio_mean
from trimtab.evaluate.suites.registry import load_suite

REFERENCE = Form(name="llamacpp-f32")
FLOAT32 = {
    "transformers-fp32": "transformers",
    "ortgenai-fp32": "ortgenai",
    "ctranslate2-float32": "ctranslate2",
    "vllm-fp32": "vllm",
}
ROUNDED = {
    "llamacpp-f16": "llamacpp",
    "openvino-fp16": "openvino",
    "transformers-bf16": "transformers",
    "vllm-bf16": "vllm",
    "llamacpp-q8_0": "llamacpp",
    "openvino-int8-asym": "openvino",
    "ortgenai-int8": "ortgenai",
    "transformers-int8": "transformers",
    "transformers-int8-dynamic": "transformers",
    "ctranslate2-int8": "ctranslate2",
    "as-shipped": "llamacpp",
    "openvino-gguf-exact": "openvino",
    "openvino-gguf": "openvino",
}
SUITES = ("choice", "cloze")
N_ITEMS, N_ITEMS_QUICK, N_TEXTS_QUICK = 200, 12, 3
TARGETS = {"kl_nats_in_float32_at_most": 1e-5}


def asked_forms(engines: Sequence[str]) -> list[Form]:
    every = {**FLOAT32, **ROUNDED}
    return [Form(name=name, engine=engine) for name, engine in every.items() if not engines or engine in engines]


async def made_of(bench: Bench, forms: Sequence[Form]) -> dict[str, Candidate]:
    made: dict[str, Candidate] = {}
    for form in (REFERENCE, *forms):
        try:
            made[title(form)] = await candidate_of(bench, form)
        except TrimtabError as error:
            told(f"{title(form)} is left out: {error}")
    return made


def title(form: Form) -> str:
    return f"{form.engine} {form.name.removeprefix(f'{form.engine}-')}"


# Why 8 bits are not 8 bits


def rows_rounded(weights: Any) -> Any:
    """To -127 .. 127 with one scale a row."""
    scale = weights.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    return (weights / scale).round() * scale


def groups_rounded(weights: Any) -> Any:
    """The same with one scale for 32 weights of a row."""
    return rows_rounded(weights.unflatten(-1, (-1, 32))).flatten(-2)


def as_it_is(values: Any) -> Any:
    return values


@contextmanager
def rounding(model: Any, weights: Callable[[Any], Any], activations: Callable[[Any], Any], *, with_embedding: bool) -> Iterator[None]:
    """A model whose matrices, and what is multiplied with them, are rounded until the block ends."""
    import torch

    kept, hooks = [], []
    for module in model.modules():
        is_embedding = isinstance(module, torch.nn.Embedding)
        is_output = module is model.get_output_embeddings()
        if not (isinstance(module, torch.nn.Linear) or is_embedding) or ((is_embedding or is_output) and not with_embedding):
            continue
        if not any(one is module.weight for one, _ in kept):  # a tied matrix is rounded once
            kept.append((module.weight, module.weight.data))
            module.weight.data = weights(module.weight.data)
        if not is_embedding:
            hooks.append(module.register_forward_pre_hook(lambda _, given: (activations(given[0]), *given[1:])))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for weight, data in kept:
            weight.data = data


STEPS: Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any], bool]] = {
    "weights, a scale for 32 (as Q8_0)": (groups_rounded, as_it_is, True),
    "weights, a scale a row": (rows_rounded, as_it_is, True),
    "activations only, 8 bits a token": (as_it_is, rows_rounded, True),
    "activations only, not those before the output matrix": (as_it_is, rows_rounded, False),
    "activations only, a scale for 32": (as_it_is, groups_rounded, True),
    "weights a row, activations a token (as CTranslate2)": (rows_rounded, rows_rounded, True),
    "both with a scale for 32 (as llama.cpp, ONNX Runtime)": (groups_rounded, groups_rounded, True),
}


def why(root: Path, n_texts: int | None) -> dict[str, list[float]]:
    """Mean KL divergence in nats a token from the same model unrounded, with its standard error over texts, of each step."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(root, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(root)
    texts = [item.options[0] for item in load_suite("core").items if item.suite == "text"][:n_texts]
    ids = [tokenizer(text, return_tensors="pt").input_ids for text in texts]

    def logprobs() -> Iterator[Any]:
        with torch.inference_mode():
            for one in ids:
                yield torch.log_softmax(model(one).logits[0, :-1], -1)

    sums: dict[str, list[float]] = {name: [] for name in STEPS}
    exact = [one.half() for one in logprobs()]  # rounded alike for all
    for name, (weights, activations, with_embedding) in STEPS.items():
        with rounding(model, weights, activations, with_embedding=with_embedding):
            for theirs, own in zip(exact, logprobs(), strict=True):
                wide = torch.log_softmax(theirs.float(), -1)
                sums[name].append(float((wide.exp() * (wide - own)).sum()))
        told(f"rebuilt: {name}")
    counts = np.array([one.shape[1] - 1 for one in ids], float)
    return {name: list(ratio_mean(np.array(per_text), counts)) for name, per_text in sums.items()}


# The table


def rows_of(found: Mapping[str, ScreenResult], levels: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows = []
    for name, one in found.items():
        changes = [interval((levels.get(name, {}).get(suite) or {}).get("change")) for suite in SUITES]
        rows.append(
            [
                name,
                f"{one.kl_nats:.2g} ± {one.kl_se:.1g}",
                f"{one.delta_nats_per_token:+.5f} ± {one.delta_se:.5f}",
                f"{one.top1_agreement:.4f}",
                *changes,
            ]
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--engines", default="")
    parser.add_argument("--items", type=int, default=0)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--without-why", action="store_true")
    asked = parser.parse_args()
    n_items, n_texts = asked.items or (N_ITEMS_QUICK if asked.quick else N_ITEMS), N_TEXTS_QUICK if asked.quick else None
    forms = asked_forms([name for name in asked.engines.split(",") if name])
    own = by_sub_suite(load_suite("core").items)
    items = {suite: drawn(own[suite], n_items, whole_clusters=False) for suite in SUITES}
    with tempfile.TemporaryDirectory() as scratch:
        state = asked.state or Path(scratch)
        bench = asyncio.run(
            open_bench(MODEL, items, state=state, settings=SETTINGS, deadline_s=time.monotonic() + 86_400, reference=REFERENCE)
        )
        made = asyncio.run(made_of(bench, forms))
        quality = asyncio.run(text_quality(made, title(REFERENCE), n_texts))
        scored = [REFERENCE, *(form for form in forms if title(form) in quality)]
        outcomes = asyncio.run(score_forms(bench, scored, [SUITES]))
    by_title = {title(form): outcomes[form.name] for form in scored}
    units = units_of(items)
    levels = levels_of(by_title, title(REFERENCE), units)
    head = [
        "same weights in",
        "KL, nats a token",
        "text, nats a token",
        "same first",
        *(f"{suite}, change in {units[suite]}" for suite in SUITES),
    ]
    print(*table(head, rows_of(quality, levels)), sep="\n")
    reasons = {}
    exact = made.get("transformers fp32")
    if not asked.without_why and exact is not None:
        reasons = why(exact.snapshot.root, n_texts)
        print(
            *table(["8 bits, rebuilt", "KL, nats a token"], [[name, f"{mean:.2g} ± {se:.1g}"] for name, (mean, se) in reasons.items()]),
            sep="\n",
        )
    worst = max(
        (one.kl_nats for name, one in quality.items() if name in {title(form) for form in forms if form.name in FLOAT32}), default=math.nan
    )
    figures: dict[str, Any] = {
        "engines": {
            name: {
                "kl_nats": [one.kl_nats, one.kl_se],
                "delta_nats": [one.delta_nats_per_token, one.delta_se],
                "same_first": [one.top1_agreement, one.top1_se],
                "n_tokens": one.n_tokens,
                "changes": {suite: (levels.get(name, {}).get(suite) or {}).get("change") for suite in SUITES},
            }
            for name, one in quality.items()
        },
        "why_8_bits_differ_kl_nats": reasons,
        "worst_float32_kl_nats": worst,
    }
    ok = worst <= TARGETS["kl_nats_in_float32_at_most"]
    print(json.dumps({"name": "engines", "figures": figures, "targets": TARGETS, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
