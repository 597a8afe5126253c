"""What tokens cost on each deployment that was timed, as texts, for the terminal and the page. Pure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trimtab.core.phrases import MISSING, is_number, line, significant, with_unit
from trimtab.record.conditions import mapping

if TYPE_CHECKING:
    from trimtab.core.measurement import Interval
    from trimtab.decide.cost import Cost, Tariff

FORMULA = (
    "A second of the machine over the tokens it puts out in one, times a million, if it is always this busy. “All” lays the bill on prompt "
    "and output tokens alike, “output” on the output alone; “in” and “out” split it at the first token of the median request, as a price "
    "list with two prices would. Intervals are those of the timing."
)


def price_rows(decision: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], tariff: "Tariff | None" = None) -> list[dict[str, Any]]:
    """A row a deployment, with `levels`: a row each concurrency. tariff: None = the run's own price; without one there are no rows.

    Keys of a level: level, all, all_range, output, output_range, prompt, answer, energy, power (both empty where not known)
    """
    price, workload = mapping(decision.get("objective")).get("price_per_hour"), mapping(decision.get("workload"))
    lengths = [workload.get("prompt_tokens"), workload.get("output_tokens")]
    prompt_tokens, output_tokens = (int(length) if is_number(length) else 0 for length in lengths)
    if min(prompt_tokens, output_tokens) <= 0:
        return []
    from trimtab.decide.cost import Tariff, costs

    if tariff is None:
        if not is_number(price):
            return []
        tariff = Tariff(price_per_hour=price)
    found = [(row, costs(row.get("measurement"), prompt_tokens, output_tokens, tariff)) for row in rows]
    return [{"id": line(row.get("id", "")), "levels": [_row(cost) for cost in by_level]} for row, by_level in found if by_level]


def _row(cost: "Cost") -> dict[str, Any]:
    return {
        "level": cost.concurrency,
        "all": money(cost.all_tokens.value),
        "all_range": _range(cost.all_tokens),
        "output": money(cost.output.value),
        "output_range": _range(cost.output),
        "prompt": money(cost.prompt),
        "answer": money(cost.answer),
        "energy": with_unit(cost.kwh, "kWh") if is_number(cost.kwh) else "",
        "power": f"{with_unit(cost.power_w, 'W')}, {'measured' if cost.is_power_measured else 'as said'}" if is_number(cost.kwh) else "",
    }


def money(value: Any) -> str:
    """An amount with three digits that count; the currency is the user's own."""
    return significant(value) if is_number(value) else MISSING


def _range(found: "Interval") -> str:
    if not is_number(found.low) or not is_number(found.high):
        return "one round"
    return f"[{significant(found.low)}, {significant(found.high)}]"
