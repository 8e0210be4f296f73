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
from rankwright.core.pruning_window import pruning_window
from rankwright.core.slots import Penalty
from rankwright.penalties.stacks import factors_of, stacks

if TYPE_CHECKING:
    from rankwright.core.run import Run


@register_part("variance")
@dataclass(frozen=True)
class Variance(Penalty):
    """Penalty on components whose entries vary.

    Attributes:
        weight: Factor of the penalty as a term of the loss; 0.1 (DoRA-dynamic's code).
        warm: See `cool`.
        cool: The penalty ends with the last pruning of the procedure `allocate` that has the same
            `warm`, `cool` and `reference_rounding`; with 0 and 0 it never does.
        reference_rounding: See `cool`.
    """

    weight: float = 0.1
    warm: float = 0.0
    cool: float = 0.0
    reference_rounding: bool = False

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range.
        """
        check_field(self, "weight", self.weight >= 0, "a number of at least 0")
        check_field(self, "warm", 0 <= self.warm < 1, "a share in [0, 1)")
        ends = 0 <= self.cool < 1 - self.warm
        check_field(self, "cool", ends, "a share in [0, 1), below 1 - warm")

    def check_run(self, run: Run) -> None:
        """See `Penalty.check_run`.

        Raises:
            MethodError: A layer is not linear.
        """
        factors_of(run)

    def __call__(self, run: Run) -> Tensor | None:
        """See `Penalty.__call__`; None after the last pruning."""
        window = pruning_window(
            run.total_steps,
            self.warm,
            self.cool,
            None,
            reference_rounding=self.reference_rounding,
        )
        if window.is_over(run.step + 1):
            return None
        return self.weight * mean_variance(factors_of(run))


def mean_variance(factors: list[Tensor]) -> Tensor:
    """Return the mean of the variances of all rows of factors (r, n); 0-dim, float32 at least."""
    dtype, device = compute_dtype(factors[0]), factors[0].device
    variances = [alike.to(dtype).var(dim=2).flatten() for alike in stacks(factors)]
    return torch.cat([each.to(device) for each in variances]).mean()
