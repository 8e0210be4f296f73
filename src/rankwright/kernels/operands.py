"""The tensors and rules of one adapted layer, and its computation by plain operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from rankwright.algebra.precision import nonzero
from rankwright.kernels.seeded_dropout import (
    keep_mask,
)
from rankwright.kernels.seeded_noise import Noise


class Operands(NamedTuple):
    """The tensors of one adapted layer.

    Attributes:
        x: (..., in).
        W: Frozen weight, (out, in), or (in, out) if `Rule.transposed`.
        bias: Frozen, (out,), or None.
        A: Trained factor (r, in), or None for a layer with only the frozen pair, or neither.
        B: Trained factor (out, r), or None.
        A0: Frozen factor (R, in), or None.
        B0: Frozen factor (out, R), or None.
        m: Magnitude (out,), or None for LoRA.
        n: Row norm (out,), or None for LoRA; it may carry a gradient.
    """

    x: Tensor
    W: Tensor
    bias: Tensor | None = None
    A: Tensor | None = None
    B: Tensor | None = None
    A0: Tensor | None = None
    B0: Tensor | None = None
    m: Tensor | None = None
    n: Tensor | None = None


@dataclass(frozen=True)
class Rule:
    """How the output is computed from the operands.

    Attributes:
        s: Scaling of both products.
        transposed: Whether W is stored (in, out), as GPT-2's Conv1D does.
        mirrored: Whether the frozen pair is the negated initial value of the trained one. The
            products are then formed as `A (B + B_0) - (A - A_0) B_0`: exactly zero at the start.
        dropout: Dropout probability of the input of the trained pair; 0 for none.
        seed: Seed of the dropout mask.
        dtype: The dtype that autocast computes in; None without autocast.
        noise: Noise added to W when it is multiplied, and drawn again in the backward; only without
            a magnitude, without autocast, and for W in float32 or float64.
    """

    s: float
    transposed: bool = False
    mirrored: bool = False
    dropout: float = 0.0
    seed: int = 0
    dtype: torch.dtype | None = None
    noise: Noise | None = None


TENSORS = len(Operands._fields) - 1
"""Number of a layer's operands besides x."""

Layer = tuple[Operands, Rule]


def plain_linear(operands: Operands, rule: Rule) -> Tensor:
    """Return the layer's output by PyTorch's own operations: slow, and differentiable to any order.

    Args:
        operands: See `Operands`.
        rule: See `Rule`; `dtype` is not used, the caller's autocast applies.

    Returns:
        (..., out).
    """
    x, _, bias, A, B, A0, B0, m, n = operands
    y = F.linear(x, weight_of(operands, rule), bias)
    u = y
    if A is not None and B is not None:
        x_low = x.to(A.dtype)
        if rule.dropout:
            x_low = x_low * keep_mask(x_low.shape, rule.dropout, rule.seed, x_low)
        u = u + rule.s * F.linear(F.linear(x_low, A), B)
    if A0 is not None and B0 is not None:
        u = u + rule.s * F.linear(F.linear(x.to(A0.dtype), A0), B0)
    if m is not None and n is not None:
        g = m / nonzero(n)
        u = u * g if bias is None else (u - bias) * g + bias
    return u.to(y.dtype)


def is_trained(tensor: Tensor | None) -> bool:
    """Return whether a tensor is given and requires a gradient."""
    return tensor is not None and tensor.requires_grad


def needs_output(o: Operands) -> bool:
    """Return whether the backward reads the output, as the gradient of a magnitude does."""
    return is_trained(o.m) or is_trained(o.n)


def without_view(y: Tensor) -> Tensor:
    """Return y as a tensor that autograd does not treat as a view.

    A view among several outputs could not be written in place. This is safe because `F.linear`
    returns a view of a matrix that nothing else refers to.
    """
    return torch.ops.aten._unsafe_view(y, y.shape) if y._is_view() else y


def in_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `tensor.to(dtype)`, without the call if the dtype is right already."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def weight_of(o: Operands, rule: Rule) -> Tensor:
    """Return the weight that multiplies the input, (out, in)."""
    W = o.W.T if rule.transposed else o.W
    return W if rule.noise is None else rule.noise.on(W)


def base_output(o: Operands, rule: Rule) -> Tensor:
    """Return x W^T + b, contiguous: the products are added into it."""
    x, W, bias = o.x, weight_of(o, rule), o.bias
    if rule.dtype is not None:
        x, W = x.to(rule.dtype), W.to(rule.dtype)
        bias = None if bias is None else bias.to(rule.dtype)
    return F.linear(x, W, bias).contiguous()


def gain_of(o: Operands) -> Tensor:
    """Return `g = m / n`, (out,)."""
    return cast(Tensor, o.m) / nonzero(cast(Tensor, o.n))


def scale_rows(o: Operands, u: Tensor) -> Tensor:
    """Return `b + g (u - b)` as `g u + (1 - g) b`, in place if the dtype of u is wide enough."""
    g = gain_of(o)
    y = in_dtype(u, torch.promote_types(u.dtype, g.dtype)).mul_(g)
    return y if o.bias is None else y.add_((1 - g) * o.bias)
