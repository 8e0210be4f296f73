"""How many seeds it takes to see a difference."""

from __future__ import annotations

import math

import scipy.stats

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 1000


def t_test_power(effect: float, count: int, alpha: float = ALPHA) -> float:
    """Share of studies in which a two-sided t test of `count` values sees a mean that is not 0.

    t^2 follows the noncentral F distribution, F(1, count - 1, count effect^2). SciPy's noncentral t
    gives the same in most places and nan in others.

    Args:
        effect: The true mean over the standard deviation of the values.
        count: Number of values, at least 2.
        alpha: Level of the test.
    """
    critical = scipy.stats.t.isf(alpha / 2, count - 1)
    return float(scipy.stats.ncf.sf(critical**2, 1, count - 1, count * effect**2))


def seeds_needed(difference: float, spread: float, *, alpha: float = ALPHA) -> int | None:
    """Seeds with which a paired t test sees a difference in 80 of 100 studies.

    It takes the difference and the spread for the true ones, which a few seeds know roughly: an
    order of magnitude, not a promise.

    Args:
        difference: The true difference, in the unit of the metric.
        spread: Standard deviation of the difference from seed to seed, in the same unit; 0 for
            the sign test of differences that are all the same, as `Estimate.p_value` has it.
        alpha: Share of studies that may see a difference where there is none.

    Returns:
        At least 2; None where more than 1000 are needed, for a difference of 0 above all.
    """
    if spread == 0:
        return math.floor(1 - math.log2(alpha)) + 1 if difference else None

    def enough(seeds: int) -> bool:
        return t_test_power(difference / spread, seeds, alpha) >= POWER

    if not enough(MOST_SEEDS):
        return None
    too_few, sufficient = 1, MOST_SEEDS
    while sufficient - too_few > 1:
        middle = (too_few + sufficient) // 2
        too_few, sufficient = (too_few, middle) if enough(middle) else (middle, sufficient)
    return sufficient
