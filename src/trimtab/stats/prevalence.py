"""A true rate from the verdicts of a judge that errs: how often a model refuses, counted by a classifier or another model.

Estimator: Rogan & Gladen (Am. J. Epidemiol. 107(1), 1978). Interval: Lang & Reiczigel (Prev. Vet. Med. 113(1), 2014), which carries the
uncertainty of the judge's own sensitivity and specificity, each known from labelled cases only. Change between two runs on the same cases:
the judge's errors cancel where it errs alike on both, what is left is divided by sensitivity + specificity - 1 (its Youden index), with
the paired counts adjusted as by Agresti & Min (Stat. Med. 24(5), 2005) and the ratio's variance by the delta method.
"""

from dataclasses import dataclass
from math import sqrt

from scipy.special import ndtri

from trimtab.core.errors import InputError
from trimtab.core.measurement import Interval


@dataclass(frozen=True, kw_only=True)
class JudgeRecord:
    """What a judge said of cases whose truth is known: of `positives` it found `found`, of `negatives` it cleared `cleared`.

    Fractions are effective numbers: cases that resemble each other count for fewer than they are.
    """

    positives: float
    found: float
    negatives: float
    cleared: float

    @property
    def sensitivity(self) -> float:
        return self.found / self.positives

    @property
    def specificity(self) -> float:
        return self.cleared / self.negatives


def corrected_rate(flagged: int, n: int, judge: JudgeRecord, confidence: float) -> Interval:
    """True share of positives among n independent cases of which the judge flagged `flagged`, kept within 0..1.

    Raises InputError for impossible counts, or a judge that is no better than chance.
    """
    if n < 1 or not 0 <= flagged <= n:
        raise InputError(f"A judged rate needs 0 <= flagged <= n and n >= 1, not {flagged} of {n}.")
    _check(judge)
    z = float(ndtri((1.0 + confidence) / 2.0))
    value = (flagged / n + judge.specificity - 1.0) / (judge.sensitivity + judge.specificity - 1.0)
    size = n + z * z
    seen = (flagged + z * z / 2.0) / size
    (found, found_var), (cleared, cleared_var) = _adjusted(judge.found, judge.positives), _adjusted(judge.cleared, judge.negatives)
    youden = found + cleared - 1.0
    rate = (seen + cleared - 1.0) / youden
    shift = 2.0 * z * z * (rate * found_var - (1.0 - rate) * cleared_var)
    reach = z * sqrt(seen * (1.0 - seen) / size + rate**2 * found_var + (1.0 - rate) ** 2 * cleared_var) / youden
    value, low, high = (min(1.0, max(0.0, end)) for end in (value, rate + shift - reach, rate + shift + reach))
    return Interval(value=value, low=min(low, value), high=max(high, value), n=n)


def corrected_change(gained: int, lost: int, n: int, judge: JudgeRecord, confidence: float) -> Interval:
    """True change of a share between two runs on n cases: `gained` are flagged only in the second run, `lost` only in the first.

    Assumption: the judge errs equally often on both runs' answers. Raises InputError as `corrected_rate` does.
    """
    if n < 1 or min(gained, lost) < 0 or gained + lost > n:
        raise InputError(f"{gained} gained and {lost} lost cases do not fit into {n}.")
    _check(judge)
    z = float(ndtri((1.0 + confidence) / 2.0))
    (found, found_var), (cleared, cleared_var) = _adjusted(judge.found, judge.positives), _adjusted(judge.cleared, judge.negatives)
    youden = found + cleared - 1.0
    size = n + 2.0  # one half in each of the four cells
    seen = (gained - lost) / size
    change = seen / youden
    seen_var = ((gained + lost + 1.0) / size - seen**2) / size
    reach = z * sqrt(seen_var + change**2 * (found_var + cleared_var)) / youden
    value = (gained - lost) / n / (judge.sensitivity + judge.specificity - 1.0)
    value, low, high = (min(1.0, max(-1.0, end)) for end in (value, change - reach, change + reach))
    return Interval(value=value, low=min(low, value), high=max(high, value), n=n)


def _adjusted(hits: float, n: float) -> tuple[float, float]:
    """A share with one case added on each side, and its variance."""
    share = (hits + 1.0) / (n + 2.0)
    return share, share * (1.0 - share) / (n + 2.0)


def _check(judge: JudgeRecord) -> None:
    if not (0 <= judge.found <= judge.positives and 0 <= judge.cleared <= judge.negatives and min(judge.positives, judge.negatives) > 0):
        raise InputError(f"A judge's record needs cases of both kinds and counts that fit, not {judge}.")
    if judge.sensitivity + judge.specificity <= 1.0 or _adjusted(judge.found, judge.positives)[0] <= (
        1.0 - _adjusted(judge.cleared, judge.negatives)[0]
    ):
        raise InputError(
            f"This judge is no better than chance (sensitivity {judge.sensitivity:.2f}, specificity {judge.specificity:.2f}); "
            "nothing can be corrected by it."
        )
