"""What a search over deployments found, as a plan's document: options, plots, why the others lose, and a grid for what-if."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.core.phrases import significant
from trimtab.core.workload import SloTerm
from trimtab.flows.parts.plan_predicted import predict_serve
from trimtab.flows.parts.plan_told import Number, certain, front_point, plot, weight_words
from trimtab.plan.search.queueing import replicas_needed
from trimtab.plan.search.serve import ServePlan, ServeSearch, devices_of
from trimtab.record.plan_view import amount, between

POWER_NOTE = "Rated power of the devices, without hosts, network and cooling."
REPLICAS_NOTE = "The price of the devices; how many replicas there are follows from the times, with room for queueing."
MOST_REJECTED = 30
NUMBER_OF = {"ttft": "ttft_ms", "tpot": "tpot_ms", "itl": "tpot_ms"}
"""Of a demand: the number that is held against it."""


def option(plan: ServePlan, rank: int, *, on_front: bool) -> dict[str, Any]:
    """One deployment with its numbers and bars."""
    job = plan.job
    each = devices_of(job)
    numbers = numbers_of(plan)
    proof = ", quality not certified yet" if plan.to_certify else ""
    return {
        "rank": rank,
        "id": f"{job.device.name}:{layout_words(plan)}",
        "what": f"{plan.replicas:,} × {job.device.name}" if each == 1 else f"{plan.replicas:,} × ({each} × {job.device.name})",
        "how": layout_words(plan) + proof,
        "device": job.device.name,
        "n_devices": plan.n_devices,
        "layout": {
            **{name: getattr(job, name) for name in ("tp", "pp", "ep", "attention_dp", "prefill_devices", "decode_devices")},
            "weights": job.weights,
            "kv": job.kv or "bf16",
            "engine": job.engine,
            "concurrency": job.concurrency,
            "replicas": plan.replicas,
        },
        "on_front": on_front,
        "numbers": numbers,
        "memory": _memory(plan),
        "time": _time(plan, numbers),
        "to_certify": plan.to_certify,
    }


def layout_words(plan: ServePlan) -> str:
    """`vllm, bf16 weights, TP 2, 48 in flight`: what is not 1."""
    job = plan.job
    words = [job.engine] if job.engine else []
    words.append(weight_words(job.weights) + (f" and {job.kv} cache" if job.kv else ""))
    degrees = {"TP": job.tp, "PP": job.pp, "EP": job.ep, "attention DP": job.attention_dp}
    words += [f"{name} {value}" for name, value in degrees.items() if value > 1]
    if job.prefill_devices:
        words.append(f"{job.prefill_devices} devices read prompts, {job.decode_devices} write")
    return ", ".join([*words, f"{job.concurrency:,} in flight"])


def numbers_of(plan: ServePlan) -> dict[str, Number]:
    """Times with their intervals; money follows from how many devices there are."""
    job = plan.job
    told = predict_serve(job)
    no_price = {"unknown": f"No price of {job.device.name} is in the catalog; give --price."}
    energy = None if plan.j_per_token is None else certain(plan.j_per_token, "J/token", POWER_NOTE)
    return {
        "ttft_ms": _waited(told["ttft_ms"], plan),
        "tpot_ms": told["tpot_ms"],
        "cost_usd_per_hour": no_price if plan.usd_per_hour is None else certain(plan.usd_per_hour, "usd/h", REPLICAS_NOTE),
        "cost_usd_per_mtok": no_price
        if plan.usd_per_million_tokens is None
        else certain(plan.usd_per_million_tokens, "usd/Mtok", REPLICAS_NOTE),
        "peak_memory_bytes": certain(
            plan.memory.memory_bytes - plan.headroom_bytes,
            "bytes",
            "Counted: weights, work space and the cache of all that may be in flight.",
        ),
        "energy_j_per_token": energy or {"unknown": f"The power of {job.device.name} is not in the catalog."},
    }


def _waited(first: Number, plan: ServePlan) -> Number:
    """The time to the first token with the wait for a place, at the percentile that is asked for."""
    if "unknown" in first or not plan.wait_ms:
        return first
    ends = {name: first[name] + plan.wait_ms for name in ("value", "low", "high")}
    return first | ends | {"why": f"{first['why']} With {amount(plan.wait_ms, 'ms')} of waiting for a place at p{plan.percentile:g}."}


def _memory(plan: ServePlan) -> dict[str, Any]:
    memory = plan.memory
    total = memory.memory_bytes - plan.headroom_bytes
    parts = {"weights": memory.weights_bytes, "activations": memory.activation_bytes, "overhead": memory.overhead_bytes}
    parts["kv_cache"] = total - sum(parts.values())
    rows = [{"name": name, "value": parts[name]} for name in ("weights", "kv_cache", "activations", "overhead") if parts[name] > 0]
    return {"parts": rows, "total_bytes": total, "low": total, "high": total, "capacity_bytes": memory.memory_bytes}


def _time(plan: ServePlan, numbers: Mapping[str, Number]) -> dict[str, Any]:
    first = numbers["ttft_ms"].get("value", plan.ttft_ms + plan.wait_ms)
    each = numbers["tpot_ms"].get("value", plan.tpot_ms)
    parts = {
        "waiting for a place": plan.wait_ms,
        "reading the prompt, first token": first - plan.wait_ms,
        f"writing {plan.job.output_tokens - 1:,} more tokens": each * (plan.job.output_tokens - 1),
    }
    rows = [{"name": name, "value": value} for name, value in parts.items() if value > 0]
    return {"what": "a request", "unit": "ms", "parts": rows, "stages": None}


def plots(plans: Sequence[ServePlan], found: ServeSearch) -> list[dict[str, Any]]:
    """Money (or devices, where there are no prices) against both times; the front besides the best."""
    on_front = {id(plan) for plan in found.front}
    unique = list({id(plan): plan for plan in (*plans, *found.front)}.values())
    ranks = {id(plan): rank for rank, plan in enumerate(plans, 1)}
    rows = [(plan, numbers_of(plan), ranks.get(id(plan), 0), id(plan) in on_front) for plan in unique]
    is_priced = any(plan.usd_per_hour is not None for plan in unique)

    def points(x: str) -> list[dict[str, Any] | None]:
        return [
            front_point(
                f"{plan.replicas} × {plan.job.device.name}, {layout_words(plan)}",
                rank,
                front,
                numbers[x],
                numbers["cost_usd_per_hour"] if is_priced else certain(plan.n_devices, "", ""),
            )
            for plan, numbers, rank, front in rows
        ]

    y = ("cost an hour", "usd/h") if is_priced else ("devices", "")
    what = "Cost" if is_priced else "Devices"
    return [
        plot(f"{what} against the speed of writing", ("time a token", "ms"), y, points("tpot_ms")),
        plot(f"{what} against the first token", ("time to the first token", "ms"), y, points("ttft_ms")),
    ]


def demand_lines(rows: Sequence[Mapping[str, Any]], slo: Sequence[SloTerm]) -> list[str]:
    """Each demand on a time: what the best option is predicted to need, and whether its whole interval keeps it; if not, whose does."""
    lines = []
    for term in slo:
        number = rows[0]["numbers"].get(NUMBER_OF.get(term.metric, ""))
        if not number:
            continue
        if "unknown" in number:
            lines.append(f"{term.text}: kept by physics, but nothing that was measured supports it.")
            continue
        is_kept = number["high"] <= term.limit
        sure = "its whole interval keeps it" if is_kept else "its interval reaches beyond: measure before you rely on it"
        lines.append(f"{term.text}: {amount(number['value'], 'ms')} [{between(number['low'], number['high'], 'ms')}], {sure}.")
    if not slo or _is_sure(rows[0], slo):
        return lines
    first = next((row for row in rows if _is_sure(row, slo)), None)
    if first is None:
        return [*lines, "None of the options keeps all demands with its whole interval."]
    money = first["numbers"]["cost_usd_per_hour"]
    cost = f", for {amount(money['value'], 'usd/h')} an hour" if "value" in money else ""
    return [*lines, f"The first option that keeps all demands with its whole interval is {first['rank']}: {first['what']}{cost}."]


def _is_sure(row: Mapping[str, Any], slo: Sequence[SloTerm]) -> bool:
    numbers = [(row["numbers"].get(NUMBER_OF.get(term.metric, "")), term.limit) for term in slo]
    return all(number is None or number.get("high", math.inf) <= limit for number, limit in numbers)


def what_if(plans: Sequence[ServePlan], rate: float) -> dict[str, Any] | None:
    """What one replica of each option answers, for other rates and prices."""
    rows = []
    for plan in plans:
        price = None if plan.usd_per_hour is None else plan.usd_per_hour / plan.n_devices
        each = devices_of(plan.job)
        rows.append(
            {
                "name": f"{each} × {plan.job.device.name}",
                "how": layout_words(plan),
                "n_devices": each,
                "req_s": capacity(plan),
                "usd_per_device_hour": price,
            }
        )
    return {"kind": "serve", "rate": rate or rows[0]["req_s"], "rows": rows} if rows else None


def capacity(plan: ServePlan) -> float:
    """Requests a second that one replica answers while its wait stays what it is now, or no longer than its first token takes."""
    request_s, wait = plan.request_ms / 1000.0, max(plan.wait_ms, plan.ttft_ms) / 1000.0
    low, high = 0.0, plan.job.concurrency / request_s
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if replicas_needed(middle, plan.job.concurrency, request_s, wait, plan.percentile) == 1 else (low, middle)
        )
    return low


def losers(found: ServeSearch, plans: Sequence[ServePlan], label: Any) -> list[dict[str, Any]]:
    """Layouts of which nothing could be made, and what the best of each other device costs beside the first."""
    rows = []
    first, seen = plans[0], {plans[0].job.device.name}
    for plan in (*plans, *found.front):
        if plan.job.device.name not in seen and plan.usd_per_million_tokens and first.usd_per_million_tokens:
            seen.add(plan.job.device.name)
            more = plan.usd_per_million_tokens / first.usd_per_million_tokens
            text = f"{label(plan.job)}: {significant(more)} times the cost of a token."
            rows.append({"about": plan.job.device.name, "text": text})
    told = seen | {plan.job.device.name for plan in plans} | {one.job.device.name for one in found.rejected}
    for one in found.ask.devices:
        if one.name not in told:
            unpriced = one.name not in found.ask.usd_per_device_hour and found.ask.objective == "money"
            why = (
                "no price of it is known, so it cannot win on money; give --price"
                if unpriced
                else "none of its layouts is among the ten best"
            )
            rows.append({"about": one.name, "text": f"{one.name}: {why}."})
    rows += [{"about": f"{one.job.device.name} {one.job.weights}", "text": f"{label(one.job)}: {one.why}."} for one in found.rejected]
    return rows[:MOST_REJECTED]
