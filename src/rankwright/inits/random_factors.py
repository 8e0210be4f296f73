"""Random A and B, for layers whose gates start at zero, so that the start is the base model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from rankwright.core.fields import check_field
from rankwright.core.part_registry import register_part
from rankwright.core.slots import Init, Layer, Slots
from rankwright.errors import MethodError
from rankwright.layers.gated import GatedLoRA
from rankwright.peft_layers.layers import adapted_layers, factor_parameters

if TYPE_CHECKING:
    from peft import PeftModel

Draw = Literal["kaiming", "gaussian"]


@register_part("random_factors")
@dataclass(frozen=True)
class RandomFactors(Init):
    """Random factors A (r, in) and B (out, r) under gates of zero.

    Attributes:
        draw: "kaiming": uniform within sqrt(6 / n), n the number of columns (DoRA-dynamic's code);
            "gaussian": normal (AdaLoRA).
        std: Standard deviation of "gaussian"; 0.02 (AdaLoRA).
    """

    draw: Draw = "kaiming"
    std: float = 0.02

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A field is out of its range.
        """
        check_field(self, "draw", self.draw in get_args(Draw), " or ".join(get_args(Draw)))
        check_field(self, "std", self.std > 0, "a number above 0")

    def layer(self) -> Layer:
        """See `Part.layer`: gates of zero."""
        return GatedLoRA(gate_init="zeros")

    def check(self, slots: Slots) -> None:
        """See `Part.check`."""
        layer = slots.layer
        if not isinstance(layer, GatedLoRA) or (layer.gate_map, layer.gate_init) != (
            "identity",
            "zeros",
        ):
            raise MethodError(
                "random_factors draws both factors, so the gates have to start at zero, or the "
                'start is not the base model; use GatedLoRA(gate_init="zeros")'
            )

    @torch.no_grad()
    def initialise(self, model: PeftModel, adapter_name: str) -> None:
        """See `Init.initialise`.

        Raises:
            MethodError: A layer is not linear.
        """
        for name, layer in adapted_layers(model).items():
            for factor in factor_parameters(name, layer, adapter_name):
                factor.copy_(self._drawn(factor))

    def _drawn(self, factor: Tensor) -> Tensor:
        """Draw on the CPU, so that all devices have the same start."""
        if self.draw == "gaussian":
            return self.std * torch.randn(factor.shape)
        bound = math.sqrt(6 / factor.shape[1])
        return bound * (2 * torch.rand(factor.shape) - 1)
