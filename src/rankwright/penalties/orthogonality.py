"""Orthogonality of the factors: P with orthonormal columns, Q with orthonormal rows.

With P = B (out, r) and Q = A (r, in) of each layer, before any gates,

    squared:  R = sum over layers of  |P^T P - I|_F^2 + |Q Q^T - I|_F^2    (BiLoRA)
    norm:     R = mean over factors of |F F^T - I|_F, F = P^T or Q         (PEFT's AdaLoRA)

Qiang et al., "BiLoRA", arXiv 2403.13037. The penalty fixes the scale of the factors, which gates on
the ranks leave open otherwise. The gradients of the squared form are 4 P (P^T P - I) and
4 (Q Q^T - I) Q; the cost is (in + out) r^2 a layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from torch import Tensor

from rankwright.algebra.precision import compute_dtype, no_autocast
from rankwright.core.fields import check_field
from rankwright.core.part_registry import register_part
from rankwright.core.slots import Penalty
from rankwright.penalties.stacks import factors_of, stacks

if TYPE_CHECKING:
    from rankwright.core.run import Run

OrthogonalityForm = Literal["squared", "norm"]


@register_part("orthogonality")
@dataclass(frozen=True)
class Orthogonality(Penalty):
    """Penalty on factors whose ranks are not orthonormal.

    Attributes:
        weight: Factor of the penalty as a term of the loss; 0.1 (ours; AdaLoRA: 0.1 to 0.5).
        form: "squared" for the sum of squared norms over all layers, "norm" for the mean norm.
    """

    weight: float = 0.1
    form: OrthogonalityForm = "squared"

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range.
        """
        forms = get_args(OrthogonalityForm)
        check_field(self, "weight", self.weight >= 0, "a number of at least 0")
        check_field(self, "form", self.form in forms, " or ".join(forms))

    def check_run(self, run: Run) -> None:
        """See `Penalty.check_run`.

        Raises:
            MethodError: A layer is not linear.
        """
        factors_of(run)

    def __call__(self, run: Run) -> Tensor:
        """See `Penalty.__call__`."""
        return self.weight * orthogonality(factors_of(run), self.form)


def orthogonality(factors: list[Tensor], form: OrthogonalityForm = "squared") -> Tensor:
    """Return R of factors F (r, n): the sum of |F F^T - I|_F^2, or the mean of |F F^T - I|_F.

    Returns:
        0-dim, float32 at least.
    """
    with no_autocast(factors[0]):
        alike = stacks(factors)
        device = factors[0].device
        if form == "squared":
            return torch.stack([squared_excess(F).to(device) for F in alike]).sum()
        return torch.cat([torch.linalg.matrix_norm(excess(F)).to(device) for F in alike]).mean()


def excess(F: Tensor) -> Tensor:
    """Return F F^T - I of stacked factors (count, r, n): (count, r, r), in float32 at least."""
    wide = F.to(compute_dtype(F))
    gram = wide @ wide.mT
    return gram - torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)


def squared_excess(F: Tensor) -> Tensor:
    """Return the sum of |F F^T - I|_F^2 over stacked factors (count, r, n), by `SquaredExcess`."""
    return cast(Tensor, SquaredExcess.apply(F))  # type: ignore[no-untyped-call]


class SquaredExcess(torch.autograd.Function):
    """The sum of |F F^T - I|_F^2 over stacked factors, with its gradient 4 (F F^T - I) F.

    One product forward and one backward, where autograd would make two and keep more.
    """

    @staticmethod
    def forward(ctx: Any, F: Tensor) -> Tensor:
        """Return the sum.

        Args:
            ctx: Autograd's context.
            F: (count, r, n).

        Returns:
            0-dim, float32 at least.
        """
        ctx.save_for_backward(F)
        ctx.excess = excess(F)
        total: Tensor = ctx.excess.square().sum()
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient (count, r, n); differentiable again where a graph is asked for."""
        (F,) = ctx.saved_tensors
        factor = excess(F) if torch.is_grad_enabled() else ctx.excess
        gradient: Tensor = (4 * grad * factor @ F.to(factor.dtype)).to(F.dtype)
        return gradient
