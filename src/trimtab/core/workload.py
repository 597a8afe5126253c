"""What is asked of a deployment: requests, how they arrive, what is demanded of the answers, and what is to be best."""

from dataclasses import dataclass
from typing import Literal

Objective = Literal["latency", "throughput", "memory", "energy", "cost"]
OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput", "memory", "energy", "cost")


@dataclass(frozen=True, kw_only=True)
class WorkloadRequest:
    """One request of a user's own prompts or of a trace.

    prompt_tokens: 0 = as many as `messages` come to in the model's template
    output_tokens: asked for
    arrival_s: seconds after the first request of the trace; None = whenever a user is free
    messages: (role, text) pairs; () = text is made up to prompt_tokens
    """

    prompt_tokens: int
    output_tokens: int
    arrival_s: float | None = None
    messages: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Prompt and output lengths and how many requests are in flight. One TOML each in catalog/workloads.

    prompt_tokens, output_tokens: per request; with `requests` their medians, for predictions
    concurrency: levels to time, each a closed loop with that many requests in flight
    shared_prefix_tokens: of prompt_tokens, how many at the start are the same in all requests (system prompt, tools)
    requests: the user's own or a trace's; () = all alike
    most_tokens: prompt and output of the longest request; 0 = prompt_tokens + output_tokens
    """

    name: str
    prompt_tokens: int
    output_tokens: int
    concurrency: tuple[int, ...]
    title: str = ""
    shared_prefix_tokens: int = 0
    requests: tuple[WorkloadRequest, ...] = ()
    most_tokens: int = 0

    @property
    def context_tokens(self) -> int:
        return self.most_tokens or self.prompt_tokens + self.output_tokens


@dataclass(frozen=True, kw_only=True)
class SloTerm:
    """One demand, e.g. `ttft_p95<400ms`.

    metric: ttft, tpot, itl, e2e, throughput, memory, cold_start, load, energy
    percentile: of a latency's distribution over requests (itl: over gaps), None for the others
    limit: in the metric's unit (ms; tok/s; bytes; ms; s; J per token); text: as the user wrote it
    upper: the limit must not be exceeded (False: must be reached)
    """

    metric: str
    percentile: float | None
    limit: float
    upper: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class WhatIf:
    """Another question to what a run has measured, e.g. `memory<512MiB,concurrency=4`.

    terms: take the place of the run's demands on the same metric and percentile; its other demands stay
    concurrency: the only number in flight that counts; None = all that were measured
    objective: what is to be best; None = as in the run
    text: as the user wrote it
    """

    terms: tuple[SloTerm, ...] = ()
    concurrency: int | None = None
    objective: Objective | None = None
    text: str
