"""A model's vocabulary, as a GGUF file's metadata and as a Hugging Face tokenizer.json.

Two kinds: byte-level BPE (`tokenizer.ggml.model` = gpt2), whose words are cut by one of the rules in SPLITS, and SentencePiece's BPE
(`llama`), where the best-scoring neighbours are joined. Each form holds what the other needs, but for normalisation: llama.cpp has none,
so a tokenizer.json that composes characters (Qwen's, NFC) agrees with the GGUF file on composed text only.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trimtab.core.errors import InfeasibleError, InputError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""llama_token_type."""
SPACE = "\u2581"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
Step = tuple[str, str]
SPLITS: Mapping[str, tuple[Step, ...]] = {
    "gpt-2": (("bytes", "words"),),
    "smollm": (("digits", ""), ("bytes", "words")),
    "llama-bpe": (("split", _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST), ("bytes", "")),
    "qwen2": (("split", _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST), ("bytes", "")),
}
"""How text is cut before merging, by llama.cpp's name of it (`tokenizer.ggml.pre`), as steps of a tokenizer.json.

Those on which both agree: of `tekken`, llama.cpp has an approximation that cuts Hindi otherwise.
"""
_SAME = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "gpt2": "gpt-2", "starcoder": "smollm", "deepseek-r1-qwen": "qwen2"}
_WHOLE_WORDS_FIRST = ("llama-bpe",)
"""Where a word that is a token is not merged up to it (ignore_merges), and a text begins with the BOS token unless the file says no."""
SPECIAL = ("bos", "eos", "eot", "unknown", "padding")


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """tokens, types: by id; merges: of BPE, most important first; scores: of SentencePiece, by id

    pre: one of SPLITS, empty for SentencePiece
    special: ids of the tokens of SPECIAL that there are
    add_bos, add_eos: whether a text begins and ends with them; space_prefix: whether SentencePiece puts a space before a text
    """

    kind: Literal["bpe", "spm"]
    pre: str = ""
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str] = ()
    scores: Sequence[float] = ()
    special: Mapping[str, int] = field(default_factory=dict)
    add_bos: bool = False
    add_eos: bool = False
    space_prefix: bool = True


def vocabulary_of_gguf(metadata: Mapping[str, Any]) -> Vocabulary:
    """From a GGUF file's key-values. Raises InfeasibleError for kinds and cuts of words that are not known here."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise InfeasibleError(f"Its tokenizer is of kind {kind!r}; only byte-level BPE and SentencePiece's BPE can be converted.")
    named = metadata.get("tokenizer.ggml.pre", "default")
    pre = "" if kind == "llama" else _SAME.get(named, named)
    if kind == "gpt2" and pre not in SPLITS:
        raise InfeasibleError(f"Its tokenizer cuts text by {named!r}; known here are {', '.join((*SPLITS, *_SAME))}.")
    tokens = metadata["tokenizer.ggml.tokens"]
    special = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in SPECIAL}
    return Vocabulary(
        kind="bpe" if kind == "gpt2" else "spm",
        pre=pre,
        tokens=tokens,
        types=metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens),
        merges=metadata.get("tokenizer.ggml.merges", ()),
        scores=metadata.get("tokenizer.ggml.scores", ()),
        special={name: int(number) for name, number in special.items() if number is not None and int(number) < len(tokens)},
        add_bos=metadata.get("tokenizer.ggml.add_bos_token", kind == "llama" or pre in _WHOLE_WORDS_FIRST),
        add_eos=metadata.get("tokenizer.ggml.add_eos_token", False),
        space_prefix=kind == "llama" and metadata.get("tokenizer.ggml.add_space_prefix", True),
    )


def add_to_gguf(writer: Any, vocabulary: Vocabulary) -> None:
    """Write the key-values of a vocabulary with a gguf.GGUFWriter."""
    writer.add_tokenizer_model("gpt2" if vocabulary.kind == "bpe" else "llama")
    writer.add_tokenizer_pre(vocabulary.pre or "default")
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    if vocabulary.kind == "bpe":
        writer.add_token_merges(list(vocabulary.merges))
    else:
        writer.add_token_scores(list(vocabulary.scores))
        writer.add_add_space_prefix(vocabulary.space_prefix)
    for name, number in vocabulary.special.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)


def to_tokenizer_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of tokenizer.json."""
    added = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != USER_DEFINED,
        }
        for number, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind in (CONTROL, USER_DEFINED, UNKNOWN)
    ]
    spm = vocabulary.kind == "spm"
    unknown = vocabulary.special.get("unknown")
    numbers = {token: number for number, token in enumerate(vocabulary.tokens)}
    if len(numbers) != len(vocabulary.tokens):
        raise InfeasibleError("Its vocabulary has one token twice, which tokenizer.json cannot hold.")
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": vocabulary.tokens[unknown] if spm and unknown is not None else None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": spm,
        "byte_fallback": spm and BYTE in vocabulary.types,
        "ignore_merges": vocabulary.pre in _WHOLE_WORDS_FIRST,
        "vocab": numbers,
        "merges": _merges_of_scores(vocabulary) if spm else [merge.split(" ", 1) for merge in vocabulary.merges],
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": _spaces(vocabulary.space_prefix) if spm else None,
        "pre_tokenizer": None if spm else _steps_json(SPLITS[vocabulary.pre]),
        "post_processor": _post_processor(vocabulary),
        "decoder": _spaces_back(vocabulary.space_prefix) if spm else _byte_level(words=True),
        "model": model,
    }


