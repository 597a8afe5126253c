"""Features of texts, against what a person says of them."""

import json
import random

import pytest

from trimtab.core.groups import groups_of, without_groups
from trimtab.watch.bodies import answer_of, answer_of_events, asked, expects_json
from trimtab.watch.features import Vocabulary, features, language_of, repetition, script_of, served_tokens, topic_of, words_of
from trimtab.watch.observing import Facts, observed_of
from trimtab.watch.retries import MOST_WAITING, RETRY_S, Retries, likeness, signature
from trimtab.watch.signals import signal_of, signals

PROSE = {
    "en": "Could you please explain to me how the water gets into the clouds and why it rains?",
    "de": "Kannst du mir bitte erklären, wie das Wasser in die Wolken kommt und warum es regnet?",
    "fr": "Peux-tu m'expliquer comment l'eau arrive dans les nuages et pourquoi il pleut?",
    "es": "¿Puedes explicarme cómo llega el agua a las nubes y por qué llueve tanto en otoño?",
    "ru": "Объясни, пожалуйста, как вода попадает в облака и почему идёт дождь?",
    "ja": "水がどのようにして雲に入り、なぜ雨が降るのかを説明してください。",
    "zh": "请解释一下水是怎么进入云层的，为什么会下雨？",
    "ar": "هل يمكنك أن تشرح لي كيف يصل الماء إلى السحب ولماذا تمطر؟",
}


@pytest.mark.parametrize("language", PROSE)
def test_languages_of_sentences(language: str) -> None:
    assert language_of(PROSE[language]) == language


@pytest.mark.parametrize("text", ["", "ok", "2 + 2 = ?", "👍👍👍", "Berlin"])
def test_a_short_text_has_no_language(text: str) -> None:
    assert language_of(text) == "und"


def test_scripts() -> None:
    found = {language: script_of(text) for language, text in PROSE.items()}
    assert found == {**dict.fromkeys(("en", "de", "fr", "es"), "latin"), "ru": "cyrillic", "ja": "kana", "zh": "han", "ar": "arabic"}
    assert script_of("12:30 !!") == "none"


def test_features_name_signals_of_the_catalogue_only() -> None:
    numbers, flags, labels = features(PROSE["en"], PROSE["en"] * 5, expects_json=True, refused=lambda text: False, vocabulary=_closed())
    kinds = {"mean": numbers, "rate": flags, "category": labels}
    assert {name for found in kinds.values() for name in found} <= set(signals())
    assert all(signals()[name].kind == kind for kind, found in kinds.items() for name in found)
    assert {"repetition", "unseen_words"} <= set(numbers)
    assert {"valid_json", "refused", "same_language"} <= set(flags)


def test_what_cannot_be_told_is_absent() -> None:
    numbers, flags, labels = features("hi", "")
    assert "repetition" not in numbers
    assert "unseen_words" not in numbers
    assert not {"valid_json", "refused", "same_language"} & set(flags)
    assert flags["empty"]
    assert "answer_language" not in labels
    assert not features("hi", "", calls=True)[1]["empty"]


@pytest.mark.parametrize("token", ["<|im_start|>", "<|eot_id|>", "[INST]", "<</SYS>>", "<start_of_turn>", "</s>", "<｜Assistant｜>"])
def test_control_tokens_in_a_users_text(token: str) -> None:
    assert features(f"hello {token} system", "fine")[1]["control_tokens"]


@pytest.mark.parametrize("text", ["a <b> c", "if a <| b", "x[0] [a]", "<span>", "I <3 you", "a | b |> c"])
def test_other_brackets_are_none(text: str) -> None:
    assert not features(text, text)[1]["control_tokens"]


@pytest.mark.parametrize(
    ("text", "valid"),
    [('{"a": 1}', True), ('```json\n{"a": 1}\n```', True), ("{'a': 1}", False), ('Sure: {"a": 1}', False), ("[" * 100_000, False)],
)
def test_json_where_it_was_asked_for(text: str, valid: bool) -> None:
    assert features("give me JSON", text, expects_json=True)[1]["valid_json"] is valid


def test_repetition_tells_loops_from_prose() -> None:
    prose = " ".join(text for language, text in PROSE.items() if language in ("en", "de", "fr", "es"))
    loop, mild = repetition("I am here to help you. " * 20), repetition(prose)
    assert loop is not None
    assert mild is not None
    assert mild < 0.02 < 0.9 < loop
    assert repetition("short answer") is None
    looped = repetition("雨が降る。" * 40)
    assert looped is not None
    assert looped > 0.8


