"""Time, memory and quality of the candidates against each other: plots, the front and who is off it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.core.measurement import Interval
from trimtab.core.phrases import (
    MISSING,
    decimals_for,
    fixed,
    interval,
    is_number,
    line,
    megabytes,
    milliseconds,
    milliseconds_interval,
    significant,
)
from trimtab.decide.pareto import DIMENSIONS, Place, TradeOff, pareto
from trimtab.decide.standing import loss_of, points_by_level, standing_of, text_margin, time_ms
from trimtab.record.figures import Fate, FrontPoint, TradePoint, front_plot, trade_plot
from trimtab.record.measured import levels_timed, p50, role_of

Plain = Mapping[str, Any]
STANDING_WORDS = {
    "certified": "certified",
    "baseline": "baseline",
    "open": "not certified",
    "undecided": "cannot tell",
    "rejected": "loses too much",
}


def trade_plots(decision: Plain, rows: Sequence[Plain]) -> list[dict[str, Any]]:
    """Latency against quality loss: one plot a concurrency, and who was timed and could not be put on it."""
    plots = []
    for level in levels_timed(rows):
        points, absent = [], []
        for number, row in enumerate(rows, start=1):
            latency, loss = p50(points_by_level(row).get(level, {}), "e2e_ms"), loss_of(row, decision)
            if latency is None or loss is None:
                absent += [line(row.get("id", ""))] if row.get("measurement") else []
                continue
            low, high = ends_of(loss)
            points.append(
                TradePoint(
                    number=number,
                    name=line(row.get("id", "")),
                    role=role_of(row, decision),
                    verdict=str(row.get("verdict")),
                    x=latency,
                    y=loss.value,
                    y_low=low,
                    y_high=high,
                )
            )
        if points:
            title = f"Latency against quality loss with {_in_flight(level)}"
            summary = "; ".join(f"{point.name}: {milliseconds(point.x)}, {significant(point.y, 2)} nats/token" for point in points)
            svg = trade_plot(points, text_margin(decision), name=f"trade-{level}", title=title, description=summary)
            plots.append({"title": title, "svg": svg, "absent": absent})
    return plots


def ends_of(found: Interval) -> tuple[float, float]:
    """The ends, the value itself where one is not known."""
    return found.value if found.low is None else found.low, found.value if found.high is None else found.high


def loss_in_words(found: Interval | None) -> tuple[str, str]:
    """A loss and its interval as texts."""
    if found is None:
        return MISSING, ""
    low, high = ends_of(found)
    decimals = decimals_for((high - low) / 2)
    return fixed(found.value, decimals), interval(found.low, found.high, decimals)


def _in_flight(level: int) -> str:
    return f"{level} request{'' if level == 1 else 's'} in flight"


def front_of(decision: Plain, rows: Sequence[Plain]) -> dict[str, Any] | None:
    """Plots, a row for each deployment on a front, and a sentence for each that is on none. None where fewer than two can be compared.

    Keys: plots (title, svg), rows (number, id, role, standing, timed, memory, loss, loss_range, best), beaten, absent, levels
    """
    places, trades = {}, {}
    for level in levels_timed(rows):
        found = [trade for row in rows if (trade := trade_off(row, decision, level)) is not None]
        if len(found) > 1:
            trades[level] = {trade.id: trade for trade in found}
            places[level] = {place.id: place for place in pareto(found)}
    if not places:
        return None
    numbered = list(enumerate(rows, start=1))
    known = [(number, row) for number, row in numbered if any(row["id"] in at for at in places.values())]
    on = [(number, row) for number, row in known if any(row["id"] in at and at[row["id"]].on_front for at in places.values())]
    return {
        "plots": [_front_plot(decision, known, level, trades[level], places[level]) for level in places],
        "rows": [_front_row(number, row, decision, trades, places) for number, row in on],
        "beaten": [_beaten(row, places) for number, row in known if (number, row) not in on],
        "absent": [line(row.get("id", "")) for number, row in numbered if row.get("measurement") and (number, row) not in known],
        "levels": list(places),
    }


def trade_off(row: Plain, decision: Plain, level: int) -> TradeOff | None:
    """A candidate's three numbers at one concurrency; None where one was not measured."""
    time, loss = time_ms(row, decision, level), loss_of(row, decision)
    memory = (row.get("measurement") or {}).get("peak_memory_bytes")
    if time is None or loss is None or not is_number(memory):
        return None
    return TradeOff(id=str(row["id"]), time_ms=time, memory_bytes=float(memory), loss_nats=loss)


def _front_plot(
    decision: Plain, rows: Sequence[tuple[int, Plain]], level: int, trades: Mapping[str, TradeOff], places: Mapping[str, Place]
) -> dict[str, str]:
    margin = text_margin(decision)
    points = []
    for number, row in rows:
        if (trade := trades.get(row["id"])) is None:
            continue
        low, high = ends_of(trade.loss_nats)
        fate: Fate = "good" if margin is None or high <= margin else "bad" if low > margin else "unsure"
        x_low, x_high = ends_of(trade.time_ms)
        points.append(
            FrontPoint(
                number=number,
                name=line(row["id"]),
                role=role_of(row, decision),
                standing=standing_of(row, decision),
                x=trade.time_ms.value,
                x_low=x_low,
                x_high=x_high,
                y=trade.memory_bytes / 1e6,
                loss=f"loss {loss_in_words(trade.loss_nats)[0]}",
                fate=fate,
                on_front=places[row["id"]].on_front,
            )
        )
    title = f"Time, memory and quality with {_in_flight(level)}"
    summary = "; ".join(f"{point.name}: {milliseconds(point.x)}, {significant(point.y)} MB, {point.loss}" for point in points)
    return {"title": title, "svg": front_plot(points, name=f"front-{level}", title=title, description=summary)}


def _front_row(
    number: int, row: Plain, decision: Plain, trades: Mapping[int, Mapping[str, TradeOff]], places: Mapping[int, Mapping[str, Place]]
) -> dict[str, Any]:
    name = row["id"]
    loss, loss_range = loss_in_words(loss_of(row, decision))
    timed = []
    for level, at in trades.items():
        if name in at:
            time = at[name].time_ms
            ends = "" if time.low == time.high else milliseconds_interval(time.low, time.high)
            on = "" if places[level][name].on_front else "not on this front"
            timed.append({"level": level, "time": milliseconds(time.value), "ends": ends, "off": on})
    return {
        "number": number,
        "id": line(name),
        "role": role_of(row, decision),
        "standing": STANDING_WORDS[standing_of(row, decision)],
        "timed": timed,
        "memory": megabytes((row.get("measurement") or {}).get("peak_memory_bytes")),
        "loss": loss,
        "loss_range": loss_range,
        "best": _best_at(name, places),
    }


def _best_at(name: str, places: Mapping[int, Mapping[str, Place]]) -> str:
    """`memory; time with 4 in flight`, or that it is a compromise."""
    found = []
    for dimension in DIMENSIONS:
        levels = [level for level, at in places.items() if name in at and at[name].on_front and dimension in at[name].best_at]
        if levels:
            is_everywhere = dimension != "time" or len(levels) == len(places)
            found.append(dimension if is_everywhere else f"time with {' and '.join(map(str, levels))} in flight")
    return "; ".join(found) or "nothing alone: a compromise"


def _beaten(row: Plain, places: Mapping[int, Mapping[str, Place]]) -> str:
    """Who is no worse in all three, at every concurrency."""
    by = dict.fromkeys(line(other) for at in places.values() if row["id"] in at for other in at[row["id"]].beaten_by)
    return f"{line(row['id'])}: beaten by {', '.join(by)}"
