"""Thresholds that make small numbers exactly zero: the proximal step of xi |g|_1.

    T_xi(x) = sign(x) max(|x| - xi, 0) = argmin over z of (z - x)^2 / 2 + xi |z|

All tensors at once, in place, without a host synchronisation. In a loop of one's own, after any
optimizer:

    optimizer.register_step_post_hook(lambda *_: soft_threshold(gates, xi=3e-4))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Threshold = Literal["soft", "published"]


@torch.no_grad()
def soft_threshold(tensors: Sequence[Tensor], xi: float) -> None:
    """T_xi, in place: x minus the nearest number in [-xi, xi], so zeros are exact.

    Args:
        tensors: Of any shapes.
        xi: The threshold, at least 0.
    """
    if not tensors:
        return
    x = list(tensors)
    nearest = torch._foreach_clamp_min(x, -xi)
    torch._foreach_clamp_max_(nearest, xi)
    torch._foreach_sub_(x, nearest)


@torch.no_grad()
def published_threshold(tensors: Sequence[Tensor], xi: float) -> None:
    """What the code of SoRA does in the place of T_xi (TsinghuaC3I/SoRA@c275ac2), in place.

    It shrinks first and then sets to zero what is below xi by now: |x| < 2 xi becomes 0, with a
    jump of xi at 2 xi. A number at xi or 2 xi is left at xi.

    Args:
        tensors: Of any shapes.
        xi: The threshold, at least 0.
    """
    for x in tensors:
        shrunk = torch.where(x.abs() > xi, x - xi * x.sign(), x)
        x.copy_(torch.where(shrunk.abs() < xi, 0.0, shrunk))


THRESHOLDS = {"soft": soft_threshold, "published": published_threshold}
