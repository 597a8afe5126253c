"""How long a step takes, and what a request sees of it: prefill, decode, mixed batches, and the steady state under a load.

A step is a sum over parts: weights read or multiplied, whichever is slower; the cache read or attended to; collectives; launches and the
scheduler. In a closed loop of c requests, each step of b decoding requests ends b / output_tokens of them on average, and the prompts of
as many new ones are put in between: that inflates TPOT, and TTFT holds the wait for them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from trimtab.core.errors import InputError
from trimtab.core.planning import ServeJob
from trimtab.plan.serving.loads import HALF, cache_of, check, loads_of, multiplied_in, product_flop_s
from trimtab.plan.serving.memory import budget, step_tokens
from trimtab.plan.serving.rates import PEAK, Rates, rates_of

ROUNDS = 30
"""Most that the batch of a closed loop takes to settle; some eight do."""


class StepModel:
    """Seconds of one step of a replica, cheap enough to be asked a million times. Batches and contexts may be floats or arrays.

    InputError for a layout that cannot be or a device whose rates are not known.
    """

    def __init__(self, job: ServeJob, rates: Rates | None = None) -> None:
        check(job)
        self.job, self.rates = job, rates or rates_of(job.engine)
        device, loads, r = job.device, loads_of(job), self.rates
        peak = product_flop_s(job.weights, device) * r.product * (r.four_bit if multiplied_in(job.weights, device) == "fp4" else 1.0)
        half = next((device.peak_flop_s[kind] for kind in HALF if device.peak_flop_s.get(kind)), 0.0)
        if device.memory_bytes_s <= 0:
            raise InputError(
                f"The memory bandwidth of {device.name} is not known, so no time can be said; give it in the hardware catalog."
            )
        if peak <= 0:
            raise InputError(f"No rate of matrix products is known for {device.name}; give one in the hardware catalog.")
        memory = device.memory_bytes_s * r.memory
        self._link = max(_link_bytes_s(job) * r.link, 1.0)
        self._loads = loads
        self._dense_read = loads.dense_bytes / memory
        self._table_read = loads.table_bytes / memory
        self._expert_read = loads.expert_bytes / memory
        self._dense_token = loads.dense_flops / peak
        self._expert_token = loads.expert_flops / peak
        self._table_token = loads.table_flops / (half * r.product or peak)
        self._padding = r.expert_half_tokens * loads.padding
        self._cache_s = 1.0 / (device.memory_bytes_s * r.cache)
        self._attention_s = 1.0 / ((half or peak) * r.attention)
        self._ring = 2.0 * (job.tp - 1) / job.tp * loads.hop_bytes / self._link
        self._send = loads.expert_copies * loads.hop_bytes / self._link if loads.exchanges else 0.0
        hops = (loads.reduces + loads.exchanges) * _hop_s(job, r) + (job.pp - 1) * r.hop_s
        special = loads.moe_layers * r.moe_layer_s + loads.mixer_layers * r.mixer_layer_s + loads.index_layers * r.index_layer_s
        self._launches = loads.n_layers * r.layer_s + special + (job.pp - 1) * r.hop_s
        self._decode_fixed = loads.n_layers * r.layer_s + special + r.step_s + hops
        self._prefill_fixed = loads.n_layers * r.prefill_layer_s + special + r.step_s + hops
        self.mixer_layers = loads.mixer_layers
        self._simple = not loads.read.windows

    def decode_s(self, batch: float, mean_context: float) -> float:
        """One step of `batch` decoding sequences of the replica, each with so many tokens in the cache."""
        share = self._share(batch)
        rank = share / self.job.attention_dp
        return self._linear_s(rank, share, rank) + self._attend_s(rank, mean_context) + self._decode_fixed + self.rates.sequence_s * batch

    def prefill_s(self, tokens: float, context: float = 0.0) -> float:
        """`tokens` new tokens of one sequence that has `context` tokens in the cache, in one step."""
        return self._linear_s(tokens, tokens, 1.0) + self._mix_s(tokens, context) + self._prefill_fixed

    def mixed_s(self, batch: float, mean_context: float, prefill_tokens: float, prompt_tokens: float = 0.0) -> float:
        """One step of a decoding batch that also takes `prefill_tokens` on each rank of attention data parallelism.

        prompt_tokens: of the prompts they are of; 0 = of one that begins and ends in this step
        """
        share = self._share(batch)
        rank = share / self.job.attention_dp
        linear = self._linear_s(rank + prefill_tokens, share + prefill_tokens * self.job.attention_dp, rank + 1.0)
        attend = self._attend_s(rank, mean_context) + self._mix_s(
            prefill_tokens, (prompt_tokens - prefill_tokens) / 2.0 if prompt_tokens else 0.0
        )
        return linear + attend + self._prefill_fixed + self.rates.sequence_s * batch

    def prompt_s(self, tokens: int, context: int = 0) -> float:
        """A whole prompt, chunk by chunk; chunks follow each other through a pipeline."""
        chunk, done, total, last = step_tokens(self.job), 0, 0.0, 0.0
        while done < tokens:
            part = min(chunk, tokens - done)
            last = self.prefill_s(float(part), float(context + done))
            total += last
            done += part
        return last + (total - last) / self.job.pp

    def _share(self, batch: float) -> float:
        """Sequences that pass a pipeline's stage together."""
        return batch if self.job.pp == 1 else 1.0 + _over(batch / self.job.pp, 1.0)

    def decode_parts(self, batch: float, mean_context: float) -> Mapping[str, float]:
        """Seconds by part of a decode step; their sum is `decode_s`."""
        share = self._share(batch)
        rank = share / self.job.attention_dp
        weights, experts, sent = self._linear_parts(rank, share, rank)
        return {
            "weights": weights,
            "experts": experts,
            "collectives": sent + (self._loads.reduces + self._loads.exchanges) * _hop_s(self.job, self.rates),
            "cache": self._attend_s(rank, mean_context),
            "launches": self._launches,
            "scheduler": self.rates.step_s + self.rates.sequence_s * batch,
        }

    def _linear_parts(self, rank: float, share: float, sampled: float) -> tuple[float, float, float]:
        half = self.rates.half_tokens
        weights = _slower(self._dense_read, self._dense_token * (rank + half)) + _slower(
            self._table_read, self._table_token * (sampled + half)
        )
        experts = 0.0
        if self._expert_read:
            touched = 1.0 - self._loads.untouched**share
            experts = _slower(self._expert_read * touched, self._expert_token * (share + self._padding * touched))
        return weights, experts, self._loads.reduces * self._ring * rank + self._loads.exchanges * self._send * rank

    def _linear_s(self, rank: float, share: float, sampled: float) -> float:
        weights, experts, sent = self._linear_parts(rank, share, sampled)
        return weights + experts + sent

    def _attend_s(self, rank: float, context: float) -> float:
        """Every sequence of a rank against its cache."""
        loads = self._loads
        if self._simple:
            size, flops = loads.read.full * context + loads.read.state, context * sum(pair for _, pair in loads.absorbed)
        else:
            size = loads.read.full * context + loads.read.state + sum(s * _least(context, w) for w, s in loads.read.windows)
            flops = sum(pair * (_least(context, w) if w else context) for w, pair in loads.absorbed)
        return _slower(rank * size * self._cache_s, rank * (flops + loads.state_flops) * self._attention_s)

    def _mix_s(self, tokens: float, context: float) -> float:
        """New tokens against what stands before them, and each other."""
        seen, flops = context + tokens / 2.0, 0.0
        for window, pair in self._loads.pairs:
            flops += pair * (_least(seen, window) if window else seen)
        return tokens * (flops + self._loads.state_flops) * self._attention_s


