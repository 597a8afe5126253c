"""What a search over training layouts found, as a plan's document: ten options, plots, why the others lose, and a grid for what-if."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trimtab.core.phrases import ended, percent
from trimtab.flows.parts.plan_predicted import predict_train
from trimtab.flows.parts.plan_told import Number, certain, front_point, inverse, layout_words, plot, scaled
from trimtab.plan.search.train import DEFAULT_TOKENS, N_BEST, TrainAsk, TrainPlan, TrainSearch, plan_at
from trimtab.plan.search.why import PARTS, why_not, why_others_lose
from trimtab.record.plan_view import amount, between

MOST_POINTS = 60
POWER_NOTE = "Rated power of the devices for all of the time, without hosts, network and cooling."
ALIKE = 1.01
"""Within a hundredth of the best: less than any prediction can tell."""
FORWARD_SHARE = 1 / 3
"""Of a micro-batch's work; the backward pass multiplies twice as much."""


def option(found: TrainSearch, plan: TrainPlan, rank: int, *, on_front: bool) -> dict[str, Any]:
    """One layout with its numbers and bars."""
    numbers = numbers_of(plan)
    memory = numbers["peak_memory_bytes"]
    precision = f" in {plan.job.precision}" if len(found.ask.precisions) > 1 else ""
    return {
        "rank": rank,
        "id": f"{plan.job.device.name}:{plan.job.n_devices}:{plan.job.precision}:" + ",".join(f"{k}={v}" for k, v in plan.layout.items()),
        "what": f"{plan.job.n_devices:,} × {plan.job.device.name}{precision}",
        "how": layout_words(plan.layout),
        "device": plan.job.device.name,
        "n_devices": plan.job.n_devices,
        "precision": plan.job.precision,
        "layout": dict(plan.layout),
        "on_front": on_front,
        "numbers": numbers,
        "memory": memory_row(plan.memory_parts, memory, plan.memory_bytes, plan.job.device.memory_bytes),
        "time": time_row(plan, numbers["step_time_s"]),
    }


def numbers_of(plan: TrainPlan) -> dict[str, Number]:
    """Every number of a layout, from its speed and its peak: the rest is arithmetic."""
    job = plan.job
    speed, memory = predict_train(plan)
    tokens = job.tokens or DEFAULT_TOKENS
    step_tokens = job.seq_tokens * job.global_batch_seqs
    duration = inverse(_paced(speed, plan), tokens / job.n_devices / max(plan.goodput.share, 1e-12), "s")
    device_hours = job.n_devices / 3600.0
    price = None if plan.usd is None else plan.usd / (plan.hours * job.n_devices)
    no_price = f"No price of {job.device.name} is in the catalog; give --price."
    power_kw = job.device.power_w / 1000.0 if job.device.power_w else None
    return {
        "duration_s": duration,
        "cost_usd": scaled(duration, None if price is None else device_hours * price, "usd", missing=no_price),
        "tok_s_per_device": speed,
        "mfu": scaled(speed, plan.mfu / plan.tok_s_per_device, "share"),
        "peak_memory_bytes": memory,
        "energy_kwh": scaled(
            duration, None if power_kw is None else device_hours * power_kw, "kWh", POWER_NOTE, missing="Its power is not in the catalog."
        ),
        "step_time_s": inverse(speed, step_tokens / job.n_devices, "s"),
    }


def memory_row(parts: Mapping[str, float], number: Number, physics_bytes: float, capacity: float) -> dict[str, Any]:
    """Parts that sum to the predicted peak: what is counted stays, the rest takes up the difference."""
    total = number.get("value", physics_bytes)
    counted = {name: parts[name] for name in ("weights", "gradients", "optimizer") if name in parts}
    loose = {name: value for name, value in parts.items() if name not in counted}
    room = total - sum(counted.values())
    if room >= 0 and sum(loose.values()) > 0:
        loose = {name: value * room / sum(loose.values()) for name, value in loose.items()}
    else:
        counted = {name: value * total / physics_bytes for name, value in counted.items()}
        loose = {name: value * total / physics_bytes for name, value in loose.items()}
    rows = [{"name": name, "value": value} for name, value in {**counted, **loose}.items() if value > 0]
    ends = {"low": number.get("low", total), "high": number.get("high", total)}
    return {"parts": rows, "total_bytes": total, **ends, "capacity_bytes": capacity}


