"""Several methods, several tasks: Holm's correction and Wilcoxon's signed-rank test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

_SIGNS = 2**14  # all signs of 14 tasks; more are drawn


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test of one difference a task.

    Attributes:
        tasks: Number of tasks.
        won: Tasks with a positive difference.
        p_value: Two-sided p of "the differences lie symmetrically about 0".
        least_p: The smallest p that so many tasks can give, 2 / 2^tasks.
    """

    tasks: int
    won: int
    p_value: float
    least_p: float


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Corrects p values for their number (Holm, Scandinavian Journal of Statistics 1979).

    Below 0.05 where there is no difference: in at most 5 % of all studies for any of the methods,
    not for each.
    """
    corrected, so_far = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = so_far
    return corrected


def signed_rank(differences: Sequence[float]) -> SignedRank:
    """Wilcoxon's test over tasks, exact for up to 14 of them, ties and zeros included.

    It asks whether a method wins on tasks like these, each counting once whatever its size. Five
    tasks or fewer cannot give p < 0.05, see `least_p`.

    Args:
        differences: One a task, the mean over seeds, positive where the method is the better one.
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
