"""Text for the Transformers engine: the tokenizer of a Hugging Face directory, and its chat template in the rendering child process."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from trimtab.core.errors import EngineRefused
from trimtab.engines.chat_render import rendered


class TextModels:
    """Tokenizer and chat template of one directory. Raises EngineRefused where transformers makes no tokenizer of it.

    bos_id: the token that the tokenizer puts first, None if it puts none
    """

    def __init__(self, folder: Path, source: str) -> None:
        from transformers import AutoTokenizer
        from transformers.utils import logging as transformers_log

        transformers_log.set_verbosity_error()
        self._source = source
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # of many kinds, down to those of the libraries that read vocabularies
            told = str(error).strip().partition("\n")[0].rstrip(".")[:300]
            raise EngineRefused(f"transformers cannot open the tokenizer of {source}: {told or type(error).__name__}.") from error
        self.bos_id = self._leading_token()

    @cached_property
    def template(self) -> str:
        """The chat template, empty if there is none."""
        found = self._tokenizer.chat_template
        if isinstance(found, Mapping):
            found = found.get("default") or next(iter(found.values()), "")
        return found or ""

    @property
    def end_id(self) -> int | None:
        token = self._tokenizer.eos_token_id
        return None if token is None else int(token)

    def tokenize(self, texts: Sequence[str], *, parse_special: bool) -> list[list[int]]:
        """Token ids of each text without a leading BOS."""
        if not texts:
            return []
        made = self._tokenizer(list(texts), add_special_tokens=False, split_special_tokens=not parse_special, verbose=False)
        return [list(map(int, ids)) for ids in made["input_ids"]]

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)) if ids else ""

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
        """The chat template with the generation prompt. Raises EngineRefused if there is none or it fails."""
        bos, eos = (str(token or "") for token in (self._tokenizer.bos_token, self._tokenizer.eos_token))
        return rendered(self._source, self.template, messages, tools, bos=bos, eos=eos)

    def json_tokens(self, vocab_size: int, end_ids: Sequence[int]) -> Any:
        """llguidance's tokenizer of this vocabulary. Raises ImportError, ValueError."""
        from llguidance.hf import from_tokenizer

        return from_tokenizer(self._tokenizer, n_vocab=vocab_size, eos_token=list(end_ids))

    def _leading_token(self) -> int | None:
        bos = self._tokenizer.bos_token_id
        first = self._tokenizer("a", verbose=False)["input_ids"][:1]
        return int(bos) if bos is not None and first == [bos] else None