def vocabulary_of_folder(folder: Path, n_tokens: int) -> Vocabulary:
    """From tokenizer.json and the files beside it. n_tokens: rows of the embedding; ids without a token become unused ones.

    Raises InputError without tokenizer.json, InfeasibleError for a tokenizer that GGUF's two kinds do not cover.
    """
    plain = _read_json(folder / "tokenizer.json")
    if plain is None:
        raise InputError(f"{folder} has no tokenizer.json; save the tokenizer in its fast form beside the weights.")
    model = plain["model"]
    spm = bool(model.get("byte_fallback")) and not plain.get("pre_tokenizer")
    if model.get("type") != "BPE" or model.get("dropout") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise InfeasibleError(
            f"The tokenizer in {folder} is of kind {model.get('type')}; only byte-level and SentencePiece's BPE have a GGUF form."
        )
    pre = "" if spm else _pre_of(plain, folder)
    tokens = {number: token for token, number in model["vocab"].items()}
    added = {int(each["id"]): each for each in plain.get("added_tokens", ())}
    tokens |= {number: each["content"] for number, each in added.items()}
    if max(tokens) >= n_tokens:
        raise InputError(f"The tokenizer in {folder} has a token of id {max(tokens)}, and the model only {n_tokens} rows for them.")
    listed = [tokens.get(number, f"[PAD{number}]") for number in range(n_tokens)]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    special = _special_of(folder, {token: number for number, token in tokens.items()}, model.get("unk_token"))
    types = [
        (UNKNOWN if spm and number == special.get("unknown") else CONTROL if added[number]["special"] else USER_DEFINED)
        if number in added
        else _type_of(listed[number], spm=spm)
        if number in tokens
        else UNUSED
        for number in range(n_tokens)
    ]
    begins, ends = _around(folder, special)
    return Vocabulary(
        kind="spm" if spm else "bpe",
        pre=pre,
        tokens=listed,
        types=types,
        merges=() if spm else merges,
        scores=_scores_of_merges(listed, merges) if spm else (),
        special=special,
        add_bos=begins,
        add_eos=ends,
        space_prefix=SPACE in json.dumps(_prepends(plain.get("normalizer")), ensure_ascii=False),
    )


def composes(folder: Path) -> bool:
    """Whether the tokenizer of a folder composes characters first (NFC), as llama.cpp does not."""
    return '"NFC"' in json.dumps((_read_json(folder / "tokenizer.json") or {}).get("normalizer"))


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}).") from error
    return found if isinstance(found, dict) else None


def _type_of(token: str, *, spm: bool) -> int:
    return BYTE if spm and len(token) == 6 and token.startswith("<0x") and token.endswith(">") else NORMAL


def _pre_of(plain: Mapping[str, Any], folder: Path) -> str:
    """llama.cpp's name for the way a tokenizer.json cuts text."""
    steps = _steps_of(plain.get("pre_tokenizer"))
    names = [name for name, known in SPLITS.items() if known == steps]
    if not names:
        raise InfeasibleError(f"The tokenizer in {folder} cuts text in a way that has no GGUF form here ({str(steps)[:120]}).")
    normalizer = plain.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise InfeasibleError(f"The tokenizer in {folder} changes text first ({normalizer.get('type')}), which GGUF's kinds of BPE do not.")
    return names[0]


