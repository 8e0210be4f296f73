r"""The operations between the products of a transformer, as functions that keep the least.

    gated       p = act(g) * u
    rms_norm    y = w * z,   z = h rho,   rho = (mean(h^2) + eps)^(-1/2)         Llama's norm

Both keep only their arguments (and rho), and note the origin of their result, so that a layer that
sees it need not keep it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from rankwright.kernels.recomputation import note

Activation = Callable[[Tensor], Tensor]


def gated(act: Activation, g: Tensor, u: Tensor) -> Tensor:
    """Return `act(g) * u`, keeping only g and u.

    PyTorch would keep `act(g)` as well, and the layer after it the product.

    Args:
        act: An activation: elementwise, not in place, deterministic.
        g: (..., d).
        u: (..., d).

    Returns:
        (..., d).
    """
    p = cast(Tensor, _Gated.apply(act, g, u))  # type: ignore[no-untyped-call]
    if p.requires_grad:
        note(p, partial(_product, act), (g, u))
    return p


def rms_norm(h: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return Llama's RMS norm: in float32, rounded to the dtype of h before the weight is applied.

    Args:
        h: (..., d).
        weight: (d,), without a gradient.
        eps: Added to the mean square.

    Returns:
        (..., d), with the same bits as transformers' `LlamaRMSNorm`.
    """
    y, rho = cast("tuple[Tensor, Tensor]", _RmsNorm.apply(h, weight, eps))  # type: ignore[no-untyped-call]
    if y.requires_grad:
        note(y, partial(_normed, eps), (h, rho, weight))
    return y


def _product(act: Activation, g: Tensor, u: Tensor) -> Tensor:
    return act(g) * u


class _Gated(Function):
    """With p = act(g) u: `dL/du = dL/dp act(g)`, `dL/dg = dL/dp u act'(g)`."""

    @staticmethod
    def forward(ctx: Any, act: Activation, g: Tensor, u: Tensor) -> Tensor:
        ctx.act = act
        ctx.save_for_backward(g, u)
        return _product(act, g, u)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        g, u = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted
            dg, du = torch.autograd.grad(_product(ctx.act, g, u), (g, u), grad, create_graph=True)
            return None, dg, du
        with torch.enable_grad():  # act(g) once for both gradients
            leaf = g.detach().requires_grad_()
            a = ctx.act(leaf)
        (dg,) = torch.autograd.grad(a, leaf, grad * u)
        return None, dg, grad * a.detach()


def _root_mean_square(wide: Tensor, eps: float) -> Tensor:
    """Return `rho` of h in float32, (..., 1)."""
    return torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)


def _normed(eps: float, h: Tensor, rho: Tensor, weight: Tensor) -> Tensor:
    wide = h.float()
    if torch.is_grad_enabled():  # the saved rho has no graph, and depends on h
        rho = _root_mean_square(wide, eps)
    return (wide * rho).to(h.dtype) * weight


class _RmsNorm(Function):
    """With dz = w dL/dy: `dL/dh = rho (dz - z mean(z dz))`, the mean over d."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        wide = h.float()
        rho = _root_mean_square(wide, eps)
        ctx.eps = eps
        ctx.save_for_backward(h, rho, weight)
        ctx.mark_non_differentiable(rho)
        return (wide * rho).to(h.dtype) * weight, rho

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _grad_rho: Tensor) -> tuple[Tensor, None, None]:
        h, rho, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted
            y = _normed(ctx.eps, h, rho, weight)
            return torch.autograd.grad(y, h, grad, create_graph=True)[0], None, None
        z = h.float() * rho
        dz = (grad * weight).to(h.dtype).to(z.dtype)  # rounded like the gradient of PyTorch's graph
        along = torch.linalg.vecdot(z, dz).unsqueeze(-1) / z.shape[-1]
        return dz.addcmul(z, along, value=-1).mul_(rho).to(h.dtype), None, None
