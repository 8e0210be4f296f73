"""Starts with B A != 0 that leave the base weight as it is.

PiSSA, OLoRA and their kin start at factors A_0 (r, in) and B_0 (out, r) made from the weight W
(out, in), and subtract what these add:

    y = x (W - s B_0 A_0)^T + b + s (x A^T) B^T

Their published code, and PEFT, write W - s B_0 A_0 over W. Here the subtracted product is a frozen
companion, the finished part of a stack (:mod:`rankwright.layers.stacked.layer`):

    y = x W^T + b + s [x A_0^T, dropout(x) A^T] [-B_0, B]^T

The same function, on the base as it came: the adapter disabled is the base bit for bit, and what is
saved is a plain LoRA of rank 2 r. A run that is resumed builds the companion anew from the same
weights, for its shape; its values are then loaded with the adapter's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor

from rankwright.algebra.precision import compute_dtype
from rankwright.core.slots import Init
from rankwright.layers.stacked.layer import has_stacks, stack_factors, stacks, write_ranks
from rankwright.peft_layers.layers import adapted_layers
from rankwright.peft_layers.weight_change import check_linear
from rankwright.peft_layers.weight_view import base_rows

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Companion(Init):
    """A start at factors of the weight, with the companion that takes them away again.

    A subclass says what the factors are. Where the layer part has not put stacks in place, this
    init does.
    """

    @abstractmethod
    def factors(self, W: Tensor, r: int, s: float) -> tuple[Tensor, Tensor]:
        """The first A and B of one layer; a pure function of its arguments.

        Args:
            W: Weight `(out, in)`, dequantised, float32 or float64.
            r: Rank, at most the smaller side of `W`.
            s: Scaling of the product.

        Returns:
            `A` `(r, in)` and `B` `(out, r)`.
        """

    @torch.no_grad()
    def initialise(self, model: PeftModel, adapter_name: str) -> None:
        """Write factors and companion of every adapted layer.

        Args:
            model: The freshly adapted model.
            adapter_name: Name of the adapter.

        Raises:
            MethodError: A layer is not the sum of a base and one product of linear factors.
        """
        layers = adapted_layers(model)
        _make_room(layers, adapter_name)
        found = stacks(layers, adapter_name)
        for stack in found.values():
            W = base_rows(stack.layer)
            A, B = self.factors(W.to(compute_dtype(W)), len(stack.A.live), stack.scaling)
            stack.start(A, B)
            stack.pair()  # of the values that the live pair has now
        write_ranks(model, adapter_name, found)


def _make_room(layers: Mapping[str, LoraLayer], adapter_name: str) -> None:
    """Put stacks in the place of the factors, unless the layer part has."""
    if has_stacks(layers, adapter_name):
        return
    for name, layer in layers.items():
        check_linear(name, layer, adapter_name, "a start is made from the weights")
        stack_factors(layer, adapter_name)
