"""Traffic logs of several servers, whole and damaged: what is read of them, in which order, and what is said of the rest."""

import gzip
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.errors import InputError
from trimtab.core.watching import Late, Observed
from trimtab.watch import logs
from trimtab.watch.join import Join
from trimtab.watch.log_rows import time_of
from trimtab.watch.logs import Fault, read_log
from trimtab.watch.seen import Seen
from trimtab.watch.sketches import Labels, Quantiles

NOW_S = 1_800_000_000.0
QUESTION = "Could you please explain to me how the water gets into the clouds?"
ANSWER = "Water evaporates from the sea, rises with the warm air and condenses there."
CHAT = {"model": "m", "messages": [{"role": "user", "content": QUESTION}], "metadata": {"group:sex": "female"}}
COMPLETION = {
    "id": "chatcmpl-1",
    "created": 1_700_000_000,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 15, "completion_tokens": 17},
}
FORMS: dict[str, Mapping[str, Any]] = {
    "bodies": {"id": "r1", "timestamp": "2023-11-14T22:13:20Z", "request": CHAT, "response": COMPLETION, "latency_ms": 1500},
    "batch": {
        "custom_id": "r1",
        "request": {"body": CHAT},
        "response": {"status_code": 200, "request_id": "x", "body": COMPLETION},
        "error": None,
        "duration_ms": 1500,
    },
    "litellm": {
        "id": "r1",
        "messages": CHAT["messages"],
        "response": COMPLETION,
        "startTime": 1_699_999_998.5,
        "endTime": 1_700_000_000.0,
        "completionStartTime": 1_699_999_999.0,
        "model": "m",
        "status": "success",
        "response_cost": 0.002,
        "prompt_tokens": 15,
        "completion_tokens": 17,
        "metadata": {"user_api_key_hash": "abc", "group:sex": "female"},
    },
    "langfuse": {
        "id": "r1",
        "startTime": "2023-11-14T22:13:18.500Z",
        "endTime": "2023-11-14T22:13:20.000Z",
        "model": "m",
        "input": json.dumps(CHAT["messages"]),
        "output": {"role": "assistant", "content": ANSWER},
        "usage": {"input": 15, "output": 17},
        "metadata": json.dumps({"group:sex": "female"}),
        "userId": "abc",
        "scores": [{"name": "thumbs", "value": 1}],
        "calculatedTotalCost": 0.002,
    },
    "plain": {
        "id": "r1",
        "at": 1_700_000_000_000,
        "model": "m",
        "prompt": QUESTION,
        "response": ANSWER,
        "latency": 1.5,
        "groups": {"sex": "female"},
    },
    "conversation": {
        "id": "r1",
        "time": 1_700_000_000,
        "model": "m",
        "messages": [*CHAT["messages"], {"role": "assistant", "content": ANSWER}],
        "response_time": 1.5,
        "metadata": {"group:sex": "female"},
    },
}


def write(path: Path, rows: Iterable[Mapping[str, Any] | str]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, **more: Any) -> tuple[list[Observed], list[Late], dict[str, Fault]]:
    found = list(read_log(path, now_s=NOW_S, **more))
    faults = {one.kind: one for one in found if isinstance(one, Fault)}
    assert all(isinstance(one, Fault) for one in found[len(found) - len(faults) :])
    return [one for one in found if isinstance(one, Observed)], [one for one in found if isinstance(one, Late)], faults


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_logs(form: str, tmp_path: Path) -> None:
    (one,), lates, faults = read(write(tmp_path / "log.jsonl", [FORMS[form]]))
    assert (one.request, one.model, one.status, one.at_s) == ("r1", "m", 200, 1_700_000_000.0)
    assert one.numbers["total_ms"] == pytest.approx(1500.0)
    assert one.labels["language"] == one.labels["answer_language"] == "en"
    assert one.numbers["prompt_chars"] == len(QUESTION)
    assert one.numbers["answer_chars"] == len(ANSWER)
    assert one.groups == {"sex": "female"}
    assert faults == {}
    if form in ("litellm", "langfuse"):
        assert (one.key, one.numbers["cost"], one.numbers["completion_tokens"]) == ("abc", 0.002, 17)
    if form == "litellm":
        assert one.numbers["first_token_ms"] == pytest.approx(500.0)
        assert one.numbers["token_ms"] == pytest.approx(1000 / 16)
    assert [(late.name, late.value) for late in lates] == ([("thumbs", 1.0)] if form == "langfuse" else [])


