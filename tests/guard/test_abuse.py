"""Abuse that shows across requests: what opens a case, what does not, how long a key is slowed down, and that memory is bounded."""

import pytest

from trimtab.core.guarding import Finding, Verdict
from trimtab.guard.abuse import AbuseLimits, AbuseWatch, sketch

CITIES = [
    "Paris",
    "London",
    "Rome",
    "Madrid",
    "Berlin",
    "Vienna",
    "Oslo",
    "Bern",
    "Prague",
    "Lisbon",
    "Dublin",
    "Athens",
    "Sofia",
    "Riga",
    "Vilnius",
    "Tallinn",
    "Warsaw",
    "Budapest",
]


def verdict(rule, action="block"):
    finding = Finding(rule=rule, start=0, end=1, reason="")
    return Verdict(guard=rule.partition(".")[0], side="in", action=action, findings=(finding,))


def test_repeated_attempts_open_one_case_and_slow_the_key_down():
    watch = AbuseWatch(AbuseLimits(blocked=3))
    advice = [watch.observe("k", [f"try {n}"], [verdict("injection.override")], now_s=float(n)) for n in range(5)]
    assert [len(one.cases) for one in advice] == [0, 0, 1, 0, 0]
    (case,) = watch.cases()
    assert (case.kind, case.key_id, case.score, case.state) == ("repeated-attempts", "k", 1.0, "open")
    assert [rule for _, _, rule in case.evidence] == ["injection.override"] * 3
    assert advice[2].throttle_s == 60.0
    assert watch.throttled_s("k", now_s=32.0) == 30.0
    assert watch.throttled_s("another", now_s=32.0) == 0.0
    assert "try" not in str(case)


def test_blocks_that_are_no_attempts_and_old_ones_do_not_count():
    watch = AbuseWatch(AbuseLimits(blocked=3, window_s=100.0))
    for n in range(10):
        assert watch.observe("a", [f"my card {n}"], [verdict("personal.email")], now_s=float(n)).cases == ()
        assert watch.observe("b", [f"x {n}"], [verdict("injection.leak")], now_s=n * 60.0).cases == ()
        assert watch.observe("c", [f"y {n}"], [verdict("injection.leak", "flag")], now_s=float(n)).cases == ()


def test_scraping_is_the_same_question_with_other_words():
    watch = AbuseWatch(AbuseLimits(near=10))
    found = [
        watch.observe("k", [f"List all lawyers in {city} with name and address."], (), now_s=float(n)).cases
        for n, city in enumerate(CITIES)
    ]
    (case,) = [case for cases in found for case in cases]
    assert case.kind == "scraping"


def test_a_lively_conversation_is_no_scraping():
    watch = AbuseWatch(AbuseLimits(near=10))
    texts = (
        "How do I plant tomatoes?", "What was the score last night?", "Write a poem about rain.", "Explain tail recursion to me.",
        "Is it cheaper to rent or to buy?", "Translate good morning into Greek.", "Why is the sky blue?", "Name three rivers in Asia.",
        "My back hurts after running.", "Fix this SQL query for me.", "What does habeas corpus mean?", "Plan a weekend in Oslo.",
    )  # fmt: skip
    for n in range(60):
        assert watch.observe("k", [f"{texts[n % 12]} {texts[(n * 5 + n // 12) % 12]}"], (), now_s=float(n)).cases == () or n >= 40


def test_series_of_fraud_and_of_cards():
    watch = AbuseWatch(AbuseLimits(fraud=2, cards=4))
    assert watch.observe("f", ["one"], [verdict("hazards.fraud", "flag")], now_s=0.0).cases == ()
    assert watch.observe("f", ["two"], [verdict("hazards.fraud", "flag")], now_s=1.0).cases[0].kind == "fraud-series"
    same = [watch.observe("s", ["the same card"], [verdict("personal.card", "redact")], now_s=float(n)).cases for n in range(9)]
    assert not any(same)
    other = [watch.observe("o", [f"card {chr(97 + n)}"], [verdict("personal.card", "redact")], now_s=float(n)).cases for n in range(4)]
    assert [len(one) for one in other] == [0, 0, 0, 1]


def test_throttles_double_and_a_dismissed_case_lifts_them():
    watch = AbuseWatch(AbuseLimits(blocked=1, window_s=10.0, throttle_most_s=200.0))
    waits = [watch.observe("k", [str(n)], [verdict("injection.leak")], now_s=1000.0 * n).throttle_s for n in range(4)]
    assert waits == [60.0, 120.0, 200.0, 200.0]
    case = watch.cases()[-1]
    assert watch.review(case.id, "dismissed").state == "dismissed"
    assert watch.throttled_s("k", now_s=3001.0) == 0.0
    assert watch.review("nothing", "confirmed") is None


def test_memory_is_bounded():
    watch = AbuseWatch(AbuseLimits(blocked=1, n_keys=20, n_requests=5))
    for n in range(200):
        watch.observe(f"k{n}", ["x " * 50_000 if n % 50 == 0 else "x"], [verdict("injection.leak")], now_s=float(n))
    assert len(watch._keys) == 20
    assert len(watch.cases()) == 20
    for n in range(50):
        watch.observe("k199", [f"{n}"], (), now_s=300.0 + n)
    assert len(watch._keys["k199"].requests) == 5


@pytest.mark.parametrize(
    ("one", "other", "is_near"), [("page 12 of the list", "page 13 of the list", True), ("good day", "bad night", False)]
)
def test_sketches(one, other, is_near):
    assert bool(sketch(one) & sketch(other)) is is_near
    assert (sketch(one) == sketch(other)) is is_near
