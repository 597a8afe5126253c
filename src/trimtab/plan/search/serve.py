"""Search for the deployment that answers a load at least cost: layouts, weight and cache types, numbers in flight, and how many replicas.

A cache that does not hold what is in flight is never recommended: the number in flight stops at what the KV budget holds. Replicas are
counted with room for queueing. Types other than the model's own are a proposal: what they do to quality is for `compare` to certify.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from trimtab.core.errors import InputError
from trimtab.core.planning import Architecture, Device, ServeJob
from trimtab.core.workload import SloTerm
from trimtab.plan.search.pareto import front
from trimtab.plan.search.queueing import replicas_needed, wait_s
from trimtab.plan.search.serve_space import common_heads, disaggregated, replica_layouts
from trimtab.plan.search.slo_limits import check_slo, limit_of
from trimtab.plan.serving.memory import ServeMemory, budget
from trimtab.plan.serving.time import ServeTime, predict

Objective = Literal["money", "devices", "latency", "throughput", "energy"]
OBJECTIVES: tuple[Objective, ...] = ("money", "devices", "latency", "throughput", "energy")
N_BEST = 10
LEVELS = tuple(2**power for power in range(12))
"""Numbers in flight that are tried, up to 2,048; beside the best of them its neighbours are tried too."""
PROOF = "to be certified by compare"


@dataclass(frozen=True, kw_only=True)
class ServeAsk:
    """What is to be served, to whom, on what.

    weights_by_kind: types to try in place of `weights` on a kind of device
    weights, kv: types to try ("" = the model's own, 16 bit); proven: those of them that need no proof of quality
    rate_per_s: requests that arrive, 0 = as many as one replica answers; slo: as `plan.slo.parse_slo` gives them
    least_rate_per_s: in quiet hours, where replicas may be fewer; 0 = the same at all hours
    engine: one engine, "" = not told, and then `engines` tells it by kind of device
    disaggregated: prefill and decode on devices of their own may be tried too
    max_devices: of all replicas together, 0 = any; usd_per_device_hour: by name of the device
    pinned: `tp`, `pp`, `ep`, `attention_dp` with the only value each may have
    """

    architecture: Architecture
    devices: tuple[Device, ...]
    prompt_tokens: int
    output_tokens: int
    cached_prompt_tokens: int = 0
    rate_per_s: float = 0.0
    least_rate_per_s: float = 0.0
    slo: tuple[SloTerm, ...] = ()
    engine: str = ""
    engines: Mapping[str, str] = field(default_factory=dict)
    weights: tuple[str, ...] = ("bf16",)
    weights_by_kind: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kv: tuple[str, ...] = ("",)
    proven: tuple[str, ...] = ("bf16", "fp16", "")
    disaggregated: bool = False
    max_devices: int = 0
    usd_per_device_hour: Mapping[str, float] = field(default_factory=dict)
    pinned: Mapping[str, int] = field(default_factory=dict)
    objective: Objective = "money"


@dataclass(frozen=True, kw_only=True)
class ServePhysics:
    """What weighs deployments. Tests and calibrated predictions put their own in its place."""

    memory: Callable[[ServeJob], ServeMemory] = budget
    time: Callable[[ServeJob], ServeTime] = predict


UNCALIBRATED = ServePhysics()


@dataclass(frozen=True, kw_only=True)
class ServePlan:
    """One deployment. job.concurrency: requests in flight that one replica is to take at most

    replicas, n_devices: of the whole; ttft_ms, tpot_ms: with all places of a replica held; wait_ms: for a place, at `percentile`
    busy: share of places held on average; output_tok_s: of all replicas, at the rate asked for (or all they can)
    least_replicas, least_usd_per_hour: of quiet hours, what an autoscaler may go down to
    usd_per_hour, usd_per_million_tokens, j_per_token: of output tokens; None = not known; energy is the devices' rated power
    headroom_bytes: of one device, what weights, work space and the cache of all places leave
    to_certify: what must be proved of its quality, "" = nothing
    """

    job: ServeJob
    replicas: int
    n_devices: int
    ttft_ms: float
    tpot_ms: float
    request_ms: float
    wait_ms: float
    percentile: float
    busy: float
    output_tok_s: float
    usd_per_hour: float | None
    least_replicas: int
    least_usd_per_hour: float | None
    usd_per_million_tokens: float | None
    j_per_token: float | None
    headroom_bytes: float
    memory: ServeMemory
    to_certify: str


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A deployment that was looked at and dropped: the layout in words, and one sentence."""

    job: ServeJob
    why: str


@dataclass(frozen=True, kw_only=True)
class ServeSearch:
    """best: at most ten, one for each layout, the best first; front: not beaten in money, TTFT, TPOT and devices together.

    rejected: one for each layout that nothing could be made of; n_looked_at: layouts times numbers in flight
    none_because: one sentence where `best` is empty
    """

    ask: ServeAsk
    best: tuple[ServePlan, ...]
    front: tuple[ServePlan, ...]
    rejected: tuple[Rejected, ...]
    n_looked_at: int
    none_because: str = ""


def search(ask: ServeAsk, physics: ServePhysics = UNCALIBRATED) -> ServeSearch:
    """Weigh every deployment and name the best. Raises InputError where the question makes no sense or asks the impossible."""
    _check(ask)
    jobs = jobs_of(ask)
    if not jobs and not any(runs(weights, device, engine_of(ask, device)) for device in ask.devices for weights in weights_of(ask, device)):
        raise InputError(f"None of the devices runs {', '.join(ask.weights)} weights with {ask.engine or 'any engine'}; name another type.")
    if not jobs:
        raise InputError(f"No layout of {ask.architecture.name} divides over {ask.devices[0].name} nodes as pinned; leave a degree open.")
    check_slo(ask.slo, jobs, ask.rate_per_s)
    plans: list[ServePlan] = []
    rejected: list[Rejected] = []
    looked_at = 0
    for job in jobs:
        found, tried, why = _weigh(ask, job, physics)
        looked_at += tried
        if found:
            plans.append(min(found, key=lambda plan: _key(ask.objective, plan)))
        else:
            rejected.append(Rejected(job=job, why=why))
    order = sorted(range(len(plans)), key=lambda index: (_key(ask.objective, plans[index]), index))
    return ServeSearch(
        ask=ask,
        best=tuple(plans[index] for index in order[:N_BEST]),
        front=_front(plans, order),
        rejected=tuple(rejected),
        n_looked_at=looked_at,
        none_because="" if plans else f"Nothing meets what is asked; the nearest: {_nearest(rejected)}",
    )


def _check(ask: ServeAsk) -> None:
    if not ask.devices:
        raise InputError("No device was named; give --hardware, for example h100-sxm.")
    if ask.prompt_tokens < 1 or ask.output_tokens < 1:
        raise InputError(f"A request of {ask.prompt_tokens} and {ask.output_tokens} tokens is none; both must be above zero.")
    if not 0 <= ask.cached_prompt_tokens <= ask.prompt_tokens:
        raise InputError(f"Of {ask.prompt_tokens} prompt tokens, {ask.cached_prompt_tokens} cannot be in the prefix cache.")
    heads = common_heads(ask.architecture)
    for name, value in ask.pinned.items():
        if name not in ("tp", "pp", "ep", "attention_dp"):
            raise InputError(f"--layout of a serving plan takes tp, pp, ep and attention_dp, not {name}.")
        if value < 1 or (name == "tp" and heads % value):
            raise InputError(f"--layout: {name}={value} does not divide the {heads} attention heads of {ask.architecture.name}; change it.")
    if not (math.isfinite(ask.rate_per_s) and ask.rate_per_s >= 0):
        raise InputError(f"--rate must be a number of requests a second, not {ask.rate_per_s:g}.")
    if not 0 <= ask.least_rate_per_s <= (ask.rate_per_s or 0.0):
        raise InputError(
            f"--rate: the quiet hours' {ask.least_rate_per_s:g}/s must not be above the busiest {ask.rate_per_s:g}/s; swap them."
        )


def engine_of(ask: ServeAsk, device: Device) -> str:
    """The engine that a device is to run; "" = not told."""
    return ask.engine or ask.engines.get(device.kind, "")


def weights_of(ask: ServeAsk, device: Device) -> tuple[str, ...]:
    """The types of weights to try on a device."""
    return ask.weights_by_kind.get(device.kind, ask.weights)


NO_GGUF = frozenset({"sglang", "trtllm", "openvino", "ortgenai", "ctranslate2"})


def runs(weights: str, device: Device, engine: str) -> bool:
    """Whether a type of weights can be had there: GGUF's are of llama.cpp and its kin, on GPUs, systems on a chip and processors."""
    is_gguf = re.match(r"(?i)i?q\d", weights) is not None
    return not is_gguf or (device.kind in ("gpu", "soc", "cpu") and engine not in NO_GGUF)


def jobs_of(ask: ServeAsk) -> list[ServeJob]:
    """Every layout, weight type and cache type of one replica, in a fixed order, not yet with a number in flight."""
    jobs = []
    for device in ask.devices:
        for tp, pp, ep, attention_dp in replica_layouts(ask.architecture, device, ask.pinned, ask.max_devices):
            for weights in (one for one in weights_of(ask, device) if runs(one, device, engine_of(ask, device))):
                for kv in ask.kv:
                    plain = ServeJob(
                        architecture=ask.architecture,
                        device=device,
                        engine=engine_of(ask, device),
                        weights=weights,
                        kv=kv,
                        tp=tp,
                        pp=pp,
                        ep=ep,
                        attention_dp=attention_dp,
                        prompt_tokens=ask.prompt_tokens,
                        output_tokens=ask.output_tokens,
                        cached_prompt_tokens=ask.cached_prompt_tokens,
                    )
                    jobs += [plain, *(disaggregated(plain) if ask.disaggregated else ())]
    return jobs


def devices_of(job: ServeJob) -> int:
    """Of one replica, both halves if it is disaggregated."""
    return job.prefill_devices + job.decode_devices or job.tp * job.pp * job.attention_dp


def _weigh(ask: ServeAsk, job: ServeJob, physics: ServePhysics) -> tuple[list[ServePlan], int, str]:
    """Plans for every number in flight that keeps to what is asked, how many were tried, and why there is none."""
    try:
        held = physics.memory(job)
    except InputError as error:
        return [], 1, str(error)
    if not held.fits:
        return [], 1, f"needs {held.total_bytes / 1e9:.1f} GB of {held.memory_bytes / 1e9:.1f} GB on each device"
    decoders = max(1, job.decode_devices // (job.tp * job.pp * job.attention_dp))
    most = held.max_concurrency * decoders
    plans: list[ServePlan] = []
    why, tried = "", 0

    def look(level: int) -> bool:
        """Whether more in flight may be better still."""
        nonlocal why, tried
        laid, tried = replace(job, concurrency=level), tried + 1
        memory = physics.memory(laid)
        if memory.max_concurrency * decoders < level:
            why = why or f"its cache holds {memory.max_concurrency * decoders} requests, not {level}"
            return False
        try:
            plan = _plan(ask, laid, memory, physics.time(laid))
        except InputError as error:
            why = why or str(error)
            return False
        broken = _broken(ask, plan)
        why = why or broken
        if not broken:
            plans.append(plan)
        return not _too_slow(ask, plan) and (bool(broken) or plan.replicas > 1 or not ask.rate_per_s)

    for level in [level for level in LEVELS if level < most] + [min(most, LEVELS[-1])]:
        if not look(level):
            break
    if plans:
        best = min(plans, key=lambda plan: _key(ask.objective, plan)).job.concurrency
        for level in (round(best / math.sqrt(2)), round(best * math.sqrt(2))):
            if 1 < level < most and level not in LEVELS:
                look(level)
    return plans, tried, why


def _too_slow(ask: ServeAsk, plan: ServePlan) -> bool:
    """Whether it is late already without waiting for a place: more in flight only makes that later."""
    times = {"ttft": plan.ttft_ms, "tpot": plan.tpot_ms, "itl": plan.tpot_ms, "e2e": plan.request_ms}
    return any(times.get(term.metric, 0.0) > term.limit for term in ask.slo)


def _plan(ask: ServeAsk, job: ServeJob, memory: ServeMemory, time: ServeTime) -> ServePlan:
    """With the fewest replicas that keep the wait; 0 replicas where none do."""
    term = limit_of(ask.slo, "ttft") or limit_of(ask.slo, "e2e")
    percentile = term.percentile if term and term.percentile else 95.0
    request_s = time.request_ms / 1000.0
    spare_s = time.ttft_ms / 1000.0  # nobody said how long a place may be waited for: no longer than for the first token itself
    if term:
        spare_s = (term.limit - (time.ttft_ms if term.metric == "ttft" else time.request_ms)) / 1000.0
    replicas = replicas_needed(ask.rate_per_s, job.concurrency, request_s, spare_s, percentile) if ask.rate_per_s else 1
    least = replicas
    if ask.least_rate_per_s and replicas:
        least = min(replicas, replicas_needed(ask.least_rate_per_s, job.concurrency, request_s, spare_s, percentile))
    rate = ask.rate_per_s or job.concurrency / request_s
    each = rate / max(replicas, 1)
    tok_s = rate * job.output_tokens
    n_devices = replicas * devices_of(job)
    price = ask.usd_per_device_hour.get(job.device.name)
    usd = None if price is None else price * n_devices
    used = memory.weights_bytes + memory.activation_bytes + memory.overhead_bytes
    places = math.ceil(job.concurrency / job.attention_dp / max(1, job.decode_devices // (job.tp * job.pp * job.attention_dp)))
    return ServePlan(
        job=job,
        replicas=replicas,
        n_devices=n_devices,
        ttft_ms=time.ttft_ms,
        tpot_ms=time.tpot_ms,
        request_ms=time.request_ms,
        wait_ms=1000.0 * wait_s(job.concurrency, each, request_s, percentile) if ask.rate_per_s else 0.0,
        percentile=percentile,
        busy=min(1.0, each * request_s / job.concurrency),
        output_tok_s=tok_s,
        usd_per_hour=usd,
        least_replicas=least,
        least_usd_per_hour=None if price is None else price * least * devices_of(job),
        usd_per_million_tokens=None if usd is None else usd / (tok_s * 3600.0) * 1e6,
        j_per_token=job.device.power_w * n_devices / tok_s if job.device.power_w else None,
        headroom_bytes=memory.memory_bytes - used - places * memory.kv_bytes_per_sequence,
        memory=memory,
        to_certify=_to_certify(ask, job),
    )


def _to_certify(ask: ServeAsk, job: ServeJob) -> str:
    proven = (*ask.proven, job.architecture.published_weights)
    new = [f"{job.weights} weights"] if job.weights not in proven else []
    new += [f"{job.kv} KV cache"] if job.kv not in ask.proven else []
    return f"{' and '.join(new)}: {PROOF}" if new else ""


def _broken(ask: ServeAsk, plan: ServePlan) -> str:
    """The first demand that a plan does not keep, in words; "" = it keeps them all."""
    seen = {
        "ttft": plan.ttft_ms + plan.wait_ms,
        "tpot": plan.tpot_ms,
        "itl": plan.tpot_ms,
        "e2e": plan.request_ms + plan.wait_ms,
        "throughput": plan.output_tok_s,
        "memory": plan.memory.memory_bytes - plan.headroom_bytes,
        "energy": plan.j_per_token,
    }
    for term in ask.slo:
        value = seen.get(term.metric)
        if value is not None and (value > term.limit if term.upper else value < term.limit):
            if plan.replicas == 0 and term.metric in ("ttft", "e2e"):
                value = plan.ttft_ms if term.metric == "ttft" else plan.request_ms
            return f"{term.text} is missed: {_amount(term.metric, value)} with {plan.job.concurrency} in flight"
    if plan.replicas == 0:
        return f"no number of replicas answers {ask.rate_per_s:g} requests/s in time with {plan.job.concurrency} in flight"
    if ask.max_devices and plan.n_devices > ask.max_devices:
        return f"needs {plan.n_devices} devices, and at most {ask.max_devices} may be used"
    return ""


def _amount(metric: str, value: float) -> str:
    if metric == "memory":
        return f"{value / 1e9:.1f} GB"
    return f"{value:,.0f} tok/s" if metric == "throughput" else f"{value:.3g} J/token" if metric == "energy" else f"{value:,.1f} ms"


def _key(objective: Objective, plan: ServePlan) -> tuple[float, ...]:
    """Smaller is better. Plans of one price are told apart by devices, then by the time of a request."""
    money = math.inf if plan.usd_per_million_tokens is None else plan.usd_per_million_tokens
    per_token = plan.n_devices / plan.output_tok_s
    first = {
        "money": money,
        "devices": per_token,
        "latency": plan.ttft_ms + plan.wait_ms + plan.tpot_ms * plan.job.output_tokens,
        "throughput": -plan.output_tok_s / devices_of(plan.job),
        "energy": math.inf if plan.j_per_token is None else plan.j_per_token,
    }[objective]
    return (first, per_token, plan.request_ms + plan.wait_ms, -plan.headroom_bytes)


def _front(plans: Sequence[ServePlan], order: Sequence[int]) -> tuple[ServePlan, ...]:
    """Of the best of each layout: not beaten in money, TTFT, TPOT and devices for a token, best first."""
    if not plans:
        return ()
    rows = [
        (
            math.nan if plan.usd_per_million_tokens is None else plan.usd_per_million_tokens,
            plan.ttft_ms + plan.wait_ms,
            plan.tpot_ms,
            plan.n_devices / plan.output_tok_s,
        )
        for plan in plans
    ]
    kept = set(front(np.array(rows)).tolist())
    return tuple(plans[index] for index in order if index in kept)


def _nearest(rejected: Sequence[Rejected]) -> str:
    """Of the largest layout that fits, else of the largest."""
    fitting = [one for one in rejected if not one.why.startswith("needs")] or list(rejected)
    one = max(fitting, key=lambda one: devices_of(one.job))
    return f"{label_of(one.job)} {one.why}."


def label_of(job: ServeJob) -> str:
    """A deployment's layout in words."""
    degrees = [
        f"{name}={value}"
        for name, value in (("tp", job.tp), ("pp", job.pp), ("ep", job.ep), ("attention_dp", job.attention_dp))
        if value > 1
    ]
    split = f" {job.prefill_devices}+{job.decode_devices} devices" if job.prefill_devices else ""
    return f"{job.device.name} {','.join(degrees) or 'tp=1'} {job.weights}{'/' + job.kv if job.kv else ''}{split}"
