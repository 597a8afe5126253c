"""What data give against what a training eats."""

from trimtab.core.files import to_plain
from trimtab.flows.parts.train_feed import feed_row
from trimtab.train.data.rates import StreamRate

RATE = to_plain(StreamRate(tokens_s=1000.0, bytes_s=2000.0, fetch_bytes_s=0.0, n_steps=3, wall_s=0.2, first_s=0.5))


def test_a_stream_faster_than_the_run_has_room_to_spare() -> None:
    row = feed_row({"rate": RATE}, processes=2, tok_s=200.0, planned_tok_s=400.0)
    assert row["spare"] == {"workers": 10.0}
    assert row["planned_spare"] == {"workers": 5.0}
    assert (row["need_tok_s"], row["need_bytes_s"]) == (200.0, 400.0)
    assert "workers brings 10 times that: enough" in row["why"]


def test_a_slow_address_is_named() -> None:
    row = feed_row({"rate": RATE | {"fetch_bytes_s": 100.0}}, processes=1, tok_s=200.0, planned_tok_s=None)
    assert "network brings 25 % of it" in row["why"]
    assert row["planned_spare"] == {}


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert feed_row({}, processes=1, tok_s=200.0, planned_tok_s=1.0) == {}
    assert feed_row({"rate": RATE}, processes=1, tok_s=0.0, planned_tok_s=1.0) == {}
    assert feed_row({"rate": RATE | {"tokens_s": None}}, processes=1, tok_s=1.0, planned_tok_s=1.0) == {}
