"""How fast and in how much memory does the trainer train, beside a loop written by hand and beside transformers' Trainer on Accelerate?

    python benchmarks/train.py [--quick] [--rounds N] [--steps N] [--precision fp32|bf16]

A Llama of some 19 million weights, made here; sequences of 256 tokens, two micro-batches of four a step, AdamW (fused, everywhere),
clipping, a cosine schedule, the loss of every step kept. Four processes take turns, `--steps` steps each a round, in an order that changes
every round; only one computes at a time, on all cores.

plain      a loop of torch and transformers as one writes it by hand
trainer    transformers.Trainer on Accelerate, with the same settings
ours       trimtab's worker with batches from memory
streaming  trimtab's worker with batches from shards of this repository's documents, packed

Ratios are geometric means over rounds with 95 % t intervals; the first round warms up and does not count. Peak memory is what the system
says of each process. --quick: a smaller model, few rounds; it shows that everything runs and judges no speed. The last line of stdout is
one JSON object: name, figures, targets, ok.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from parts.tables import table

from trimtab.measure.machine import available_cores
from trimtab.measure.session import order_of_round
from trimtab.stats.ratios import log_ratio_interval

ROOT = Path(__file__).resolve().parents[1]
CHILD = Path(__file__).resolve().parent / "parts" / "train_child.py"
SIDES = ("plain", "trainer", "ours", "streaming")
RATIOS = {"ours_over_plain": ("ours", "plain"), "ours_over_trainer": ("ours", "trainer"), "streaming_over_ours": ("streaming", "ours")}
TARGETS = {"ours_over_plain_low_at_least": 0.97, "ours_over_trainer_low_at_least": 1.0, "streaming_over_ours_low_at_least": 0.98}
SHAPE = {
    "vocab_size": 16384,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
QUICK_SHAPE = {**SHAPE, "vocab_size": 2048, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2}


def make_model(folder: Path, shape: Mapping[str, Any]) -> None:
    """A shape, a tokenizer learnt from this repository's documents, and those documents as text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    learns = trainers.BpeTrainer(
        vocab_size=shape["vocab_size"],
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, learns)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(folder)
    LlamaConfig(**shape, eos_token_id=0, bos_token_id=None).save_pretrained(folder)
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


class Side:
    """A process that takes steps when it is told to."""

    def __init__(self, process: "subprocess.Popen[str]", tokens_a_step: int) -> None:
        self.process, self.tokens_a_step = process, tokens_a_step
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.peak_bytes = 0

    def take(self, steps: int) -> None:
        """Take steps and keep what was found: tokens a second, the last loss, peak memory."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args} ended; what it said is above.")
        found = json.loads(line)
        self.rates.append(steps * self.tokens_a_step / found["seconds"])
        self.losses.append(found["loss"])
        self.peak_bytes = found["peak_bytes"]


@contextmanager
def side(name: str, folder: Path, settings: Mapping[str, Any]) -> Iterator[Side]:
    process = subprocess.Popen(
        [sys.executable, str(CHILD), name, str(folder), json.dumps(settings)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Side(process, settings["micro"] * settings["accum"] * settings["tokens"])
    finally:
        process.kill()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=0, help="that count; default 60, with --quick 2")
    parser.add_argument("--steps", type=int, default=0, help="a round; default 1")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    asked = parser.parse_args()
    rounds, steps = asked.rounds or (2 if asked.quick else 60), asked.steps or 1
    shape = QUICK_SHAPE if asked.quick else SHAPE
    settings = {
        "vocabulary": shape["vocab_size"],
        "micro": 4,
        "accum": 2,
        "tokens": 128 if asked.quick else 256,
        "precision": asked.precision,
    }
    settings["threads"] = available_cores()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        make_model(folder, shape)
        sides = {each: stack.enter_context(side(each, folder, settings)) for each in SIDES}
        for number in range(rounds + 1):
            for each in order_of_round(SIDES, number):
                sides[each].take(steps)
        rates = {each: found.rates[1:] for each, found in sides.items()}
        ratios = {key: log_ratio_interval(rates[one], rates[other]) for key, (one, other) in RATIOS.items()}
        figures = {
            "tok_s": {each: statistics.median(found) for each, found in rates.items()},
            "peak_mib": {each: found.peak_bytes / 2**20 for each, found in sides.items()},
            "last_loss": {each: found.losses[-1] for each, found in sides.items()},
            **{key: {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high} for key, ratio in ratios.items()},
            "rounds": rounds,
            "precision": asked.precision,
        }
    rows = [
        [each, f"{figures['tok_s'][each]:,.0f}", f"{figures['peak_mib'][each]:,.0f}", f"{figures['last_loss'][each]:.3f}"] for each in SIDES
    ]
    print(*table(["side", "tokens/s (median)", "peak MiB", "loss at the end"], rows), sep="\n")
    said = [[key, f"{one.ratio:.3f}", f"{one.low:.3f} to {one.high:.3f}"] for key, one in ratios.items()]
    print("", *table(["ratio", "mean", "95 % interval"], said), sep="\n")
    kept = all(ratios[key].low >= TARGETS[f"{key}_low_at_least"] for key in ratios)
    print(json.dumps({"name": "train", "figures": figures, "targets": TARGETS, "ok": asked.quick or kept}))
    return 0 if asked.quick or kept else 1


if __name__ == "__main__":
    sys.exit(main())
