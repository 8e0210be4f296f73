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
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from rankwright.algebra.precision import compute_dtype, no_autocast
from rankwright.core.fields import check_field
from rankwright.core.part_registry import register_part
from rankwright.core.slots import Penalty
from rankwright.peft_layers.layers import factor_parameters
from rankwright.penalties.stacks import stacks

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
        self._factors(run)

    def __call__(self, run: Run) -> Tensor:
        """See `Penalty.__call__`."""
        return self.weight * orthogonality(self._factors(run), self.form)

    def _factors(self, run: Run) -> list[Tensor]:
        """A and B^T of every layer."""
        pairs = (factor_parameters(n, layer, run.adapter_name) for n, layer in run.layers.items())
        return [factor for A, B in pairs for factor in (A, B.T)]


def orthogonality(factors: list[Tensor], form: OrthogonalityForm = "squared") -> Tensor:
    """Return R of factors F (r, n): the sum of |F F^T - I|_F^2, or the mean of |F F^T - I|_F.

    Returns:
        0-dim, float32 at least.
    """
    with no_autocast(factors[0]):
        norms = [torch.linalg.matrix_norm(_excess(alike)) for alike in stacks(factors)]
        terms = torch.cat([norm.to(norms[0].device) for norm in norms])
        return terms.square().sum() if form == "squared" else terms.mean()


def _excess(F: Tensor) -> Tensor:
    """F F^T - I of stacked factors, (n, r, r)."""
    wide = F.to(compute_dtype(F))
    return wide @ wide.mT - torch.eye(wide.shape[1], dtype=wide.dtype, device=wide.device)
