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
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from peft.tuners.lora.layer import LoraLayer, MultiheadAttention, ParamWrapper
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from rankwright.core import ranks
from rankwright.core.catalogue import part
from rankwright.core.errors import MethodError
from rankwright.core.fused import Factors
from rankwright.core.linalg import compute_dtype, truncated_product
from rankwright.core.part import Layer
from rankwright.core.run import adapted_layers
from rankwright.layers.frozen import freeze

if TYPE_CHECKING:
    from peft import PeftModel

_FACTORS = ("lora_A", "lora_B")

Side = Literal["A", "B"]
"""One of the two factors."""


class StackedFactor(nn.Module):
    """One factor of a stack, in the place of the `nn.Linear` that PEFT made for it.

    Attributes:
        live: The booster's part, (r, in) for A and (out, r) for B: one `Parameter` for the whole
            run, so that optimizer and DistributedDataParallel keep hold of it.
        width: How many rows (A) or columns (B) of `live` are in use, its first ones: the rank of
            the booster where that differs from round to round. The others are not computed.
        history: The finished part, (R, in) or (out, R).
        selected: Whether the live part belongs to the stack.
        paired: Whether the finished part is the live one's companion, which takes away what the
            live one started at (:mod:`rankwright.inits.companion`). The two are multiplied apart,
            so that equal parts cancel to the last bit; where the live part is not selected, they
            are saved and not computed.
        apart: Whether the finished part computes in a product of its own while training, so that
            nothing of it is kept for the backward pass.
        folded: How many finished boosters the base layer's working copy already holds; `forward`
            leaves them out.

    Args:
        linear: The factor that PEFT made; its weight becomes `live`.
        axis: Where boosters are stacked: 0 for A, 1 for B.
        dropout: Dropout on the input of the live part. The finished part sees the input as it is.
    """

    history: Tensor
    live: nn.Parameter

    def __init__(self, linear: nn.Linear, axis: int, dropout: nn.Module | None = None) -> None:
        super().__init__()
        self.axis = axis
        self.live = cast(nn.Parameter, linear.weight)
        self.width = self.live.shape[axis]
        self.dropout = dropout or nn.Identity()
        self.selected = True
        self.paired = False
        self.apart = False
        self.folded = 0
        empty = linear.weight.detach().narrow(axis, 0, 0).clone()
        self.register_buffer("history", empty, persistent=False)

    @property
    def active(self) -> Tensor:
        """The part of `live` in use, (width, in) or (out, width)."""
        whole = self.width == self.live.shape[self.axis]
        return self.live if whole else self.live.narrow(self.axis, 0, self.width)

    @property
    def finished(self) -> int:
        """Rank R of the finished part."""
        return self.history.shape[self.axis]

    @property
    def rank(self) -> int:
        """Rank of the stack."""
        return self.finished + self.width if self._both else self.finished or self.width

    @property
    def _both(self) -> bool:
        """Whether the stack has its live part beside the finished one."""
        return self.selected or self.paired

    @property
    def _computes_history(self) -> bool:
        """False for a companion whose live pair is left out: alone it would change the model."""
        return self.selected or not self.paired

    @property
    def weight(self) -> Tensor:
        """The whole stack, (R + r, in) or (out, R + r)."""
        return self._stack(self.history)

    def forward(self, x: Tensor) -> Tensor:
        """The factor's product.

        Args:
            x: (..., in) for A, (..., R + r) for B.

        Returns:
            (..., R + r) for A, (..., out) for B; R counts the boosters that are not folded.
        """
        if not self._computes_history:
            return F.linear(x, self.live.narrow(self.axis, 0, 0))  # of rank 0
        history = self._unfolded()
        if history.numel() == 0:
            return F.linear(self.dropout(x), self.active)
        apart = self.training and (self.apart or not isinstance(self.dropout, nn.Identity))
        if not (self.selected and (self.paired or apart)):
            return F.linear(x, self._stack(history))
        if self.axis == 0:
            return torch.cat((F.linear(x, history), F.linear(self.dropout(x), self.active)), dim=-1)
        # Copies: a view would keep all of x until the backward pass, and a product may round
        # differently where its input is not aligned the same way.
        old, new = (
            part.contiguous() for part in torch.split(x, [history.shape[1], self.width], -1)
        )
        return F.linear(old, history) + F.linear(new, self.active)

    def factors_with(self, B: StackedFactor) -> Factors:
        """Both factors for `core.fused`; `self` is the factor A.

        A layer with neither a finished nor a live booster has B = 0 and computes nothing, and so
        does one whose companion takes away what is not there.

        Args:
            B: The other factor of the same layer.
        """
        frozen = self.finished > self.folded and self._computes_history
        return Factors(
            A=self.active if self.selected else None,
            B=B.active if self.selected else None,
            A0=self._unfolded() if frozen else None,
            B0=B._unfolded() if frozen else None,
            dropout=self.dropout,
            mirrored=self.paired,
        )

    def extra_repr(self) -> str:
        """Shape of the stack."""
        return f"rank={self.rank}, finished={self.finished}, selected={self.selected}"

    def _unfolded(self) -> Tensor:
        return self.history.narrow(self.axis, self.folded, self.finished - self.folded)

    def _stack(self, history: Tensor) -> Tensor:
        if history.numel() == 0:
            return self.active
        return torch.cat((history, self.active), dim=self.axis) if self._both else history

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[prefix + "weight"] = self.weight if keep_vars else self.weight.detach()

    @torch.no_grad()
    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        del local_metadata, strict, unexpected_keys
        key = prefix + "weight"
        stack: Tensor | None = state_dict.get(key)
        if stack is None:
            missing_keys.append(key)
        elif stack.shape != self.weight.shape:
            error_msgs.append(
                f"{key} has shape {tuple(stack.shape)}, but the chain stands at "
                f"{tuple(self.weight.shape)}: load the procedure's state of the same checkpoint "
                "before its adapter, or load the adapter with PeftModel.from_pretrained"
            )
        else:
            sizes = [self.finished, stack.shape[self.axis] - self.finished]
            history, live = torch.split(stack, sizes, dim=self.axis)
            self.history.copy_(history)
            if live.numel():
                self.active.copy_(live)