def time_row(plan: TrainPlan, step: Number) -> dict[str, Any]:
    """Parts of a step that sum to the predicted one, and what its pipeline does."""
    ratio = step.get("value", plan.step_s) / plan.step_s
    parts = {name: value * ratio for name, value in plan.time_parts.items() if value > 0.002 * plan.step_s}
    stages = None
    if plan.layout["pp"] > 1:
        apart = sum(plan.time_parts.get(name, 0.0) for name in ("bubble", "data_comm", "optimizer", "fixed"))
        micro_s = ratio * (plan.step_s - apart) / plan.layout["grad_accum"]
        stages = {
            "n": plan.layout["pp"],
            "n_micro": plan.layout["grad_accum"],
            "forward_s": micro_s * FORWARD_SHARE,
            "backward_s": micro_s * (1 - FORWARD_SHARE),
        }
    rows = [{"name": PARTS.get(name, name), "value": value} for name, value in sorted(parts.items(), key=lambda pair: -pair[1])]
    return {"what": "a step", "unit": "s", "parts": rows, "stages": stages}


def plots(found: TrainSearch, ranks: Mapping[tuple[Any, ...], int]) -> list[dict[str, Any]]:
    """Cost against time, and memory against speed, of the front, the ten best and the best of each number of devices."""
    on_front = {key_of(plan) for plan in found.front}
    plans = {key_of(plan): plan for plan in (*found.best, *found.front[:MOST_POINTS], *best_by_count(found))}
    rows = [(plan, numbers_of(plan), ranks.get(key, 0), key in on_front) for key, plan in plans.items()]

    def points(x: str, y: str) -> list[dict[str, Any] | None]:
        return [front_point(f"{plan.job.n_devices} × {plan.job.device.name}", rank, front, n[x], n[y]) for plan, n, rank, front in rows]

    return [
        plot("Cost against time", ("time", "s"), ("cost", "usd"), points("duration_s", "cost_usd")),
        plot("Memory against time", ("time", "s"), ("memory of the fullest device", "bytes"), points("duration_s", "peak_memory_bytes")),
    ]


def key_of(plan: TrainPlan) -> tuple[Any, ...]:
    return (plan.job.device.name, plan.job.n_devices, plan.job.precision, *plan.layout.values())


def best_by_count(found: TrainSearch) -> list[TrainPlan]:
    """The fastest layout of each device, number and precision, where one fits."""
    rows = []
    for one in found.weighed:
        position = int(np.argmin(one.step_s))
        if np.isfinite(one.step_s[position]):
            rows.append(plan_at(found.ask, one, position))
    return rows


def what_if(found: TrainSearch) -> dict[str, Any] | None:
    """For every number of devices its fastest layout: what sliders of tokens and prices start from."""
    rows = []
    for plan in best_by_count(found):
        speed = _paced(predict_train(plan)[0], plan)
        if "unknown" in speed:
            continue
        precision = f" in {plan.job.precision}" if len(found.ask.precisions) > 1 else ""
        price = None if plan.usd is None else plan.usd / (plan.hours * plan.job.n_devices)
        rows.append(
            {
                "name": f"{plan.job.n_devices:,} × {plan.job.device.name}{precision}",
                "how": layout_words(plan.layout),
                "n_devices": plan.job.n_devices,
                "tok_s": speed["value"] * plan.job.n_devices * plan.goodput.share,
                "usd_per_device_hour": price,
            }
        )
    return {"kind": "train", "tokens": found.ask.tokens or DEFAULT_TOKENS, "rows": rows} if rows else None


def losers(found: TrainSearch, best: TrainPlan, rival: Mapping[str, int]) -> list[dict[str, Any]]:
    """Each choice that was not taken, with what it costs; the user's own rival first."""
    named = [{"about": "asked", "text": ended(why_not(found, rival, best).sentence)}] if rival else []
    return named + [{"about": loss.dimension, "text": ended(loss.sentence)} for loss in why_others_lose(found, best)]


def kept_by(found: TrainSearch, ask: TrainAsk) -> list[TrainPlan]:
    """The ten best once published runs have corrected them: what then breaks a limit or the memory is gone, and the order is anew.

    Those that no prediction tells from the best go by what they hold, so that the first has room to err.
    """
    plans = list({key_of(plan): plan for plan in (*found.best, *(best_by_count(found) if found.best else ()))}.values())
    rows = [(plan, numbers_of(plan)) for plan in plans]
    kept = [(plan, numbers) for plan, numbers in rows if _keeps(plan, numbers, ask)]
    name = {"time": "duration_s", "money": "cost_usd", "energy": "energy_kwh", "memory": "peak_memory_bytes"}[ask.objective]
    values = [numbers[name].get("value", math.inf) for _, numbers in kept]
    alike = ALIKE * min(values, default=math.inf)

    def key(place: int) -> tuple[float, float, int]:
        held = kept[place][1]["peak_memory_bytes"].get("value", math.inf)
        return (0.0, held, place) if values[place] <= alike < math.inf else (values[place], 0.0, place)

    return [kept[place][0] for place in sorted(range(len(kept)), key=key)[:N_BEST]]


