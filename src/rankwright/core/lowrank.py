r"""The adapted linear layer as one autograd function: the least work and the least memory.

    u = x W^T + b + s (drop(x) A^T B^T + x A_0^T B_0^T)                     LoRA, A_0 B_0 frozen
    y = b + g (u - b),   g = m / n                                          DoRA, row by row

W (out, in), b (out), A (r, in), B (out, r), A_0 (R, in), B_0 (out, R), m and n (out). PEFT computes
the same as six operations of its own. Here

- both products are added into the base layer's output, and into the gradient of x, as they are
  multiplied; the scaling is folded in; A and A_0, B and B_0 are multiplied as one;
- kept for the backward are x, or what x was computed from, if that is known (only where A is
  trained), and the r numbers a token between the factors (only where B is): not the dropped input,
  and no second output. The gradient of a
  magnitude follows from the output, `dL/dm = sum dL/dy (y - b) / m`, which the next operation
  often keeps anyway;
- dropout is drawn from a seed, once more in the backward;
- thin factors stand on the left of their products, where the libraries are two to five times
  faster than on the right (measured with MKL at r = 8).

Differentiated twice, it steps back to the plain operations.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from rankwright.core.linalg import nonzero
from rankwright.core.origins import Origin

Grads = tuple[Tensor | None, ...]


class Operands(NamedTuple):
    """The tensors of one adapted layer.

    Attributes:
        x: (..., in).
        W: Frozen weight, (out, in), or (in, out) if `Rule.transposed`.
        bias: Frozen, (out,), or None.
        A: Trained factor (r, in), or None where the frozen pair is all there is.
        B: Trained factor (out, r), or None.
        A0: (R, in), or None.
        B0: (out, R), or None.
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
    """How the operands are put together.

    Attributes:
        s: Scaling of both products.
        transposed: Whether W is stored (in, out), as GPT-2's Conv1D does.
        mirrored: Whether the frozen pair is the start of the trained one, negated. The products
            are then formed as `A (B + B_0) - (A - A_0) B_0`: exactly zero at the start.
        dropout: Probability p of the input of the trained pair; 0 for none.
        seed: Of the dropout mask.
        dtype: What autocast computes in; None without autocast.
    """

    s: float
    transposed: bool = False
    mirrored: bool = False
    dropout: float = 0.0
    seed: int = 0
    dtype: torch.dtype | None = None


def lowrank_linear(operands: Operands, rule: Rule, origin: Origin | None = None) -> Tensor:
    """The layer's output.

    Args:
        operands: See `Operands`.
        rule: See `Rule`.
        origin: Of x; it is then computed again in the backward and not kept.

    Returns:
        (..., out), in the dtype that the base layer would give.
    """
    return cast(Tensor, _LowRankLinear.apply(rule, origin, *operands))  # type: ignore[no-untyped-call]


def plain_linear(operands: Operands, rule: Rule) -> Tensor:
    """The same by PyTorch's own operations: the slow reference, differentiable at will.

    Args:
        operands: See `Operands`.
        rule: See `Rule`; `dtype` is not used, autocast is as it is.

    Returns:
        (..., out).
    """
    x, W, bias, A, B, A0, B0, m, n = operands
    y = F.linear(x, W.T if rule.transposed else W, bias)
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


# Dropout -----------------------------------------------------------------------------------------


def new_seed() -> int:
    """A seed from the global CPU generator, so that a replay of its state draws it again."""
    return int(torch.randint(2**31 - 1, ()).item())


