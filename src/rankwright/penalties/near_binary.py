"""Binary entropy of sigmoid gates, which pushes them to 0 or 1.

    R = - sum over gates of  w log w + (1 - w) log(1 - w),    w = sigmoid(theta)

BiLoRA's second penalty (arXiv 2403.13037), on the loss of the upper level. In terms of theta, with
log w = -softplus(-theta), nothing overflows:

    R = sum over gates of  w softplus(-theta) + (1 - w) softplus(theta),
    dR/dtheta = -w (1 - w) theta
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from rankwright.core.fields import check_field
from rankwright.core.part_registry import register_part
from rankwright.core.slots import UPPER, Penalty
from rankwright.errors import MethodError

if TYPE_CHECKING:
    from rankwright.core.run import Run


@register_part("near_binary")
@dataclass(frozen=True)
class NearBinary(Penalty):
    """Penalty on sigmoid gates between 0 and 1, for the upper level of a bilevel procedure.

    Attributes:
        weight: Factor of the sum of binary entropies; 1e-3 (ours).
    """

    weight: float = 1e-3

    def __post_init__(self) -> None:
        """Check the field.

        Raises:
            MethodError: The weight is negative.
        """
        check_field(self, "weight", self.weight >= 0, "a number of at least 0")

    @property
    def level(self) -> str:
        """See `Penalty.level`."""
        return UPPER

    def check_run(self, run: Run) -> None:
        """See `Penalty.check_run`.

        Raises:
            MethodError: The upper level learns parameters that are not gates.
        """
        others = [name for name in run.trainable(UPPER) if not name.endswith(".gate")]
        if others:
            raise MethodError(
                f"near_binary is a penalty on gates, and the upper level learns {others[0]}; use "
                "it with the layer gated, as bilora does"
            )

    def __call__(self, run: Run) -> Tensor:
        """See `Penalty.__call__`."""
        terms = [binary_entropy(theta) for theta in run.trainable(UPPER).values()]
        return self.weight * torch.stack([term.to(terms[0].device) for term in terms]).sum()


def binary_entropy(theta: Tensor) -> Tensor:
    """Return the sum of the binary entropies of sigmoid(theta); 0-dim."""
    w = torch.sigmoid(theta)
    return (w * F.softplus(-theta) + (1 - w) * F.softplus(theta)).sum()
