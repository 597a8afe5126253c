"""What a Hugging Face directory says of itself, read by transformers: vocabulary, context, tokens that end a turn, text."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.core.errors import EngineRefused
from trimtab.core.files import json_object

if TYPE_CHECKING:
    from trimtab.engines.transformers_text import TextModels

LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx", "max_sequence_length")
"""Where configurations of transformers' model types hold the context."""


class Checkpoint:
    """A directory with config.json and a tokenizer. Code of a repository does not run. Raises EngineRefused where something lacks.

    engine: who opens it, in a sentence
    """

    def __init__(self, folder: Path, source: str, *, engine: str) -> None:
        self.folder, self.source, self.engine = folder, source, engine

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """config.json as the model type fills it in; of a model that also sees or hears, the part for text."""
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(str(self.folder), local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            told = str(error).strip().partition("\n")[0].rstrip(".")[:300]
            raise EngineRefused(f"{self.engine} cannot open {self.source}: {told}.") from error
        found: Mapping[str, Any] = config.get_text_config(decoder=True).to_dict()
        return found

    @cached_property
    def texts(self) -> "TextModels":
        """Tokenizer and chat template."""
        from trimtab.engines.transformers_text import TextModels

        return TextModels(self.folder, self.source)

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return int(self.config["vocab_size"])

    @property
    def context_tokens(self) -> int:
        """Tokens that one sequence may hold."""
        known = next((self.config[key] for key in LENGTH_KEYS if self.config.get(key)), None)
        if known is None:
            raise EngineRefused(f"{self.source} does not say how long its context is; set context_tokens.")
        return int(known)

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a turn: as generation_config.json says, else config.json, else the tokenizer."""
        for found in (json_object(self.folder / "generation_config.json").get("eos_token_id"), self.config.get("eos_token_id")):
            if found is not None:
                return tuple(map(int, found)) if isinstance(found, list) else (int(found),)
        return () if self.texts.end_id is None else (self.texts.end_id,)

    def cache_bytes(self, item_bytes: int) -> int:
        """Of keys and values of one token, as if every layer kept both whole; an upper estimate for all but unusual models."""
        config = self.config
        heads = int(config.get("num_attention_heads") or 1)
        width = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
        return 2 * int(config["num_hidden_layers"]) * int(config.get("num_key_value_heads") or heads) * width * item_bytes