def dropped_places(numel: int, p: float, seed: int, device: torch.device) -> Tensor:
    """Which entries dropout sets to zero: a pure function of the arguments and the type of device.

    The gaps between them are drawn, geometrically distributed, instead of a number for every entry:
    p numel draws, and every entry is dropped with probability p independently of the others.

    Args:
        numel: Number of entries.
        p: Dropout probability.
        seed: Of the draw.
        device: Where.

    Returns:
        Ascending places, int64; `numel` for those beyond the end.
    """
    if p >= 1:
        return torch.arange(numel, device=device)
    mean, deviation = numel * p, math.sqrt(numel * p * (1 - p))
    draws = min(numel, int(mean + 7 * deviation + 16))  # too few once in 10^12 times
    generator = torch.Generator(device).manual_seed(seed)
    u = torch.rand(draws, generator=generator, device=device)
    gaps = u.neg_().log1p_().mul_(1 / math.log1p(-p)).to(torch.int64).add_(1)
    return gaps.cumsum(0).sub_(1).clamp_(max=numel)


def drop(x: Tensor, p: float, seed: int) -> Tensor:
    """Dropout: entries set to zero with probability p, the others divided by 1 - p.

    Args:
        x: Any shape.
        p: Dropout probability, up to 1.
        seed: Of the mask.

    Returns:
        A new tensor of the same shape.
    """
    return drop_at(x, p, dropped_places(x.numel(), p, seed, x.device))


def drop_at(x: Tensor, p: float, places: Tensor) -> Tensor:
    """`drop` with the places at hand.

    Args:
        x: Any shape.
        p: Dropout probability, up to 1.
        places: What `dropped_places` gave for it.

    Returns:
        A new tensor of the same shape.
    """
    buffer = x.new_empty(x.numel() + 1)  # one more, for the places beyond the end
    dropped = buffer[:-1].view(x.shape)
    torch.mul(x, _kept_scale(p), out=dropped)
    buffer.index_fill_(0, places, 0.0)
    return dropped


def _kept_scale(p: float) -> float:
    """What is kept is multiplied by this; nothing is kept at p = 1."""
    return 1 / (1 - p) if p < 1 else 0.0


def keep_mask(shape: torch.Size, p: float, seed: int, like: Tensor) -> Tensor:
    """The mask that `drop` multiplies by, as a tensor: 0, or 1 / (1 - p)."""
    return drop(like.new_ones(shape), p, seed)


# The function ------------------------------------------------------------------------------------


class _LowRankLinear(Function):
    @staticmethod
    def forward(ctx: Any, rule: Rule, origin: Origin | None, *tensors: Any) -> Tensor:
        o = Operands(*tensors)
        with _no_autocast(o.x):
            base = _base_output(o, rule)
            u, h = _add_products(o, rule, base)
            y = _as(u if o.m is None else _scale_rows(o, u), base.dtype)
        ctx.rule, ctx.origin, ctx.shape = rule, origin, o.x.shape
        of_x = (o.x,) if origin is None else origin.inputs
        ctx.save_for_backward(
            *o[1:],
            h if _is_trained(o.B) else None,
            y if _is_trained(o.m) or _is_trained(o.n) else None,
            *(of_x if _is_trained(o.A) else ()),
        )
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        W, bias, A, B, A0, B0, m, n, h, y, *of_x = ctx.saved_tensors
        x = _input_again(ctx.origin, of_x)
        o, rule = Operands(x, W, bias, A, B, A0, B0, m, n), ctx.rule
        needs = Operands(*ctx.needs_input_grad[2:])
        if torch.is_grad_enabled():
            if x is None and h is None and y is None:  # linear in x: any x will do
                o = o._replace(x=grad.new_zeros(ctx.shape, requires_grad=True))
            return None, None, *_plain_grads(o, rule, needs, grad)
        dx = dA = dB = dm = dn = None
        with _no_autocast(grad):
            dy = grad.reshape(-1, grad.shape[-1])
            if y is not None:
                dm, dn = _magnitude_grads(o, y.reshape(dy.shape), dy)
            if m is not None and n is not None:
                dy = _as(dy * (m / nonzero(n)), dy.dtype)
            if needs.x:
                dx = dy @ _as(_rows(W, rule), dy.dtype)
            for pair in _pairs(o, rule):
                gh = (pair.B.T @ _as(dy.T, pair.B.dtype)).mul_(rule.s)  # (r, tokens)
                places = _places(rule, pair, len(dy), dy.device)
                if pair.trained and needs.A:
                    dA = _grad_of_a(o, rule, pair, gh, places)
                if pair.trained and h is not None:
                    dB = _grad_of_b(B, rule, h, dy)
                if dx is not None:
                    dx = _add_input_grad(dx, pair, gh, rule, places)
            if dx is not None:
                dx = dx.view(ctx.shape)
        return None, None, dx, None, None, dA, dB, None, None, dm, dn