def test_no_text_of_anybodys_is_in_what_is_read(tmp_path: Path) -> None:
    items, lates, _ = read(write(tmp_path / "log.jsonl", FORMS.values()))
    told = repr([items, lates])
    assert not any(word in told for text in (QUESTION, ANSWER) for word in text.split() if len(word) > 6)


def test_the_gateways_own_log(tmp_path: Path) -> None:
    body = {"at": "2023-11-14T22:13:20.000+00:00", "request": "req_1", "model": "m", "version": "m@1", "key": "k", "event": "began"}
    verdicts = [{"guard": "pii", "side": "in", "action": "redact", "findings": [], "error": ""}]
    ended = {**body, "event": "ended", "status": 200, "error": "", "total_ms": 30.0, "first_token_ms": 10.0, "verdicts": verdicts}
    ended |= {"prompt_tokens": 7, "completion_tokens": 3}
    refused = {**ended, "request": "req_2", "status": 429, "error": "rate_limit_exceeded", "verdicts": []}
    other = {"at": body["at"], "event": "traffic", "model": "m", "action": "rollback"}
    folder = tmp_path / "audit"
    folder.mkdir()
    rows = [{"seq": number, "prev": "0", "body": one, "hash": "1"} for number, one in enumerate([body, ended, other, refused], 1)]
    write(folder / "000000000001.jsonl", rows[:2])
    write(folder / "000000000003.jsonl", rows[2:])
    items, _, faults = read(folder)
    assert [(one.request, one.version, one.key, one.status) for one in items] == [("req_1", "m@1", "k", 200), ("req_2", "m@1", "k", 429)]
    assert items[0].numbers == {"total_ms": 30.0, "first_token_ms": 10.0, "prompt_tokens": 7.0, "completion_tokens": 3.0, "token_ms": 10.0}
    assert items[0].flags["guard_in"]
    assert not items[0].flags["guard_out"]
    assert items[1].flags["rejected"]
    assert set(faults) == {"ungrouped"}


@pytest.mark.parametrize(
    ("more", "status", "error"),
    [
        ({"status": "failure", "error_str": "timeout"}, 500, "error"),
        ({"response": {"status_code": 429, "body": {}}, "error": {"code": "rate_limit"}}, 429, "rate_limit"),
        ({"status_code": 404}, 404, "error"),
        ({"level": "ERROR"}, 500, "error"),
        ({"status": "success"}, 200, ""),
    ],
)
def test_errors(more: Mapping[str, Any], status: int, error: str, tmp_path: Path) -> None:
    (one,), _, _ = read(write(tmp_path / "log.jsonl", [{"id": "a", "at": 1.7e9, "request": CHAT, **more}]))
    assert (one.status, one.error) == (status, error)


def test_feedback_and_outcomes(tmp_path: Path) -> None:
    rows: list[Mapping[str, Any]] = [
        {"request_id": "r1", "name": "thumbs", "value": True, "at": 1.7e9, "group": {"age": "60+", "Bad": "x"}},
        {"request_id": "r1", "kind": "outcome", "name": "repaid", "value": 0.5, "at": 1.7e9 + 1},
        {"request_id": "r1", "name": "thumbs", "value": 0, "at": 1.7e9 + 2},
        {"request_id": "r1", "name": "Thumbs!", "value": 1},
    ]
    _, lates, faults = read(write(tmp_path / "log.jsonl", rows))
    assert [(one.kind, one.name, one.value, one.groups) for one in lates] == [
        ("feedback", "thumbs", 1.0, {"age": "60+"}),
        ("outcome", "repaid", 0.5, {}),
    ]
    assert {kind: one.lines for kind, one in faults.items()} == {"duplicate": (3,), "unknown": (4,)}


def plain(index: int, at_s: float | None = None, **more: Any) -> dict[str, Any]:
    return {"id": f"r{index}", "at": 1.7e9 + index if at_s is None else at_s, "latency_ms": 1, "groups": {"sex": "x"}, **more}


