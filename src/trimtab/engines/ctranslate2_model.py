"""A converted language model as CTranslate2's Generator holds it: one call on whole sequences, and one generation of several."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np

from trimtab.core.errors import EngineRefused
from trimtab.engines.tally import Logits

TokenSeen = Callable[[Any], bool]
"""Called by the library with each token, in a thread of its own; True ends that sequence."""

_OPEN: set["Model"] = set()
"""Those that nobody has closed. Python's collector also runs in the library's threads, while they call us; a generator that it took there
would wait for the thread that it is taken in, and the process would be aborted. So none is ever left to the collector."""


class Model:
    """compute_type: the library's name of a number format; threads: of one call; workers: generations that may be under way at once.

    Workers share the weights. Raises EngineRefused where the library cannot open the folder, or not in this format on this processor.
    """

    def __init__(self, folder: Path, source: str, compute_type: str, *, threads: int, workers: int) -> None:
        self.source = source
        try:
            self.tokens: list[str] = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
            self._generator: Any = ctranslate2.Generator(
                str(folder), device="cpu", compute_type=compute_type, inter_threads=workers, intra_threads=threads
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise EngineRefused(f"CTranslate2 cannot open {source}: {sentence_of(error)}.") from error
        _OPEN.add(self)
        self.vocab_size = len(self.tokens)

    def close(self) -> None:
        """Give its memory back, here or where the call ends that is under way. Idempotent."""
        _OPEN.discard(self)
        self._generator = None

    def forward(self, rows: Sequence[Sequence[int]]) -> Logits:
        """Logits of every position, [rows, longest row, vocab_size]; those after the end of a shorter row mean nothing."""
        try:
            return np.asarray(self._generator.forward_batch([list(row) for row in rows]))
        except (RuntimeError, ValueError, MemoryError) as error:
            raise EngineRefused(f"CTranslate2 cannot compute with {self.source}: {sentence_of(error)}.") from error

    def generate(
        self, prompts: Sequence[Sequence[int]], *, most_tokens: int, temperature: float, top_p: float, with_logits: bool, seen: TokenSeen
    ) -> None:
        """Generate after each prompt until `seen` has ended all of them. Blocks. temperature: 0 = the most likely token.

        No token ends a sequence by itself. Tokens are numbered by their place in the vocabulary, so only their names are passed here.
        """
        sampled = {"sampling_topk": 0, "sampling_temperature": temperature, "sampling_topp": top_p} if temperature > 0 else {}
        self._generator.generate_batch(
            [[self.tokens[token] for token in prompt] for prompt in prompts],
            max_length=most_tokens,
            end_token=[],
            include_prompt_in_result=False,
            return_scores=True,
            return_logits_vocab=with_logits,
            callback=seen,
            **sampled,
        )


def seed_next_draw(seed: int) -> None:
    """Let the library's next random draw, in whichever of its threads, follow from this number below 2**32."""
    ctranslate2.set_random_seed(seed)


def sentence_of(error: BaseException) -> str:
    """The first line of an exception, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".")[:300]
