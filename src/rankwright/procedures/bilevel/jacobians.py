"""Jacobians of optimizers' updates with respect to the gradient, entry by entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from rankwright.errors import MethodError
from rankwright.procedures.bilevel.tensor_lists import (
    widened,
)

Jacobian = Callable[
    [dict[str, Any], list[dict[str, Any]], list[Tensor], list[Tensor]], list[Tensor] | float
]
"""(group, states after the step, gradients, parameters before the step) -> du/dg, elementwise: one
tensor a parameter of the group, float32 or wider, or one number for all."""


def sgd_jacobian(
    group: dict[str, Any],
    states: list[dict[str, Any]],
    gradients: list[Tensor],
    before: list[Tensor],
) -> float:
    """du/dg of `torch.optim.SGD`: 1, or 1 + momentum with Nesterov's form."""
    del states, gradients, before
    return 1.0 + float(group["momentum"]) if group["nesterov"] else 1.0


def adam_jacobian(
    group: dict[str, Any],
    states: list[dict[str, Any]],
    gradients: list[Tensor],
    before: list[Tensor],
) -> list[Tensor]:
    """du/dg of `torch.optim.Adam` and `AdamW` from the state after step t.

    With mh = m / (1 - b1^t) and vh = v / (1 - b2^t), where both have taken up g:

        J = (1 - b1) / (1 - b1^t) / (sqrt(vh) + eps)
            - mh (1 - b2) g / (1 - b2^t) / sqrt(vh) / (sqrt(vh) + eps)^2

    AdamW's decay acts on the parameter before the step and does not enter; Adam's own is part of g.
    Where v = 0 the entry has never had a gradient (A while B = 0, an unused embedding row): J is
    taken as 0 there, for 1 / eps would drown every other direction.
    """
    beta1, beta2 = (float(beta) for beta in group["betas"])
    t, eps = [float(state["step"]) for state in states], float(group["eps"])
    rest1, rest2 = [1 - beta1**k for k in t], [1 - beta2**k for k in t]
    g = widened(gradients)
    if group["weight_decay"] and not group["decoupled_weight_decay"]:
        g = list(torch._foreach_add(g, widened(before), alpha=group["weight_decay"]))
    root = torch._foreach_div(widened([state["exp_avg_sq"] for state in states]), rest2)
    torch._foreach_sqrt_(root)
    denominator = torch._foreach_add(root, eps)
    through_root = torch._foreach_div(widened([state["exp_avg"] for state in states]), rest1)
    torch._foreach_mul_(through_root, g)
    torch._foreach_mul_(through_root, [(1 - beta2) / rest for rest in rest2])
    for divisor in (root, denominator, denominator):
        torch._foreach_div_(through_root, divisor)
    J = torch._foreach_reciprocal(denominator)
    torch._foreach_mul_(J, [(1 - beta1) / rest for rest in rest1])
    torch._foreach_sub_(J, through_root)
    return [torch.where(part > 0, whole, 0.0) for part, whole in zip(root, J, strict=True)]


UPDATE_JACOBIANS: dict[type[Optimizer], Jacobian] = {
    SGD: sgd_jacobian,
    Adam: adam_jacobian,
    AdamW: adam_jacobian,
}
"""Optimizers whose Jacobian is known; add your own, if its update is elementwise."""


def update_jacobian(optimizer: Optimizer) -> Jacobian:
    """The Jacobian of an optimizer, through accelerate's wrapper.

    Raises:
        MethodError: It is not known for this class, or with one of its options.
    """
    bare = getattr(optimizer, "optimizer", optimizer)
    options = sorted(
        option
        for option in ("amsgrad", "dampening", "maximize")
        if any(group.get(option) for group in bare.param_groups)
    )
    if type(bare) not in UPDATE_JACOBIANS or options:
        known = ", ".join(sorted(kind.__name__ for kind in UPDATE_JACOBIANS))
        raise MethodError(
            f"the hypergradient needs the Jacobian of the optimizer's update; it is not known for "
            f"{type(bare).__name__}{' with ' + ', '.join(options) if options else ''}. Use one of "
            f'{known} without these options, or hypergradient="first_order" or "betty", which '
            "do not need it"
        )
    return UPDATE_JACOBIANS[type(bare)]