def test_damaged_lines_are_counted_with_their_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", [plain(1), "{broken", "[1, 2]", '{"x": 1}', "", plain(2), "[" * 100_000, plain(1)])
    with path.open("ab") as file:
        file.write(b'{"id": "\xff"}\n{"id": "r9", "at": 17')
    items, _, faults = read(path)
    assert [one.request for one in items] == ["r1", "r2"]
    assert {kind: (one.n, one.lines) for kind, one in faults.items()} == {
        "broken": (3, (2, 7, 9)),
        "unknown": (2, (3, 4)),
        "duplicate": (1, (8,)),
        "truncated": (1, (10,)),
    }


def test_a_line_too_long_does_not_fill_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LINE_BYTES", 1000)
    path = write(tmp_path / "log.jsonl", [plain(1), "x" * 5000, plain(2)])
    items, _, faults = read(path)
    assert [one.request for one in items] == ["r1", "r2"]
    assert faults["too_long"].lines == (2,)


def test_compressed_logs_whole_and_cut(tmp_path: Path) -> None:
    raw = gzip.compress(write(tmp_path / "log.jsonl", map(plain, range(2000))).read_bytes())
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(raw)
    assert len(read(path)[0]) == 2000
    path.write_bytes(raw[: len(raw) // 2])
    items, _, faults = read(path)
    assert 200 < len(items) < 2000
    assert "truncated" in faults
    path.write_bytes(b'{"id": 1}')
    with pytest.raises(InputError, match=r"not compressed"):
        read(path)


def test_no_file_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot read the log"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"no \.jsonl"):
        read(tmp_path)


def test_times_out_of_order_are_put_right_within_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "WINDOW", 50)
    rng = random.Random(1)
    rows = sorted(map(plain, range(500)), key=lambda row: row["at"] + rng.uniform(0, 20))
    items, _, faults = read(write(tmp_path / "log.jsonl", rows))
    assert [one.request for one in items] == [f"r{index}" for index in range(500)]
    assert faults == {}
    late = [*map(plain, range(200)), plain(900, 1.7e9), *map(plain, range(200, 300))]
    items, _, faults = read(write(tmp_path / "log.jsonl", late))
    assert len(items) == 301
    assert [one.at_s for one in items] == sorted(one.at_s for one in items)
    assert faults["late"].lines == (201,)


def test_clocks_that_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "WINDOW", 10)
    monkeypatch.setattr(logs, "SET_BACK", 20)
    rows = [
        *map(plain, range(100)),
        plain(100, 0.0),
        plain(101, NOW_S + 1e7),
        plain(102, at="never"),
        *(plain(200 + index, 1.7e9 - 7200 + index) for index in range(100)),
    ]
    items, _, faults = read(write(tmp_path / "log.jsonl", rows))
    assert len(items) == len({one.request for one in items}) == 203
    at_s = {one.request: one.at_s for one in items}
    assert at_s["r100"] == at_s["r101"] == at_s["r102"] == 1.7e9 + 99
    assert at_s["r299"] == 1.7e9 - 7200 + 99
    assert faults["untimed"].lines == (103,)
    assert {101, 102} <= set(faults["clock"].lines)
    assert faults["clock"].n == 3
    assert faults["late"].n == 20


def test_duplicates_count_once_and_lines_without_ids_are_told(tmp_path: Path) -> None:
    rows = [plain(index % 100) for index in range(300)] + [{"prompt": "a", "response": "b", "at": 1.7e9 + 400}] * 2
    items, _, faults = read(write(tmp_path / "log.jsonl", rows))
    assert len(items) == 102
    assert faults["duplicate"].n == 200
    assert faults["unnamed"].lines == (301, 302)
    assert faults["ungrouped"].n == 2


def test_retries_in_a_log(tmp_path: Path) -> None:
    def row(index: int, at_s: float, text: str) -> dict[str, Any]:
        return plain(index, at_s, user="u", prompt=text, response=ANSWER)

    rows = [row(1, 1.7e9, QUESTION), row(2, 1.7e9 + 60, QUESTION.upper()), row(3, 1.7e9 + 1000, "Something else altogether, please.")]
    _, lates, _ = read(write(tmp_path / "log.jsonl", rows))
    assert [(one.request, one.value) for one in lates] == [("r1", 1.0), ("r2", 0.0)]


def test_texts_of_a_share(tmp_path: Path) -> None:
    rows = [plain(index, prompt=QUESTION, response=ANSWER) for index in range(400)]
    items, _, _ = read(write(tmp_path / "log.jsonl", rows), text_pct=25.0)
    looked_at = sum("language" in one.labels for one in items)
    assert len(items) == 400
    assert 60 < looked_at < 140


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1.7e9, 1.7e9),
        (1_700_000_000_500, 1_700_000_000.5),
        (1_700_000_000_500_000, 1_700_000_000.5),
        ("2023-11-14T22:13:20", 1.7e9),
        ("2023-11-14T23:13:20+01:00", 1.7e9),
        ("yesterday", None),
        (True, None),
        (None, None),
    ],
)
def test_forms_of_times(value: Any, seconds: float | None) -> None:
    assert time_of(value) == seconds


