"""A LoRA layer that is a stack: finished boosters, frozen, under one live booster.

    y = x W^T + b + s [x A_hist^T, dropout(x) A^T] [B_hist, B]^T

`A_hist` (R, in) and `B_hist` (out, R) hold the finished boosters in training order, `A` (r, in) and
`B` (out, r) are the booster in training; s = lora_alpha / r is the same for all of them. The base
weight W (out, in) is never written, and what PEFT saves, loads and merges is the whole stack: an
ordinary LoRA of rank R + r.

A layer with neither a finished nor a live booster is stored as the zero pair it started with, for
PEFT has no LoRA layer of rank 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from peft.tuners.lora.layer import LoraLayer, MultiheadAttention, ParamWrapper
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rankwright.algebra.precision import compute_dtype
from rankwright.algebra.truncation import truncated_product
from rankwright.core.part_registry import register_part
from rankwright.core.slots import Layer
from rankwright.errors import MethodError
from rankwright.layers.frozen import freeze
from rankwright.layers.stacked.factor import StackedFactor, WorkingCopy
from rankwright.peft_layers import rank_patterns
from rankwright.peft_layers.layers import adapted_layers

if TYPE_CHECKING:
    from peft import PeftModel

_FACTORS = ("lora_A", "lora_B")

Side = Literal["A", "B"]
"""One of the two factors."""


@dataclass(frozen=True)
class Stack:
    """The two stacked factors of one adapted layer, moved together.

    Attributes:
        layer: PEFT's layer.
        adapter: Name of the adapter.
    """

    layer: LoraLayer
    adapter: str

    @property
    def A(self) -> StackedFactor:  # noqa: N802
        """The factor (R + r, in)."""
        return cast(StackedFactor, self.layer.lora_A[self.adapter])

    @property
    def B(self) -> StackedFactor:  # noqa: N802
        """The factor (out, R + r)."""
        return cast(StackedFactor, self.layer.lora_B[self.adapter])

    @property
    def rank(self) -> int:
        """Rank that is saved now."""
        return self.A.rank

    @property
    def paired(self) -> bool:
        """Whether the live pair stands beside its companion."""
        return self.A.paired

    @property
    def scaling(self) -> float:
        """The factor s of the whole stack."""
        return float(self.layer.scaling[self.adapter])

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The live pair."""
        return [self.A.live, self.B.live]

    def features(self, side: Side) -> int:
        """The long dimension of a factor: in for A, out for B."""
        return int(self.layer.in_features if side == "A" else self.layer.out_features)

    def narrow(self, width: int) -> None:
        """Use the first `width` ranks of the live pair; the scaling stays what it is."""
        self.A.width = self.B.width = width

    def select(self, selected: bool) -> None:
        """Take the live pair into the stack, or leave it out."""
        self.A.selected = self.B.selected = selected

    def train_live(self, trained: bool, frozen: Side | None = None) -> None:
        """Let the live pair receive gradients, or not, also after PEFT re-enables the adapter.

        Args:
            trained: Whether the pair is in training.
            frozen: The factor that is not, even so.
        """
        names = tuple(factor for factor in _FACTORS if not trained or factor[-1] == frozen)
        freeze(self.layer, self.adapter, names)
        self.A.apart = self.B.apart = frozen == "A"
        for factor, parameter in zip(_FACTORS, self.parameters, strict=True):
            parameter.requires_grad_(factor not in names)

    @torch.no_grad()
    def start(self, A: Tensor | None, B: Tensor | None = None) -> None:
        """Write a new live pair in place: A (width, in), B (out, width), zero if not given."""
        for factor, value in ((self.A, A), (self.B, B)):
            factor.live.zero_()
            if value is not None:
                factor.active.copy_(value)

    @torch.no_grad()
    def pair(self) -> None:
        """Make the finished part the live pair's companion: together they are zero."""
        self.A.history = self.A.active.detach().clone()
        self.B.history = -self.B.active.detach()
        self.A.paired = self.B.paired = True

    @torch.no_grad()
    def absorb(self, shrinkage: float) -> bool:
        """Put the live pair on the finished stack, B times `shrinkage`, and set B to zero.

        A companion is multiplied as well, so that it is the change that is shrunk.

        Returns:
            Whether it is there. A pair with a factor that is still zero adds nothing: dropped.
        """
        A, B = self.A.active.detach(), self.B.active.detach()
        learned = bool(A.any() and B.any())
        if self.paired and shrinkage != 1:
            self.B.history = shrinkage * self.B.history
        self.A.paired = self.B.paired = False
        if learned:
            self.A.history = torch.cat((self.A.history, A))
            B = B if shrinkage == 1 else shrinkage * B
            self.B.history = torch.cat((self.B.history, B), dim=1)
        self.B.live.zero_()
        return learned

    @torch.no_grad()
    def resize(self, finished: int, paired: bool = False) -> None:
        """Make room for a finished part whose values are loaded next; nothing is folded.

        Args:
            finished: Its rank.
            paired: Whether it is a companion.
        """
        self.unfold()
        self.A.paired = self.B.paired = paired
        self.A.history = self.A.live.new_zeros(finished, self.A.live.shape[1])
        self.B.history = self.B.live.new_zeros(self.B.live.shape[0], finished)

    @torch.no_grad()
    def recompress(self, rank: int) -> float:
        """Replace the finished stack by its best approximation of `rank`.

        Returns:
            The discarded energy: the squared Frobenius norm of the part of s B A left out.
        """
        low = truncated_product(self.A.history, self.B.history, rank)
        self.A.history = low.A.to(self.A.history.dtype)
        self.B.history = low.B.to(self.B.history.dtype)
        return float((self.scaling * low.dropped).square().sum())

    @torch.no_grad()
    def fold(self, finished: int) -> None:
        """Let the base layer compute with W + s B A of the first `finished` boosters.

        The sum starts from the base weight as it is, in float32 at least, and is rounded once.
        """
        self.unfold()
        base = self.layer.get_base_layer()
        A, B = self.A.history[:finished], self.B.history[:, :finished]
        dtype = compute_dtype(base.weight, A)
        delta = self.scaling * (B.to(dtype) @ A.to(dtype))
        delta = delta.T if getattr(self.layer, "fan_in_fan_out", False) else delta
        working = (base.weight.to(dtype) + delta).to(base.weight.dtype)
        self.layer.base_layer = WorkingCopy(base, self.layer, self.adapter, working)
        self.A.folded = self.B.folded = finished

    def unfold(self) -> None:
        """Give the layer its base layer back; every finished booster computes as a product."""
        if isinstance(self.layer.base_layer, WorkingCopy):
            self.layer.base_layer = self.layer.base_layer.base_layer
        self.A.folded = self.B.folded = 0

    def can_fold(self) -> bool:
        """Whether the base weight is a plain floating-point matrix."""
        weight = getattr(self.layer.get_base_layer(), "weight", None)
        shapes = {
            (self.layer.in_features, self.layer.out_features),
            (self.layer.out_features, self.layer.in_features),
        }
        return (
            isinstance(weight, Tensor)
            and weight.is_floating_point()
            and tuple(weight.shape) in shapes
        )


