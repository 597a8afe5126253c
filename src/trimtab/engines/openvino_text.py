"""Text for the OpenVINO engine: the tokenizer models beside the weights, and the chat template as OpenVINO GenAI applies it.

GenAI's own tokenizer cuts a text at 8,192 tokens, whatever the model's context, without a word, and always turns markers such as
<|im_start|> into their tokens. Here the same tokenizer graph runs with the cut taken out, and in a second copy with the marker step
made to match nothing. The detokenizer that its GGUF reader writes leaves half characters out, so that nobody can tell that one is coming;
here they show, as they do in other engines.
"""

import importlib
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.core.errors import EngineRefused
from trimtab.engines.least_tokens import byte_weights, least_tokens
from trimtab.engines.openvino_vocab import spellings

NEVER_MATCHES = b"(?!)"
NO_CUT_TOKENS = 2**31 - 1
TEXTS_AT_ONCE = 64
"""All texts of a call are padded to the longest of them."""
DETOKENIZER = "openvino_detokenizer.xml"
LEAVES_OUT, SHOWS = 'replace_mode="false"', 'replace_mode="true"'


class TextModels:
    """Tokenizer, detokenizer and chat template of one OpenVINO directory. Each model is compiled when first needed.

    bos_id: the token that the tokenizer puts first, None if it puts none
    """

    def __init__(self, folder: Path, source: str) -> None:
        import openvino_genai

        self._folder = folder
        self._source = source
        self._compiled: dict[bool, Any] = {}
        try:
            self.genai = openvino_genai.Tokenizer(str(folder))
        except RuntimeError as error:
            raise EngineRefused(f"OpenVINO GenAI cannot open the tokenizer of {source}: {last_sentence(error)}.") from error
        self.bos_id = self._leading_token()

    def tokenize(self, texts: Sequence[str], *, parse_special: bool) -> list[list[int]]:
        """Token ids of each text without a leading BOS. A call costs about as much for many texts as for one."""
        import openvino

        if parse_special not in self._compiled:
            self._compiled[parse_special] = self._compile(parse_special)
        found: list[list[int]] = [[] for _ in texts]
        places = [place for place, text in enumerate(texts) if text]
        for first in range(0, len(places), TEXTS_AT_ONCE):
            some = places[first : first + TEXTS_AT_ONCE]
            result = self._compiled[parse_special]({0: openvino.Tensor([texts[place] for place in some])})
            for place, row, is_token in zip(some, result["input_ids"], result["attention_mask"], strict=True):
                ids = row[is_token.astype(bool)].tolist()
                found[place] = ids[1:] if self.bos_id is not None and ids[:1] == [self.bos_id] else ids
        return found

    def least_tokens(self, text: str) -> int:
        """So many tokens `tokenize` gives for a text at least; 0 = this tokenizer tells nothing of that."""
        return least_tokens(text.encode(), self._byte_weights)

    @cached_property
    def _byte_weights(self) -> npt.NDArray[np.float64]:
        model, _core = self._read_tokenizer()
        weights = byte_weights(spellings(model))
        weights[0] = 0.0  # zeros at the end of a text are lost on the way to the tokenizer
        return weights

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return str(self._decoder.decode(list(ids), skip_special_tokens=True)) if ids else ""

    @cached_property
    def _decoder(self) -> Any:
        """GenAI's tokenizer, made from the directory's text files with half characters shown."""
        path = self._folder / DETOKENIZER
        graph = path.read_text(encoding="utf-8") if path.is_file() else ""
        if LEAVES_OUT not in graph:
            return self.genai
        import openvino_genai

        with tempfile.TemporaryDirectory(prefix="trimtab-openvino-") as folder:
            for file in self._folder.iterdir():
                if file.is_file() and not file.name.startswith(("openvino_model", "openvino_tokenizer", DETOKENIZER)):
                    (Path(folder) / file.name).symlink_to(file.resolve())
            (Path(folder) / DETOKENIZER).write_text(graph.replace(LEAVES_OUT, SHOWS), encoding="utf-8")
            return openvino_genai.Tokenizer(folder)

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
        """The chat template with the generation prompt. Raises EngineRefused if there is none or it fails."""
        if not self.genai.chat_template:
            raise EngineRefused(f"{self._source} has no chat template.")
        try:
            plain = [dict(message) for message in messages]
            return str(self.genai.apply_chat_template(plain, True, tools=[dict(tool) for tool in tools] or None))
        except (RuntimeError, TypeError, ValueError) as error:
            raise EngineRefused(f"The chat template of {self._source} cannot render these messages: {last_sentence(error)}.") from error

    @property
    def end_ids(self) -> tuple[int, ...]:
        token = int(self.genai.get_eos_token_id())
        return (token,) if token >= 0 else ()

    def _leading_token(self) -> int | None:
        """BOS if this tokenizer puts it first, else None."""
        bos = int(self.genai.get_bos_token_id())
        ids = self.genai.encode("a", add_special_tokens=True).input_ids.data[0]
        return bos if len(ids) and ids[0] == bos and bos >= 0 else None

    def _read_tokenizer(self) -> tuple[Any, Any]:
        """The tokenizer model, and the openvino.Core that knows its operations and must live as long."""
        import openvino

        core = openvino.Core()
        core.add_extension(str(importlib.import_module("openvino_tokenizers")._ext_path))
        return core.read_model(str(self._folder / "openvino_tokenizer.xml")), core

    def _compile(self, parse_special: bool) -> Any:
        """The tokenizer without its cut; without parse_special the marker pattern is replaced by one that matches nothing."""
        from openvino import opset13

        model, core = self._read_tokenizer()
        for node, index, constant in cuts(model):
            limit = np.full(constant.data.shape, NO_CUT_TOKENS, constant.data.dtype)
            node.input(index).replace_source_output(opset13.constant(limit).output(0))
        if not parse_special:
            for node in model.get_ops():
                if node.get_type_name() == "SpecialTokensSplit":
                    pattern = opset13.constant(np.frombuffer(NEVER_MATCHES, np.uint8))
                    node.input(node.get_input_size() - 1).replace_source_output(pattern.output(0))
        return core.compile_model(model, "CPU")


def cuts(model: Any) -> list[tuple[Any, int, Any]]:
    """Where a tokenizer model limits the number of tokens: (Minimum node, input index, the constant there)."""
    found = []
    for node in model.get_ops():
        if node.get_type_name() == "Minimum":
            for index in range(2):
                constant = node.input_value(index).get_node()
                if constant.get_type_name() == "Constant":
                    found.append((node, index, constant))
    return found


def last_sentence(error: BaseException) -> str:
    """The telling line of an OpenVINO exception: the last one that is not a place in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("Exception from ")]
    return (telling or lines or [type(error).__name__])[-1].rstrip(".")[:300]
