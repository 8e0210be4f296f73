"""How many components are pruned at each step: the cubic schedules of AdaLoRA and DoRA-dynamic.

With u = k / K the progress of the pruning, in [0, 1], and P the number pruned in the end,

    cubic_pruned:  P(u) = max(1, int(P u^3))          few early, most of them late (DoRA-dynamic)
    cubic_kept:    P(u) = P - int(P (1 - u)^3)        most of them early (AdaLoRA)

AdaLoRA, arXiv 2303.10512, equation 12; DoRA-dynamic: MIkumikumi0116/DoRA@235e21f.
"""

from __future__ import annotations

from typing import Literal

Curve = Literal["cubic_pruned", "cubic_kept"]


def pruned_count(curve: Curve, last: int, k: int, length: int) -> int:
    """Return how many components are pruned at step k of K.

    Args:
        curve: See the module.
        last: P, those pruned at k = K.
        k: Step of the pruning, 0 to K.
        length: K.
    """
    if curve == "cubic_pruned":
        return min(last, max(1, int(last * (k / length) ** 3)))
    return last - int(last * (1 - k / length) ** 3)