class WorkingCopy(nn.Module):
    """A base layer that computes with a copy of its weight to which boosters were added.

    The base layer itself is not written: it answers whenever the adapter is disabled or merged.

    Args:
        base_layer: The base layer.
        owner: The adapted layer around it.
        adapter: The adapter whose boosters the copy holds.
        weight: The copy, in the layout and dtype of the base layer's weight.
    """

    working: Tensor

    def __init__(
        self, base_layer: nn.Module, owner: LoraLayer, adapter: str, weight: Tensor
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._owner = (owner,)  # in a tuple, or the owner would become a child of its own child
        self._adapter = adapter
        self.register_buffer("working", weight, persistent=False)

    def weight_in_use(self) -> Tensor:
        """The weight under an active adapter; for `core.fused`."""
        return self.working

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base layer's output, (..., out), under the weight that holds now."""
        (owner,) = self._owner
        if owner.disable_adapters or owner.merged or self._adapter not in owner.active_adapters:
            return self.base_layer(*args, **kwargs)
        return functional_call(self.base_layer, {"weight": self.working}, args, kwargs)


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


@part("stacked")
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
            A, B = (getattr(layer, factor) for factor in _FACTORS)
            A[adapter_name] = StackedFactor(A[adapter_name], 0, layer.lora_dropout[adapter_name])
            B[adapter_name] = StackedFactor(B[adapter_name], 1)
            layer.lora_dropout[adapter_name] = nn.Identity()
        _keep_from_broadcast(model, layers, adapter_name)


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
    """Bring PEFT's bookkeeping up to date with the stacks; see `core.ranks.write_ranks`."""
    layers = {name: stack.layer for name, stack in stacks.items()}
    ranks.write_ranks(model, adapter, layers, {n: stack.rank for n, stack in stacks.items()})


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
