"""What guards say: findings in a text, and what became of the text because of them."""

from dataclasses import dataclass
from typing import Literal

Side = Literal["in", "out"]
Action = Literal["allow", "flag", "redact", "block"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One place in a text that a rule matched.

    rule: such as `email` or `injection.override`
    start, end: characters of the text, end exclusive; the whole text where no place can be named
    reason: one phrase a person can check the finding by; it never repeats the matched text
    score: certainty between 0 and 1, 1 for rules that know
    replacement: what redacting puts there, such as `[EMAIL]`
    """

    rule: str
    start: int
    end: int
    reason: str
    score: float = 1.0
    replacement: str = "[REDACTED]"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one guard decided on one text.

    action: the strongest thing that its findings led to; `allow` where it found nothing
    took_ms: wall time of the guard; error: why it could not judge, empty if it did
    text: which of the texts given, from 0
    """

    guard: str
    side: Side
    action: Action
    findings: tuple[Finding, ...] = ()
    took_ms: float = 0.0
    error: str = ""
    text: int = 0
