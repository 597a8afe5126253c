"""What turns text into the ids that a model was trained on."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """What the stream needs of a tokenizer.

    end_id: stands after each document; vocab_size: ids are below it; digest: two tokenizers of one digest give the same ids
    """

    @property
    def end_id(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def digest(self) -> str: ...

    def encode(self, text: str) -> list[int]:
        """Ids of a document, with what its model expects before it and without an end."""

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[bool]]:
        """Ids of a conversation as its template writes it, and of each whether the assistant says it.

        Raises InputError where that cannot be told.
        """
