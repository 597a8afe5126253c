"""Prices, electricity and storage: what the catalog holds is dated and sane, a node's price is shared out, stale prices are told."""

from datetime import date

import pytest

from trimtab.core.errors import InputError
from trimtab.core.planning import Price
from trimtab.plan.devices import device, devices
from trimtab.plan.prices import COMMITMENTS, STALE_DAYS, age_days, grid, grids, parse_prices, prices, usual_price
from trimtab.plan.storage import loader, loaders, tier, tiers

ONE = """
[[prices]]
device = "h100-sxm"
provider = "Somebody"
commitment = "on-demand"
usd_per_hour = 24.0
devices = 8
as_of = "2026-11-01"
source = "https://example.com/prices"
verified = true
"""


def test_the_price_of_a_node_is_shared_by_its_devices() -> None:
    (price,) = parse_prices(ONE, "prices.toml")
    assert price.usd_per_device_hour == 3.0
    lambdas = [price for price in prices(device("A100-40GB")) if price.provider == "Lambda"]
    assert [round(price.usd_per_device_hour, 2) for price in lambdas] == [1.29]
    assert usual_price(device("TPU-v5e"), provider="google cloud") == prices(device("tpu-v5e"))[0]


def test_every_price_is_of_a_device_dated_and_sane() -> None:
    named = {entry.name: entry for entry in devices()}
    held = [price for entry in named.values() for price in prices(entry)]
    assert len(held) >= 40
    for price in held:
        assert price.device in named
        assert 0.1 < price.usd_per_device_hour < 20, price
        assert date(2025, 1, 1) <= date.fromisoformat(price.as_of) <= date(2026, 11, 27), price
        assert price.source.startswith("https://"), price


def test_no_price_of_the_file_is_of_an_unknown_device() -> None:
    from trimtab.plan.prices import _all_prices

    assert {price.device for price in _all_prices()} <= {entry.name for entry in devices()}


def test_the_usual_price_is_the_middle_one_and_spot_is_less() -> None:
    asked = [price.usd_per_device_hour for price in prices(device("h100-sxm")) if price.commitment == "on-demand"]
    usual = usual_price(device("h100-sxm"))
    assert usual is not None
    assert min(asked) <= usual.usd_per_device_hour <= max(asked)
    assert sorted(asked)[(len(asked) - 1) // 2] == usual.usd_per_device_hour
    for name in ("tpu-v5e", "tpu-v5p", "tpu-v6e"):
        by_kind = {price.commitment: price.usd_per_device_hour for price in prices(device(name))}
        assert by_kind["3-year"] < by_kind["on-demand"]
        assert by_kind["spot"] < by_kind["on-demand"]


def test_a_market_place_stands_in_where_nothing_is_on_demand() -> None:
    usual = usual_price(device("rtx-3090"))
    assert usual is not None
    assert usual.commitment == "lowest listed"
    assert usual_price(device("rtx-3090"), commitment="spot") is None
    assert usual_price(device("m4-max")) is None
    with pytest.raises(InputError, match="No prices are kept for 'weekly'; there are on-demand"):
        usual_price(device("h100"), commitment="weekly")


def test_a_price_ages() -> None:
    (price,) = parse_prices(ONE, "prices.toml")
    assert age_days(price, date(2026, 11, 1)) == 0
    assert age_days(price, date(2027, 3, 2)) == STALE_DAYS + 1


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (ONE.replace("24.0", "-1.0"), "-1 USD an hour for 8 devices cannot be"),
        (ONE.replace("24.0", "240000.0"), "240000 USD an hour for 8 devices cannot be"),
        (ONE.replace("devices = 8", "devices = 0"), "for 0 devices cannot be"),
        (ONE.replace('"on-demand"', '"weekly"'), "commitment 'weekly' is none of on-demand"),
        (ONE.replace("2026-11-01", "last week"), "as_of 'last week' is no date"),
        (ONE.replace('source = "https://example.com/prices"\n', ""), "source is missing"),
        (ONE.replace("verified = true", "verified = 1"), "verified is missing or not of its kind: 1"),
        (ONE.replace("devices = 8", "devices = true"), "devices is missing or not of its kind: True"),
        (ONE + "currency = 'EUR'", "prices.toml, price 1 has an unknown key 'currency'"),
        ("x = 1", "has no \\[\\[prices"),
        ("x = ", "is not valid TOML"),
    ],
)
def test_mistakes_in_a_price_are_told(wrong: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parse_prices(wrong, "prices.toml")


def test_electricity() -> None:
    assert grids()[0].region == "world"
    for entry in grids():
        assert entry.g_co2_kwh is not None
        assert 15 < entry.g_co2_kwh.value < 900
        assert entry.g_co2_kwh.as_of
        assert entry.usd_kwh is None or 0.05 < entry.usd_kwh.value < 0.5
    assert grid("France") == grid("fr")
    no, pl = grid("no").g_co2_kwh, grid("pl").g_co2_kwh
    assert no is not None
    assert pl is not None
    assert no.value < pl.value
    with pytest.raises(InputError, match="No electricity is known of 'mars'; there are world, us"):
        grid("mars")


def test_storage_is_ordered_as_physics_has_it() -> None:
    read = {entry.name: entry.read_bytes_s.value for entry in tiers() if entry.read_bytes_s}
    assert read["page-cache"] > read["local-nvme"] > read["object-store"] > read["network-disk"] > read["sata-ssd"]
    for entry in tiers():
        assert entry.read_bytes_s or entry.write_bytes_s, entry.name
        assert entry.per in ("node", "run")
        if entry.read_bytes_s and entry.write_bytes_s:
            assert entry.write_bytes_s.value <= entry.read_bytes_s.value
    assert tier("GPFS").write_bytes_s is not None
    assert loaders()[0].name == "safetensors"
    assert loader("fastsafetensors").read_bytes_s.value > loader("safetensors").read_bytes_s.value
    with pytest.raises(InputError, match="No storage is called 'floppy'; there are page-cache"):
        tier("floppy")
    with pytest.raises(InputError, match="No loader is called 'cat'"):
        loader("cat")


def test_commitments_cover_the_catalog() -> None:
    kinds = {price.commitment for entry in devices() for price in prices(entry)}
    assert kinds == set(COMMITMENTS)
    assert all(isinstance(price, Price) for price in prices(device("h100")))