def test_topics_are_stable_and_likelier_shared_by_like_texts() -> None:
    assert topic_of(words_of("Which vaccines protect against measles and mumps?")) == "t15"
    assert topic_of([]) == "none"
    rng = random.Random(7)
    fields = [["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(30)] for _ in range(8)]
    texts = [(field, topic_of(rng.sample(fields[field], 15))) for field in range(8) for _ in range(40)]
    pairs = [(one[0] == other[0], one[1] == other[1]) for place, one in enumerate(texts) for other in texts[:place]]
    shared = {
        same: sum(hit for is_same, hit in pairs if is_same is same) / sum(is_same is same for is_same, _ in pairs) for same in (True, False)
    }
    assert shared[True] > 2 * shared[False]


def _closed() -> Vocabulary:
    found = Vocabulary()
    while not found.is_closed:
        assert found.unseen(words_of(PROSE["en"]) * 100) is None
    return found


def test_words_that_the_first_requests_did_not_hold() -> None:
    closed = _closed()
    again = Vocabulary(closed.data(), closed.n_words)
    for one in (closed, again):
        assert one.unseen(words_of(PROSE["en"])) == 0.0
        assert one.unseen(words_of(PROSE["ru"])) == 1.0
        assert one.unseen([]) is None
    assert Vocabulary(b"too short", 10**9).n_words == 0


def test_entropy_and_surprise_of_served_tokens() -> None:
    top = [{"token": "a", "logprob": -0.6931471805599453}, {"token": "b", "logprob": -0.6931471805599453}]
    chat = served_tokens({"content": [{"logprob": -0.5, "top_logprobs": top}, {"logprob": -1.5, "top_logprobs": top}]})
    assert chat == {"nats_per_token": pytest.approx(1.0), "entropy": pytest.approx(0.693147)}
    old = served_tokens({"token_logprobs": [None, -2.0], "top_logprobs": [None, {"a": -0.6931471805599453, "b": -0.6931471805599453}]})
    assert old == {"nats_per_token": pytest.approx(2.0), "entropy": pytest.approx(0.693147)}
    assert served_tokens(None) == {}
    assert served_tokens({"content": []}) == {}


# Bodies


def test_what_was_asked_last() -> None:
    chat = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "one"}, {"role": "assistant", "content": "x"}]}
    assert asked(chat) == "one"
    parts = [{"type": "text", "text": "two"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "three"}]
    assert asked({"messages": [*chat["messages"], {"role": "user", "content": parts}]}) == "two\nthree"
    assert asked({"prompt": ["a", "b"]}) == "a\nb"
    assert asked({"input": [{"role": "user", "content": [{"type": "input_text", "text": "four"}]}]}) == "four"
    assert asked({"prompt": [1, 2]}) == ""
    assert expects_json({"response_format": {"type": "json_object"}})
    assert expects_json({"text": {"format": {"type": "json_schema"}}})
    assert not expects_json({"response_format": {"type": "text"}})


def test_a_stream_and_a_whole_answer_say_the_same() -> None:
    logprobs = {"content": [{"logprob": -1.0, "top_logprobs": []}]}
    whole = answer_of(
        {
            "choices": [{"message": {"content": "Hello"}, "finish_reason": "length", "logprobs": logprobs}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        }
    )
    chunks = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"index": 0, "delta": {"content": "Hel"}, "logprobs": logprobs}, {"index": 1, "delta": {"content": "other"}}]},
        {"choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": "length"}]},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    ]
    raw = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b": alive\n\ndata: {cut"
    assert answer_of_events(raw) == whole


def test_responses_and_calls() -> None:
    body = {
        "output": [
            {"type": "reasoning", "content": [{"text": "hm"}]},
            {"type": "message", "content": [{"type": "output_text", "text": "Hi", "logprobs": [{"logprob": -1.0}]}]},
            {"type": "function_call", "name": "f"},
        ],
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }
    found = answer_of(body)
    assert (found.text, found.calls, found.n_prompt, found.n_completion) == ("Hi", True, 1, 2)
    assert found.tokens["nats_per_token"] == 1.0
    event = b"data: " + json.dumps({"type": "response.completed", "response": body}).encode() + b"\n\n"
    assert answer_of_events(event) == found


# Requests


def test_times_count_of_answers_that_ended_well_only() -> None:
    well = observed_of(Facts(request="a", at_s=1.0, total_ms=100.0, first_token_ms=20.0, completion_tokens=5))
    assert well.numbers["token_ms"] == 20.0
    failed = observed_of(Facts(request="a", at_s=1.0, status=503, total_ms=1.0))
    assert failed.flags == {"error": True, "rejected": False, "gone": False}
    assert failed.numbers == {}


def test_groups_are_what_the_client_says_and_nothing_else() -> None:
    given = {"group:sex": "female", "sex": "male", "group:": "x", "group:age": "", "group:Long": "x", "group:note": "x" * 65}
    assert groups_of(given) == {"sex": "female"}
    assert groups_of({f"group:a{index}": "x" for index in range(20)}).keys() == {f"a{index}" for index in range(8)}
    assert groups_of(None) == {}
    body = {"model": "m", "metadata": {"group:sex": "female", "run": "7"}}
    assert without_groups(body) == {"model": "m", "metadata": {"run": "7"}}
    assert without_groups({"model": "m", "metadata": {"group:sex": "female"}}) == {"model": "m"}
    plain = {"model": "m", "metadata": {"run": "7"}}
    assert without_groups(plain) is plain


def test_who_asks_nearly_the_same_again() -> None:
    first, again = (
        signature("What is the tallest mountain in the whole world?"),
        signature("what is the tallest mountain in the whole world"),
    )
    other = signature("What is the tallest building in Europe today?")
    assert likeness(first, again) == 1.0
    assert likeness(first, other) < 0.6
    retries = Retries()
    assert list(retries.take("k", "r1", first, 0.0)) == []
    assert list(retries.take("other", "r2", first, 1.0)) == []
    assert [(one.request, one.value) for one in retries.take("k", "r3", again, 10.0)] == [("r1", 1.0)]
    assert list(retries.take("k", "r4", other, 20.0)) == []
    told = [(one.request, one.value) for one in retries.expire(RETRY_S + 15.0)]
    assert told == [("r2", 0.0), ("r3", 0.0)]
    assert [one.request for one in retries.expire(RETRY_S + 30.0)] == ["r4"]
    assert list(retries.take("", "r5", first, 1000.0)) == []


def test_retries_are_bounded() -> None:
    retries = Retries()
    for index in range(3 * MOST_WAITING):
        assert list(retries.take(f"key{index}", f"r{index}", (index,), 0.0)) == []
    assert len(list(retries.expire(RETRY_S + 1.0))) == MOST_WAITING


def test_an_outcome_of_a_sites_own_is_a_signal() -> None:
    assert signal_of("loan_repaid").kind == "mean"
    assert signal_of("thumbs").worse == "down"
