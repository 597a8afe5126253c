"""What is asked of a deployment."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Prompt and output lengths and how many requests are in flight. One TOML each in catalog/workloads.

    prompt_tokens, output_tokens: per request
    concurrency: levels to time, each a closed loop with that many requests in flight
    """

    name: str
    prompt_tokens: int
    output_tokens: int
    concurrency: tuple[int, ...]
    title: str = ""

    @property
    def context_tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens
