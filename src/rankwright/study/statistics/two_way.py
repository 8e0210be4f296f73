"""The paired bootstrap over rows and seeds: an interval of a difference for other rows and seeds.

Every method runs on the same seeds and is evaluated on the same rows, so seeds and rows are crossed
sources of variance in the difference of two methods. For a metric that is a mean of row scores:

    D_se = difference + seed_s + row_e + rest_se            seed s of S, row e of E

A bootstrap that draws rows anew within each seed misses row_e, which all seeds share. One that
draws seeds and rows and multiplies their counts (the pigeonhole bootstrap: Owen, Annals of Applied
Statistics 2007) counts the rest three times. Here rows are drawn once for all seeds and methods, so
that any metric can be computed on each draw. M_bs is the difference on seed s and draw b, and the
two-way analysis of variance adds every source once:

    V_seeds = var_s(D_s) / S              seeds, and the rest
    V_rows  = var_b(mean_s M_bs)          rows, and the rest
    V_rest  = the interaction of b and s in M, over S - 1 and S
    V       = max(V_seeds + V_rows - V_rest, V_seeds, V_rows)

Degrees of freedom follow Satterthwaite; the interval is never narrower than that over seeds alone.
`tests/study/statistics/test_statistics.py` measures its coverage and its false positives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rankwright.study.statistics.interval import Estimate, estimate, standard_deviation


def over_seeds_and_rows(by_seed: Sequence[float], resampled: np.ndarray, rows: int) -> Estimate:
    """Estimate the mean difference of two methods for new seeds and new rows of the same kind.

    `estimate` of the same differences is for new seeds and the same rows, and is no wider.

    Args:
        by_seed: The difference on all rows, one per seed.
        resampled: The difference on resampled rows, (draws, seeds).
        rows: Number of rows.
    """
    means = np.asarray(by_seed, dtype=np.float64)
    seeds = means.size
    if resampled.ndim != 2 or resampled.shape[1] != seeds:
        raise ValueError(f"draws of shape {resampled.shape}: expected (draws, {seeds})")
    over_seeds = estimate(by_seed)
    if seeds < 2 or rows < 2:
        return Estimate(over_seeds.mean, math.inf, 0)
    by_draw = resampled.mean(axis=1)
    rest = resampled - by_draw[:, None] - resampled.mean(axis=0) + resampled.mean()
    v_seeds = standard_deviation(means) ** 2 / seeds
    v_rows = float(by_draw.var(ddof=1))
    v_rest = float((rest**2).sum()) / (len(resampled) - 1) / (seeds - 1) / seeds
    variance = max(v_seeds + v_rows - v_rest, v_seeds, v_rows)
    parts = v_seeds**2 / (seeds - 1) + v_rows**2 / (rows - 1)
    freedom = variance**2 / parts if parts else seeds - 1
    over_both = Estimate(over_seeds.mean, math.sqrt(variance), freedom)
    return max(over_seeds, over_both, key=lambda interval: interval.half_width)
