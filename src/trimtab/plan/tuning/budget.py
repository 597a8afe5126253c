"""How a run's time is shared out, from how fast the reference was found to score."""

import math
from dataclasses import dataclass

from trimtab.core.errors import InputError

DEFAULT_LIMIT_S = 360.0
LEAST_LIMIT_S = 30.0

BUILD_SHARE, SCREEN_SHARE, TIMING_SHARE, CERTIFY_SHARE, GENERATE_SHARE = 0.10, 0.08, 0.44, 0.30, 0.06

WANTED_TOKENS = 30_000
NEEDED_TOKENS = 15_000
"""Fewer certify tokens than this leave the shipped suites too small for their margins."""
SCREEN_TOKENS = 4_000
LEAST_SCREEN_TOKENS = 256
MOST_SCREEN_SHARE = 0.25
GENERATE_TOKENS = 4_000
LEAST_GENERATE_TOKENS = 512
"""Twice what the parity probe needs at least."""
OPEN_S = 2.0
"""Opening one deployment to screen it."""
LEAST_TIMING_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Seconds and tokens of one search.

    n_candidates: how many may be built and screened; the least promising beyond that are left out
    build_s: making their weights; screen_s: reference and candidates on few items
    timing_s_per_entrant, n_entrants: the interleaved session, baseline included
    certify_s: full gates on the winner, with the reference and the positive controls; generate_s: parity probe and free generation
    reserve_s: what no step is promised
    screen_tokens: scored by each candidate and by the reference; certify_tokens: of one side; generate_tokens: of all in all
    warning: why the answer may be inconclusive, and the time limit that would do; empty if all is well
    """

    total_s: float
    n_candidates: int
    build_s: float
    screen_s: float
    timing_s_per_entrant: float
    n_entrants: int
    certify_s: float
    generate_s: float
    reserve_s: float
    screen_tokens: int
    certify_tokens: int
    generate_tokens: int
    warning: str = ""

    @property
    def reference_tokens(self) -> int:
        """Tokens that the reference scores in the whole run."""
        return self.screen_tokens + self.certify_tokens

    def lines(self) -> tuple[str, ...]:
        """The plan, one step a line, for people."""
        rows = (
            f"build the candidates          {self.build_s:5.0f} s   at most {self.n_candidates}",
            f"screen on few items           {self.screen_s:5.0f} s   {self.screen_tokens:,} tokens each",
            f"time against the baseline     {self.timing_s_per_entrant * self.n_entrants:5.0f} s   "
            f"{self.timing_s_per_entrant:.0f} s for each of {self.n_entrants}",
            f"certify the winner            {self.certify_s:5.0f} s   {self.certify_tokens:,} tokens a side",
            f"generate through the server   {self.generate_s:5.0f} s   {self.generate_tokens:,} tokens",
            f"in all at most                {self.total_s:5.0f} s",
        )
        return (*rows, self.warning) if self.warning else rows


def plan_budget(
    time_limit_s: float = DEFAULT_LIMIT_S, *, score_tok_s: float, n_candidates: int, n_finalists: int = 3, certify_passes: float = 2.0
) -> Budget:
    """Share out `time_limit_s`. What certifying and screening do not need goes to timing.

    score_tok_s: measured scoring rate of the reference, tokens per second
    n_candidates: to be screened; n_finalists: to be timed beside the baseline, fewer if each would get under 10 s
    certify_passes: how often the certify tokens are scored in all (reference, candidate, controls), in passes at the reference's rate

    Raises InputError for a limit under 30 s, or for a rate that is not above 0.
    """
    if not time_limit_s >= LEAST_LIMIT_S:
        raise InputError(f"A search needs at least {LEAST_LIMIT_S:g} s, not {time_limit_s:g}; give a longer --time-limit.")
    if not score_tok_s > 0:
        raise InputError(f"The reference's scoring rate must be above 0 tokens per second, not {score_tok_s:g}.")
    affordable = int(CERTIFY_SHARE * time_limit_s * score_tok_s / certify_passes)
    certify_tokens = min(WANTED_TOKENS, affordable)
    certify_s = certify_tokens * certify_passes / score_tok_s
    n_candidates, screen_tokens = _screen(time_limit_s, score_tok_s, n_candidates)
    screen_s = (n_candidates + 1) * (OPEN_S + screen_tokens / score_tok_s)
    build_s, generate_s = BUILD_SHARE * time_limit_s, GENERATE_SHARE * time_limit_s
    reserve_s = (1 - BUILD_SHARE - SCREEN_SHARE - TIMING_SHARE - CERTIFY_SHARE - GENERATE_SHARE) * time_limit_s
    timing_s = max(0.0, time_limit_s - build_s - screen_s - certify_s - generate_s - reserve_s)
    n_entrants = max(2, min(n_finalists + 1, n_candidates + 1, int(timing_s / LEAST_TIMING_S)))
    return Budget(
        total_s=time_limit_s,
        n_candidates=n_candidates,
        build_s=build_s,
        screen_s=screen_s,
        timing_s_per_entrant=timing_s / n_entrants,
        n_entrants=n_entrants,
        certify_s=certify_s,
        generate_s=generate_s,
        reserve_s=reserve_s,
        screen_tokens=screen_tokens,
        certify_tokens=certify_tokens,
        generate_tokens=int(min(GENERATE_TOKENS, max(LEAST_GENERATE_TOKENS, GENERATE_TOKENS * time_limit_s / DEFAULT_LIMIT_S))),
        warning=_warning(certify_tokens, score_tok_s, certify_passes),
    )


def _screen(time_limit_s: float, score_tok_s: float, n_candidates: int) -> tuple[int, int]:
    """(candidates to screen, tokens of each). Fewer tokens first, down to 256; then fewer candidates; the reference is screened with."""
    most_s = MOST_SCREEN_SHARE * time_limit_s
    n = max(1, min(n_candidates, int(most_s / (OPEN_S + LEAST_SCREEN_TOKENS / score_tok_s)) - 1))
    affordable = int((SCREEN_SHARE * time_limit_s / (n + 1) - OPEN_S) * score_tok_s)
    ceiling = int((most_s / (n + 1) - OPEN_S) * score_tok_s)
    return n, min(SCREEN_TOKENS, ceiling, max(LEAST_SCREEN_TOKENS, affordable))


def _warning(certify_tokens: int, score_tok_s: float, certify_passes: float) -> str:
    if certify_tokens >= NEEDED_TOKENS:
        return ""
    needed_s = NEEDED_TOKENS * certify_passes / score_tok_s / CERTIFY_SHARE
    return (
        f"At {score_tok_s:,.0f} tokens per second only {certify_tokens:,} tokens can be scored to certify, "
        f"so the answer may be inconclusive; --time-limit {math.ceil(needed_s / 60)}m would do."
    )
