"""A text never has fewer tokens than its bytes say, whatever the vocabulary and whatever the text."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.deployment import Settings
from trimtab.engines.base import Engine
from trimtab.engines.least_tokens import byte_weights, least_tokens
from trimtab.engines.registry import engine_class
from trimtab.testing.snapshots import snapshot_of
from trimtab.testing.tiny_models import write_tiny_gguf

ODD = [
    *("the small boat ", "\u2581", "\u2581the", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<|endoftext|>", "<bos>"),
    *(
        "=" * 40,
        "-" * 90,
        " " * 70,
        "\n" * 30,
        "\t \t",
        "\r\n",
        "漢字",
        "🙂",
        "e\u0301",
        "\u00a0",
        "\u200b",
        "\x00",
        "\ufeff",
        "01234",
        "\x04\x06",
        "\U00040000",
    ),
]
texts = st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=20)), max_size=12).map("".join)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_no_text_has_fewer_tokens_than_its_bytes_say(data: st.DataObject) -> None:
    vocabulary = data.draw(st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=30))
    tokens = data.draw(st.lists(st.sampled_from(vocabulary), max_size=40))
    weights = byte_weights(vocabulary)
    assert least_tokens(b"".join(tokens), weights) <= len(tokens)


def test_bytes_that_may_be_lost_count_nothing() -> None:
    weights = byte_weights([b"a", b"b", b"abc", b" ", b"\n", b" a"])
    assert weights[ord("a")] == weights[ord("b")] == 1 / 3
    assert weights[ord("c")] == 0, "by itself it is no token, and may be passed over"
    assert weights[ord(" ")] == weights[ord("\n")] == 0, "stripped beside markers"
    assert least_tokens(b"abab" * 300 + b" " * 1000, weights) == 400
    assert least_tokens(b"abab", byte_weights([])) == least_tokens(b"", weights) == 0


@pytest.fixture(
    scope="module", params=["llamacpp llama", "llamacpp gemma3", "llamacpp demo model", "openvino qwen2", "openvino demo model"]
)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    name, _, model = request.param.partition(" ")
    pytest.importorskip({"llamacpp": "llama_cpp", "openvino": "openvino_genai"}[name])
    if model == "demo model":
        path: Path = request.getfixturevalue("demo_model")
    else:
        path = write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", architecture=model, weight_type="F16")
    engine = engine_class(name)(snapshot_of(path), Settings())
    yield engine
    engine.close()


@pytest.mark.model
@given(text=texts)
@settings(max_examples=150, deadline=None)
def test_it_holds_for_what_engines_tokenize(engine: Engine, text: str) -> None:
    least = engine.least_tokens(text)
    for parse_special in (False, True):
        assert least <= len(engine.tokenize(text, parse_special=parse_special))


@pytest.mark.model
def test_it_is_near_enough_to_be_of_use(engine: Engine) -> None:
    text = "The old man walked slowly down to the harbour because he wanted to see whether his small boat was still there. " * 9000
    assert engine.least_tokens(text) > len(text) / 40, "a megabyte is refused by every context up to 25,000 tokens"
