"""What the assistant says, under templates of several makers, and the tokenizer of a Hugging Face directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.errors import InputError
from trimtab.describe.template import render_chat
from trimtab.train.data import chat

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
)
GENERATION = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FORGETS_THOUGHTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last or m.role == 'user' %}{{ m.content }}"
    "{% else %}{{ m.content.split('</think>')[-1] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_BEGINNING = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
COUNTS = "{{ messages | length }} messages\n" + CHATML

TWO_TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And 3+3?"},
    {"role": "assistant", "content": "6"},
]


def said(template: str, messages: Sequence[Mapping[str, Any]]) -> list[str]:
    text, spans = chat.answers(lambda some, begins: render_chat(template, some, add_generation_prompt=begins), messages)
    return [text[begin:end] for begin, end in spans]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, ["4<|im_end|>\n", "6<|im_end|>\n"]),
        (LLAMA2, [" 4 </s>", " 6 </s>"]),
        (GENERATION, ["4<|end|>", "6<|end|>"]),
        (FORGETS_THOUGHTS, ["4<|im_end|>\n", "6<|im_end|>\n"]),
    ],
)
def test_what_the_assistant_says(template: str, expected: list[str]) -> None:
    messages = TWO_TURNS[1:] if template is LLAMA2 else TWO_TURNS
    assert said(template, messages) == expected


@pytest.mark.parametrize(
    ("template", "messages", "words"),
    [
        (NO_BEGINNING, TWO_TURNS, "has no words that begin an answer"),
        (COUNTS, TWO_TURNS, "does not write message 3 after what it wrote before it"),
        (
            FORGETS_THOUGHTS,
            [*TWO_TURNS[:2], {"role": "assistant", "content": "<think>Two and two.</think>4"}, *TWO_TURNS[3:]],
            "does not write message 3 after",
        ),
        (CHATML, TWO_TURNS[:2], "nobody says anything as `assistant`"),
        (CHATML, [], "nobody says anything"),
    ],
)
def test_what_cannot_be_told_is_refused(template: str, messages: list[dict[str, str]], words: str) -> None:
    with pytest.raises(InputError) as raised:
        said(template, messages)
    assert words in str(raised.value)


def test_tokens_across_a_border_and_after_the_end_are_not_learnt() -> None:
    # "ab" | "cdE" | "f": one token crosses the first border, E ends the answer, the rest of it comes after.
    offsets = [(0, 1), (1, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8)]
    assert chat.learnt_tokens([1, 2, 3, 9, 4, 5, 6], offsets, [(2, 6)], 9) == [False, False, True, True, False, False, False]
    assert chat.learnt_tokens([1, 2, 3, 9, 4, 5, 9], offsets, [(2, 5), (6, 8)], 9) == [False, False, True, True, False, True, True]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer with ChatML."""
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|im_start|>", "<|im_end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(["the text of the answer is the text that the user asks for"], trainer)
    found = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>")
    found.chat_template = CHATML
    path = tmp_path_factory.mktemp("tokenizer")
    found.save_pretrained(path)
    return path


@pytest.mark.slow
def test_a_tokenizer_of_a_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    from trimtab.train.data import tokenizers

    found, plain = tokenizers.HuggingFaceTokenizer(folder), AutoTokenizer.from_pretrained(folder)
    text = "The text of the user, größer 🙂\n" * 40
    assert found.encode(text) == plain(text)["input_ids"]
    assert found.encode(text + "<|im_end|>") == found.encode(text)
    assert found.vocab_size == len(plain)
    assert found.end_id == plain.eos_token_id
    monkeypatch.setattr(tokenizers, "PIECE_CHARS", 100)
    assert plain.decode(found.encode(text)) == text

    ids, learnt = found.encode_chat(TWO_TURNS)
    assert ids == plain.apply_chat_template(TWO_TURNS, tokenize=True)["input_ids"]
    assert plain.decode([token for token, is_learnt in zip(ids, learnt, strict=True) if is_learnt]) == "4<|im_end|>6<|im_end|>"

    again = tokenizers.HuggingFaceTokenizer(folder)
    assert again.digest == found.digest
    plain.save_pretrained(tmp_path / "saved")
    assert tokenizers.HuggingFaceTokenizer(tmp_path / "saved").digest == found.digest
    plain.chat_template = NO_BEGINNING
    plain.save_pretrained(tmp_path / "other")
    other = tokenizers.HuggingFaceTokenizer(tmp_path / "other")
    assert other.digest != found.digest
    with pytest.raises(InputError, match="has no words that begin an answer"):
        other.encode_chat(TWO_TURNS)


@pytest.mark.slow
def test_folders_without_a_tokenizer_are_told(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from trimtab.train.data.tokenizers import HuggingFaceTokenizer

    with pytest.raises(InputError, match=r"holds no tokenizer that can be read .*give a Hugging Face directory"):
        HuggingFaceTokenizer(tmp_path)
    plain = AutoTokenizer.from_pretrained(folder)
    plain.chat_template = None
    plain.save_pretrained(tmp_path / "plain")
    with pytest.raises(InputError, match="has no chat template"):
        HuggingFaceTokenizer(tmp_path / "plain").encode_chat(TWO_TURNS)
    plain.eos_token = None
    plain.save_pretrained(tmp_path / "endless")
    with pytest.raises(InputError, match="names no token that ends a text"):
        HuggingFaceTokenizer(tmp_path / "endless")
