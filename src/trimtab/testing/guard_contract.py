"""Contract tests for guards. Subclass GuardContract in a test module, say how to open the guard and what it should find:

    class TestMyGuard(GuardContract):
        hits = ["a text with a FINDING in it"]
        clean = ["a text without"]

        @classmethod
        def open_guard(cls, side):
            return MyGuard({}, side=side, time_limit_s=5.0)

They use the Guard methods alone, and the pipeline that the gateway uses. Every text of `hits` and `clean` should be one that the guard can
judge in a moment.
"""

from collections.abc import Sequence
from threading import Thread
from typing import ClassVar

import pytest

from trimtab.core.errors import InputError
from trimtab.core.guarding import Finding, Side
from trimtab.core.site import GuardUse
from trimtab.guard.base import CONTRACT_VERSION, Guard
from trimtab.guard.pipeline import OutputGuard, Placed, redacted

LONG = "The sea was calm that morning and the old man walked down to the water with his dog to look for the boat he had lost. " * 20
CHUNKS = (1, 3, 7, 50)


def streamed(guard: Guard, text: str, chunk_chars: int, on_hit: str = "redact") -> tuple[str, OutputGuard]:
    """What comes out of a stream of pieces of `chunk_chars`, and the judge that saw it."""
    use = GuardUse(name=guard.name, side="out", on_hit=on_hit)  # type: ignore[arg-type]
    judge = OutputGuard([Placed(guard=guard, use=use, side="out")])
    out = [judge.push(text[at : at + chunk_chars]) for at in range(0, len(text), chunk_chars)]
    return "".join([*out, judge.finish()]), judge


class GuardContract:
    """The tests. Override `open_guard`, `hits` and `clean`.

    hits: texts with at least one finding each; clean: texts with none
    most_held_chars: how much of a clean text may be held back at most while it streams; None = as much as the guard's reach or stride
    """

    hits: ClassVar[Sequence[str]]
    clean: ClassVar[Sequence[str]] = ("The sea was calm that morning.",)
    most_held_chars: ClassVar[int | None] = None

    @classmethod
    def open_guard(cls, side: Side) -> Guard:
        """A new guard for texts of a side."""
        raise NotImplementedError

    @pytest.fixture
    def guard(self) -> Guard:
        guard = self.open_guard("in")
        return self.open_guard("out") if "out" in guard.sides and "in" not in guard.sides else guard

    @pytest.fixture
    def of_answers(self) -> Guard:
        guard = self.open_guard("out")
        if "out" not in guard.sides:
            pytest.skip("it reads requests only")
        return guard

    def test_it_says_what_it_is(self, guard: Guard) -> None:
        assert guard.name
        assert guard.name == type(guard).name
        assert guard.contract_version == CONTRACT_VERSION
        assert guard.sides
        assert guard.sides <= {"in", "out"}
        assert guard.reach_chars is None or guard.reach_chars > 0
        assert guard.stride_chars > 0

    def test_hits_are_found(self, guard: Guard) -> None:
        for text in self.hits:
            assert guard.check(text), text

    def test_clean_texts_and_nothing_are_clean(self, guard: Guard) -> None:
        for text in (*self.clean, ""):
            assert guard.check(text) == (), text

    def test_findings_lie_in_the_text_and_say_why_without_repeating_it(self, guard: Guard) -> None:
        for text in self.hits:
            for one in guard.check(text):
                assert 0 <= one.start < one.end <= len(text)
                assert 0.0 < one.score <= 1.0
                assert one.rule.startswith(f"{guard.name}.")
                assert one.reason
                matched = text[one.start : one.end].strip()
                assert len(matched) < 6 or matched not in one.reason
                assert guard.reach_chars is None or one.end - one.start <= guard.reach_chars

    def test_the_same_text_gets_the_same_findings(self, guard: Guard) -> None:
        """No state between calls, whatever was asked before."""
        first = [_spans(guard.check(text)) for text in self.hits]
        for text in self.clean:
            guard.check(text)
        assert [_spans(guard.check(text)) for text in self.hits] == first

    def test_threads_may_share_it(self, guard: Guard) -> None:
        wrong: list[str] = []

        def ask(text: str, expected: object) -> None:
            wrong.extend(text for _ in range(3) if _spans(guard.check(text)) != expected)

        threads = [Thread(target=ask, args=(text, _spans(guard.check(text)))) for text in (*self.hits, *self.clean)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_findings_before_the_start_are_left_out(self, guard: Guard) -> None:
        for text in self.hits:
            assert all(one.start >= 5 for one in guard.check(text, 5))
            assert guard.check(text, len(text)) == ()

    def test_unknown_options_are_refused(self, guard: Guard) -> None:
        with pytest.raises(InputError):
            type(guard)({"an-option-that-no-guard-has": 1}, side=guard.side, time_limit_s=1.0)

    def test_odd_texts_do_not_break_it(self, guard: Guard) -> None:
        for text in (
            "\x00\x1f",
            "\ud800",
            "🏴\u200d☠️" * 3,
            "é" * 50,
            "\n" * 50,
            " " * 300,
            "0" * 300,
            "((((((((((" * 20,
            "中文 русский العربية",
        ):
            guard.check(text)
            if guard.reach_chars is not None:
                assert 0 <= guard.open_from(text) <= len(text)

    def test_streams_come_out_as_whole_texts_do(self, of_answers: Guard) -> None:
        """A finding split over pieces is found all the same, and nothing else changes."""
        if of_answers.reach_chars is None:
            pytest.skip("it judges texts as a whole")
        for text in (*self.hits, *self.clean, f"Before. {self.hits[0]} After it comes more text. {self.hits[-1]}"):
            whole = redacted(text, of_answers.check(text))
            for chunk_chars in CHUNKS:
                assert streamed(of_answers, text, chunk_chars)[0] == whole, (text, chunk_chars)

    def test_a_stream_of_a_hit_is_stopped(self, of_answers: Guard) -> None:
        for text in self.hits:
            out, judge = streamed(of_answers, text, 4, on_hit="block")
            assert judge.blocked is not None, text
            assert out != text

    def test_clean_streams_are_held_back_no_more_than_said(self, of_answers: Guard) -> None:
        reach = of_answers.reach_chars or 4 * of_answers.stride_chars
        reach = reach if self.most_held_chars is None else self.most_held_chars
        judge = OutputGuard([Placed(guard=of_answers, use=GuardUse(name=of_answers.name), side="out")])
        sent = held = 0
        for pushed, char in enumerate(LONG[:400], 1):
            sent += len(judge.push(char))
            held = max(held, pushed - sent)
        assert held <= reach


def _spans(findings: Sequence[Finding]) -> list[tuple[str, int, int]]:
    return sorted((one.rule, one.start, one.end) for one in findings)
