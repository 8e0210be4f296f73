"""Variance of the entries of each component: rows of A and columns of B of even size.

    R = mean over the components of all layers of (Var(a_i) + Var(b_i)) / 2

with a_i (in,) row i of A, b_i (out,) column i of B, and the unbiased variance over their entries:
DoRA-dynamic's DEM (MIkumikumi0116/DoRA@235e21f). Scaling all factors by u scales R by u^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rankwright.algebra.precision import compute_dtype
from rankwright.core.fields import check_field
from rankwright.core.part_registry import register_part
from rankwright.core.slots import Penalty
from rankwright.peft_layers.layers import factor_parameters
from rankwright.penalties.stacks import stacks

if TYPE_CHECKING:
    from rankwright.core.run import Run


@register_part("variance")
@dataclass(frozen=True)
class Variance(Penalty):
    """Penalty on components whose entries vary.

    Attributes:
        weight: Factor of the penalty as a term of the loss; 0.1 (DoRA-dynamic's code).
        until: Share of the optimizer steps after which there is no penalty, in (0, 1].
    """

    weight: float = 0.1
    until: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range.
        """
        check_field(self, "weight", self.weight >= 0, "a number of at least 0")
        check_field(self, "until", 0 < self.until <= 1, "a share in (0, 1]")

    def check_run(self, run: Run) -> None:
        """See `Penalty.check_run`.

        Raises:
            MethodError: A layer is not linear.
        """
        self._factors(run)

    def __call__(self, run: Run) -> Tensor | None:
        """See `Penalty.__call__`; None after `until`."""
        if run.step >= round(self.until * run.total_steps):
            return None
        return self.weight * mean_variance(self._factors(run))

    def _factors(self, run: Run) -> list[Tensor]:
        """A and B^T of every layer."""
        pairs = (factor_parameters(n, layer, run.adapter_name) for n, layer in run.layers.items())
        return [factor for A, B in pairs for factor in (A, B.T)]


def mean_variance(factors: list[Tensor]) -> Tensor:
    """Return the mean of the variances of all rows of factors (r, n); 0-dim, float32 at least."""
    dtype, device = compute_dtype(factors[0]), factors[0].device
    variances = [alike.to(dtype).var(dim=2).flatten() for alike in stacks(factors)]
    return torch.cat([each.to(device) for each in variances]).mean()
