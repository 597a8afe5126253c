"""What turns text into the ids that a model was trained on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from trimtab.core.errors import InputError, MissingError
from trimtab.core.files import digest_of
from trimtab.describe.template import render_chat
from trimtab.train.data import chat


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


PIECE_CHARS = 2**20


class HuggingFaceTokenizer:
    """The tokenizer of a Hugging Face directory, with its chat template.

    Texts of more than `PIECE_CHARS` characters are encoded in pieces that end with a line where there is one, to bound the memory.
    """

    def __init__(self, folder: Path) -> None:
        """Raises InputError if the folder has no tokenizer that can be used, MissingError without transformers."""
        found = _loaded(folder)
        if found.eos_token_id is None:
            raise InputError(f"The tokenizer in {folder} names no token that ends a text; set eos_token in its tokenizer_config.json.")
        self._folder = folder
        self._backend = found.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._bos, self._eos = found.bos_token or "", found.eos_token or ""
        template = found.chat_template
        self._template: str = template.get("default", "") if isinstance(template, dict) else template or ""
        self.end_id = int(found.eos_token_id)
        self.vocab_size = max(self._backend.get_vocab(with_added_tokens=True).values()) + 1
        self.digest = digest_of([json.loads(self._backend.to_str()), self.end_id, self._bos, self._template])

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in _pieces(text):
            ids += self._backend.encode(piece, add_special_tokens=not ids).ids
        while ids and ids[-1] == self.end_id:  # some tokenizers add it, the stream always does
            ids.pop()
        return ids

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[bool]]:
        if not self._template:
            raise InputError(f"the tokenizer in {self._folder} has no chat template, so `messages` cannot be written; give `text`")
        text, spans = chat.answers(self._rendered, messages)
        found = self._backend.encode(text, add_special_tokens=False)
        return found.ids, chat.learnt_tokens(found.ids, found.offsets, spans, self.end_id)

    def _rendered(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> str:
        return render_chat(self._template, messages, bos=self._bos, eos=self._eos, add_generation_prompt=add_generation_prompt)


def _loaded(folder: Path) -> Any:
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError:
        raise MissingError("Training needs the package transformers.", "pip install 'trimtab[train]'") from None
    try:
        found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # broken JSON, no files, a class that is not there: every kind has its own
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(
            f"{folder} holds no tokenizer that can be read ({reason}); give a Hugging Face directory with tokenizer.json."
        ) from None
    if not found.is_fast:
        raise InputError(f"The tokenizer in {folder} has no tokenizer.json; convert it with transformers and save it there.")
    return found


def _pieces(text: str) -> Iterator[str]:
    begin = 0
    while len(text) - begin > PIECE_CHARS:
        end = text.rfind("\n", begin + PIECE_CHARS // 2, begin + PIECE_CHARS) + 1 or begin + PIECE_CHARS
        yield text[begin:end]
        begin = end
    yield text[begin:]