def _slower(first: float, second: float) -> float:
    """The larger of two, rounded where they meet: neither overlaps perfectly."""
    a, b = first * first, second * second
    return float((a * a + b * b) ** 0.25) if isinstance(a, float) and isinstance(b, float) else (a * a + b * b) ** 0.25


def _over(value: float, limit: float) -> float:
    return (value - limit) * (value > limit)


def _least(context: float, window: float) -> float:
    if isinstance(context, float | int):
        return context if context < window else window
    return context - _over(context, window)


def _spans_nodes(job: ServeJob) -> bool:
    return max(job.tp, job.ep, job.tp * job.attention_dp if job.ep > 1 else 1) > max(1, job.device.devices_per_node)


def _link_bytes_s(job: ServeJob) -> float:
    device = job.device
    inside = device.link_bytes_s or device.host_link_bytes_s
    return (device.network_bytes_s or inside / 8) if _spans_nodes(job) else inside


def _hop_s(job: ServeJob, rates: Rates) -> float:
    return rates.hop_s * (3.0 if _spans_nodes(job) else 1.0)


@dataclass(frozen=True, kw_only=True)
class ServeTime:
    """A replica in its steady state under the job's load.

    ttft_ms, tpot_ms: means over requests; batch: requests that decode at once; waiting: requests that queue or prefill
    request_ms: from sent to the last token
    prefill_ms, decode_ms: of one prompt, and of one step without prompts in between, alone
    output_tok_s: of the replica; prefill_tok_s: of one prompt alone; prefill_share: of time spent on prompts
    """

    ttft_ms: float
    tpot_ms: float
    request_ms: float
    batch: float
    waiting: float
    prefill_ms: float
    decode_ms: float
    output_tok_s: float
    prefill_tok_s: float
    prefill_share: float


