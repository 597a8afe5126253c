"""Whether the data of a training come as fast as it eats them, and as fast as the plan says that it would."""

from collections.abc import Mapping
from typing import Any

from trimtab.core.phrases import is_number
from trimtab.plan.search.feed import feed
from trimtab.train.data.rates import StreamRate, supply_of


def feed_row(data: Mapping[str, Any], *, processes: int, tok_s: float, planned_tok_s: float | None) -> dict[str, Any]:
    """What one process's stream gave before the first step, as a multiple of what a process ate; {} where one of them is not known.

    data: what run.json keeps of the data; tok_s, planned_tok_s: of all processes, padding included, as it ran and as it was planned
    """
    told = data.get("rate")
    if not isinstance(told, Mapping) or not all(is_number(told.get(name)) and told["tokens_s"] > 0 for name in ("tokens_s", "bytes_s")):
        return {}
    if tok_s <= 0:
        return {}
    supply = supply_of(StreamRate(**told))
    found = feed(tok_s / processes, processes, supply)
    planned = feed(planned_tok_s / processes, processes, supply) if planned_tok_s else None
    return {
        "stream_tok_s": supply.worker_tok_s,
        "bytes_per_token": supply.bytes_per_token,
        "need_tok_s": found.need_tok_s,
        "need_bytes_s": found.need_bytes_s,
        "spare": dict(found.spare),
        "why": found.why,
        "planned_spare": dict(planned.spare) if planned else {},
    }
