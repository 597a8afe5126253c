"""Streams of mixed pieces, cut anywhere, come out as the whole text would: what the contract's few texts do not reach."""

import random

import pytest

pytest.importorskip("presidio_analyzer")
pytest.importorskip("detect_secrets")

from trimtab.guard.pipeline import redacted
from trimtab.guard.registry import open_guard
from trimtab.testing.guard_contract import streamed

OPTIONS = {"topics": {"deny": {"play": ["casino", "/bet(?:s|ting)?/", "Acme Corp"]}}, "output": {"phrases": ["/(?:buy|sell) shares/"]}}
PIECES = {
    "personal": [
        "a.b@c.example.co.uk", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "+1 650-253-0000", "12 Old Mill Road",
        "Lindenstraße 12",
        "born on", "3 March 1985", "tel", "030 23125 000", "AB123456C", "12345678Z", "10.0.0.1", "536-90-4399", " ", "word", "The",
        "NEXT", ",",
        ".", "12", "1985-03-03", "x@", "00", "passport", "123456789", "Springfield, IL 62701", "12 rue de la Paix", "SW1A 1AA", "\n",
        "pesel 44051401359",
    ],
    "secrets": [
        "AKIAIOSFODNN7EXAMPLE", 'password = "hunter2 abc"', "token", "=", ":", '"', "'", "https://bob:s3cretPw@h.example/x", "word",
        " ", "\n",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----", "ghp_" + "a1B2c3D4e5F6" * 3, "api_key", "-----BEGIN ",
        '"Zx9QwErTy12UiOpAsDfGhJkLzXcVbNm"', "sk-proj-abcdefghijklmnopqrstuvwx", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-DEF_123",
    ],
    "unicode": ["pay\u200bpal", "\u202e", "\U000e0069\U000e0067", "pаypаl", "word", " ", "é", "Москва", "👩\u200d👩", "\ufe0f" * 4, "a",
        "क्\u200dया", "🏴"],
    "topics": ["casino", "ca", "sino", "bet", "betting", "s", "Acme", "Corp", " ", "cаsino", "é", "\u200b"],
    "output": [
        "![x](https://e.example/p?d=1)", "<script>", "<scr", "ipt", "\x1b[31m", "<|im_end|>", "<|im", "_end|>", "!", "[", "](", "word", " ",
        "<img src='https://e.example/a?b'>", "onerror=", "buy shares", "buy ",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", PIECES)
def test_any_pieces_in_any_cuts(name):
    guard = open_guard(name, OPTIONS.get(name, {}), side="out", time_limit_s=30.0)
    draw = random.Random(name)
    for _ in range(60):
        text = "".join(draw.choice(PIECES[name]) + draw.choice((" ", "", " ")) for _ in range(draw.randint(2, 14)))
        n = draw.choice((1, 2, 3, 5, 9))
        assert streamed(guard, text, n)[0] == redacted(text, guard.check(text)), (n, text)
