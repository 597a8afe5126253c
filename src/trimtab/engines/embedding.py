"""The contract of what makes vectors of texts: beside Engine, which makes texts. One thread, one process, no state between calls.

Texts come as token ids, cut and with the model's own first and last tokens, so that two engines are asked the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from trimtab.core.deployment import EngineBuild
from trimtab.core.embedding import EmbeddingForm
from trimtab.core.errors import InputError, MissingError
from trimtab.core.model import Snapshot

Vectors = npt.NDArray[np.float32]

EMBEDDERS = {
    "transformers": "trimtab.engines.embedding_transformers:TransformersEmbedder",
    "llamacpp": "trimtab.engines.embedding_llamacpp:LlamaCppEmbedder",
}


class Embedder(ABC):
    """An embedding model opened on one snapshot. Raises EngineRefused for what it cannot open or compute."""

    name: ClassVar[str]
    format: ClassVar[str]

    @classmethod
    @abstractmethod
    def build(cls) -> EngineBuild:
        """The build at hand. Raises MissingError with the fix."""

    @abstractmethod
    def __init__(self, snapshot: Snapshot, form: EmbeddingForm, *, threads: int | None = None) -> None:
        """Open the model. form: of the directory it came from; threads: None = the runtime's own choice."""

    @abstractmethod
    def embed(self, sequences: Sequence[Sequence[int]], *, batch: int = 32) -> Vectors:
        """Unit vectors, float32 [texts, width], in order. batch: texts computed together at most; none may be empty."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back. Idempotent."""


def embedder_class(name: str) -> type[Embedder]:
    """The class behind an engine's name. Raises InputError for an engine without embeddings, MissingError if its library is not there."""
    if name not in EMBEDDERS:
        raise InputError(f"{name} makes no embeddings here; the engines that do are {', '.join(EMBEDDERS)}.")
    module, _, kind = EMBEDDERS[name].partition(":")
    try:
        return cast(type[Embedder], getattr(import_module(module), kind))
    except ImportError as error:
        raise MissingError(f"The engine {name} is not installed ({error}).", f"pip install 'trimtab[{name}]'") from error


def unit(vectors: npt.NDArray[Any]) -> Vectors:
    """Each row divided by its length, computed in 64 bits; a row of zeros stays."""
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-30), np.float32)


def by_length(sequences: Sequence[Sequence[int]], batch: int) -> list[list[int]]:
    """Places of sequences, in batches of about the same length."""
    order = sorted(range(len(sequences)), key=lambda place: (len(sequences[place]), place))
    return [order[start : start + batch] for start in range(0, len(order), batch)]
