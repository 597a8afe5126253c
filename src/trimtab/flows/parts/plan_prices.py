"""What devices cost: as the user says, else the catalog's dated list prices, with a warning where they are stale."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

from trimtab.core.planning import Device
from trimtab.flows.parts.plan_told import prices_of
from trimtab.plan.prices import STALE_DAYS, usual_price


def price_rows(
    chosen: Sequence[Device], said: str, commitment: str = "on-demand", today: date | None = None
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """US dollars a device and hour by name, and a row a price for the document. What has no price is in neither.

    said: as --price takes it; commitment: of list prices, see `plan.prices.COMMITMENTS`. Raises InputError.
    """
    told = prices_of(said, [one.name for one in chosen])
    day = today or datetime.now(UTC).date()
    found: dict[str, float] = {}
    rows = []
    for one in chosen:
        row: dict[str, Any] | None = _listed(one, commitment)
        if one.name in told:
            row = {
                "provider": "as you said",
                "commitment": "",
                "usd_per_hour": told[one.name],
                "as_of": day.isoformat(),
                "source": "--price",
            }
        if row is None:
            continue
        age = (day - date.fromisoformat(row["as_of"])).days if row["as_of"] else None
        found[one.name] = row["usd_per_hour"]
        rows.append({"device": one.name, **row, "age_days": age, "is_stale": age is None or age > STALE_DAYS})
    return found, rows


def _listed(one: Device, commitment: str) -> dict[str, Any] | None:
    """The catalog's usual price of that kind, None where it has none."""
    found = usual_price(one, commitment=commitment)
    if found is None:
        return None
    return {
        "provider": found.provider,
        "commitment": found.commitment,
        "usd_per_hour": found.usd_per_device_hour,
        "as_of": found.as_of,
        "source": found.source,
    }
