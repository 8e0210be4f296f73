"""PEFT's LoRA layer over a linear layer, computed by `lowrank_linears` wherever it applies.

`Method.apply` calls `fuse`. A layer falls back to PEFT's own forward, call by call, under a merged
or disabled adapter, several adapters at once, a quantised or sharded base, a trained weight or
bias, hooks on the parts, a LoRA variant without `magnitude_operands`, `torch.compile`,
`torch.func`, forward mode, and `plain_layers()`. Inside `plain_layers()` a layer with dropout
computes `plain_linear`, which draws the same masks as `lowrank_linears`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from rankwright.kernels.blocks import prepare
from rankwright.kernels.lowrank import lowrank_linears
from rankwright.kernels.operands import Operands, Rule, plain_linear
from rankwright.kernels.recomputation import autocast_dtype, origin_of, transformed
from rankwright.kernels.seeded_dropout import new_seed
from rankwright.kernels.seeded_noise import Noise
from rankwright.kernels.shared_input import InputGroup, share_input, shared_in

_PLAIN_TENSORS = (Tensor, nn.Parameter)
_WIDE = (torch.float32, torch.float64)
_CONV1D = ("transformers.pytorch_utils", "Conv1D")  # by name: transformers is not imported here

_plain = 0  # depth of nested `plain_layers()`


@dataclass(frozen=True)
class Factors:
    """The factors of a layer, as returned by a module that replaces `lora_A`.

    Attributes:
        A: Trained factor (r, in); None if the layer has only the frozen pair, or neither.
        B: Trained factor (out, r), or None.
        A0: Frozen factor (R, in), or None.
        B0: Frozen factor (out, R), or None.
        dropout: Dropout of the input of the trained pair; None for the layer's own.
        mirrored: See `Rule.mirrored`.
    """

    A: Tensor | None
    B: Tensor | None
    A0: Tensor | None = None
    B0: Tensor | None = None
    dropout: nn.Module | None = None
    mirrored: bool = False


class FusedLinear(Linear):
    """PEFT's LoRA layer over a linear layer, with one autograd function as its forward.

    Parts other than `nn.Linear` are fused if they define the method for it: `lora_A` needs
    `factors_with(lora_B) -> Factors | None`, the base layer `weight_in_use() -> Tensor`, and a LoRA
    variant `magnitude_operands(layer, adapter) -> (m, n) | None`.

    Attributes:
        input_group: The projections of its block that see the same input, itself included; None if
            there are no others.
        noise: A function that returns the noise on the weight for an adapter, called in training
            mode; None for a layer without noise.
        has_noise: Whether the latest output includes the noise. If it does not, for example
            because the weight is in low precision, the code that set `noise` has to add it.
    """

    input_group: InputGroup | None = None
    noise: Callable[[str], Noise | None] | None = None
    has_noise = False

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the layer's output, like PEFT's `Linear.forward`.

        Args:
            x: (..., in).
            args: Arguments of the base layer; with any of them, PEFT's forward computes the call.
            kwargs: Keyword arguments of the base layer or of PEFT; likewise.

        Returns:
            (..., out).
        """
        if not (args or kwargs or transformed()):
            output = self._plain_output(x) if _plain else self._fused_output(x)
            if output is not None:
                return output
        if self.noise is not None:
            self.has_noise = False
        return cast(Tensor, super().forward(x, *args, **kwargs))

    def _plain_output(self, x: Tensor) -> Tensor | None:
        """Return the output under the masks of `lowrank_linears`; None without dropout.

        PEFT's forward would draw masks of its own.
        """
        call = self._fused_call(x)
        return plain_linear(*call) if call is not None and call[1].dropout else None

    def _fused_output(self, x: Tensor) -> Tensor | None:
        """Return the output, computed alone or with its group; None if PEFT's forward has to."""
        group = self.input_group
        found = None if group is None else group.take(self, x)
        if found is not None:
            return found
        call = self._fused_call(x)
        if call is None:
            return None
        # dropout seeds are drawn in the order in which the layers would be called one by one
        others = [] if group is None else group.others(self)
        ready = [(other, c) for other in others if (c := other._fused_call(x)) is not None]
        first, *outputs = lowrank_linears([call, *(c for _, c in ready)], origin_of(x))
        if group is not None and ready:
            group.keep(x, zip((other for other, _ in ready), outputs, strict=True))
        return first

    def _fused_call(self, x: Tensor) -> tuple[Operands, Rule] | None:
        """Return the arguments for `lowrank_linears`; None where it does not apply."""
        names = [name for name in self.active_adapters if name in self.lora_A]
        off = self.disable_adapters or self.merged
        if off or len(names) != 1 or self.lora_bias[names[0]]:
            return None
        adapter = names[0]
        base, factors = _frozen_weight(self.base_layer), self._factors(adapter)
        if base is None or factors is None or not _fits(x, base[0], factors):
            return None
        m = n = None
        if adapter in self.lora_variant:
            operands_of = getattr(self.lora_variant[adapter], "magnitude_operands", None)
            scales = operands_of(self, adapter) if operands_of else None
            if scales is None:
                return None
            m, n = scales
        p, dtype = _probability(factors.dropout), autocast_dtype(x)
        noise = None
        if self.noise is not None:
            if self.training and m is None and dtype is None and base[0].dtype in _WIDE:
                noise = self.noise(adapter)
            self.has_noise = noise is not None
        operands = Operands(x, *base, factors.A, factors.B, factors.A0, factors.B0, m, n)
        return operands, Rule(
            s=float(self.scaling[adapter]),
            transposed=self.fan_in_fan_out,
            mirrored=factors.mirrored,
            dropout=p,
            seed=new_seed() if p else 0,
            dtype=dtype,
            noise=noise,
        )

    def _factors(self, adapter: str) -> Factors | None:
        A, B, dropout = (d[adapter] for d in (self.lora_A, self.lora_B, self.lora_dropout))
        if not all(_untouched(part) for part in (A, B, dropout)):
            return None
        if hasattr(A, "factors_with"):
            found = cast("Factors | None", A.factors_with(B))
            if found is None or type(dropout) is nn.Identity:
                return found
            return replace(found, dropout=dropout) if found.dropout is None else None
        if type(A) is nn.Linear and type(B) is nn.Linear:
            return Factors(A.weight, B.weight, dropout=dropout)
        return None


