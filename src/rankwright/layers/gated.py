"""A LoRA layer with a gate on every rank.

    y = x W^T + b + s ((x A^T) * g) B^T = x W^T + b + s (x (diag(g) A)^T) B^T

A (r, in), B (out, r), g (r,), s = lora_alpha / r. The gate is computed into A, so that nothing is
kept for it on each token, and what PEFT sees, saves, merges and exports as A is diag(g) A: an
ordinary LoRA. Where g_j = 0, row j of diag(g) A is exactly zero, and so are the gradients of row j
of A and of column j of B; that of g_j is not. The gates are float32 at least: a step of 3e-4 is
lost on a bfloat16 number near 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from rankwright.algebra.precision import compute_dtype
from rankwright.core.fields import check_field
from rankwright.core.part_registry import register_part
from rankwright.core.slots import Layer
from rankwright.errors import MethodError
from rankwright.layers.factor import Factor
from rankwright.peft_layers.layers import adapted_layers
from rankwright.peft_layers.rank_patterns import drop_layers, write_ranks
from rankwright.peft_layers.weight_change import check_linear

if TYPE_CHECKING:
    from peft import PeftModel

GateInit = Literal["ones", "normal"]


class GatedFactor(Factor):
    """The factor A with its gate.

    Attributes:
        live: A, (r, in).
        gate: g, (r,).

    Args:
        linear: The factor that PEFT made; its weight becomes `live`.
        gate: The first gates, (r,).
    """

    other_shape = "the adapter was pruned; load it with PeftModel.from_pretrained"

    def __init__(self, linear: nn.Linear, gate: Tensor) -> None:
        super().__init__(linear)
        self.gate = nn.Parameter(gate.to(self.live.device, compute_dtype(self.live)))

    @property
    def weight(self) -> Tensor:
        """diag(g) A, (r, in), in the dtype of A."""
        return (self.gate[:, None] * self.live).to(self.live.dtype)

    def take(self, weight: Tensor) -> None:
        """Set A to the weight, (r, in), and all gates to 1."""
        self.live.copy_(weight)
        self.gate.fill_(1)

    def extra_repr(self) -> str:
        """How many gates are open."""
        return f"rank={len(self.gate)}, open={int(self.gate.count_nonzero())}"


@register_part("gated")
@dataclass(frozen=True)
class GatedLoRA(Layer):
    """LoRA with a gate on every rank.

    Attributes:
        gate_init: Initial gates: "ones" (ours): no rank has an advantage; "normal": N(0, 1), as in
            SoRA's code.
    """

    gate_init: GateInit = "ones"

    def __post_init__(self) -> None:
        """Check the field.

        Raises:
            MethodError: The value is unknown.
        """
        inits = get_args(GateInit)
        check_field(self, "gate_init", self.gate_init in inits, " or ".join(inits))

    def install(self, model: PeftModel, adapter_name: str) -> None:
        """Put a `GatedFactor` in the place of every A.

        Raises:
            MethodError: A layer is not the sum of a base and one product of linear factors.
        """
        for name, layer in adapted_layers(model).items():
            check_linear(name, layer, adapter_name, "gates are put on the ranks")
            linear = layer.lora_A[adapter_name]
            draw = torch.ones if self.gate_init == "ones" else torch.randn
            layer.lora_A[adapter_name] = GatedFactor(linear, draw(linear.out_features))


def gated_factors(layers: Mapping[str, LoraLayer], adapter: str) -> dict[str, GatedFactor]:
    """The gated A of every layer, by module name.

    Raises:
        MethodError: The layers are not those of `GatedLoRA`.
    """
    factors = {name: layer.lora_A[adapter] for name, layer in layers.items() if layer.lora_A}
    for name in layers:
        if not isinstance(factors.get(name), GatedFactor):
            raise MethodError(
                f"{name} has no gates; take Slots(layer=GatedLoRA()) with what needs them"
            )
    return cast(dict[str, GatedFactor], factors)


@torch.no_grad()
def prune(model: PeftModel, adapter: str) -> dict[str, int]:
    """Make the adapter the plain LoRA of the open gates: a rank for each layer, gates in A.

    A layer without an open gate is no longer adapted. If none has one, the first layer keeps a
    pair of rank 1 that is zero, for PEFT has no adapter without a layer.

    Args:
        model: A model with the layers of `GatedLoRA`.
        adapter: Name of the adapter.

    Returns:
        The rank of each layer by module name; 0 where there is no adapter any more.
    """
    layers = adapted_layers(model)
    open_gates = {
        name: factor.gate.nonzero().flatten()
        for name, factor in gated_factors(layers, adapter).items()
    }
    if not any(len(gates) for gates in open_gates.values()):
        first = next(iter(open_gates))
        open_gates[first] = open_gates[first].new_zeros(1)  # rank 0, whose row of A is zero
    kept = {name: layers[name] for name, gates in open_gates.items() if len(gates)}
    for name, layer in kept.items():
        _select_ranks(layer, adapter, open_gates[name])
    drop_layers(model, adapter, open_gates.keys() - kept.keys())
    ranks = {name: len(gates) for name, gates in open_gates.items()}
    write_ranks(model, adapter, kept, ranks)
    return ranks


def _select_ranks(layer: LoraLayer, adapter: str, gates: Tensor) -> None:
    """Plain factors A (r', in) and B (out, r') of the r' ranks in `gates`."""
    A, B = layer.lora_A[adapter].weight[gates], layer.lora_B[adapter].weight[:, gates]
    for factors, weight in ((layer.lora_A, A), (layer.lora_B, B)):
        out_features, in_features = weight.shape
        linear = nn.Linear(in_features, out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(weight.contiguous())
        factors[adapter] = linear
