"""Stop strings across the borders of pieces, and texts of tokens in whole characters."""

from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.engines.pieces import Pieces, TextStream
from trimtab.serve.stops import StopScan, held_back

LETTERS = st.text("ab\n", max_size=30)


@settings(deadline=None)
@given(st.lists(LETTERS, max_size=12), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_the_text_up_to_the_first_stop_goes_out_and_nothing_of_a_stop(pieces, stops):
    scan = StopScan(stops)
    out = "".join([*map(scan.push, pieces), scan.finish()])
    text = "".join(pieces)
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    assert scan.has_stopped == bool(places)
    # With two stops of unlike length, the one that is complete first ends the text.
    if places:
        assert text.startswith(out)
        assert len(out) >= min(places)
        assert not any(stop in out for stop in stops)
    else:
        assert out == text


def test_only_what_may_be_a_stop_waits():
    scan = StopScan(["\n\nUser:"])
    assert scan.push("Hello.\n") == "Hello."
    assert scan.push("\nUse") == ""
    assert scan.push(" it") == "\n\nUse it"
    assert held_back("abc", ["cd", "bcx"]) == 2


VOCABULARY = [bytes([value]) for value in range(256)] + ["héllo ".encode(), "’s".encode(), "漢".encode()[:2], "漢".encode()[2:]]


def detokenize(ids):
    return b"".join(VOCABULARY[token] for token in ids).decode("utf-8", "replace")


def tokenize(text):
    return list(text.encode())


@settings(deadline=None)
@given(st.text(max_size=40))
def test_characters_come_whole_and_nothing_is_lost(text):
    stream = TextStream(Pieces(detokenize, tokenize))
    pieces = [stream.push(token) for token in tokenize(text)]
    pieces.append(stream.finish())
    assert "".join(pieces) == text
    if "�" not in text:
        assert not any("�" in piece for piece in pieces)


def test_tokens_that_hold_parts_of_characters():
    stream = TextStream(Pieces(detokenize, tokenize))
    assert [stream.push(token) for token in (256, 258, 259, 257)] == ["héllo ", "", "漢", "’s"]
    assert stream.push(258) == ""
    assert stream.finish() == "", "half a character at the end is left out"


def test_bytes_that_never_become_a_character_do_not_hold_the_text_back_for_ever():
    stream = TextStream(Pieces(detokenize, tokenize))
    text = "".join(stream.push(token) for token in [0xFF] * 20)
    assert text.count("�") >= 16


def test_marks_of_special_tokens_are_put_in():
    pieces = Pieces(lambda ids: detokenize([token for token in ids if token < 300]), tokenize)
    stream = TextStream(pieces, {300: "[CALL]"})
    assert "".join(map(stream.push, [*tokenize("a"), 300, *tokenize("b")])) == "a[CALL]b"


def test_an_engine_whose_text_is_not_the_sum_of_its_tokens_is_asked_each_time():
    """One that cleans up spaces, as some tokenizers do."""
    words = ["It", "'s", "calm", ",", "isn", "'t", "it", "?"]

    def clean(ids):
        return " ".join(words[token] for token in ids).replace(" '", "'").replace(" ,", ",").replace(" ?", "?")

    pieces = Pieces(clean, lambda text: [2] if text == "a" else list(range(8)))
    stream = TextStream(pieces)
    assert "".join([*map(stream.push, range(8)), stream.finish()]) == "It's calm, isn't it?"


def test_text_of_many_tokens_asks_the_engine_for_new_tokens_only():
    asked = []

    def counted(ids):
        asked.append(len(ids))
        return detokenize(ids)

    pieces = Pieces(counted, tokenize)
    asked.clear()
    stream = TextStream(pieces)
    for token in tokenize("the sea the sea the sea the sea "):
        stream.push(token)
    assert len(asked) <= len(set("the sea ")) + 2