def tokens_per_step(job: ServeJob) -> float:
    """Of one sequence: 1, or with speculative decoding the accepted drafts and one more."""
    if not job.draft_tokens:
        return 1.0
    rate = job.accept_rate
    return job.draft_tokens + 1.0 if rate >= 1 else (1.0 - rate ** (job.draft_tokens + 1)) / (1.0 - rate)


def predict(job: ServeJob, rates: Rates | None = None, *, most: int = 0) -> ServeTime:
    """The steady state of a closed loop of `concurrency` requests. InputError as `StepModel`, and where nothing fits.

    A cache holds as many requests as it does at their mean length, half of the output written; what exceeds it waits.
    most: requests that the caches are known to hold at once, where that is known better than `memory.budget` says
    """
    memory = budget(job)
    if not memory.fits and not most:
        raise InputError(
            f"{job.architecture.name} in {job.weights} with {memory.context_tokens:,} tokens does not fit {job.device.name} laid out as "
            f"tp={job.tp}, pp={job.pp}: {memory.total_bytes / 1e9:.1f} GB a device of {memory.memory_bytes / 1e9:.1f} GB."
        )
    most = most or max(memory.max_concurrency, budget(job, context_tokens=_mean_context(job)).max_concurrency)
    if job.prefill_devices or job.decode_devices:
        return _disaggregated(job, most, rates)
    return _aggregated(job, most, StepModel(job, rates))


def _mean_context(job: ServeJob) -> int:
    return job.prompt_tokens + (job.output_tokens + 1) // 2


def speed_of_light(job: ServeJob) -> ServeTime:
    """The same at peak rates with no overhead: what nothing can beat."""
    return predict(job, PEAK)


def _decode_s(model: StepModel, batch: float, context: float) -> float:
    """Seconds a token of one sequence, drafts verified in one step as a wider batch."""
    job = model.job
    if not job.draft_tokens:
        return model.decode_s(batch, context)
    return model.decode_s(batch * (job.draft_tokens + 1.0), context / (job.draft_tokens + 1.0)) / tokens_per_step(job)


def _aggregated(job: ServeJob, most: int, model: StepModel) -> ServeTime:
    prompt, ahead = job.prompt_tokens - job.cached_prompt_tokens, job.cached_prompt_tokens
    context, held = job.prompt_tokens + job.output_tokens / 2.0, float(min(job.concurrency, most))
    alone = model.prompt_s(max(1, prompt), ahead)
    ranks = float(job.attention_dp * job.pp)

    def at(batch: float) -> tuple[float, float, float]:
        decode = _decode_s(model, batch, context)
        others = max(0.0, batch - 1.0) / ranks / job.output_tokens * max(1, prompt) * tokens_per_step(job)
        tpot, full = _with_prompts(model, batch, context, decode, others, float(max(1, prompt)))
        first = _first_token_s(model, alone, decode, max(0.0, held - 1.0) / ranks)
        return max(first, held / ranks * max(1, prompt) * full - tpot * job.output_tokens), tpot, decode

    batch = _settled(lambda batch: at(batch)[:2], held, job.output_tokens)
    ttft, tpot, decode = at(batch)
    return _steady(job, held=held, batch=batch, ttft=ttft, tpot=tpot, alone=alone, decode=decode, prompt=max(1, prompt))