# Memory


def test_seen_ids_in_bounded_memory() -> None:
    seen = Seen(capacity=2000)
    assert sum(seen.add(f"a{index}") for index in range(3000)) <= 3
    assert all(seen.add(f"a{index}") for index in range(1000, 3000))
    for index in range(6000):
        seen.add(f"b{index}")
    assert not seen.add("a2999")  # two generations later


def test_quantiles_of_many_numbers() -> None:
    rng = random.Random(3)
    values = [rng.lognormvariate(0, 1) for _ in range(20_000)]
    one, other = Quantiles(), Quantiles()
    assert one.at((0.5,)) is None
    for index, value in enumerate(values):
        (one if index % 2 else other).take(value)
    one.merge(Quantiles(other.state()))
    assert one.n == 20_000
    found = one.at((0.5, 0.95, 0.99))
    assert found is not None
    for share, value in zip((0.5, 0.95, 0.99), found, strict=True):
        true_share = sum(other <= value for other in values) / len(values)
        assert abs(true_share - share) <= 2 * one.rank_error
    assert len(one.state()) < 6000


def test_frequent_labels() -> None:
    labels = Labels()
    for label, n in (("en", 70), ("de", 20), ("fr", 10)):
        for _ in range(n):
            labels.take(label)
    again = Labels(labels.state())
    assert again.top(2) == (("en", 0.7), ("de", 0.2))
    assert again.count("fr") == (10, 10)
    for index in range(100_000):
        again.take(f"label {index}")
    assert len(again.state()) < 20_000
    least, most = again.count("en")
    assert least <= 70 <= most


def observed(index: int, **more: Any) -> Observed:
    return Observed(request=f"r{index}", at_s=float(index), model="m", version="m@1", labels={"language": "de", "script": "latin"}, **more)


def late(index: int, name: str = "thumbs", **more: Any) -> Late:
    return Late(request=f"r{index}", at_s=99.0, kind="feedback", name=name, value=1.0, **more)


def test_late_items_find_their_requests() -> None:
    join = Join(most=3)
    for index in range(4):
        assert join.see(observed(index)) == ()
    assert join.take(late(0)) is None  # pushed out
    found = join.take(late(1, groups={"sex": "female"}))
    assert found is not None
    assert (found[1].model, found[1].version, found[1].labels, found[0].groups) == ("m", "m@1", {"language": "de"}, {"sex": "female"})
    assert join.take(late(1)) is None
    again = Join.from_state(json.loads(json.dumps(join.state())), most=3)
    assert again.take(late(1)) is None
    second = again.take(late(1, "edited"))
    assert second is not None
    assert second[0].groups == {"sex": "female"}
    assert (again.n_joined, again.n_twice, again.n_unknown) == (2, 2, 0)


def test_what_comes_before_its_request_waits() -> None:
    join = Join()
    assert join.take(late(7)) is None
    assert join.take(late(7)) is None
    ((item, request),) = join.see(observed(7))
    assert (item.name, request.request, join.n_joined, join.n_twice) == ("thumbs", "r7", 1, 1)
    for index in range(1000, 2100):
        join.take(late(index))
    assert join.n_unknown == 100
