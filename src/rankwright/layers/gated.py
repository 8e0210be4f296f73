"""A LoRA layer with gates on its ranks, or one gate on the whole layer.

    y = x W^T + b + s ((x A^T) * w) B^T = x W^T + b + s (x (diag(w) A)^T) B^T,    w = map(theta)

A (r, in), B (out, r), s = lora_alpha / r. theta (r,), or (1,) for one gate a layer; the map is the
identity, a softmax over the ranks, or the sigmoid. The gates are multiplied into A, so that nothing
is kept for them on each token, and PEFT sees, saves, merges and exports diag(w) A as A: an ordinary
LoRA. Where w_j = 0, row j of diag(w) A is exactly zero, and so are the gradients of row j of A and
of column j of B; that of w_j is not. theta is float32 at least: a step of 3e-4 is lost on a
bfloat16 number near 1.

After a selection (`GatedFactor.select`) w is a 0/1 mask and theta has no effect; a layer that is
masked whole computes nothing. `prune` then leaves a plain LoRA of the open ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from rankwright.algebra.precision import compute_dtype
from rankwright.core.fields import check_field
from rankwright.core.part_registry import part_name, register_part
from rankwright.core.slots import Layer, Procedure, Slots
from rankwright.errors import MethodError
from rankwright.kernels.fused_linear import Factors
from rankwright.layers.factor import Factor
from rankwright.peft_layers.layers import adapted_layers
from rankwright.peft_layers.rank_patterns import drop_layers, write_ranks
from rankwright.peft_layers.weight_change import check_linear

if TYPE_CHECKING:
    from peft import PeftModel

GateInit = Literal["ones", "zeros", "normal"]
GateMap = Literal["identity", "softmax", "sigmoid"]
GateTotal = Literal["one", "rank"]
GatePer = Literal["rank", "layer"]

Map = Callable[[Tensor], Tensor]
"""theta -> w, of the same shape."""

_INITS: dict[GateInit, Callable[[int], Tensor]] = {
    "ones": torch.ones,
    "zeros": torch.zeros,
    "normal": torch.randn,
}


class GatedFactor(Factor):
    """The factor A with its gates.

    Attributes:
        live: A, (r, in).
        gate: theta, (r,) or (1,).
        mask: Ranks that a selection has kept, (r,) of 0 and 1; None before.
        temperature: Divisor of theta in the map, if it has one.

    Args:
        linear: PEFT's factor; its weight becomes `live`.
        gate: Initial theta, (r,) or (1,).
        to_gates: The map from theta to the gates w; None for the identity.
        temperature: See above.
    """

    other_shape = "the adapter was pruned; load it with PeftModel.from_pretrained"

    mask: Tensor | None

    def __init__(
        self,
        linear: nn.Linear,
        gate: Tensor,
        to_gates: Map | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(linear)
        self.gate = nn.Parameter(gate.to(self.live.device, compute_dtype(self.live)))
        self.register_buffer("mask", None)
        self.temperature = temperature
        self._to_gates = to_gates
        self._fixed: Tensor | None = None
        self._selected: Literal["all", "some", "none"] | None = None  # without asking the device

    @property
    def gates(self) -> Tensor:
        """w, (r,) or (1,)."""
        if self.mask is not None:
            return self.mask
        if self._fixed is not None:
            return self._fixed
        return self.gate if self._to_gates is None else self._to_gates(self.gate)

    @property
    def weight(self) -> Tensor:
        """diag(w) A, (r, in), in the dtype of A."""
        if self._selected == "all":
            return self.live
        return (self.gates[:, None] * self.live).to(self.live.dtype)

    @property
    def rank(self) -> int:
        """Number of ranks, masked ones included."""
        return len(self.live)

    def select(self, kept: Tensor) -> None:
        """Set the gates to 1 where `kept`, else to 0; theta has no effect from now on.

        Args:
            kept: Booleans, (r,), or (1,) for the whole layer.
        """
        self.mask = kept.expand(len(self.live)).to(self.gate.device, self.gate.dtype)
        self._selected = "all" if kept.all() else "some" if kept.any() else "none"

    def fix(self) -> None:
        """Make the gates constants: from now on theta has neither an effect nor a gradient."""
        self._fixed = self.gates.detach().clone()

    @property
    def is_fixed(self) -> bool:
        """Whether theta has no effect any more."""
        return self._fixed is not None or self.mask is not None

    def factors_with(self, B: Any) -> Factors | None:
        """See `Factor.factors_with`; a layer that is masked whole has no factors."""
        return Factors(None, None) if self._selected == "none" else super().factors_with(B)

    def take(self, weight: Tensor) -> None:
        """Set A so that diag(w) A is the weight, (r, in); gates that are theta itself become 1."""
        if self._to_gates is None and not self.is_fixed:
            self.gate.fill_(1)
        gates = self.gates[:, None]
        self.live.copy_(torch.where(gates != 0, weight.to(gates) / gates, weight.to(gates)))

    def extra_repr(self) -> str:
        """Number of ranks, and of open gates."""
        return f"rank={len(self.live)}, open={len(open_ranks(self))}"


@register_part("gated")
@dataclass(frozen=True)
class GatedLoRA(Layer):
    """LoRA with a gate on every rank, or one on every layer.

    Attributes:
        gate_init: Initial theta: "ones" (ours): no rank has an advantage; "zeros"; "normal":
            N(0, 1), as in SoRA's code.
        gate_map: Map from theta to the gates: "identity" (SoRA), "softmax" over the ranks, which
            makes them compete for `gate_total`, or "sigmoid".
        gate_per: "rank", or "layer" for one gate on the whole update of a layer.
        gate_total: Sum of the gates of a layer under "softmax": "one", or "rank" for r, which
            starts with gates of 1.
        temperature: Divisor of theta under "softmax".
    """

    gate_init: GateInit = "ones"
    gate_map: GateMap = "identity"
    gate_per: GatePer = "rank"
    gate_total: GateTotal = "one"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            MethodError: A value is unknown, or the temperature is not positive.
        """
        for name, kinds in (
            ("gate_init", GateInit),
            ("gate_map", GateMap),
            ("gate_per", GatePer),
            ("gate_total", GateTotal),
        ):
            known = get_args(kinds)
            check_field(self, name, getattr(self, name) in known, " or ".join(known))
        check_field(self, "temperature", self.temperature > 0, "a number above 0")
        alone = self.gate_per == "rank" or self.gate_map != "softmax"
        check_field(
            self, "gate_per", alone, '"rank" under "softmax", whose only gate would always be 1'
        )

    def install(self, model: PeftModel, adapter_name: str) -> None:
        """Put a `GatedFactor` in the place of every A.

        Raises:
            MethodError: A layer is not the sum of a base and one product of linear factors, or has
                one rank under "softmax".
        """
        for name, layer in adapted_layers(model).items():
            check_linear(name, layer, adapter_name, "gates are put on the ranks")
            linear = layer.lora_A[adapter_name]
            rank = linear.out_features
            if rank == 1 and self.gate_map == "softmax":
                raise MethodError(
                    f"{name} has rank 1, and the softmax of one number is 1 whatever it is: there "
                    "is nothing to learn; choose r >= 2, or another gate_map"
                )
            theta = _INITS[self.gate_init](1 if self.gate_per == "layer" else rank)
            layer.lora_A[adapter_name] = GatedFactor(
                linear, theta, self._map_of(rank), self.temperature
            )

    def _map_of(self, rank: int) -> Map | None:
        """The map for a layer of `rank` ranks; None for the identity."""
        if self.gate_map == "identity":
            return None
        if self.gate_map == "sigmoid":
            return torch.sigmoid
        total = rank if self.gate_total == "rank" else 1
        temperature = self.temperature
        return lambda theta: total * torch.softmax(theta / temperature, dim=0)