def _is_trained(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


def _no_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Autocast off, where it is on: to enter the context costs as much as a small product."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else _NOTHING


_NOTHING = nullcontext()


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor.to(dtype)`, not called where it has nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _input_again(origin: Origin | None, kept: list[Tensor]) -> Any:
    """The input as it was kept, or computed from what was kept; None where A is frozen."""
    if not kept:
        return None
    return kept[0] if origin is None else origin.again(kept)


class _Pair(NamedTuple):
    """Factors that are multiplied as one, the trained ones first.

    Attributes:
        A: (K, in).
        B: (out, K).
        trained: Whether the trained pair is in it.
        dropped: Whether it sees the dropped input.
    """

    A: Tensor
    B: Tensor
    trained: bool = True
    dropped: bool = False


def _pairs(o: Operands, rule: Rule) -> list[_Pair]:
    of = o.A0 if o.A is None else o.A
    if of is None:
        return []
    dtype = rule.dtype or of.dtype
    A, B, A0, B0 = (None if factor is None else _as(factor, dtype) for factor in o[3:7])
    if A0 is None or B0 is None:
        return [] if A is None or B is None else [_Pair(A, B, dropped=rule.dropout > 0)]
    if A is None or B is None:
        return [_Pair(A0, B0, trained=False)]
    if rule.dropout:
        return [_Pair(A, B, dropped=True), _Pair(A0, B0, trained=False)]
    if rule.mirrored:
        A, A0, B, B0 = A, A - A0, B + B0, -B0
    return [_Pair(torch.cat((A, A0)), torch.cat((B, B0), dim=1))]


def _rows(W: Tensor, rule: Rule) -> Tensor:
    return W.T if rule.transposed else W


def _base_output(o: Operands, rule: Rule) -> Tensor:
    x, W, bias = o.x, _rows(o.W, rule), o.bias
    if rule.dtype is not None:
        x, W = x.to(rule.dtype), W.to(rule.dtype)
        bias = None if bias is None else bias.to(rule.dtype)
    return F.linear(x, W, bias).contiguous()


def _add_products(o: Operands, rule: Rule, y: Tensor) -> tuple[Tensor, Tensor | None]:
    """`y` with the products added, and the trained pair's A drop(x)^T (r, tokens).

    In place; if `y` is in lower precision than the factors, in a copy in theirs, to be rounded at
    the very end.
    """
    trained = None
    for pair in _pairs(o, rule):
        places = _places(rule, pair, y.numel() // y.shape[-1], y.device)
        h = pair.A @ _input(o, rule, pair, places).T
        if pair.trained:
            trained = _trained(h, o)
        y = y if y.dtype == h.dtype else y.to(torch.promote_types(y.dtype, h.dtype))
        flat = y.view(-1, y.shape[-1])
        if y.dtype == h.dtype:
            flat.addmm_(h.T, pair.B.T, alpha=rule.s)
        else:
            flat.add_(h.T @ pair.B.T, alpha=rule.s)
    return y, trained


def _places(rule: Rule, pair: _Pair, tokens: int, device: torch.device) -> Tensor | None:
    """Where the input that a pair sees is dropped; None where it is not."""
    if not pair.dropped:
        return None
    return dropped_places(tokens * pair.A.shape[1], rule.dropout, rule.seed, device)


def _input(o: Operands, rule: Rule, pair: _Pair, places: Tensor | None) -> Tensor:
    """What a pair sees of the input, (tokens, in)."""
    x = _as(o.x.reshape(-1, o.x.shape[-1]), pair.A.dtype)
    return x if places is None else drop_at(x, rule.dropout, places)


def _trained(rows: Tensor, o: Operands) -> Tensor:
    """Of (K, ...) the rows of the trained pair; a copy, where a view would keep all of them."""
    r = len(cast(Tensor, o.A))
    return rows if len(rows) == r else rows[:r].clone()


def _scale_rows(o: Operands, u: Tensor) -> Tensor:
    """`b + g (u - b)` as `g u + (1 - g) b`, in place where u is wide enough."""
    g = cast(Tensor, o.m) / nonzero(cast(Tensor, o.n))
    y = u.to(torch.promote_types(u.dtype, g.dtype)).mul_(g)
    return y if o.bias is None else y.add_((1 - g) * o.bias)


def _magnitude_grads(o: Operands, y: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """`dL/dm = sum dy (y - b) / m` and `dL/dn = -sum dy (y - b) / n`; nothing of the layer's size.

    A row with m = 0 is silent, and its output says nothing about the gradient: `lowrank_linear` is
    not to be used for it.
    """
    m, n = cast(Tensor, o.m), cast(Tensor, o.n)
    product = dy * y if o.bias is None else (y - o.bias).mul_(dy)
    total = product.sum(0, dtype=torch.promote_types(product.dtype, m.dtype))
    return total / torch.where(m == 0, 1.0, m), -total / nonzero(n)


def _grad_of_a(o: Operands, rule: Rule, pair: _Pair, gh: Tensor, places: Tensor | None) -> Tensor:
    """dL/dA (r, in)."""
    trained = _trained(gh, o)
    if rule.mirrored and len(gh) > len(trained):
        trained = trained + gh[len(trained) :]  # dy (B + B_0) - dy B_0
    return trained @ _input(o, rule, pair, places)


def _grad_of_b(B: Tensor, rule: Rule, h: Tensor, dy: Tensor) -> Tensor:
    """dL/dB (out, r)."""
    like = torch.empty_like(B, dtype=h.dtype)  # DDP wants B's own strides
    return torch.mul((h @ _as(dy, h.dtype)).T, rule.s, out=like)


def _add_input_grad(
    dx: Tensor, pair: _Pair, gh: Tensor, rule: Rule, places: Tensor | None
) -> Tensor:
    if places is not None:
        buffer = gh.new_empty(gh.shape[1] * pair.A.shape[1] + 1)  # as in `drop_at`
        product = buffer[:-1].view(gh.shape[1], pair.A.shape[1])
        torch.mm((gh * _kept_scale(rule.dropout)).T, pair.A, out=product)
        buffer.index_fill_(0, places, 0.0)
        return dx.add_(product)
    if dx.dtype == gh.dtype:
        return dx.addmm_(gh.T, pair.A)
    return dx.add_(gh.T @ pair.A)


def _plain_grads(o: Operands, rule: Rule, needs: Any, grad: Tensor) -> list[Tensor | None]:
    """The gradients with a graph of their own.

    Raises:
        RuntimeError: The input was not kept, because A is frozen.
    """
    if not isinstance(o.x, Tensor):
        raise RuntimeError(
            "this layer's A is frozen, so its input was not kept, and the backward cannot be "
            "differentiated; run the forward inside rankwright.core.fused.plain_layers()"
        )
    wanted = [cast(Tensor, tensor) for tensor, need in zip(o, needs, strict=True) if need]
    device = grad.device.type
    with torch.enable_grad(), torch.autocast(device, rule.dtype, enabled=rule.dtype is not None):
        y = plain_linear(o, rule)
        found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return [next(found) if need else None for need in needs]
