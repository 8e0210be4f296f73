"""Gaussian noise on the weight that an adapted layer computes with.

    y = x (W' + eps)^T + b = (x W'^T + b) + x eps^T,      eps_ij = std_i z_ij,  z_ij ~ N(0, 1)

`eps` (out, in) is a pure function of a seed. It is drawn where it is multiplied, in the forward and
once more in the backward, and dropped at once: no weight is written, and nothing but the seed and
`std` (out,) waits for the backward pass. A LoRA over a float32 weight adds it to a copy of the
weight and multiplies once. Elsewhere it is a product of its own, which also works where W' is
bfloat16, which would swallow most of a small eps, or packed, or scaled by DoRA's magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.lora.layer import Embedding, LoraLayer, MultiheadAttention, ParamWrapper
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.hooks import RemovableHandle

from rankwright.algebra.precision import no_autocast
from rankwright.algebra.row_norms import factored_row_norm
from rankwright.errors import MethodError
from rankwright.kernels.fused_linear import FusedLinear
from rankwright.kernels.seeded_noise import Noise
from rankwright.peft_layers.weight_view import (
    CONV_LAYERS,
    base_rows,
    dora_magnitude,
    low_rank_factors,
)

_NOT_LINEAR = (*CONV_LAYERS, Embedding, MultiheadAttention, ParamWrapper)


@torch.no_grad()
def row_std(module: LoraLayer, adapter_name: str, strength: float, base_norm_sq: Tensor) -> Tensor:
    """`strength |W'_i| / sqrt(in)` for the rows of the weight that the layer computes with now.

    The norms of `W + s B A` come in factored form; those of a DoRA weight are its magnitudes.

    Args:
        module: A LoRA layer that `check_noise` lets pass.
        adapter_name: Name of the adapter.
        strength: Noise relative to the weight. With white inputs, the variance of an output is
            `1 + strength^2` times what it is without noise.
        base_norm_sq: `row_norm_sq` of the base weight `(out,)`; not read for DoRA.

    Returns:
        `(out,)`, float32 or float64.
    """
    m = dora_magnitude(module, adapter_name)
    if m is None:
        A, B, s = low_rank_factors(module, adapter_name)
        norm = factored_row_norm(base_rows(module), A, B, s, base_norm_sq)
    else:
        norm = m.abs()
    return strength / math.sqrt(module.in_features) * norm


@dataclass(frozen=True)
class NoiseHandle:
    """Takes the noise of a layer away.

    Attributes:
        layer: The layer.
        hook: What adds the noise where the layer cannot.
    """

    layer: LoraLayer
    hook: RemovableHandle

    def remove(self) -> None:
        """Let the layer compute as it was."""
        self.hook.remove()
        if isinstance(self.layer, FusedLinear):
            self.layer.noise = None


def add_noise(module: LoraLayer, adapter_name: str, noise: Callable[[], Noise]) -> NoiseHandle:
    """Let a layer add `x eps^T` to its output, in training mode, until the handle is removed.

    The noise comes after everything the layer does, DoRA's scaling included: it is noise on the
    effective weight, and constant for every gradient. A pass with the adapter disabled, DPO's
    reference say, has none.

    Args:
        module: A LoRA layer.
        adapter_name: Name of the adapter.
        noise: Called in every forward pass, recomputations included.

    Returns:
        The handle that takes the noise away.
    """
    fused = isinstance(module, FusedLinear)

    def hook(layer: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> Tensor | None:
        inactive = module.disable_adapters or adapter_name not in module.active_adapters
        if inactive or not layer.training or (fused and layer.has_noise):
            return None
        x = cast(Tensor, inputs[0]).to(y.dtype)
        return y + cast(Tensor, _NoiseProduct.apply(x, noise(), False))  # type: ignore[no-untyped-call]

    if isinstance(module, FusedLinear):
        module.noise = lambda adapter: noise() if adapter == adapter_name else None
    return NoiseHandle(module, cast(RemovableHandle, module.register_forward_hook(hook)))


def check_noise(name: str, module: LoraLayer) -> None:
    """Refuse a layer whose output is not `x W'^T + b`.

    Args:
        name: Name of the module, for the message.
        module: A LoRA layer.

    Raises:
        MethodError: It is an embedding, a convolution, attention or a bare parameter.
    """
    if isinstance(module, _NOT_LINEAR):
        raise MethodError(
            f"{name} is a {type(module.get_base_layer()).__name__}; noise is added to the weights "
            "of linear layers only. Leave it out of target_modules"
        )


class _NoiseProduct(Function):
    """`x eps^T`, or `x eps`: each is the other's backward pass, with `eps` drawn anew."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, noise: Noise, backward: bool) -> Tensor:
        ctx.noise, ctx.is_backward = noise, backward
        eps = noise.draw(x.dtype)
        with no_autocast(x):
            return x @ (eps if backward else eps.T)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        product = _NoiseProduct.apply(grad, ctx.noise, not ctx.is_backward)  # type: ignore[no-untyped-call]
        return cast(Tensor, product), None, None
