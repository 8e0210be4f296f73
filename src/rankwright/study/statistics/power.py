"""The number of seeds needed to detect a difference."""

from __future__ import annotations

import math

import scipy.stats

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 1000


def t_test_power(effect: float, count: int, alpha: float = ALPHA) -> float:
    """Return the power of a two-sided t test of `count` values against a mean of 0.

    t^2 follows the noncentral F distribution, F(1, count - 1, count effect^2). SciPy's noncentral t
    distribution gives the same for most arguments and nan for others.

    Args:
        effect: The true mean over the standard deviation of the values.
        count: Number of values, at least 2.
        alpha: Level of the test.
    """
    critical = scipy.stats.t.isf(alpha / 2, count - 1)
    return float(scipy.stats.ncf.sf(critical**2, 1, count - 1, count * effect**2))


def seeds_needed(difference: float, spread: float, *, alpha: float = ALPHA) -> int | None:
    """Return the seeds with which a paired t test detects a difference in 80 % of studies.

    The difference and the spread are taken as the true ones. A few seeds determine them roughly, so
    the result is an order of magnitude.

    Args:
        difference: The true difference, in the unit of the metric.
        spread: Standard deviation of the difference from seed to seed, in the same unit; 0 for
            equal differences, to which `Estimate.p_value` applies the sign test.
        alpha: Level of the test: the share of studies that may find a difference where there is
            none.

    Returns:
        At least 2; None if more than 1000 seeds are needed, as for a difference of 0.
    """
    if spread == 0:
        return math.floor(1 - math.log2(alpha)) + 1 if difference else None

    def suffices(seeds: int) -> bool:
        return t_test_power(difference / spread, seeds, alpha) >= POWER

    if not suffices(MOST_SEEDS):
        return None
    too_few, sufficient = 1, MOST_SEEDS
    while sufficient - too_few > 1:
        middle = (too_few + sufficient) // 2
        too_few, sufficient = (too_few, middle) if suffices(middle) else (middle, sufficient)
    return sufficient
