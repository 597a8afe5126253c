"""Plan a training: the question as it was typed, the search, and the document (schema trimtab.plan/1)."""

import math
import re
from dataclasses import replace
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.phrases import count, line
from trimtab.core.planning import Device
from trimtab.flows.parts.own_hardware import find_device as device
from trimtab.flows.parts.plan_kept import SCHEMA
from trimtab.flows.parts.plan_model import plan_model
from trimtab.flows.parts.plan_prices import price_rows
from trimtab.flows.parts.plan_told import found_as, layout_words, model_row, one_of
from trimtab.flows.parts.plan_train_told import assumptions, at_risk, headline, kept_by, key_of, losers, option, plots, ranks_of, what_if
from trimtab.plan.quantities import device_counts, listed, money_usd, seconds_of, token_count, whole
from trimtab.plan.search import emit_train
from trimtab.plan.search.feed import parse_supply
from trimtab.plan.search.goodput import DEFAULT_RATE, DEFAULT_STORAGE, parse_failures, parse_storage
from trimtab.plan.search.space import Space, narrowed
from trimtab.plan.search.train import Objective, TrainAsk, TrainPlan, TrainSearch, search
from trimtab.plan.training.layouts import parse_layout
from trimtab.plan.training.memory import MOMENTS

FRAMEWORKS = ("megatron", "nemo", "fsdp", "torchtitan", "composer", "deepspeed", "maxtext", "levanter", "nanotron", "metaseq", "trimtab")
PRECISIONS = ("bf16", "fp16", "fp8", "mxfp8", "nvfp4", "fp32")
MFU = "MFU is of the FLOPs of all matrices and of causal attention, forward and backward, at the dense peak of the type multiplied in."
N_NEAREST = 3
HUB_NAME = re.compile(r"[\w.\-]+/[\w.\-]+")


def plan_train(
    model: str,
    *,
    hardware: str,
    devices: str = "8",
    tokens: str = "",
    seq: str = "4096",
    global_batch: str = "512",
    precision: str = "bf16",
    framework: str = "",
    optimizer: str = "adamw",
    layout: str = "",
    offload: bool = False,
    budget: str = "",
    deadline: str = "",
    objective: Objective = "time",
    why_not: str = "",
    data: str = "",
    failures: str = DEFAULT_RATE,
    checkpoint_storage: str = DEFAULT_STORAGE,
    price: str = "",
    commitment: str = "on-demand",
    emit: str = "",
    offline: bool = False,
) -> dict[str, Any]:
    """Which devices, laid out how, train a model by when and for how much. All quantities as the command line takes them.

    emit: `torchrun`, `torchtitan` or `megatron`: the best option's configuration goes with it. Raises InputError, MissingError.
    """
    chosen = tuple(device(name) for name in listed(hardware, "--hardware"))
    told_prices, rows = price_rows(chosen, price, commitment)
    architecture = plan_model(model, offline=offline)
    rival = parse_layout(why_not, "--why-not") if why_not else {}
    ask = TrainAsk(
        architecture=architecture,
        devices=chosen,
        counts=device_counts(devices),
        seq_tokens=whole(seq, "--seq"),
        global_batch_seqs=whole(global_batch, "--global-batch"),
        tokens=token_count(tokens) if tokens else 0.0,
        precisions=_precisions(precision, chosen),
        framework=one_of(framework, FRAMEWORKS, "--framework"),
        optimizer=one_of(optimizer, MOMENTS, "--optimizer"),
        usd_per_device_hour=told_prices,
        budget_usd=money_usd(budget) if budget else math.inf,
        deadline_h=seconds_of(deadline) / 3600.0 if deadline else math.inf,
        pinned=parse_layout(layout) if layout else {},
        objective=objective,
        failures=parse_failures(failures),
        storage=parse_storage(checkpoint_storage),
        supply=parse_supply(data) if data else None,
        space=_space(offload=offload, ours=emit == "torchrun" or framework == "trimtab"),
    )
    found = search(ask)
    plans = kept_by(found, ask)
    is_found = bool(plans)
    nearest = _nearest(ask) if not plans and found.n_fit else None
    shown = nearest or found
    plans = plans or list(shown.best[:N_NEAREST]) or list(found.leanest)
    on_front = {key_of(plan) for plan in shown.front}
    options = [option(shown, plan, rank, on_front=key_of(plan) in on_front) for rank, plan in enumerate(plans, 1)]
    return {
        "schema": SCHEMA,
        "kind": "train",
        "found": is_found,
        "headline": _headline(options if is_found else [], architecture.name, tokens),
        "reasons": [*_reasons(found, ask, layout, is_found=is_found), *(at_risk(options[0], ask) if is_found else [])],
        "question": _question(ask, model),
        "model": model_row(architecture),
        "options": options,
        "plots": plots(shown, ranks_of(plans)) if options else [],
        "losers": losers(found, plans[0], rival) if is_found else [],
        "assumptions": assumptions(shown, plans[0] if plans else None),
        "conventions": MFU,
        "prices": rows,
        "searched": _searched(found),
        "what_if": what_if(shown) if options else None,
        "emitted": _emitted(emit, plans[0] if is_found else None, model),
    }


