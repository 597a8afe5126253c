"""What the cards of a shipment are made from: its decision, its lock, its run, and its header where that lies here."""

import tomllib
from collections.abc import Mapping
from typing import Any

from trimtab.core.errors import TrimtabError
from trimtab.core.files import parsed_json, to_plain
from trimtab.describe.card import model_card
from trimtab.flows.parts.locked import found_source
from trimtab.flows.parts.shipment import Shipment
from trimtab.package.cards.facts import CardFacts
from trimtab.record.home import cache_dir
from trimtab.sources.open import open_source, read_header


def card_facts(shipment: Shipment) -> CardFacts:
    """Nothing is fetched or built for a card: what is not here stays unsaid."""
    return CardFacts(
        decision=shipment.decision,
        lock=tomllib.loads(shipment.text),
        run=_run(shipment),
        release=shipment.release,
        describe=_described(shipment),
    )


def _run(shipment: Shipment) -> Mapping[str, Any]:
    try:
        found = parsed_json((shipment.folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _described(shipment: Shipment) -> Mapping[str, Any]:
    """The card of the weights as they came, if those are the ones that were judged."""
    lock = shipment.lock
    try:
        snapshot = open_source(found_source(lock.source, shipment.lock_path), cache_dir=cache_dir(), offline=True)
        if snapshot.digest != lock.source_sha256:
            return {}
        card: Mapping[str, Any] = to_plain(model_card(read_header(snapshot), snapshot))
    except (TrimtabError, OSError):
        return {}
    return card
