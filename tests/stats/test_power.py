import math

import numpy as np
import pytest
from scipy.special import nctdtr, stdtrit

from trimtab.stats.paired import clustered_mean
from trimtab.stats.power import detectable_change, joint_power, power_all_groups, power_equivalence, power_non_inferiority


def passes(rng: np.random.Generator, n: int, sd: float, change: float, margin: float, alpha: float) -> tuple[bool, bool]:
    mean = clustered_mean(rng.normal(change, sd, n), range(n))
    return mean.lower(alpha) > -margin, mean.lower(alpha) > -margin and mean.upper(alpha) < margin


@pytest.mark.slow
@pytest.mark.parametrize("change", [0.0, -0.02, -0.05])
def test_predicted_power_is_what_happens(change: float) -> None:
    rng = np.random.default_rng(5)
    n, sd, margin, alpha, runs = 30, 0.12, 0.05, 0.05 / 3, 4000
    found = np.mean([passes(rng, n, sd, change, margin, alpha) for _ in range(runs)], axis=0)
    given = {"margin": margin, "se": sd / math.sqrt(n), "df": n - 1.0, "alpha": alpha, "change": change}
    assert power_non_inferiority(**given) == pytest.approx(found[0], abs=0.025)
    assert power_equivalence(**given) <= found[1] + 0.025


def test_power_at_the_margin_is_alpha() -> None:
    assert power_non_inferiority(margin=0.05, se=0.02, df=20, alpha=0.0167, change=-0.05) == pytest.approx(0.0167, abs=1e-4)


def test_power_grows_with_margin_and_reaches_one() -> None:
    powers = [power_non_inferiority(margin=margin, se=0.02, df=40, alpha=0.0167) for margin in (0.02, 0.05, 0.08, 0.3, 3.0)]
    assert powers == sorted(powers)
    assert powers[-1] == 1.0
    assert power_non_inferiority(margin=0.05, se=0.0, df=9, alpha=0.01) == 1.0
    assert power_equivalence(margin=0.05, se=0.0, df=9, alpha=0.01, change=0.06) == 0.0


def test_infinite_spread_has_no_power() -> None:
    assert power_non_inferiority(margin=0.05, se=math.inf, df=1, alpha=0.0167) == pytest.approx(0.0167, abs=1e-3)
    assert detectable_change(se=math.inf, df=1, alpha=0.0167, power=0.8) == math.inf


def test_detectable_change_is_the_margin_with_that_power() -> None:
    se, df, alpha = 0.013, 59.0, 0.05 / 3
    margin = detectable_change(se=se, df=df, alpha=alpha, power=0.8)
    assert power_non_inferiority(margin=margin, se=se, df=df, alpha=alpha) == pytest.approx(0.8, abs=0.005)
    assert 1 - nctdtr(df, margin / se, stdtrit(df, 1 - alpha)) == pytest.approx(0.8, abs=0.005)


def test_all_groups_together() -> None:
    rng = np.random.default_rng(2)
    raw = rng.normal(0.0, 0.3, (70, 5))
    contrasts = raw - raw.mean(axis=1, keepdims=True)
    one = power_equivalence(margin=0.12, se=float(contrasts[:, 0].std(ddof=1)) / 70**0.5, df=69.0, alpha=0.0167)
    together = power_all_groups(contrasts, margin=0.12, alpha=0.0167)
    assert one**5 - 0.08 < together < one
    assert power_all_groups(contrasts, margin=0.12, alpha=0.0167) == together  # no chance involved
    assert power_all_groups(contrasts, margin=10.0, alpha=0.0167) == 1.0
    assert power_all_groups(contrasts[:1], margin=10.0, alpha=0.0167) == 0.0


def test_joint_power_is_a_product() -> None:
    assert joint_power([0.9, 0.8, 1.0]) == pytest.approx(0.72)
    assert joint_power([]) == 0.0
