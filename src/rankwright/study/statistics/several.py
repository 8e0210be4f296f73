"""Tests of several methods on several tasks: Holm's correction, Wilcoxon's signed-rank test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

_SIGNS = 2**14
"""All combinations of signs of 14 tasks; for more tasks, this many are drawn."""


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test of one difference per task.

    Attributes:
        tasks: Number of tasks.
        won: Tasks with a positive difference.
        p_value: Two-sided p of "the differences lie symmetrically about 0".
        least_p: The smallest p that this number of tasks can give, 2 / 2^tasks.
    """

    tasks: int
    won: int
    p_value: float
    least_p: float


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Correct p values for their number (Holm, Scandinavian Journal of Statistics 1979).

    If no method differs, at most 5 % of all studies have any corrected p below 0.05.
    """
    corrected, so_far = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = so_far
    return corrected


def signed_rank(differences: Sequence[float]) -> SignedRank:
    """Test differences over tasks with Wilcoxon's test; up to 14 tasks exactly, ties included.

    Every task counts once, whatever its size. Five tasks or fewer cannot give p < 0.05; see
    `SignedRank.least_p`.

    Args:
        differences: The mean difference over seeds on each task, positive if the method is better.
    """
    array = np.asarray(differences, dtype=np.float64)
    if array.size == 0:
        raise ValueError("no differences: expected one for each task")
    p_value = 1.0
    if array.any():
        exact = scipy.stats.PermutationMethod(n_resamples=_SIGNS, rng=np.random.default_rng(0))
        p_value = float(scipy.stats.wilcoxon(array, zero_method="pratt", method=exact).pvalue)
    return SignedRank(
        array.size, int((array > 0).sum()), p_value, min(1.0, 2.0 ** (1 - array.size))
    )