@register_part("stacked")
@dataclass(frozen=True)
class StackedLoRA(Layer):
    """LoRA whose factors are stacks, with room for finished boosters."""

    def install(self, model: PeftModel, adapter_name: str) -> None:
        """Put a `StackedFactor` in the place of every factor.

        Raises:
            MethodError: A layer is not the sum of a base and one low-rank product.
        """
        layers = adapted_layers(model)
        for name, layer in layers.items():
            _check_additive(name, layer, adapter_name)
            stack_factors(layer, adapter_name)
        _keep_from_broadcast(model, layers, adapter_name)


def stack_factors(layer: LoraLayer, adapter: str) -> None:
    """Replace both factors of a layer by a `StackedFactor`; the layer's dropout moves into A's."""
    A, B = layer.lora_A, layer.lora_B
    A[adapter] = StackedFactor(A[adapter], 0, layer.lora_dropout[adapter])
    B[adapter] = StackedFactor(B[adapter], 1)
    layer.lora_dropout[adapter] = nn.Identity()


def has_stacks(layers: Mapping[str, LoraLayer], adapter: str) -> bool:
    """Whether any layer has stacked factors."""
    factors = [layer.lora_A[adapter] for layer in layers.values() if layer.lora_A]
    return any(isinstance(factor, StackedFactor) for factor in factors)


def stacks(layers: Mapping[str, LoraLayer], adapter: str) -> dict[str, Stack]:
    """The stack of every adapted layer, by module name.

    Raises:
        MethodError: The layers are not those of `StackedLoRA`.
    """
    for name, layer in layers.items():
        factors = [getattr(layer, factor) for factor in _FACTORS]
        if not all(isinstance(factor[adapter], StackedFactor) for factor in factors):
            raise MethodError(
                f"{name} is a plain LoRA layer, which has no room for finished boosters; a method "
                "with a chain takes Slots(layer=StackedLoRA(), procedure=Chain(...))"
            )
    return {name: Stack(layer, adapter) for name, layer in layers.items()}


def write_ranks(model: PeftModel, adapter: str, stacks: Mapping[str, Stack]) -> None:
    """Bring PEFT's bookkeeping up to date with the stacks; see `rank_patterns.write_ranks`."""
    layers = {name: stack.layer for name, stack in stacks.items()}
    rank_patterns.write_ranks(
        model, adapter, layers, {n: stack.rank for n, stack in stacks.items()}
    )


def _check_additive(name: str, layer: LoraLayer, adapter: str) -> None:
    kind = type(layer.get_base_layer()).__name__
    if adapter in layer.lora_variant or layer.use_dora[adapter]:
        raise MethodError(
            f"{name} is not base + s B A (a DoRA-like variant), so finished boosters cannot be "
            "added up; use plain LoRA options with a chain"
        )
    special = isinstance(layer, (MultiheadAttention, ParamWrapper))
    linear = all(
        adapter in factor and isinstance(factor[adapter], nn.Linear)
        for factor in (layer.lora_A, layer.lora_B)
    )
    if special or not linear:
        raise MethodError(
            f"{name} is a {kind}; a chain stacks the factors of linear layers only. Leave it out "
            "of target_modules"
        )
    if layer.lora_bias[adapter]:
        raise MethodError(f"{name} has lora_bias=True; a chain has no bias to stack. Set it False")


def _keep_from_broadcast(model: PeftModel, layers: Mapping[str, LoraLayer], adapter: str) -> None:
    """Tell DistributedDataParallel that every process computes these buffers by itself."""
    names = [f"{n}.{factor}.{adapter}.history" for n in layers for factor in _FACTORS]
    names += [f"{name}.base_layer.working" for name in layers]
    ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(model, names)  # type: ignore[no-untyped-call]