def fuse(model: nn.Module) -> None:
    """Make every LoRA layer over a linear layer a `FusedLinear`, and prepare the blocks around it.

    The outputs, the parameters and their names stay the same; see `rankwright.kernels.blocks`.

    Args:
        model: A model with LoRA layers; changed in place.
    """
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = FusedLinear
    for parent, names in shared_in(model):
        layers = [part for name in names if type(part := parent._modules.get(name)) is FusedLinear]
        if len(layers) > 1 and not any(layer.input_group for layer in layers):
            share_input(layers, parent, names)
    prepare(model)


@contextmanager
def plain_layers() -> Iterator[None]:
    """Let every layer compute by operations that can be differentiated twice, with equal masks."""
    global _plain
    _plain += 1
    try:
        yield
    finally:
        _plain -= 1


def _frozen_weight(base: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Return weight and bias of a frozen, unmodified linear layer of PyTorch or transformers."""
    weight_in_use: Any = getattr(base, "weight_in_use", None)
    layer = cast(nn.Module, base.base_layer) if weight_in_use else base
    kind = type(layer)
    known = kind is nn.Linear or (kind.__module__, kind.__qualname__) == _CONV1D
    if not (known and _untouched(base) and _untouched(layer)):
        return None
    W = cast(Tensor, weight_in_use() if weight_in_use else layer.weight)
    bias = cast("Tensor | None", layer.bias)
    if not _is_plain_and_frozen(W):
        return None
    if bias is not None and not (_is_plain_and_frozen(bias) and bias.dtype == W.dtype):
        return None
    return W, bias


def _is_plain_and_frozen(tensor: Tensor) -> bool:
    return type(tensor) in _PLAIN_TENSORS and not tensor.requires_grad


def _untouched(module: nn.Module) -> bool:
    """Return whether a call of the module runs the forward of its class, and nothing else."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def _fits(x: Tensor, W: Tensor, factors: Factors) -> bool:
    """Return whether dropout, dtypes and devices are ones that the base layer and PEFT accept."""
    if factors.dropout is not None and type(factors.dropout) not in (nn.Identity, nn.Dropout):
        return False
    place = x.device
    for factor in (factors.A, factors.B, factors.A0, factors.B0):
        if factor is not None and not (factor.device == place and factor.layout == torch.strided):
            return False
    if autocast_dtype(x) is not None:
        right_dtype = torch.float64 not in (x.dtype, W.dtype)  # autocast leaves float64 alone
    else:
        right_dtype = x.dtype == W.dtype
    return W.device == place and right_dtype


def _probability(dropout: nn.Module | None) -> float:
    active = isinstance(dropout, nn.Dropout) and dropout.training
    return float(cast(nn.Dropout, dropout).p) if active else 0.0
