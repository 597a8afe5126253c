"""What the tokens of an OpenVINO tokenizer model are spelled with, where its graph leaves every byte of a text as it is.

Such a graph cuts a text at markers and by patterns, and gives the pieces to BPETokenizer. That begins with the longest tokens that stand
there, byte by byte, and joins neighbours (openvino_tokenizers, src/bpe_tokenizer.cpp): each token covers the bytes that it is spelled with.
A byte for which there is no token becomes an unknown one, several in a row together become one. All other graphs, those that fold case,
normalize, write bytes as letters or know a token by its place in a word, tell nothing here.
"""

from collections.abc import Iterator
from typing import Any

CUTS = ("SpecialTokensSplit", "RegexSplit")
"""Steps that only cut, as long as a RegexSplit drops nothing."""
CHARS = 4
"""Which input of a step holds the text's bytes."""
VOCABULARY, MERGES, ADDED = 5, 3, 4
"""Inputs of BPETokenizer: the vocabulary follows the pieces; then come one or two lists of merges, then added tokens if there are any."""


def spellings(model: Any) -> Iterator[bytes]:
    """The bytes of each token of a tokenizer model (openvino.Model); nothing of one whose graph may change a text."""
    nodes = [node for node in model.get_ops() if node.get_type_name() == "BPETokenizer"]
    if len(nodes) != 1 or not _takes_all(nodes[0]):
        return
    (node,) = nodes
    yield from _texts(node, VOCABULARY)
    n_inputs = node.get_input_size()
    if (n_inputs - VOCABULARY - 3) % MERGES:
        yield from _texts(node, n_inputs - ADDED)


def _takes_all(node: Any) -> bool:
    """Whether the bytes of a text reach BPETokenizer as they are, and every token is spelled with what it covers."""
    told = node.get_attributes()
    if told["suffix_indicator"] or told["end_suffix"]:
        return False
    step = node.input_value(CHARS).get_node()
    while step.get_type_name() in CUTS:
        if step.get_attributes().get("behaviour") == "remove":
            return False
        step = step.input_value(CHARS).get_node()
    vocabulary = (node.input_value(index).get_node().get_type_name() for index in range(VOCABULARY, node.get_input_size()))
    return step.get_type_name() == "StringTensorUnpack" and all(name == "Constant" for name in vocabulary)


def _texts(node: Any, first: int) -> Iterator[bytes]:
    """Texts that three inputs hold: where they begin, where they end, and their bytes."""
    begins, ends, chars = (node.input_value(first + index).get_node().data for index in range(3))
    raw = chars.tobytes()
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        yield raw[begin:end]
