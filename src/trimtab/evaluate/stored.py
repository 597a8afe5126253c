"""Prepared questions as JSON types and back, for a machine that did not prepare them."""

from collections.abc import Mapping
from typing import Any

from trimtab.core.evidence import Item
from trimtab.core.files import to_plain
from trimtab.engines.protocol import score_request_from
from trimtab.evaluate.requests import ItemPlace, OptionPlace, PreparedRequest, PreparedSuite


def prepared_to_plain(prepared: PreparedSuite) -> dict[str, Any]:
    """All of it, as JSON types."""
    plain: dict[str, Any] = to_plain(prepared)
    return plain


def prepared_from(plain: Mapping[str, Any]) -> PreparedSuite:
    """The suite that `prepared_to_plain` was given."""
    return PreparedSuite(requests=tuple(_request(one) for one in plain["requests"]))


def _request(plain: Mapping[str, Any]) -> PreparedRequest:
    return PreparedRequest(request=score_request_from(plain["request"]), places=tuple(_place(one) for one in plain["places"]))


def _place(plain: Mapping[str, Any]) -> ItemPlace:
    item: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in plain["item"].items()}
    return ItemPlace(item=Item(**item), options=tuple(OptionPlace(**option) for option in plain["options"]))
