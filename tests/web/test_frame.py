"""The frame: who gets in, and how they leave."""

from typing import Any


def test_somebody_signs_in_and_out(place: Any) -> None:
    client = type(place.client())(place)
    assert client.get("/").headers["location"] == "/sign-in"
    client.sign_in("vera")
    assert "Overview" in client.get("/").text
    assert client.post("/sign-out").status_code == 303
    assert client.get("/").headers["location"] == "/sign-in"
