"""A mean, how far it may be from the truth, and how likely chance alone would put it here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error; intervals and tests are Student's.

    Attributes:
        mean: The mean, in the unit of the metric.
        error: Its standard error, in the same unit; infinite where one value is all there is.
        freedom: Degrees of freedom of the standard error.
    """

    mean: float
    error: float
    freedom: float

    @property
    def half_width(self) -> float:
        """Of the 95 % interval; infinite where one value is all there is."""
        if math.isinf(self.error):
            return math.inf
        return float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, self.freedom)) * self.error

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half_width

    @property
    def p_value(self) -> float:
        """Two-sided p of "the true mean is 0".

        1 where the mean is exactly 0, and where one value is all there is. Where all n values are
        the same, that of the sign test, 2 / 2^n: a metric of few rows takes few values, and the t
        test would take two of the same for certainty.
        """
        if self.mean == 0 or math.isinf(self.error):
            return 1.0
        if self.error == 0:
            return float(2.0**-self.freedom)
        return float(2 * scipy.stats.t.sf(abs(self.mean) / self.error, self.freedom))


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of independent values, one a seed, with its t interval: mean ± t_(n-1) s / sqrt(n).

    It says where the mean over all seeds lies, the evaluated rows being these. It takes the values
    for draws from a normal distribution, which is a fair approximation for metrics of runs that
    ended well, and a poor one where one seed in five diverges.

    Args:
        values: One value a seed; for a comparison, the difference of the two methods on each seed.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("no values: expected one for each seed")
    error = spread(array) / math.sqrt(array.size)
    mean = float(array.mean())
    return Estimate(0.0 if abs(mean) <= rounding(array) else mean, error, array.size - 1)


def spread(values: np.ndarray) -> float:
    """Standard deviation with n - 1; 0 where values differ by rounding only.

    Infinite for one value, and where a value is.
    """
    if values.size < 2 or not np.isfinite(values).all():
        return math.inf
    return 0.0 if np.ptp(values) <= rounding(values) else float(values.std(ddof=1))


def rounding(values: np.ndarray) -> float:
    """What sums of these values may be off by, far below the digits of any metric."""
    finite = values[np.isfinite(values)]
    return 1e-12 * float(np.abs(finite).max(initial=0.0))