def _settled(times: Callable[[float], tuple[float, float]], held: float, output_tokens: int) -> float:
    """The batch that keeps itself: of `held` requests those decode whose first token (first of `times`) is out. By the Illinois rule."""

    def excess(batch: float) -> float:
        ttft, tpot = times(batch)
        return held * tpot * output_tokens / (tpot * output_tokens + ttft) - batch

    low, high = min(1.0, held), held
    below, above = excess(low), excess(high)
    if below <= 0:
        return low
    for _ in range(ROUNDS):
        middle = (low * above - high * below) / (above - below)
        found = excess(middle)
        if abs(found) < 1e-9 * held:
            return middle
        if found > 0:
            low, below, above = middle, found, above / 2
        else:
            high, above, below = middle, found, below / 2
    return middle


def _first_token_s(model: StepModel, alone: float, decode: float, others: float) -> float:
    """As a client sees it, with so many others a rank."""
    rates = model.rates
    own = alone * rates.prompt + model.mixer_layers * rates.prompt_mixer_s
    return own * (1.0 + rates.wave * float(others**rates.wave_power)) + rates.request_s + rates.stream_steps * decode


def _with_prompts(model: StepModel, batch: float, context: float, decode: float, tokens: float, prompt: float) -> tuple[float, float]:
    """Seconds a token when each decode step must also take so many prompt tokens a rank, and of one of these when every step takes them.

    Fewer than a chunk: some of the steps take a whole chunk. More: each takes them all.
    """
    size = max(min(prompt, float(step_tokens(model.job))), tokens)
    mixed = model.mixed_s(batch, context, size, prompt)
    added = max(0.0, mixed - model.decode_s(batch, context))
    return decode + min(1.0, tokens / size) * added / tokens_per_step(model.job), mixed / size


def _disaggregated(job: ServeJob, most: int, rates: Rates | None) -> ServeTime:
    """A pool of workers prefills, a pool decodes, the cache goes over the network between. Work waits at the slower pool."""
    before = replace(
        job,
        tp=job.prefill_tp or job.tp,
        ep=job.prefill_ep or job.ep,
        attention_dp=job.prefill_attention_dp or job.attention_dp,
        prefill_devices=0,
        decode_devices=0,
    )
    first, model = StepModel(before, rates), StepModel(job, rates)
    prefillers = max(1.0, job.prefill_devices / (before.tp * before.pp * before.attention_dp)) * before.attention_dp * before.pp
    decoders = max(1.0, job.decode_devices / (job.tp * job.pp * job.attention_dp))
    prompt, context = max(1, job.prompt_tokens - job.cached_prompt_tokens), job.prompt_tokens + job.output_tokens / 2.0
    alone = first.prompt_s(prompt, job.cached_prompt_tokens)
    cache = cache_of(job.architecture, tp=job.tp, kv=job.kv).bytes_at(job.prompt_tokens)
    transfer = cache / max(1.0, (job.device.network_bytes_s or job.device.link_bytes_s or job.device.host_link_bytes_s) * model.rates.link)
    held = min(float(job.concurrency), most * decoders + prefillers)

    def at(batch: float) -> tuple[float, float]:
        decode = _decode_s(model, max(1.0, batch / decoders), context)
        base = transfer + _first_token_s(first, alone, decode, max(0.0, held / prefillers - 1.0))
        return max(base, held * alone / prefillers - decode * job.output_tokens), decode

    batch = _settled(at, held, job.output_tokens)
    ttft, decode = at(batch)
    return _steady(job, held=held, batch=batch, ttft=ttft, tpot=decode, alone=alone, decode=decode, prompt=prompt)


def _steady(job: ServeJob, *, held: float, batch: float, ttft: float, tpot: float, alone: float, decode: float, prompt: int) -> ServeTime:
    """What exceeds the cache waits until a request ahead of it ends."""
    rate = held / (ttft + tpot * job.output_tokens)
    queue = (job.concurrency - held) / rate
    return ServeTime(
        ttft_ms=1000.0 * (ttft + queue),
        tpot_ms=1000.0 * tpot,
        request_ms=1000.0 * (ttft + queue + tpot * job.output_tokens),
        batch=batch,
        waiting=job.concurrency - batch,
        prefill_ms=1000.0 * alone,
        decode_ms=1000.0 * decode,
        output_tok_s=rate * job.output_tokens,
        prefill_tok_s=prompt / alone,
        prefill_share=1.0 - decode / tpot,
    )
