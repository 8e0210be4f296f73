"""The mean absolute value of the parameters of one role: `weight * sum |p| / count`.

As a term of the loss it goes through the optimizer: under AdamW its weight is no threshold, and it
leaves no exact zeros. For those see :mod:`rankwright.procedures.sparsify.sparsify`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rankwright.core.fields import check_field
from rankwright.core.part_registry import register_part
from rankwright.core.slots import LOWER, UPPER, Penalty
from rankwright.errors import MethodError

if TYPE_CHECKING:
    from rankwright.core.run import Run


@register_part("l1")
@dataclass(frozen=True)
class L1(Penalty):
    """The mean absolute value of the parameters of one role, of SoRA's gates for one.

    Attributes:
        weight: Factor of the mean absolute value, as a term of the loss.
        role: Whose parameters: "lower" for the factors and all else that has no role of its own,
            or a role of the method's procedure.
    """

    weight: float = 1e-3
    role: str = "gate"

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: The weight is negative.
        """
        check_field(self, "weight", self.weight >= 0, "a number of at least 0")

    @property
    def level(self) -> str:
        """See `Penalty.level`: that of the parameters."""
        return UPPER if self.role == UPPER else LOWER

    def check_run(self, run: Run) -> None:
        """See `Penalty.check_run`.

        Raises:
            MethodError: No parameter has the role.
        """
        roles = {run.role(name) for name in run.trainable()}
        if self.role not in roles:
            raise MethodError(
                f"L1.role = {self.role!r}: no trained parameter has this role; expected one of "
                f"{', '.join(sorted(roles))}"
            )

    def __call__(self, run: Run) -> Tensor:
        """See `Penalty.__call__`."""
        parameters = run.trainable(self.role).values()
        total = torch.stack([parameter.abs().sum() for parameter in parameters]).sum()
        return self.weight * total / sum(parameter.numel() for parameter in parameters)