def _steps_of(pre_tokenizer: Mapping[str, Any] | None) -> tuple[Step, ...]:
    if pre_tokenizer is None:
        return ()
    kind = pre_tokenizer["type"]
    if kind == "Sequence":
        return tuple(step for each in pre_tokenizer["pretokenizers"] for step in _steps_of(each))
    if kind == "ByteLevel" and not pre_tokenizer.get("add_prefix_space"):
        return (("bytes", "words" if pre_tokenizer.get("use_regex", True) else ""),)
    if kind == "Digits" and pre_tokenizer.get("individual_digits"):
        return (("digits", ""),)
    if kind == "Split" and pre_tokenizer.get("behavior") == "Isolated" and "Regex" in pre_tokenizer["pattern"]:
        return (("split", pre_tokenizer["pattern"]["Regex"]),)
    return ((kind, "?"),)


def _steps_json(steps: Sequence[Step]) -> dict[str, Any]:
    made: list[dict[str, Any]] = []
    for kind, value in steps:
        if kind == "digits":
            made.append({"type": "Digits", "individual_digits": True})
        elif kind == "split":
            made.append({"type": "Split", "pattern": {"Regex": value}, "behavior": "Isolated", "invert": False})
        else:
            made.append(_byte_level(words=value == "words"))
    return made[0] if len(made) == 1 else {"type": "Sequence", "pretokenizers": made}


def _byte_level(*, words: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": words}


def _spaces(prefix: bool) -> dict[str, Any]:
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    return {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]} if prefix else replace


def _spaces_back(prefix: bool) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _prepends(normalizer: Mapping[str, Any] | None) -> list[Any]:
    """The steps of a normalizer that put something before a text."""
    if normalizer is None:
        return []
    steps = normalizer.get("normalizers", [normalizer])
    return [step for step in steps if step.get("type") == "Prepend"]


def _post_processor(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """The tokens around a text."""
    ends = {"bos": vocabulary.add_bos, "eos": vocabulary.add_eos}
    used = {name: vocabulary.special[name] for name, on in ends.items() if on and name in vocabulary.special}
    if not used:
        return None
    names = {name: vocabulary.tokens[number] for name, number in used.items()}

    def around(letters: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for place, letter in enumerate(letters):
            tokens = {name: {"SpecialToken": {"id": token, "type_id": place}} for name, token in names.items()}
            middle = {"Sequence": {"id": letter, "type_id": place}}
            found += [*([tokens["bos"]] if "bos" in tokens else []), middle, *([tokens["eos"]] if "eos" in tokens else [])]
        return found

    return {
        "type": "TemplateProcessing",
        "single": around("A"),
        "pair": around("AB"),
        "special_tokens": {names[name]: {"id": names[name], "ids": [number], "tokens": [names[name]]} for name, number in used.items()},
    }


def _merges_of_scores(vocabulary: Vocabulary) -> list[list[str]]:
    """The merges of SentencePiece's BPE: every way to make a piece of two, the best-scoring piece first."""
    known = {token: number for number, token in enumerate(vocabulary.tokens) if vocabulary.types[number] in (NORMAL, USER_DEFINED)}
    found = []
    for token, number in known.items():
        for place in range(1, len(token)):
            left, right = token[:place], token[place:]
            if left in known and right in known:
                found.append((-vocabulary.scores[number], known[left], known[right], left, right))
    return [[left, right] for _, _, _, left, right in sorted(found)]


def _scores_of_merges(tokens: Sequence[str], merges: Sequence[str]) -> list[float]:
    """Scores that order pieces as the merges that make them first do."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", "", 1), rank)
    return [-float(ranks[token]) if token in ranks else 0.0 for token in tokens]


def _special_of(folder: Path, numbers: Mapping[str, int], unknown: str | None) -> dict[str, int]:
    """Ids of the tokens that stand for something, from tokenizer_config.json, else config.json; eot: a second end of generation."""
    named = _read_json(folder / "tokenizer_config.json") or {}
    config = _read_json(folder / "config.json") or {}
    ends = (_read_json(folder / "generation_config.json") or {}).get("eos_token_id", config.get("eos_token_id"))
    found: dict[str, int] = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        token = named.get(f"{key}_token") or (unknown if key == "unk" else None)
        token = token["content"] if isinstance(token, dict) else token
        number = numbers.get(token) if token else config.get(f"{key}_token_id")
        if isinstance(number, list):
            number = number[0] if number else None
        if number is not None:
            found[name] = int(number)
    others = [int(number) for number in (ends if isinstance(ends, list) else []) if number != found.get("eos")]
    return found | ({"eot": others[0]} if others else {})


def _around(folder: Path, special: Mapping[str, int]) -> tuple[bool, bool]:
    """Whether the tokenizer puts BOS before and EOS after a text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    ids = tokenizer.encode("a", add_special_tokens=True).ids
    return ids[: len(ids) - len(plain)][:1] == [special.get("bos")], len(ids) > len(plain) and ids[-1:] == [special.get("eos")]
