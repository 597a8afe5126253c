"""Whether llama.cpp and a tokenizer.json cut text into the same tokens: asked of every conversion, on text of many kinds."""

import ctypes
import unicodedata
from pathlib import Path

from trimtab.compress.vocabulary import CONTROL, USER_DEFINED, Vocabulary, composes
from trimtab.core.errors import InfeasibleError

TEXTS = (
    "The old man's boat wasn't there; they'LL say we'Ve moved it 12 345.67 miles, I'd guess.",
    "  two spaces,   three,\ttabs\t\tand\n\nempty lines \n  \n\r\n end  ",
    "def f(x: int) -> str:\n    if x != 0x1F and x >= 10_000:\n\t\treturn f'{x:>8.3f}' + \"\\n\" # ###\n",
    "Größe, naïve café, Škoda, İstanbul, ŁÓDŹ; œuvre — «voilà»… ‘so’ “it” is™",
    "Быстрая лиса, Ελληνικά, עברית, العربية ١٢٣, हिन्दी पाठ, ไทย, தமிழ்",
    "日本語のテキスト、中文文本。한국어 문장! １２３ Ⅷ ½ ²",
    "emoji 🙂👩‍👩‍👧‍👦🇫🇷 ❤️ and math ∑∫√≠ 𝔘𝔫𝔦 ﬁ",
    '{"a": [1, 2.5e-10, null], \'b\': <tag attr="x">&amp;</tag>} https://example.org/p?q=1&r=%20#x',
    "aaaaaaaaaaaaaaaa        ----------------!!!???...==>>>((()))[[[]]]",
    "\u00a0no-break\u2003em\u200bzero\ufeffbom\u0000nul\x7fdel\ufffd",
    "CamelCaseWORDSandnumbers123abc456DEF under_score",
    "x",
    " ",
    "\n",
)


def check_vocabulary(gguf_path: Path, folder: Path, vocabulary: Vocabulary) -> None:
    """Raise InfeasibleError, with a text, where llama.cpp on gguf_path and the tokenizer.json in folder disagree.

    Without llama.cpp nothing is checked.
    """
    try:
        from llama_cpp import llama_cpp as native
    except ImportError:
        return
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    params = native.llama_model_default_params()
    params.vocab_only = True
    from trimtab.compress.gguf import quiet

    with quiet():
        model = native.llama_model_load_from_file(str(gguf_path).encode(), params)
        if not model:
            raise InfeasibleError(f"llama.cpp cannot read the vocabulary of {gguf_path.name}.")
        try:
            vocab = native.llama_model_get_vocab(model)
            for text in _texts(vocabulary, composed=composes(folder)):
                theirs = _by_llamacpp(native, vocab, text)
                ours = tokenizer.encode(text, add_special_tokens=False).ids
                if theirs != ours:
                    raise InfeasibleError(f"llama.cpp and tokenizer.json cut {text[:60]!r} differently ({theirs[:8]}, {ours[:8]}).")
        finally:
            native.llama_model_free(model)


def _texts(vocabulary: Vocabulary, *, composed: bool) -> list[str]:
    """The texts, and some with tokens inside that stand for themselves."""
    whole = [token for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind in (CONTROL, USER_DEFINED)][:20]
    texts = [*TEXTS, *(f"He said{token}yes {token}\nno" for token in whole)]
    return [unicodedata.normalize("NFC", text) for text in texts] if composed else texts


def _by_llamacpp(native: object, vocab: object, text: str) -> list[int]:
    raw = text.encode()
    room = len(raw) + 8
    tokens = (ctypes.c_int32 * room)()
    count = native.llama_tokenize(vocab, raw, len(raw), tokens, room, False, True)  # type: ignore[attr-defined]
    return list(tokens[:count])
