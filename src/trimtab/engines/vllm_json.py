"""Answers of vLLM that are held to a JSON schema, by the same grammars as in other engines, as a logits processor inside vLLM's worker.

vLLM's own way cuts the logits before it takes log-probabilities, so that they would be those among the tokens that are allowed.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from trimtab.engines.checkpoint import Checkpoint
from trimtab.engines.schemas import Constraint, Schemas

SCHEMA = "trimtab-schema"
"""Key in a request's extra arguments; its value is the schema's text."""


@functools.lru_cache(maxsize=1)
def schemas_of(folder: str) -> Schemas:
    """Constraints for the vocabulary of a directory, shared by who checks a schema and who holds to it where both are one process."""
    checkpoint = Checkpoint(Path(folder), folder, engine="vLLM")
    return Schemas(lambda: checkpoint.texts.json_tokens(checkpoint.vocab_size, checkpoint.end_ids), checkpoint.vocab_size, title="vLLM")


class Held:
    """One answer on its way."""

    def __init__(self, constraint: Constraint) -> None:
        self._constraint = constraint
        self._n_taken = 0

    def __call__(self, output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        """logits: [vocabulary], of the next token after output_ids."""
        for token in output_ids[self._n_taken :]:
            self._constraint.take(token)
        self._n_taken = len(output_ids)
        allowed = torch.from_numpy(self._constraint.allowed()).to(logits.device)
        return logits.masked_fill_(~allowed, -torch.inf)


class SchemaProcessor(AdapterLogitsProcessor):  # type: ignore[misc]
    """See vLLM's LogitsProcessor. It runs after raw log-probabilities are taken, which so stay those of the full distribution."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        self._folder = str(vllm_config.model_config.model)

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: Any) -> Held | None:
        schema = (params.extra_args or {}).get(SCHEMA)
        return Held(schemas_of(self._folder).begin(schema)) if schema else None