def _space(*, offload: bool, ours: bool) -> Space:
    """What may be tried. ours: only what trimtab's own trainer has."""
    space = Space(offload=(0, 1, 2)) if offload else Space()
    return narrowed(replace(space, zero_stage=emit_train.TRIMTAB_ZERO), dict.fromkeys(emit_train.TRIMTAB_SPLITS, 1)) if ours else space


def _precisions(text: str, chosen: tuple[Device, ...]) -> tuple[str, ...]:
    names = listed(text, "--precision")
    for name in names:
        if name not in PRECISIONS:
            raise InputError(f"--precision: {name!r} is not known; give one of {', '.join(PRECISIONS)}.")
    return names


def _nearest(ask: TrainAsk) -> TrainSearch:
    """The same without limits: the cheapest where money was short, else the fastest."""
    objective: Objective = "money" if math.isfinite(ask.budget_usd) and not math.isfinite(ask.deadline_h) else "time"
    return search(replace(ask, budget_usd=math.inf, deadline_h=math.inf, max_devices=0, objective=objective))


def _headline(options: list[dict[str, Any]], name: str, tokens: str) -> str:
    if options:
        return headline(options[0], line(name), tokens.strip() or "1B")
    return f"Nothing that was asked for trains {line(name)} within the demands"


def _reasons(found: TrainSearch, ask: TrainAsk, layout: str, *, is_found: bool) -> list[str]:
    if found.best and not is_found:
        return ["By physics alone some layouts keep to the demands; as published runs went, none does. What comes nearest is shown."]
    if not found.best:
        near = " What comes nearest is shown." if found.n_fit or found.leanest else ""
        return [found.none_because + near]
    limits = [f"the budget of {ask.budget_usd:,.0f} USD"] if math.isfinite(ask.budget_usd) else []
    limits += [f"the deadline of {ask.deadline_h:,.0f} h"] if math.isfinite(ask.deadline_h) else []
    kept = f" and keep to {' and '.join(limits)}" if limits else ""
    words = {"time": "The fastest", "money": "The cheapest", "energy": "The thriftiest", "memory": "The leanest"}
    pinned = " that keep the layout as pinned" if layout else ""
    leanest = "" if ask.objective == "memory" else "; of those within 1 % of it, the one that holds least"
    return [f"{words[ask.objective]} of {count(found.n_allowed)} layouts{pinned} that fit the memory{kept}{leanest}."]


def _question(ask: TrainAsk, model: str) -> dict[str, Any]:
    return {
        "model": model,
        "hardware": [one.name for one in ask.devices],
        "devices": list(ask.counts),
        "tokens": ask.tokens or None,
        "seq_tokens": ask.seq_tokens,
        "global_batch_seqs": ask.global_batch_seqs,
        "precisions": list(ask.precisions),
        "framework": ask.framework,
        "optimizer": ask.optimizer,
        "layout": dict(ask.pinned),
        "budget_usd": ask.budget_usd if math.isfinite(ask.budget_usd) else None,
        "deadline_h": ask.deadline_h if math.isfinite(ask.deadline_h) else None,
        "objective": ask.objective,
    }


def _searched(found: TrainSearch) -> dict[str, Any]:
    text = (
        f"{count(found.n_layouts)} layouts that divide, {count(found.n_fit)} of them fit the memory, {count(found.n_allowed)} keep to all "
        "demands."
    )
    return {"n": found.n_layouts, "n_fit": found.n_fit, "n_allowed": found.n_allowed, "text": text}


def _emitted(emit: str, best: TrainPlan | None, model: str) -> dict[str, Any]:
    """Files of the best option; nothing where nothing was found or asked for."""
    if not emit or best is None:
        return {}
    unknown: tuple[str, ...] = ()
    if emit == "torchrun":
        found, unknown = found_as(model, best.job.architecture)
        made = emit_train.trimtab(best.job, best.layout, f"hf:{found}" if HUB_NAME.fullmatch(found) else found)
    elif emit == "torchtitan":
        made = emit_train.torchtitan(best.job, best.layout, "")
    elif emit == "megatron":
        made = emit_train.megatron(best.job, best.layout)
    else:
        raise InputError(f"--emit: {emit!r} is not known; give torchrun, torchtitan or megatron.")
    return {"format": emit, "layout": layout_words(best.layout), "files": dict(made.files), "notes": [*made.notes, *unknown]}
