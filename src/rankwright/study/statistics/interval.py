"""A mean over seeds with its t interval and its t test."""

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
        error: Its standard error, in the same unit; infinite for a single value.
        freedom: Degrees of freedom of the standard error.
    """

    mean: float
    error: float
    freedom: float

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval; infinite for a single value."""
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

        It is 1 if the mean is exactly 0 or there is a single value. If all n values are equal, it
        is the p of the sign test, 2 / 2^n: a metric of few rows takes few values, and to the t test
        two equal ones would be certainty.
        """
        if self.mean == 0 or math.isinf(self.error):
            return 1.0
        if self.error == 0:
            return float(2.0**-self.freedom)
        return float(2 * scipy.stats.t.sf(abs(self.mean) / self.error, self.freedom))


def estimate(values: Sequence[float]) -> Estimate:
    """Estimate the mean of independent values with its t interval: mean ± t_(n-1) s / sqrt(n).

    The interval is for the mean over all seeds on the rows evaluated. It assumes that the values
    are normally distributed. That is a fair approximation for metrics of runs that converged, and a
    poor one where one seed in five diverges.

    Args:
        values: One value per seed; for a comparison, the difference of two methods on each seed.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("no values: expected one for each seed")
    error = standard_deviation(array) / math.sqrt(array.size)
    mean = float(array.mean())
    return Estimate(0.0 if abs(mean) <= rounding_error(array) else mean, error, array.size - 1)


def standard_deviation(values: np.ndarray) -> float:
    """Return the sample standard deviation (n - 1); 0 if the values differ by rounding only.

    It is infinite for a single value and if a value is infinite.
    """
    if values.size < 2 or not np.isfinite(values).all():
        return math.inf
    return 0.0 if np.ptp(values) <= rounding_error(values) else float(values.std(ddof=1))


def rounding_error(values: np.ndarray) -> float:
    """Return a bound on the rounding of sums of these values, far below any metric's digits."""
    finite = values[np.isfinite(values)]
    return 1e-12 * float(np.abs(finite).max(initial=0.0))
