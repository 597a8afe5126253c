"""Plan a service: the question as it was typed, the search, and the document (schema trimtab.plan/1)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.phrases import count, ended, line
from trimtab.core.planning import Architecture
from trimtab.core.workload import SloTerm
from trimtab.flows.parts.own_hardware import find_device as device
from trimtab.flows.parts.plan_emitted import emitted_service
from trimtab.flows.parts.plan_kept import SCHEMA
from trimtab.flows.parts.plan_model import plan_model
from trimtab.flows.parts.plan_predicted import corrected_physics
from trimtab.flows.parts.plan_prices import price_rows
from trimtab.flows.parts.plan_serve_told import demand_lines, losers, option, plots, what_if
from trimtab.flows.parts.plan_told import STORED, check_engine, is_stored, model_row
from trimtab.plan.quantities import busy_and_quiet, listed, whole
from trimtab.plan.search.serve import Objective, ServeAsk, ServePhysics, ServePlan, ServeSearch, label_of, search, weights_of
from trimtab.plan.slo import parse_slo
from trimtab.plan.training.layouts import parse_layout
from trimtab.plan.workloads import load_workload
from trimtab.record.plan_view import amount

TIMES = "Times are means with every place of a replica taken; the first token waits for a place as long as the percentile asks."
USUAL = ("bf16", "fp8")
LOCAL = ("bf16", "Q8_0", "Q4_K_M")
ENGINES = {"gpu": "vllm", "tpu": "vllm", "accelerator": "vllm", "soc": "llamacpp", "cpu": "llamacpp"}
"""What usually serves on a kind of device, where no engine is named."""
N_NEAREST = 3


def plan_serve(
    model: str,
    *,
    hardware: str,
    workload: str = "chat",
    slo: str = "",
    rate: str = "",
    engine: str = "",
    weights: str = "",
    kv: str = "",
    layout: str = "",
    max_devices: str = "",
    disaggregated: bool = False,
    objective: Objective = "money",
    price: str = "",
    commitment: str = "on-demand",
    emit: str = "",
    offline: bool = False,
) -> dict[str, Any]:
    """Which hardware, laid out how, answers a load in time at least cost. All quantities as the command line takes them.

    emit: `vllm`, `sglang`, `trtllm`, `kserve` or `rayservice`. Raises InputError, MissingError.
    """
    chosen = tuple(device(name) for name in listed(hardware, "--hardware"))
    usd, prices = price_rows(chosen, price, commitment)
    if not usd and objective == "money":
        objective = "devices"
    load = load_workload(workload)
    check_engine(engine, listed(kv, "--kv") if kv else ())
    architecture = plan_model(model, offline=offline)
    if 0 < architecture.context_tokens < load.context_tokens:
        raise InputError(
            f"--workload: its requests have up to {load.context_tokens:,} tokens, and {architecture.name} was made for "
            f"{architecture.context_tokens:,}; ask for shorter ones or name another model."
        )
    busy, quiet = busy_and_quiet(rate) if rate else (0.0, 0.0)
    ask = ServeAsk(
        architecture=architecture,
        devices=chosen,
        prompt_tokens=load.prompt_tokens,
        output_tokens=load.output_tokens,
        cached_prompt_tokens=load.shared_prefix_tokens,
        rate_per_s=busy,
        least_rate_per_s=quiet,
        slo=parse_slo(slo) if slo else (),
        engine=engine,
        engines=dict.fromkeys(ENGINES, "llamacpp") if is_stored(architecture) and not weights else ENGINES,
        weights=listed(weights, "--weights") if weights else tuple(dict.fromkeys((architecture.published_weights, *USUAL))),
        weights_by_kind={} if weights else _usual(architecture),
        proven=("bf16", "fp16", "", STORED),
        kv=listed(kv, "--kv") if kv else ("",),
        disaggregated=disaggregated,
        max_devices=whole(max_devices, "--max-devices", most=1_000_000) if max_devices else 0,
        usd_per_device_hour=usd,
        pinned=_pinned(layout),
        objective=objective,
    )
    physics = corrected_physics()
    found = search(ask, physics)
    shown, relax = (found, []) if found.best else _nearest(ask, physics)
    plans = shown.best if found.best else shown.best[:N_NEAREST]
    on_front = {id(plan) for plan in shown.front}
    options = [option(plan, rank, on_front=id(plan) in on_front) for rank, plan in enumerate(plans, 1)]
    return {
        "schema": SCHEMA,
        "kind": "serve",
        "found": bool(found.best),
        "headline": _headline(found, options, line(architecture.name)),
        "reasons": [*demand_lines(options, ask.slo), *_quiet_hours(found)] if found.best else [ended(found.none_because), *relax],
        "question": _question(ask, model, load.name),
        "model": model_row(architecture),
        "options": options,
        "plots": plots(plans, shown) if options else [],
        "losers": losers(found, plans, label_of) if plans else [],
        "assumptions": _assumptions(ask, plans),
        "conventions": TIMES,
        "prices": prices,
        "searched": {"n": found.n_looked_at, "text": f"{count(found.n_looked_at)} layouts and numbers in flight."},
        "what_if": what_if(plans, ask.rate_per_s),
        "emitted": emitted_service(emit, found.best[0], model) if emit and found.best else {},
    }


def _usual(architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """A quantised file as it is, on any kind of device; else GGUF types on laptops and CPUs, and `USUAL` elsewhere."""
    if is_stored(architecture):
        return dict.fromkeys(ENGINES, (STORED,))
    return {"soc": LOCAL, "cpu": LOCAL}


def _pinned(text: str) -> dict[str, int]:
    """Raises InputError for what a service has not."""
    told = parse_layout(text) if text else {}
    dp = told.pop("dp", None)
    if dp is not None:
        raise InputError("--layout of a service takes no dp: how many replicas there are is found; pin tp, pp, ep or attention_dp.")
    return told


def _nearest(ask: ServeAsk, physics: ServePhysics) -> tuple[ServeSearch, list[str]]:
    """What there is without one of the demands, and how that one would have to be loosened; without all of them where one is not enough."""
    relax: list[str] = []
    nearest: ServeSearch | None = None
    for term in ask.slo:
        without = search(replace(ask, slo=tuple(one for one in ask.slo if one is not term), objective="latency"), physics)
        if without.best:
            nearest = nearest or without
            relax.append(_loosened(term, without.best[0]))
    if ask.max_devices:
        more = search(replace(ask, max_devices=0), physics)
        if more.best:
            nearest = nearest or more
            least = min(plan.n_devices for plan in more.best)
            relax.append(f"With --max-devices {least} it can be done.")
    if nearest is None:
        nearest = search(replace(ask, slo=(), max_devices=0, objective="latency"), physics)
        if nearest.best and len(ask.slo) > 1:
            relax.append("More than one demand must be loosened; shown is the fastest there is without them.")
    return nearest, relax


def _loosened(term: SloTerm, plan: ServePlan) -> str:
    values = {"ttft": plan.ttft_ms + plan.wait_ms, "tpot": plan.tpot_ms, "itl": plan.tpot_ms, "e2e": plan.request_ms + plan.wait_ms}
    if term.metric not in values:
        return f"Without {term.text} it can be done."
    return f"With {amount(values[term.metric], 'ms')} instead of {term.text} it can be done; or name faster hardware."


def _quiet_hours(found: ServeSearch) -> list[str]:
    """What an autoscaler can go down to, where quiet hours were told."""
    ask, best = found.ask, found.best[0]
    if not ask.least_rate_per_s:
        return []
    money = "" if best.least_usd_per_hour is None else f", for {amount(best.least_usd_per_hour, 'usd/h')} an hour"
    return [f"At {ask.least_rate_per_s:g} requests/s {count(best.least_replicas)} of {count(best.replicas)} replicas do{money}."]


def _headline(found: ServeSearch, options: Sequence[dict[str, Any]], name: str) -> str:
    if not found.best:
        return f"Nothing that was asked for serves {name} within the demands"
    ask, first = found.ask, options[0]
    load = f" at {ask.rate_per_s:g} requests/s" if ask.rate_per_s else ""
    money = first["numbers"]["cost_usd_per_hour"]
    cost = f" for {amount(money['value'], 'usd/h')} an hour" if "value" in money else ""
    kept = " within the demands" if ask.slo else ""
    verb = "serves" if found.best[0].n_devices == 1 else "serve"
    return f"{first['what']} {verb} {name}{load}{kept}{cost}"


def _question(ask: ServeAsk, model: str, workload: str) -> dict[str, Any]:
    return {
        "model": model,
        "hardware": [one.name for one in ask.devices],
        "workload": workload,
        "prompt_tokens": ask.prompt_tokens,
        "output_tokens": ask.output_tokens,
        "cached_prompt_tokens": ask.cached_prompt_tokens,
        "slo": [term.text for term in ask.slo],
        "rate_per_s": ask.rate_per_s or None,
        "engine": ask.engine,
        "weights": sorted({kind for one in ask.devices for kind in weights_of(ask, one)}),
        "kv": list(ask.kv),
        "layout": dict(ask.pinned),
        "max_devices": ask.max_devices or None,
        "objective": ask.objective,
    }


def _assumptions(ask: ServeAsk, plans: Sequence[ServePlan]) -> list[str]:
    rows = [f"Each request has {ask.prompt_tokens:,} tokens to read and {ask.output_tokens:,} to write."]
    if ask.cached_prompt_tokens:
        rows.append(f"{ask.cached_prompt_tokens:,} of the tokens to read are found in the prefix cache.")
    if ask.rate_per_s:
        rows.append("Requests come at random and are shared evenly; no replica is busier than 90 % on average.")
    rows += [f"{text[0].upper()}{text[1:]}." for text in (plans[0].memory.assumptions if plans else ())]
    proofs = sorted({plan.to_certify for plan in plans if plan.to_certify})
    rows += [f"{text}: what it does to quality is not known before." for text in proofs]
    return [*rows, "Prices are of devices alone: no hosts, no network, nobody's work."]
