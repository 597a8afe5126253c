"""Text by a tokenizer.json alone: the tokenizer that transformers would make of a directory, written out by a recipe, without its imports.

Beside tokenizer.json lies a tokenizer_config.json with the tokens that begin and end a text, and the chat template.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.core.errors import EngineRefused, MissingError
from trimtab.engines.chat_render import rendered


class TokenizerJson:
    """Tokenizer and chat template of one folder. Raises EngineRefused where the files are missing or broken.

    bos_id: the token that the tokenizer puts first, None if it puts none; template: empty if there is none
    """

    def __init__(self, folder: Path, source: str, config: Mapping[str, Any]) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise MissingError(
                f"The tokenizer of {source} needs a library that is not installed ({error}).", "pip install tokenizers"
            ) from error
        self._source = source
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises plain exceptions
            raise EngineRefused(f"The tokenizer of {source} cannot be read: {str(error)[:300]}.") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._bos, self._eos = (str(config.get(key) or "") for key in ("bos_token", "eos_token"))
        self.template = str(config.get("chat_template") or "")
        bos_id = self._tokenizer.token_to_id(self._bos) if self._bos else None
        self.bos_id: int | None = bos_id if bos_id is not None and self._tokenizer.encode("a").ids[:1] == [bos_id] else None

    def tokenize(self, texts: Sequence[str], *, parse_special: bool) -> list[list[int]]:
        """Token ids of each text without a leading BOS."""
        self._tokenizer.encode_special_tokens = not parse_special  # as text, where markers are not to become their own token
        return [list(made.ids) for made in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)) if ids else ""

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
        """The chat template with the generation prompt. Raises EngineRefused if there is none or it fails."""
        return rendered(self._source, self.template, messages, tools, bos=self._bos, eos=self._eos)
