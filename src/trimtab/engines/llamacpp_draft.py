"""Proposals of a smaller model of the same vocabulary, for the requests of a Server.

Each request has a sequence in the small model's own context, which is brought up to date before it proposes: what the large model did
not accept is taken back, what it said instead is computed. The small model then goes on by itself, always with its most likely token,
as long as it is fairly sure: a proposal that fails costs the large model the computing of it. (Leviathan et al. 2023.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import llama_cpp.llama_cpp as native
import numpy as np

from trimtab.core.errors import EngineRefused, InputError
from trimtab.engines.llamacpp_native import TokenBatch, decode

LEAST_SURE = 0.5
"""A token is proposed if the small model gives it at least this probability."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A request that may get proposals. tokens: all of its prompt and answer; count: tokens that may be proposed"""

    slot: int
    tokens: Sequence[int]
    count: int


class Drafter:
    """A small model's context with one sequence a slot of the Server. batch_tokens: tokens of one call at most, at least one a slot."""

    def __init__(self, context: int, vocab_size: int, *, batch_tokens: int) -> None:
        self.context = context
        self.memory = native.llama_get_memory(context)
        self.vocab_size = vocab_size
        self.batch = TokenBatch(batch_tokens)
        self._computed: dict[int, list[int]] = {}  # slot -> tokens in the cache

    def propose(self, wanted: Sequence[Wanted]) -> list[tuple[int, ...]]:
        """What may come next in each request; () where nothing is wanted or sure. Where the small model fails, nobody gets a proposal."""
        found: dict[int, list[int]] = {each.slot: [] for each in wanted}
        counts = {each.slot: each.count for each in wanted if each.count > 0}
        try:
            waiting = {each.slot: self._behind(each) for each in wanted if each.count > 0}
            while waiting:
                waiting = self._go_on(waiting, found, counts)
        except EngineRefused:
            native.llama_memory_clear(self.memory, True)
            self._computed.clear()
            return [() for _ in wanted]
        return [tuple(found[each.slot]) for each in wanted]

    def forget(self, slot: int) -> None:
        """Empty a slot's sequence."""
        if self._computed.pop(slot, None):
            native.llama_memory_seq_rm(self.memory, slot, -1, -1)

    def _behind(self, each: Wanted) -> list[int]:
        """Tokens of a request that are not in the cache, the last one always among them; what does not belong to it is taken back."""
        known = self._computed.setdefault(each.slot, [])
        most = min(len(known), len(each.tokens) - 1)
        n_right = next((place for place in range(most) if known[place] != each.tokens[place]), most)
        if n_right < len(known):
            native.llama_memory_seq_rm(self.memory, each.slot, n_right, -1)
            del known[n_right:]
        return list(each.tokens[n_right:])

    def _go_on(self, waiting: dict[int, list[int]], found: dict[int, list[int]], counts: dict[int, int]) -> dict[int, list[int]]:
        """One call on the tokens that wait, slot by slot. Adds to `found`; returns what waits after it."""
        self.batch.clear()
        later: dict[int, list[int]] = {}
        ready: list[int] = []
        for slot, tokens in waiting.items():
            chunk = tokens[: self.batch.room]
            if chunk:
                where = self.batch.add(chunk, len(self._computed[slot]), slot)
                self._computed[slot] += chunk
            if len(chunk) < len(tokens):
                later[slot] = tokens[len(chunk) :]
            else:
                self.batch.output[where.stop - 1] = 1
                ready.append(slot)
        for slot, row in zip(ready, decode(self.context, self.batch, self.vocab_size), strict=True):
            token = int(row.argmax())
            if LEAST_SURE * float(np.exp(row - row[token]).sum()) > 1.0:
                continue
            found[slot].append(token)
            if len(found[slot]) < counts[slot]:
                later[slot] = [token]
        return later


def check_vocabulary(model: int, draft: int, names: tuple[str, str]) -> None:
    """Raises InputError unless two opened models have the same tokens. names: of the model and of its draft, for the sentence."""
    vocab, other = native.llama_model_get_vocab(model), native.llama_model_get_vocab(draft)
    sizes = native.llama_vocab_n_tokens(vocab), native.llama_vocab_n_tokens(other)
    text = native.llama_vocab_get_text
    if sizes[0] != sizes[1]:
        why = f"it has {sizes[1]} tokens, not {sizes[0]}"
    else:
        odd = next((token for token in range(sizes[0]) if text(vocab, token) != text(other, token)), None)
        if odd is None:
            return
        why = f"its token {odd} is {text(other, odd).decode('utf-8', 'replace')!r}, not {text(vocab, odd).decode('utf-8', 'replace')!r}"
    raise InputError(f"{names[1]} cannot draft for {names[0]}, which has another vocabulary: {why}. Give a draft of the same family.")
