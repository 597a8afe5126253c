"""Quantities as people write them: what they come to, and one sentence with the option's name for what they cannot mean."""

import pytest

from trimtab.core.errors import InputError
from trimtab.plan.quantities import busy_and_quiet, device_counts, listed, money_usd, per_second, seconds_of, token_count, whole


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (token_count, "300B", 3e11),
        (token_count, "1.5t", 1.5e12),
        (token_count, "2e12", 2e12),
        (token_count, "20 M tokens", 2e7),
        (token_count, "15,000,000", 1.5e7),
        (device_counts, "64", (64,)),
        (device_counts, "64, 8,16", (8, 16, 64)),
        (device_counts, "8..64", (8, 16, 32, 64)),
        (device_counts, "8..100", (8, 16, 32, 64, 100)),
        (device_counts, "8..16,24,16", (8, 16, 24)),
        (device_counts, "1..1", (1,)),
        (money_usd, "100000usd", 1e5),
        (money_usd, "$100k", 1e5),
        (money_usd, "US$2.5M", 2.5e6),
        (money_usd, "1,000 USD", 1000.0),
        (per_second, "20/s", 20.0),
        (per_second, "1200/min", 20.0),
        (per_second, "7.2k requests/h", 2.0),
        (per_second, "20rps", 20.0),
        (per_second, "3 per minute", 0.05),
        (seconds_of, "30d", 30 * 86_400.0),
        (seconds_of, "1d12h", 36 * 3600.0),
        (seconds_of, "2 w", 14 * 86_400.0),
        (seconds_of, "90min", 5400.0),
    ],
)
def test_what_is_meant(read, text, value):
    assert read(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("read", "flag", "texts"),
    [
        (token_count, "--tokens", ["", "many", "-3B", "0", "0.2", "3Q", "inf", "nan", "1e999", "3B4", "1,00"]),
        (device_counts, "--devices", ["", "0", "8..", "..8", "8...16", "512..8", "8,,16", "-8", "1.5", "eight", "9999999", "1,2,x"]),
        (device_counts, "--devices", [",".join(map(str, range(1, 80)))]),
        (money_usd, "--budget", ["", "100eur", "€100", "-5usd", "0usd", "free", "1e999"]),
        (per_second, "--rate", ["", "20", "20/", "/s", "0/s", "-1/s", "20/fortnight", "twenty/s"]),
        (seconds_of, "--deadline", ["", "30", "d", "30y", "0d", "-1d", "1d junk", "1dd"]),
    ],
)
def test_one_sentence_for_what_cannot_be_meant(read, flag, texts):
    for text in texts:
        with pytest.raises(InputError, match=f"^{flag}: ") as caught:
            read(text)
        assert str(caught.value).endswith((".", "512")), text
        assert "\n" not in str(caught.value)


def test_whole_numbers_and_lists():
    assert [whole(text, "--seq") for text in ("8192", "8k", "8Ki", "8,192")] == [8192, 8000, 8192, 8192]
    for text in ("", "0", "8.5", "-1", "8K5", "10000000000"):
        with pytest.raises(InputError, match="--seq"):
            whole(text, "--seq")
    assert listed("h100-sxm, l40s", "--hardware") == ("h100-sxm", "l40s")
    for text, said in (("", "empty name"), ("a,,b", "empty name"), ("a,b,a", "'a' is named twice")):
        with pytest.raises(InputError, match=said):
            listed(text, "--hardware")


@pytest.mark.parametrize(
    ("text", "rates"), [("20/s", (20.0, 0.0)), ("2..20/s", (20.0, 2.0)), ("60/min..20/s", (20.0, 1.0)), ("5..5/s", (5.0, 5.0))]
)
def test_busy_and_quiet_hours(text: str, rates: tuple[float, float]) -> None:
    assert busy_and_quiet(text) == rates


@pytest.mark.parametrize("text", ["20..2/s", "..2/s", "2..", "0..2/s", "a..b/s"])
def test_hours_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="--rate"):
        busy_and_quiet(text)
