"""Releases and people through the page: the rules are those of the command line."""

from typing import Any


def test_pages_of_releases_show_what_is_there(place: Any) -> None:
    vera = place.client("vera")
    listing = vera.get("/releases").text
    assert listing.count("/releases/support-chat@") == 3
    page = vera.get("/releases/support-chat@2").text
    assert "Roll production back" not in page
    assert 'action="/releases/' not in page, "a viewer gets no forms"
    assert "Approve: alice, bob" in vera.get("/releases/support-chat@3").text
    assert vera.get("/releases/support-chat@production").headers["location"] == "/releases/support-chat@2"
    assert vera.get("/releases/support-chat").headers["location"] == "/releases/support-chat@3"
    history = vera.get("/history/support-chat").text
    assert "promotion by alice" in history
    assert vera.get("/people").text.count("signs here") >= 5