def _keeps(plan: TrainPlan, numbers: Mapping[str, Number], ask: TrainAsk) -> bool:
    """What is not known breaks nothing."""
    limits = {"duration_s": ask.deadline_h * 3600, "cost_usd": ask.budget_usd, "peak_memory_bytes": plan.job.device.memory_bytes}
    return all(numbers[name].get("value", 0.0) <= limit for name, limit in limits.items())


def _paced(speed: Number, plan: TrainPlan) -> Number:
    """No faster than the data comes."""
    if plan.feed is None:
        return speed
    most = plan.feed.most_tok_s / plan.job.n_devices
    paced = ended(f"Its data sets the pace: {plan.feed.why}")
    if "unknown" in speed:
        return certain(most, "tok/s", paced) if plan.feed.bound else speed
    why = paced if speed["value"] > most else speed["why"]
    return speed | {name: min(speed[name], most) for name in ("value", "low", "high")} | {"why": why}


def assumptions(found: TrainSearch, plan: TrainPlan | None) -> list[str]:
    """What the numbers rest on beyond the layout."""
    ask = found.ask
    lines = [
        f"{ask.optimizer} and its states, a sequence of {ask.seq_tokens:,} tokens, {ask.global_batch_seqs:,} of them a step"
        + (f", as {ask.framework} keeps them." if ask.framework else "."),
        f"{percent(ask.memory_margin)} of the predicted peak is kept free, since the prediction errs.",
    ]
    made_for = ask.architecture.context_tokens
    if 0 < made_for < ask.seq_tokens:
        lines.append(f"{ask.architecture.name} was made for {made_for:,} tokens: its positions must be stretched to {ask.seq_tokens:,}.")
    if plan is not None:
        lines.append(f"Failures and checkpoints leave {percent(plan.goodput.share, 1)} of the time: {plan.goodput.why}.")
        rest = f"a checkpoint of {amount(plan.goodput.checkpoint_bytes, 'bytes')} every {amount(plan.goodput.interval_s, 's')}"
        lines.append(f"They are at their best with {rest}.")
        if plan.feed is not None:
            lines.append(f"Data: {plan.feed.why}.")
    if not ask.tokens:
        lines.append("Without --tokens, time and cost are of 1B tokens.")
    return [*lines, "Prices are of devices alone: no storage, no network, nobody's work."]


def headline(row: Mapping[str, Any], model: str, tokens: str) -> str:
    """The best option in a sentence."""
    duration, cost = row["numbers"]["duration_s"], row["numbers"]["cost_usd"]
    if "unknown" in duration:
        best = f", at best in {amount(duration['speed_of_light'], 's')}" if duration.get("speed_of_light") else ""
        return f"{row['what']} can hold {model}; how fast they train it is not known{best}"
    money = f" for {amount(cost['value'], 'usd')}" if "value" in cost else ""
    time = f"{amount(duration['value'], 's')} [{between(duration['low'], duration['high'], 's')}]"
    return f"{row['what']} train {model} on {tokens} tokens in {time}{money}"


def at_risk(row: Mapping[str, Any], ask: TrainAsk) -> list[str]:
    """Limits that the best option keeps, but not at the far end of its interval."""
    duration, cost = row["numbers"]["duration_s"], row["numbers"]["cost_usd"]
    lines = []
    if "value" in cost and cost["high"] > ask.budget_usd:
        lines.append(f"The far end of its interval, {amount(cost['high'], 'usd')}, is over the budget.")
    if "value" in duration and duration["high"] > ask.deadline_h * 3600:
        lines.append(f"The far end of its interval, {amount(duration['high'], 's')}, is after the deadline.")
    memory = row["memory"]
    if memory["high"] > memory["capacity_bytes"]:
        ends = f"{amount(memory['high'], 'bytes')} of {amount(memory['capacity_bytes'], 'bytes')}"
        lines.append(f"The far end of its memory, {ends}, does not fit: have a leaner layout at hand.")
    return lines


def ranks_of(plans: Sequence[TrainPlan]) -> dict[tuple[Any, ...], int]:
    """1 is the best."""
    return {key_of(plan): place for place, plan in enumerate(plans, 1)}
