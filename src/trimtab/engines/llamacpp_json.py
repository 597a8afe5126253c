"""llguidance's tokenizer of a llama.cpp vocabulary, by which answers are held to a JSON schema."""

import warnings
from collections.abc import Sequence
from typing import Any


def json_tokens(vocab: int, end_ids: Sequence[int]) -> Any:
    """vocab: llama_vocab pointer, which must live as long. Raises ImportError where llguidance is not installed."""
    from llguidance.llamacpp import lltokenizer_from_vocab

    with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):  # it uses a name that the binding calls old
        return lltokenizer_from_vocab(vocab, eos_token=list(end_ids))
