"""The contract every guard meets: a text in, findings out; no state between calls.

What findings lead to (flag, redact, block), what happens when a guard fails, and how a stream is cut is the pipeline's affair
(`guard/pipeline.py`). `testing/guard_contract.py` checks a guard. One instance serves all requests of a route, from several threads.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from trimtab.core.errors import InputError, MissingError, TrimtabError
from trimtab.core.guarding import Finding, Side

CONTRACT_VERSION = 1
LIMIT_CHARS = 100_000  # texts up to this length must be judged within the time limit


class GuardFailed(TrimtabError):
    """A guard could not judge a text: its server did not answer, its answer cannot be read. The route's `on_error` says what follows."""


class Guard(ABC):
    """One guard on one side of one route.

    name: as written in a site's file
    sides: which texts it can judge: requests (`in`), answers (`out`)
    reach_chars: a finding spans at most so many characters, and what stands further back than that from the end of a text can no longer
        be part of one. None: it judges a text as a whole, and a stream is shown to it again and again from the beginning
    stride_chars: (of a guard without reach) after how many new characters of a stream it looks again, up to four times as many in long
        ones; text goes out after it was looked at
    waits: it asks something outside this process; the gateway then calls it off its event loop, and it reads texts already redacted
    contract_version: what it was written for, as a plain number
    """

    contract_version: ClassVar[int] = CONTRACT_VERSION
    name: ClassVar[str]
    sides: ClassVar[frozenset[Side]] = frozenset({"in", "out"})
    waits: ClassVar[bool] = False
    reach_chars: int | None = None
    stride_chars: int = 400

    def __init__(self, options: Mapping[str, Any], *, side: Side, time_limit_s: float) -> None:
        """Open it. Raises InputError for options it does not know or cannot use, MissingError for a library that is not installed."""
        self.side: Side = side
        self.time_limit_s = time_limit_s

    @abstractmethod
    def check(self, text: str, start: int = 0) -> tuple[Finding, ...]:
        """Findings that begin at `start` or later, in any order; what stands before it has been judged and is there to be looked back at.

        Raises GuardFailed, or TimeoutError where it notices that `time_limit_s` is over.
        """

    def open_from(self, text: str, start: int = 0) -> int:
        """Where the part of `text` begins that must be held back in a stream, because more text could make or change a finding there.

        What stands between `start` and it is final: `check` on any longer text finds the same there. At least `start`. Called only for
        guards with reach.
        """
        return max(start, len(text) - (self.reach_chars or 0))


def scaled_limit_s(time_limit_s: float, text: str) -> float:
    """A guard's time limit for this text: as given up to LIMIT_CHARS, beyond in proportion."""
    return time_limit_s * max(1.0, len(text) / LIMIT_CHARS)


def check_options(name: str, options: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises InputError for an option that the guard `name` does not have."""
    foreign = sorted(set(options) - set(known))
    if foreign:
        has = f"it has {', '.join(sorted(known))}" if known else "it has none"
        raise InputError(f"Guard {name!r} has no option {foreign[0]!r}; {has}.")


def number_option(name: str, options: Mapping[str, Any], key: str, default: float, low: float, high: float) -> float:
    """An option that is a number between low and high. Raises InputError if it is not."""
    value = options.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise InputError(f"Option {key!r} of guard {name!r} must be a number from {low:g} to {high:g}, not {value!r}.")
    return value


def text_option(name: str, options: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """An option that is a text. Raises InputError if it is not, or if it is missing and has no default."""
    value = options.get(key, default)
    if not isinstance(value, str) or not value:
        raise InputError(f"Guard {name!r} needs the option {key!r}, a text.")
    return value


def texts_option(name: str, options: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """An option that is a list of texts, () where it is not given. Raises InputError if it is something else."""
    value = options.get(key, ())
    if isinstance(value, str) or not isinstance(value, (list, tuple)) or not all(isinstance(one, str) and one for one in value):
        raise InputError(f"Option {key!r} of guard {name!r} must be a list of texts, not {value!r}.")
    return tuple(value)


def missing(name: str, package: str, fix: str) -> MissingError:
    """What a guard raises whose library is not installed."""
    return MissingError(f"Guard {name!r} needs the package {package}, which is not installed.", fix)
