"""How the chosen deployment's numbers were confirmed, in sentences."""

from trimtab.record.worst import confirmation_lines

CASE = {
    "what": "with every slot full to the last token",
    "concurrency": 4,
    "prompt_tokens": 960,
    "output_tokens": 64,
    "ratio": {"ratio": 3.1, "low": 2.9, "high": 3.3},
    "chosen": {"e2e_ms": 3100.0, "failed": 0, "n_requests": 12, "peak_memory_bytes": 7e8},
    "baseline": {"e2e_ms": 9600.0},
    "left": {},
}


def test_nothing_is_said_where_there_is_nothing_to_say():
    assert confirmation_lines({}) == []
    assert confirmation_lines({"retimed": None, "worst_case": None}) == []


def test_a_confirmed_choice():
    lines = confirmation_lines({"retimed": {"why": ""}, "worst_case": {"why": "", "cases": [CASE]}})
    assert lines[0].startswith("Timed again after the choice")
    assert lines[1] == (
        "With every slot full to the last token (4 at once, 960 + 64 tokens): 3.10× [2.90×, 3.30×], 3,100 ms against 9,600 ms, 700 MB, "
        "no request failed."
    )


def test_what_was_left_out_and_what_failed():
    lines = confirmation_lines({"retimed": {"why": "no time."}, "worst_case": {"why": "no time.", "cases": []}})
    assert lines[0].endswith("may be in these ratios: no time.")
    assert lines[1] == "Its worst cases were not tried: no time."
    bare = {**CASE, "ratio": None, "chosen": {"failed": 2, "n_requests": 12}, "baseline": {}}
    lines = confirmation_lines({"worst_case": {"why": "no time.", "cases": [bare]}})
    assert lines[0].endswith("(4 at once, 960 + 64 tokens): 2 of 12 requests failed.")
    assert lines[1] == "Not every worst case was tried: no time."
