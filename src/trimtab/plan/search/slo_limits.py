"""Demands that no deployment of what was named can keep, found before anything is searched: below the speed of light, or above the rate."""

from collections.abc import Sequence

from trimtab.core.errors import InputError
from trimtab.core.planning import ServeJob
from trimtab.core.workload import SloTerm
from trimtab.plan.operators import active_weight_bytes, attention_flops, matmul_flops, weight_bytes

KNOWN = ("ttft", "tpot", "itl", "e2e", "throughput", "memory", "energy")


def limit_of(slo: Sequence[SloTerm], metric: str) -> SloTerm | None:
    """The tightest term on a metric."""
    return min((term for term in slo if term.metric == metric), key=lambda term: term.limit, default=None)


def check_slo(slo: Sequence[SloTerm], jobs: Sequence[ServeJob], rate_per_s: float) -> None:
    """Raises InputError, with the demand and what is the least, for the first term that nothing named can keep."""
    first = jobs[0]
    for term in slo:
        if term.metric not in KNOWN:
            raise InputError(f"--slo: {term.text!r} cannot be planned for; a plan knows {', '.join(KNOWN)}.")
    least_ttft, least_tpot = min(map(least_ttft_ms, jobs)), min(map(least_tpot_ms, jobs))
    least = {"ttft": least_ttft, "tpot": least_tpot, "itl": least_tpot, "e2e": least_ttft + least_tpot * (first.output_tokens - 1)}
    for term in slo:
        bound = least.get(term.metric)
        if bound is not None and term.limit < bound:
            raise InputError(
                f"--slo: {term.text!r} is below the speed of light: at peak rates, {_names(jobs)} takes {bound:.3g} ms in its fastest "
                f"layout for {first.architecture.name} ({first.prompt_tokens} prompt and {first.output_tokens} output tokens)."
            )
        if term.metric == "throughput" and rate_per_s and term.limit > rate_per_s * first.output_tokens:
            raise InputError(
                f"--slo: {term.text!r} is more than comes in: {rate_per_s:g} requests/s of {first.output_tokens} output tokens are "
                f"{rate_per_s * first.output_tokens:,.0f} tok/s; lower it or raise --rate."
            )
        if term.metric == "memory":
            smallest = min(weight_bytes(job.architecture, job.weights) / (job.tp * job.pp * job.attention_dp) for job in jobs)
            if term.limit < smallest:
                raise InputError(
                    f"--slo: {term.text!r} is below the weights alone, of which every device holds {smallest / 1e9:.1f} GB at least."
                )


def least_ttft_ms(job: ServeJob) -> float:
    """Of a prompt that is alone, at the peak rate of all ranks that work on it together."""
    peak = max(job.device.peak_flop_s.values(), default=0.0)
    new = max(1, job.prompt_tokens - job.cached_prompt_tokens)
    flops = matmul_flops(job.architecture) * (new - 1) + float(attention_flops(job.architecture, new, job.prompt_tokens))
    return 1000.0 * flops / (peak * job.tp * job.attention_dp) if peak else 0.0


def least_tpot_ms(job: ServeJob) -> float:
    """Of a sequence that is alone: the weights that a token needs, read once at the memory's rate. Accepted drafts share one reading."""
    rate = job.device.memory_bytes_s * job.tp * job.attention_dp
    read = float(active_weight_bytes(job.architecture, job.weights, 1))
    return 1000.0 * read / rate / (job.draft_tokens + 1) if rate else 0.0


def _names(jobs: Sequence[ServeJob]) -> str:
    names = list(dict.fromkeys(job.device.name for job in jobs))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