def gated_factors(layers: Mapping[str, LoraLayer], adapter: str) -> dict[str, GatedFactor]:
    """Return the gated A of every layer, by module name.

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


def check_alone_on_gates(part: Procedure, slots: Slots) -> None:
    """Refuse a second procedure that decides which gates are open.

    Args:
        part: One such procedure.
        slots: All slots of the method.

    Raises:
        MethodError: There is another one.
    """
    for other in slots.procedure.members():
        if other is not part and isinstance(other.layer(), GatedLoRA):
            raise MethodError(
                f"{part_name(part)} and {part_name(other)} do not go together: both decide on the "
                "gates of the ranks; use one of them"
            )


def fix_gates(model: nn.Module, gates: Iterable[nn.Parameter]) -> None:
    """Make gates constants, where a procedure has ended their training.

    Their maps and gradients would cost 3 % of MiniLM's step.

    Args:
        model: The adapted model.
        gates: theta of the layers to fix; other parameters among them are left alone.
    """
    chosen = set(map(id, gates))
    for module in model.modules():
        if isinstance(module, GatedFactor) and id(module.gate) in chosen:
            module.fix()


@torch.no_grad()
def rank_metrics(layers: Mapping[str, LoraLayer], adapter: str) -> dict[str, float]:
    """Return figures of the ranks whose gate is open, to log.

    Args:
        layers: Layers with a gate on every rank, by module name.
        adapter: Name of the adapter.

    Returns:
        `sparsity`, the share of ranks that are closed; `mean_rank`, open ranks a layer; and
        `kept_parameters`, the number of entries of A and B in the open ranks.
    """
    gates = [factor.gates for factor in gated_factors(layers, adapter).values()]
    kept = torch.stack([w.count_nonzero() for w in gates]).tolist()  # asks the device once
    sizes = [layer.in_features + layer.out_features for layer in layers.values()]
    return {
        "sparsity": 1 - sum(kept) / sum(map(len, gates)),
        "mean_rank": sum(kept) / len(kept),
        "kept_parameters": sum(rank * size for rank, size in zip(kept, sizes, strict=True)),
    }


def open_ranks(factor: GatedFactor) -> Tensor:
    """Return the indices of the ranks whose gate is not zero, int64."""
    return factor.gates.expand(len(factor.live)).nonzero().flatten()


@torch.no_grad()
def prune(model: PeftModel, adapter: str) -> dict[str, int]:
    """Make the adapter the plain LoRA of the open gates: a rank for each layer, gates in A.

    A layer without an open gate is no longer adapted. If none has one, the first layer keeps a
    pair of rank 1 that is zero, because PEFT has no adapter without a layer.

    Args:
        model: A model with the layers of `GatedLoRA`.
        adapter: Name of the adapter.

    Returns:
        The rank of each layer by module name; 0 for layers that are no longer adapted.
    """
    layers = adapted_layers(model)
    kept_ranks = {name: open_ranks(f) for name, f in gated_factors(layers, adapter).items()}
    if not any(len(ranks) for ranks in kept_ranks.values()):
        first = next(iter(kept_ranks))
        kept_ranks[first] = kept_ranks[first].new_zeros(1)  # rank 0, whose row of A is zero
    kept = {name: layers[name] for name, ranks in kept_ranks.items() if len(ranks)}
    for name, layer in kept.items():
        _select_ranks(layer, adapter, kept_ranks[name])
    drop_layers(model, adapter, kept_ranks.keys() - kept.keys())
    numbers = {name: len(ranks) for name, ranks in kept_ranks.items()}
    write_ranks(model, adapter, kept, numbers)
    return numbers


def _select_ranks(layer: LoraLayer, adapter: str, ranks: Tensor) -> None:
    """Plain factors A (r', in) and B (out, r') of the r' ranks in `ranks`."""
    A, B = layer.lora_A[adapter].weight[ranks], layer.lora_B[adapter].weight[:, ranks]
    for factors, weight in ((layer.lora_A, A), (layer.lora_B, B)):
        out_features, in_features = weight.shape
        linear = nn.Linear(in_features, out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(weight.contiguous())
        factors[adapter] = linear
